//! Architectures, their costs and the results of a search.

use cakes::architecture::Architecture;
use cakes::cost::Cost;
use cakes_proto::v1;
use chrono::{DateTime, Utc};

use super::{ago, dash, dice_list};
use crate::format;
use crate::output::Align::{Left, Right};
use crate::output::Rows;

/// What a search will do, and what its networks cost.
pub fn plan(plan: &v1::SearchPlan) -> String {
    let mut rows = Rows::new([("NETWORK", Left), ("PARAMS", Right), ("MACS", Right), ("MEMORY", Right)]);
    let costs = [
        ("supernet", plan.supernet_cost.as_ref(), plan.supernet_memory_mib),
        ("all 3x3x3", plan.reference_cost.as_ref(), plan.reference_memory_mib),
    ];
    for (name, cost, memory_mib) in costs {
        if let Some(cost) = cost {
            rows.push(vec![
                name.to_owned(),
                format::si(cost.param_count, ""),
                format::macs(cost.mac_count),
                format!("about {memory_mib} MiB"),
            ]);
        }
    }
    format!(
        "up to {} jobs with {} steps in all\n\n{}",
        plan.job_count_max,
        plan.step_count_max,
        rows.render(None)
    )
}

/// Where an architecture came from, in few characters: `budget 0.5, c3d`.
pub fn origins(architecture: &v1::Architecture) -> String {
    let short = |origin: &String| origin.trim_start_matches("baseline ").to_owned();
    let mut names: Vec<String> = architecture.origins.iter().map(short).collect();
    names.sort();
    dash(&names.join(", "))
}

/// Architectures, one a row.
pub fn architectures(list: &[v1::Architecture], now: DateTime<Utc>) -> Rows {
    let mut rows = Rows::new([
        ("ARCHITECTURE", Left),
        ("ORIGIN", Left),
        ("PARAMS", Right),
        ("MACS", Right),
        ("OF 3x3x3", Right),
        ("CREATED", Left),
    ]);
    for architecture in list {
        let cost = architecture.cost.as_ref();
        rows.push(vec![
            format::short_digest(&architecture.digest).to_owned(),
            origins(architecture),
            cost.map_or("-".into(), |cost| format::si(cost.param_count, "")),
            cost.map_or("-".into(), |cost| format::macs(cost.mac_count)),
            cost.map_or("-".into(), |cost| format::percent(cost.mac_fraction)),
            ago(architecture.create_time.as_ref(), now),
        ]);
    }
    rows
}

/// Results of a search by rising MACs; `*` marks the front.
pub fn front(front: &v1::ParetoFront) -> Rows {
    let mut rows = Rows::new([
        ("ARCHITECTURE", Left),
        ("ORIGIN", Left),
        ("DICE", Right),
        ("PER CLASS", Left),
        ("PARAMS", Right),
        ("MACS", Right),
        ("OF 3x3x3", Right),
        ("LATENCY", Right),
        ("SEEDS", Right),
        ("FRONT", Left),
    ]);
    let mut entries: Vec<&v1::FrontEntry> = front.entries.iter().collect();
    entries.sort_by_key(|entry| entry_macs(entry));
    for entry in entries {
        let architecture = entry.architecture.clone().unwrap_or_default();
        let cost = architecture.cost.clone().unwrap_or_default();
        rows.push(vec![
            format::short_digest(&architecture.digest).to_owned(),
            origins(&architecture),
            dice_with_deviation(entry),
            dice_list(&entry.dice_per_class),
            format::si(cost.param_count, ""),
            format::macs(cost.mac_count),
            format::percent(cost.mac_fraction),
            format::latency(entry.latency_ms),
            entry.seed_count.to_string(),
            if entry.on_front { "*".to_owned() } else { String::new() },
        ]);
    }
    rows
}

fn entry_macs(entry: &v1::FrontEntry) -> u64 {
    entry.architecture.as_ref().and_then(|it| it.cost.as_ref()).map_or(0, |cost| cost.mac_count)
}

/// `0.871 ± 0.004`; the mean alone for one seed.
fn dice_with_deviation(entry: &v1::FrontEntry) -> String {
    let mean = format::dice(entry.mean_dice);
    if entry.seed_count > 1 { format!("{mean} ± {:.3}", entry.mean_dice_deviation) } else { mean }
}

