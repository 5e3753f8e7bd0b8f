//! The reference page of metrics is what the code says. After a change:
//!
//! ```sh
//! RENEW_REFERENCE=1 cargo test -p cakes --test metrics_reference
//! ```

use std::path::Path;

use cakes::metric::{Metric, Moment};

const HEAD: &str = "\
# Metrics

Made from `cakes/src/metric.rs`. What a job reports by step: the keys of `cakes search plot`,
of the page's curves, of `ListMetrics`, and the column `metric` of the view
`learning_curves` ([SQL](../sql.md)). A long curve is at most 256 ranges of steps there.
Validations of a supernet are of the child that it would become now.

";

#[test]
fn the_page_is_what_the_code_says() {
    let mut text = HEAD.to_owned();
    text.push_str("| key | reported | unit | |\n|---|---|---|---|\n");
    for metric in Metric::ALL {
        let about = metric.describe();
        let moment = match about.moment {
            Moment::Step => "with a step",
            Moment::Checkpoint => "with a checkpoint",
            Moment::Validation => "with a validation",
        };
        text.push_str(&format!("| `{}` | {moment} | {} | {} |\n", about.key, about.unit, about.meaning));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/metrics.md");
    if std::env::var_os("RENEW_REFERENCE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == text,
        "metrics.md is not what the code says; RENEW_REFERENCE=1 with this test writes it anew"
    );
}
