//! Several searches side by side.

use cakes_proto::v1;
use serde::Serialize;

use super::{ID_LENGTH, origins, search_name, search_state};
use crate::format;
use crate::output::Align::{Left, Right};
use crate::output::Rows;
use crate::quality::Quality;

/// Several searches.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Compared {
    /// In the order in which they were named, without their jobs.
    pub searches: Vec<v1::Search>,
    pub differences: Vec<Difference>,
    pub entries: Vec<JointEntry>,
}

/// A field of the description that is not the same in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub field: String,
    /// One for each search; `-` where it is not set.
    pub values: Vec<String>,
}

/// A retrained network of one of the searches.
#[derive(Clone, Debug, Serialize)]
pub struct JointEntry {
    pub search_id: String,
    /// Whether no network of any search beats it in quality and MACs.
    pub on_joint_front: bool,
    pub entry: v1::FrontEntry,
}

/// The searches, what differs, and all networks by rising MACs.
pub fn compare(compared: &Compared, width: Option<u16>) -> String {
    let ids = compared.searches.iter().map(|search| search.id.as_str());
    let length = format::id_length(ids, ID_LENGTH);
    let short = |id: &str| format::short_id(id, length).to_owned();
    let mut list = Rows::new([("SEARCH", Left), ("NAME", Left), ("STATE", Left), ("NETWORKS", Right)]);
    for search in &compared.searches {
        let count = compared.entries.iter().filter(|entry| entry.search_id == search.id).count();
        list.push(vec![
            short(&search.id),
            search_name(search).to_owned(),
            search_state(search.state()),
            count.to_string(),
        ]);
    }
    let mut parts = vec![list.render(width)];
    if compared.differences.is_empty() {
        parts.push("their descriptions are the same".to_owned());
    } else {
        let headings = std::iter::once("DIFFERENT".to_owned());
        let headings = headings.chain(compared.searches.iter().map(|search| short(&search.id)));
        let mut rows = Rows::new(headings.map(|name| (name, Left)));
        for row in &compared.differences {
            rows.push(std::iter::once(&row.field).chain(&row.values).cloned().collect());
        }
        parts.push(rows.render(width));
    }
    if compared.entries.is_empty() {
        parts.push("no retrained architecture yet".to_owned());
        return parts.join("\n\n");
    }
    let mut rows = Rows::new([
        ("SEARCH", Left),
        ("ARCHITECTURE", Left),
        ("ORIGIN", Left),
        ("QUALITY", Right),
        ("PARAMS", Right),
        ("MACS", Right),
        ("LATENCY", Right),
        ("FRONT", Left),
        ("JOINT", Left),
    ]);
    let mark = |is_on: bool| if is_on { "*".to_owned() } else { String::new() };
    for JointEntry { search_id, on_joint_front, entry } in &compared.entries {
        let architecture = entry.architecture.clone().unwrap_or_default();
        let cost = architecture.cost.clone().unwrap_or_default();
        rows.push(vec![
            short(search_id),
            format::short_digest(&architecture.digest).to_owned(),
            origins(&architecture),
            Quality::of_entry(entry).text(),
            format::si(cost.param_count, ""),
            format::macs(cost.mac_count),
            format::latency(entry.latency_ms),
            mark(entry.on_front),
            mark(*on_joint_front),
        ]);
    }
    parts.push(rows.render(width));
    parts.join("\n\n")
}