/// The front as people read it, with what is still missing.
pub fn front_text(results: &v1::ParetoFront, width: Option<u16>) -> String {
    let pending = match results.pending_count {
        0 => String::new(),
        1 => "1 retraining has not ended".to_owned(),
        count => format!("{count} retrainings have not ended"),
    };
    if results.entries.is_empty() {
        let none = "no retrained architecture yet";
        return if pending.is_empty() { none.to_owned() } else { format!("{none}; {pending}") };
    }
    let table = front(results).render(width);
    if pending.is_empty() { table } else { format!("{table}\n{pending}") }
}

/// Total costs of several networks.
pub fn costs(costs: &[(String, Cost)], reference_mac_count: u64) -> Rows {
    let mut rows = Rows::new([
        ("NETWORK", Left),
        ("PARAMS", Right),
        ("MACS", Right),
        ("OF 3x3x3", Right),
        ("ACTIVATIONS", Right),
    ]);
    for (name, cost) in costs {
        rows.push(vec![
            name.clone(),
            cost.param_count.to_string(),
            cost.mac_count.to_string(),
            format::percent(cost.mac_count as f64 / reference_mac_count.max(1) as f64),
            cost.activation_count.to_string(),
        ]);
    }
    rows
}

/// Cost of every layer, with its channels where they were chosen.
pub fn layers(architecture: &Architecture, cost: &Cost) -> Rows {
    let mut rows = Rows::new([
        ("LAYER", Left),
        ("CHANNELS", Right),
        ("OUTPUT", Left),
        ("PARAMS", Right),
        ("MACS", Right),
        ("KERNELS", Left),
    ]);
    let chosen: Vec<cakes::architecture::LayerAllocation> = architecture.layers().collect();
    for layer in &cost.layers {
        let allocation = chosen.iter().find(|candidate| candidate.layer == layer.layer);
        rows.push(vec![
            layer.layer.clone(),
            layer.output_channels.to_string(),
            format::extent(layer.output_extent),
            layer.param_count.to_string(),
            layer.mac_count.to_string(),
            allocation.map(|layer| layer.channels.to_string()).unwrap_or_default(),
        ]);
    }
    rows
}

/// Layers in which two architectures differ.
pub fn differences(left: &Architecture, right: &Architecture) -> Rows {
    let name =
        |architecture: &Architecture| format::short_digest(&architecture.digest().to_string()).to_owned();
    let mut rows = Rows::new([("LAYER".to_owned(), Left), (name(left), Left), (name(right), Left)]);
    for difference in left.diff(right) {
        let show = |channels: Option<cakes::allocation::ChannelAllocation>| {
            channels.map_or_else(|| "-".to_owned(), |channels| channels.to_string())
        };
        rows.push(vec![difference.layer, show(difference.left), show(difference.right)]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(digest: &str, macs: u64, dice: f64, seeds: u32) -> v1::FrontEntry {
        let cost =
            v1::Cost { param_count: 4_200_000, mac_count: macs, mac_fraction: 0.412, ..Default::default() };
        v1::FrontEntry {
            architecture: Some(v1::Architecture {
                digest: digest.into(),
                cost: Some(cost),
                origins: vec!["budget 0.5".into(), "baseline c3d".into()],
                ..Default::default()
            }),
            mean_dice: dice,
            mean_dice_deviation: 0.0042,
            dice_per_class: vec![0.9, 0.842],
            latency_ms: 12.44,
            seed_count: seeds,
            on_front: macs < 1_000_000_000,
            ..Default::default()
        }
    }

    #[test]
    fn the_front_is_sorted_by_macs_and_shows_units() {
        let results = v1::ParetoFront {
            entries: vec![
                entry("ffffffffffffffffff", 1_310_000_000, 0.8714, 1),
                entry("aaaaaaaaaaaaaaaaaa", 500_000_000, 0.8666, 3),
            ],
            pending_count: 2,
        };
        let rows = front(&results);
        assert_eq!(
            rows.rows()[0],
            [
                "aaaaaaaaaaaa",
                "budget 0.5, c3d",
                "0.867 ± 0.004",
                "0.900 0.842",
                "4.20 M",
                "500 MMAC",
                "41.2 %",
                "12.4 ms",
                "3",
                "*"
            ]
        );
        assert_eq!(rows.rows()[1][2], "0.871");
        assert_eq!(rows.rows()[1][9], "");
        assert!(front_text(&results, None).ends_with("2 retrainings have not ended"));
    }
}
