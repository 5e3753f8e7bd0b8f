//! Every example below `deploy/examples` is accepted as it stands.

use std::path::Path;

use cakes::spec::CostMeasure;
use cakes_proto::convert::search_from_wire;
use cakes_proto::v1;

#[test]
fn every_example_is_a_valid_search() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let (mut count, mut in_time) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let request: v1::SubmitSearchRequest =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let checked = search_from_wire(request.search);
        let checked = checked.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert_eq!(checked.spec().name, name, "a search is found by the name of its file");
        count += 1;
        in_time += usize::from(checked.spec().budget_measure == CostMeasure::Latency);
    }
    assert!(count >= 3, "{count} examples");
    assert!(in_time >= 1, "none shows how budgets of measured time are written");
}
