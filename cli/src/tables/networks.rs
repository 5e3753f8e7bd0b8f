//! Architectures, their costs and the results of a search.

use std::collections::BTreeSet;

use cakes::architecture::Architecture;
use cakes::cost::Cost;
use cakes::kernel::Kernel;
use cakes_proto::v1;
use chrono::{DateTime, Utc};

use super::jobs::TOP_OF_CLASSES;
use super::{ago, dash, share_list};
use crate::output::Align::{self, Left, Right};
use crate::output::Rows;
use crate::{format, quality};

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

/// Whether an architecture of this origin was not found by a search.
pub fn is_baseline(origin: &str) -> bool {
    origin.starts_with("baseline ") || origin.starts_with("random like ")
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

/// What was derived, in the order in which it was asked for, how good it is, and what
/// it should take where times were measured.
pub fn derivations(response: &v1::DeriveArchitecturesResponse) -> Rows {
    let mut columns = [
        ("ARCHITECTURE", Left),
        ("ORIGIN", Left),
        ("PARAMS", Right),
        ("OF 3x3x3", Right),
        ("MACS", Right),
        ("OF 3x3x3", Right),
    ]
    .to_vec();
    let has_latency = response.derivations.iter().any(|found| found.predicted_latency_ms.is_some());
    if has_latency {
        columns.extend([("PREDICTED", Right), ("OF 3x3x3", Right)]);
    }
    columns.extend([("SCORE", Right), ("BOUND", Right)]);
    let mut rows = Rows::new(columns);
    for (architecture, found) in response.architectures.iter().zip(&response.derivations) {
        let cost = architecture.cost.clone().unwrap_or_default();
        let bound = match found.score_bound {
            _ if found.is_optimal => "best".to_owned(),
            Some(bound) => format!("≤ {bound:.3}"),
            None => "-".to_owned(),
        };
        let mut row = vec![
            format::short_digest(&architecture.digest).to_owned(),
            found.origin.clone(),
            format::si(cost.param_count, ""),
            format::percent(found.param_fraction),
            format::macs(cost.mac_count),
            format::percent(cost.mac_fraction),
        ];
        if has_latency {
            row.push(found.predicted_latency_ms.map_or("-".to_owned(), format::latency));
            row.push(found.latency_fraction.map_or("-".to_owned(), format::percent));
        }
        row.push(found.score.map_or("-".to_owned(), |score| format!("{score:.3}")));
        row.push(bound);
        rows.push(row);
    }
    rows
}

/// Results of a search by rising MACs; `*` marks the front. Beside the measured
/// latency stands what the table of times says, where the search has one.
pub fn front(front: &v1::ParetoFront) -> Rows {
    let mut columns = vec![("ARCHITECTURE".to_owned(), Left), ("ORIGIN".to_owned(), Left)];
    columns.extend(quality_columns(front));
    let has_predicted = front.entries.iter().any(|entry| entry.predicted_latency_ms.is_some());
    let predicted = has_predicted.then_some(("PREDICTED", Right));
    let costs = [("PARAMS", Right), ("MACS", Right), ("OF 3x3x3", Right), ("LATENCY", Right)];
    let costs = costs.into_iter().chain(predicted).chain([("SEEDS", Right), ("FRONT", Left)]);
    columns.extend(costs.map(|(name, align)| (name.to_owned(), align)));
    let mut rows = Rows::new(columns);
    let has_top5 = has_top5(front);
    let mut entries: Vec<&v1::FrontEntry> = front.entries.iter().collect();
    entries.sort_by_key(|entry| entry_macs(entry));
    for entry in entries {
        let architecture = entry.architecture.clone().unwrap_or_default();
        let cost = architecture.cost.clone().unwrap_or_default();
        let mut row = vec![format::short_digest(&architecture.digest).to_owned(), origins(&architecture)];
        row.extend(quality_cells(entry, has_top5));
        row.extend([
            format::si(cost.param_count, ""),
            format::macs(cost.mac_count),
            format::percent(cost.mac_fraction),
            format::latency(entry.latency_ms),
        ]);
        if has_predicted {
            row.push(entry.predicted_latency_ms.map_or("-".to_owned(), format::latency));
        }
        row.extend([
            entry.seed_count.to_string(),
            if entry.on_front { "*".to_owned() } else { String::new() },
        ]);
        rows.push(row);
    }
    rows
}

/// Headers of the columns that say how good networks are.
fn quality_columns(front: &v1::ParetoFront) -> Vec<(String, Align)> {
    let metrics = front.entries.iter().map(|entry| entry.quality_metric.as_str());
    let metric = quality::common_metric(metrics).map_or("QUALITY", quality::short_name).to_uppercase();
    if front.entries.iter().all(|entry| entry.classification.is_none()) {
        return vec![(metric, Right), ("PER CLASS".to_owned(), Left)];
    }
    let mut columns = vec![(metric, Right)];
    if has_top5(front) {
        columns.push(("TOP-5".to_owned(), Right));
    }
    columns.extend([("BALANCED".to_owned(), Right), ("AUC".to_owned(), Right)]);
    columns
}

fn has_top5(front: &v1::ParetoFront) -> bool {
    let mut figures = front.entries.iter().filter_map(|entry| entry.classification.as_ref());
    figures.any(|figures| figures.recall_per_class.len() > TOP_OF_CLASSES)
}

fn quality_cells(entry: &v1::FrontEntry, has_top5: bool) -> Vec<String> {
    let mut cells = vec![quality_with_deviation(entry)];
    match &entry.classification {
        None => cells.push(share_list(&entry.dice_per_class)),
        Some(figures) => {
            cells.extend(has_top5.then(|| format::share(figures.top5)));
            cells.push(format::share(figures.balanced_accuracy));
            cells.push(figures.auc.map_or("-".to_owned(), format::share));
        }
    }
    cells
}

fn entry_macs(entry: &v1::FrontEntry) -> u64 {
    entry.architecture.as_ref().and_then(|it| it.cost.as_ref()).map_or(0, |cost| cost.mac_count)
}

/// `0.871 ± 0.004`; the mean alone for one seed.
fn quality_with_deviation(entry: &v1::FrontEntry) -> String {
    let mean = format::share(entry.quality);
    if entry.seed_count > 1 { format!("{mean} ± {:.3}", entry.quality_deviation) } else { mean }
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
    let mut lines = vec![front(results).render(width)];
    // Times of different devices are not compared.
    let measured = results.entries.iter().map(|entry| entry.device.as_str());
    let elsewhere: BTreeSet<&str> =
        measured.filter(|device| *device != results.predicted_latency_device).collect();
    if !results.predicted_latency_device.is_empty() && !elsewhere.is_empty() {
        let elsewhere: Vec<&str> = elsewhere.into_iter().collect();
        lines.push(format!(
            "PREDICTED is for {}; LATENCY was measured on {} too",
            results.predicted_latency_device,
            elsewhere.join(", ")
        ));
    }
    lines.extend(Some(pending).filter(|pending| !pending.is_empty()));
    lines.join("\n")
}

/// What a channel takes in every layer, and what that makes for the whole.
pub fn latency(table: &v1::LatencyTable, width: Option<u16>) -> String {
    let of_table =
        |kernel: &Kernel| table.layers.iter().any(|layer| layer.channel_ns.contains_key(&kernel.to_string()));
    let kernels: Vec<String> =
        Kernel::ALL.iter().filter(|kernel| of_table(kernel)).map(Kernel::to_string).collect();
    let mut columns = vec![("LAYER".to_owned(), Left), ("CHANNELS".to_owned(), Right)];
    columns.extend(kernels.iter().map(|kernel| (kernel.clone(), Right)));
    let mut rows = Rows::new(columns);
    let ms = |ns: u64| format::latency(ns as f64 / 1e6);
    for layer in &table.layers {
        let mut row = vec![layer.layer.clone(), layer.channel_count.to_string()];
        let times = kernels.iter().map(|kernel| layer.channel_ns.get(kernel).copied());
        row.extend(times.map(|ns| ns.map_or("-".to_owned(), |ns| format!("{:.2}", ns as f64 / 1e3))));
        rows.push(row);
    }
    format!(
        "all 3x3x3: {} on {}, of which {} are not searched\n\n{}\n\nMicroseconds of one channel.",
        ms(table.reference_ns),
        table.device,
        ms(table.fixed_ns),
        rows.render(width)
    )
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

    fn entry(digest: &str, macs: u64, quality: f64, seeds: u32) -> v1::FrontEntry {
        let cost =
            v1::Cost { param_count: 4_200_000, mac_count: macs, mac_fraction: 0.412, ..Default::default() };
        v1::FrontEntry {
            architecture: Some(v1::Architecture {
                digest: digest.into(),
                cost: Some(cost),
                origins: vec!["budget 0.5".into(), "baseline c3d".into()],
                ..Default::default()
            }),
            quality,
            quality_deviation: 0.0042,
            quality_metric: "mean_dice".into(),
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
            ..v1::ParetoFront::default()
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
        let text = front_text(&results, None);
        assert!(text.ends_with("2 retrainings have not ended"));
        assert!(text.contains("DICE") && text.contains("PER CLASS"), "{text}");
    }

    #[test]
    fn derivations_show_both_shares_and_how_near_to_the_best_they_are() {
        let architecture = entry("aaaaaaaaaaaaaaaaaa", 500_000_000, 0.5, 1).architecture.unwrap();
        let found = |score, score_bound, is_optimal| v1::Derivation {
            origin: "budget 0.5".into(),
            param_fraction: 0.3,
            score,
            score_bound,
            is_optimal,
            ..v1::Derivation::default()
        };
        let response = v1::DeriveArchitecturesResponse {
            architectures: vec![architecture; 3],
            derivations: vec![
                found(Some(9.5), Some(9.5004), true),
                found(Some(9.0), Some(9.25), false),
                found(None, None, false),
            ],
        };
        let rows = derivations(&response);
        assert_eq!(
            rows.rows()[0],
            ["aaaaaaaaaaaa", "budget 0.5", "4.20 M", "30.0 %", "500 MMAC", "41.2 %", "9.500", "best"]
        );
        assert_eq!((rows.rows()[1][7].as_str(), rows.rows()[2][6].as_str()), ("≤ 9.250", "-"));

        let mut timed = response;
        (timed.derivations[0].predicted_latency_ms, timed.derivations[0].latency_fraction) =
            (Some(3.25), Some(0.5));
        let rows = derivations(&timed);
        assert_eq!(rows.rows()[0][6..9], ["3.25 ms", "50.0 %", "9.500"]);
        assert_eq!(rows.rows()[1][6..8], ["-", "-"]);
        assert!(rows.render(None).contains("PREDICTED"));
    }

    #[test]
    fn predicted_times_stand_beside_measured_ones_and_say_where_they_are_from() {
        let on = |device: &str, predicted| v1::FrontEntry {
            device: device.into(),
            predicted_latency_ms: predicted,
            ..entry("ffffffffffffffffff", 9, 0.8, 1)
        };
        let mut results = v1::ParetoFront {
            entries: vec![on("a card", Some(11.5)), on("a card", None)],
            predicted_latency_device: "a card".into(),
            ..v1::ParetoFront::default()
        };
        assert_eq!(front(&results).rows()[0][7..9], ["12.4 ms", "11.5 ms"]);
        assert_eq!(front(&results).rows()[1][8], "-");
        assert!(!front_text(&results, None).contains("PREDICTED is for"));
        results.entries.push(on("another", Some(11.5)));
        let text = front_text(&results, None);
        assert!(text.ends_with("PREDICTED is for a card; LATENCY was measured on another too"), "{text}");
    }

    #[test]
    fn a_table_of_times_has_a_row_for_a_layer_and_a_column_for_a_kernel() {
        let layer = |name: &str, ns: &[(&str, u64)]| v1::LayerLatency {
            layer: name.into(),
            channel_count: 16,
            channel_ns: ns.iter().map(|(kernel, ns)| ((*kernel).to_owned(), *ns)).collect(),
        };
        let table = v1::LatencyTable {
            device: "a card".into(),
            fixed_ns: 2_000_000,
            reference_ns: 12_000_000,
            layers: vec![
                layer("layer1.0.conv1", &[("1x1x3", 20_000), ("3x3x3", 150_000)]),
                layer("layer1.0.conv2", &[("3x3x3", 150_000)]),
            ],
        };
        let text = latency(&table, None);
        assert!(
            text.starts_with("all 3x3x3: 12.0 ms on a card, of which 2.00 ms are not searched"),
            "{text}"
        );
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[2], ["LAYER", "CHANNELS", "3x3x3", "1x1x3"]);
        assert_eq!(lines[3], ["layer1.0.conv1", "16", "150.00", "20.00"]);
        assert_eq!(lines[4].last(), Some(&"-"));
    }

    #[test]
    fn networks_that_classify_have_columns_of_their_own() {
        let of = |classes: usize, auc: Option<f64>| {
            let figures = v1::Classification {
                top1: 0.8163,
                top5: 0.97,
                balanced_accuracy: 0.7,
                auc,
                recall_per_class: vec![0.5; classes],
                ..v1::Classification::default()
            };
            let entry = v1::FrontEntry {
                quality_metric: "top1".into(),
                classification: Some(figures),
                dice_per_class: Vec::new(),
                ..entry("ffffffffffffffffff", 9, 0.8163, 2)
            };
            v1::ParetoFront { entries: vec![entry], ..v1::ParetoFront::default() }
        };
        assert_eq!(front(&of(2, Some(0.85))).rows()[0][2..5], ["0.816 ± 0.004", "0.700", "0.850"]);
        let text = front_text(&of(2, None), None);
        assert!(text.contains("TOP-1") && text.contains("BALANCED") && text.contains("AUC"), "{text}");
        assert!(!text.contains("DICE") && !text.contains("TOP-5"), "{text}");
        assert_eq!(front(&of(9, None)).rows()[0][2..6], ["0.816 ± 0.004", "0.970", "0.700", "-"]);
    }
}
