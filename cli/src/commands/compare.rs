//! `cakes search compare`: several searches side by side.

use cakes::pareto::{self, Point};
use cakes_proto::v1;
use serde_json::Value;

use super::search::front;
use crate::client::{Client, rpc};
use crate::error::CommandError;
use crate::quality;
use crate::tables::{Compared, Difference, JointEntry};

/// Fetches the searches and their results.
///
/// # Errors
/// The coordinator is away, or one of the searches is not there.
pub async fn compare(client: &Client, ids: &[String]) -> Result<Compared, CommandError> {
    let (mut searches, mut entries) = (Vec::new(), Vec::new());
    for id in ids {
        let request = v1::GetSearchRequest { id: id.clone(), ..v1::GetSearchRequest::default() };
        let mut search = rpc!(client, searches.get_search, "SearchService/GetSearch", request)?;
        search.jobs.clear();
        let results = front(client, id.clone()).await?.entries;
        entries.extend(results.into_iter().map(|entry| (search.id.clone(), entry)));
        searches.push(search);
    }
    Ok(Compared { differences: differences(&searches)?, entries: joint(entries), searches })
}

/// By rising MACs, the joint front marked; without one metric for all there is no such front.
fn joint(entries: Vec<(String, v1::FrontEntry)>) -> Vec<JointEntry> {
    let metrics = entries.iter().map(|(_, entry)| entry.quality_metric.as_str());
    let on_front = match quality::common_metric(metrics) {
        Some(_) => pareto::front(&entries.iter().map(|(_, entry)| point(entry)).collect::<Vec<_>>()),
        None => Vec::new(),
    };
    let mut joint: Vec<JointEntry> = entries
        .into_iter()
        .enumerate()
        .map(|(index, (search_id, entry))| JointEntry {
            search_id,
            on_joint_front: on_front.contains(&index),
            entry,
        })
        .collect();
    joint.sort_by_key(|joint| mac_count(&joint.entry));
    joint
}

fn point(entry: &v1::FrontEntry) -> Point {
    Point { quality: entry.quality, costs: vec![mac_count(entry) as f64] }
}

fn mac_count(entry: &v1::FrontEntry) -> u64 {
    entry.architecture.as_ref().and_then(|it| it.cost.as_ref()).map_or(0, |cost| cost.mac_count)
}

/// The fields of the descriptions that are not the same in all of them.
fn differences(searches: &[v1::Search]) -> Result<Vec<Difference>, CommandError> {
    let mut specs = Vec::new();
    for search in searches {
        let spec = serde_json::to_value(search.spec.as_ref())
            .map_err(|error| CommandError::Failed(format!("cannot write JSON: {error}")))?;
        let mut fields = Vec::new();
        flatten("", &spec, &mut fields);
        specs.push(fields);
    }
    let value = |fields: &[(String, String)], name: &str| {
        fields
            .iter()
            .find(|(field, _)| field == name)
            .map_or_else(|| "-".to_owned(), |(_, value)| value.clone())
    };
    let mut names: Vec<&String> = Vec::new();
    for (name, _) in specs.iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let rows = names.into_iter().map(|field| Difference {
        field: field.clone(),
        values: specs.iter().map(|fields| value(fields, field)).collect(),
    });
    Ok(rows.filter(|row| row.values.iter().any(|value| *value != row.values[0])).collect())
}

/// `retrain.steps` = `400`; lists of plain values stay together.
fn flatten(path: &str, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                flatten(&path, member, fields);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{path}[{index}]"), item, fields);
            }
        }
        Value::Array(items) => {
            fields.push((path.to_owned(), items.iter().map(plain).collect::<Vec<_>>().join(" ")));
        }
        plain_value => fields.push((path.to_owned(), plain(plain_value))),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(name: &str, budgets: &[f64], patch: Option<u32>) -> v1::Search {
        let extent = |depth| v1::Extent { depth, height: 8, width: 8 };
        let spec = v1::SearchSpec {
            name: name.into(),
            budgets: budgets.to_vec(),
            patch: patch.map(extent),
            ..Default::default()
        };
        v1::Search { id: name.into(), spec: Some(spec), ..Default::default() }
    }

    #[test]
    fn only_fields_that_differ_are_listed_and_missing_ones_have_a_dash() {
        let searches =
            [search("a", &[0.2, 0.5], Some(16)), search("b", &[0.2, 0.5], Some(32)), search("c", &[], None)];
        let rows = differences(&searches).unwrap();
        let row = |field: &str| rows.iter().find(|row| row.field == field).map(|row| row.values.join("|"));
        assert_eq!(row("name").unwrap(), "a|b|c");
        assert_eq!(row("patch.depth").unwrap(), "16|32|-");
        assert_eq!(row("budgets").unwrap(), "0.2 0.5|0.2 0.5|-");
        let same = differences(&[search("a", &[0.5], Some(8)), search("a", &[0.5], Some(8))]).unwrap();
        assert!(same.is_empty(), "{same:?}");
    }

    #[test]
    fn the_joint_front_holds_what_no_search_beats() {
        let entry = |quality, mac_count| v1::FrontEntry {
            quality,
            quality_metric: "mean_dice".into(),
            on_front: true,
            architecture: Some(v1::Architecture {
                cost: Some(v1::Cost { mac_count, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let list =
            vec![("a".into(), entry(0.9, 200)), ("a".into(), entry(0.7, 100)), ("b".into(), entry(0.8, 90))];
        let marks: Vec<_> =
            joint(list.clone()).iter().map(|it| (it.entry.quality, it.on_joint_front)).collect();
        assert_eq!(marks, [(0.8, true), (0.7, false), (0.9, true)]);
        let mut mixed = list;
        mixed[0].1.quality_metric = "top1".into();
        assert!(joint(mixed).iter().all(|it| !it.on_joint_front));
    }
}
