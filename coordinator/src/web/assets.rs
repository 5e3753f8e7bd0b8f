//! What browsers load; all of it is part of the program.

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::answer::{Failure, tagged};

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const PICTURE: &str = "image/svg+xml";

const PAGE: &str = include_str!("assets/index.html");

macro_rules! asset {
    ($name:literal, $kind:ident) => {
        ($name, $kind, include_str!(concat!("assets/", $name)))
    };
}

/// Name below `/assets/`, type, content.
const ASSETS: &[(&str, &str, &str)] = &[
    asset!("icon.svg", PICTURE),
    asset!("style.css", STYLE),
    asset!("charts.css", STYLE),
    asset!("app.js", SCRIPT),
    asset!("theme.js", SCRIPT),
    asset!("lib/api.js", SCRIPT),
    asset!("lib/actions.js", SCRIPT),
    asset!("lib/dom.js", SCRIPT),
    asset!("lib/format.js", SCRIPT),
    asset!("lib/live.js", SCRIPT),
    asset!("lib/session.js", SCRIPT),
    asset!("lib/sources.js", SCRIPT),
    asset!("lib/virtual.js", SCRIPT),
    asset!("lib/widgets.js", SCRIPT),
    asset!("lib/architecture.js", SCRIPT),
    asset!("charts/base.js", SCRIPT),
    asset!("charts/scatter.js", SCRIPT),
    asset!("charts/composition.js", SCRIPT),
    asset!("charts/heat.js", SCRIPT),
    asset!("charts/histogram.js", SCRIPT),
    asset!("charts/curves.js", SCRIPT),
    asset!("charts/timeline.js", SCRIPT),
    asset!("pages/searches.js", SCRIPT),
    asset!("pages/search.js", SCRIPT),
    asset!("pages/architecture.js", SCRIPT),
    asset!("pages/derive.js", SCRIPT),
    asset!("pages/diff.js", SCRIPT),
    asset!("pages/jobs.js", SCRIPT),
    asset!("pages/job.js", SCRIPT),
    asset!("pages/curves.js", SCRIPT),
    asset!("pages/queue.js", SCRIPT),
    asset!("pages/devices.js", SCRIPT),
    asset!("pages/signin.js", SCRIPT),
    asset!("pages/workers.js", SCRIPT),
    asset!("pages/events.js", SCRIPT),
];

pub(super) async fn asset(headers: HeaderMap, Path(path): Path<String>) -> Result<Response, Failure> {
    let found = ASSETS.iter().find(|(name, ..)| *name == path);
    let (_, kind, content) = found.ok_or_else(|| {
        Failure::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such file below /assets".to_owned())
    })?;
    Ok(tagged(&headers, kind, *content))
}

/// The page; what it shows depends on the path, which its script reads.
pub(super) async fn page(headers: HeaderMap) -> Response {
    tagged(&headers, HTML, PAGE).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever one asset loads is an asset too.
    #[test]
    fn every_import_is_embedded() {
        for (name, _, content) in ASSETS.iter().copied().chain([("../index.html", HTML, PAGE)]) {
            for part in content.split("\"/assets/").skip(1) {
                let path = part.split('"').next().unwrap();
                assert!(ASSETS.iter().any(|(known, ..)| *known == path), "{name} loads {path}");
            }
        }
    }

    #[test]
    fn nothing_is_loaded_from_elsewhere_and_no_data_becomes_markup() {
        for (name, _, content) in ASSETS.iter().copied().chain([("index.html", HTML, PAGE)]) {
            // Neither is loaded: a name of SVG, and the address in an example.
            let own = content.replace("http://www.w3.org/", "").replace("http://127.0.0.1:7550", "");
            let foreign = own.contains("://");
            assert!(!foreign, "{name} names another server");
            for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!content.contains(forbidden), "{name} uses {forbidden}");
            }
        }
    }
}
