//! A search over networks that classify: arrays in, a front by top-1 out, with a
//! random network beside every derived one and a baseline of another form.

use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use cakes::derive::ChannelCosts;
use cakes_proto::convert::{latency_from_wire, search_from_wire};
use cakes_proto::v1::{
    Architecture, FrontEntry, JobKind, LatencyTable, ListMetricsRequest, ListSearchesRequest, ParetoFront,
    Search, SearchState,
};
use cakes_tests::api::show;
use cakes_tests::{Cluster, Options, scenario};
use serde_json::{Value, json};

const EDGE: usize = 12;
const VALIDATION: usize = 9;

#[test]
fn a_search_on_arrays_ends_with_a_front_by_top1() {
    scenario(Options::default(), async |cluster| whole(cluster).await);
}

async fn whole(cluster: &Cluster) -> Result<()> {
    write_bars(&cluster.data_root().join("bars"))?;
    let file = cluster.folder().join("search.json");
    std::fs::write(&file, bars().to_string())?;
    let file = file.to_str().context("path")?;
    let submitted = cluster.cakes(&["search", "submit", "--wait", "-o", "json", file]).await?;
    ensure!(submitted.code == Some(0), "{submitted:?}");

    let api = cluster.api()?;
    let listed = api.searches().list_searches(ListSearchesRequest::default()).await?.into_inner();
    let search = api.until_ended(&listed.searches[0].id, SearchState::Succeeded).await?;
    check_results(&search)?;
    check_front(&api.front(&search.id).await?)?;

    // Curves have the names of their metrics.
    let request = ListMetricsRequest {
        id: search.jobs[0].id.clone(),
        keys: vec!["validation/top1".into(), "validation/loss".into(), "validation/mean_dice".into()],
        point_count_max: 0,
    };
    let curves = api.jobs().list_metrics(request).await?.into_inner().curves;
    let keys: Vec<&str> = curves.iter().map(|curve| curve.key.as_str()).collect();
    ensure!(keys == ["validation/loss", "validation/top1"], "{curves:?}");
    check_commands(cluster, &search).await
}

fn check_results(search: &Search) -> Result<()> {
    for job in &search.jobs {
        let result = job.result.as_ref().with_context(|| show(search))?;
        let figures = result.classification.as_ref().with_context(|| format!("{result:?}"))?;
        ensure!(result.quality_metric == "top1" && result.mean_dice.is_none(), "{result:?}");
        ensure!(result.quality == figures.top1 && (0.0..=1.0).contains(&result.quality), "{result:?}");
        ensure!(
            figures.sample_count == VALIDATION as u64 && figures.recall_per_class.len() == 3,
            "{result:?}"
        );
        // With three classes one of the first five is always right.
        ensure!(figures.top5 == 1.0 && figures.loss > 0.0, "{result:?}");
    }
    Ok(())
}

fn check_front(front: &ParetoFront) -> Result<()> {
    let of = |origin: &str| -> Result<(&FrontEntry, &Architecture)> {
        let entry = front.entries.iter().find(|entry| {
            entry.architecture.as_ref().is_some_and(|it| it.origins.iter().any(|name| name == origin))
        });
        let entry = entry.with_context(|| format!("{origin} is not on {front:#?}"))?;
        Ok((entry, entry.architecture.as_ref().context("no architecture")?))
    };
    let macs = |architecture: &Architecture| architecture.cost.as_ref().map_or(0, |cost| cost.mac_count);
    let (derived, random) = (of("budget 0.5")?.1, of("random like budget 0.5")?.1);
    ensure!(derived.digest != random.digest, "nothing was drawn");
    let (wanted, drawn) = (macs(derived) as f64, macs(random) as f64);
    ensure!(drawn <= wanted && drawn > 0.98 * wanted, "{drawn} MACs are not those of {wanted}");
    let (p3d, form) = of("baseline p3d")?;
    let fraction = form.cost.as_ref().context("no cost")?.mac_fraction;
    ensure!(form.layers.is_empty() && (0.4..0.6).contains(&fraction), "{fraction}");
    ensure!(p3d.latency_ms > 0.0 && p3d.quality_metric == "top1", "{p3d:?}");
    // Compared by top-1: no entry of the front is beaten by another.
    ensure!(front.entries.iter().any(|entry| entry.on_front), "{front:#?}");
    for entry in front.entries.iter().filter(|entry| entry.on_front) {
        let cost = entry.architecture.as_ref().map_or(0, &macs);
        let beaten = front.entries.iter().any(|other| {
            other.quality > entry.quality && other.architecture.as_ref().map_or(0, &macs) < cost
        });
        ensure!(!beaten, "{entry:?} is beaten");
    }
    Ok(())
}

async fn check_commands(cluster: &Cluster, search: &Search) -> Result<()> {
    let front = cluster.cakes(&["search", "front", &search.id]).await?;
    for word in ["TOP-1", "BALANCED", "AUC", "random like budget 0.5", "p3d"] {
        ensure!(front.stdout.contains(word), "{word}: {front:?}");
    }
    ensure!(!front.stdout.contains("DICE"), "{front:?}");

    let p3d = search.jobs.iter().find(|job| job.label.contains("p3d")).context("no p3d")?;
    let derived = search.jobs.iter().find(|job| job.label.starts_with("budget")).context("no budget")?;
    ensure!(p3d.kind() == JobKind::Retrain, "{p3d:?}");
    let (p3d, derived) = (&p3d.architecture_digest, &derived.architecture_digest);
    let picture = cluster.folder().join("p3d.svg");
    let picture = picture.to_str().context("path")?;
    for arguments in [
        &["arch", "get", p3d][..],
        &["arch", "cost", p3d],
        &["arch", "diff", p3d, derived],
        &["arch", "plot", p3d, "--out", picture],
        &["job", "get", &search.jobs[0].id],
        &["search", "plot", &search.id, "--out", &cluster.folder().join("plots").to_string_lossy()],
    ] {
        let shown = cluster.cakes(arguments).await?;
        ensure!(shown.code == Some(0), "{arguments:?}: {shown:?}");
    }

    // A front of architectures from the one supernet, and one of them trained.
    let range =
        ["search", "derive", &search.id, "--budgets", "0.3..0.9:0.2", "--unconstrained", "-o", "json"];
    let found = cluster.cakes(&range).await?;
    ensure!(found.code == Some(0), "{found:?}");
    let found: Value = serde_json::from_str(&found.stdout)?;
    let derivations = found["derivations"].as_array().context("no derivations")?;
    let origins: Vec<&str> = derivations.iter().filter_map(|found| found["origin"].as_str()).collect();
    ensure!(origins == ["budget 0.3", "budget 0.5", "budget 0.7", "budget 0.9", "paper rule"], "{origins:?}");
    let predicted = |found: &Value| found["predicted_latency_ms"].as_f64().is_some_and(|ms| ms > 0.0);
    ensure!(derivations.iter().all(predicted), "{derivations:?}");
    by_time(cluster, search).await?;
    let digest = derivations[0]["digest"].as_str().context("no digest")?;
    let weights = ["--initial-weights", "supernet"];
    let retrain = ["job", "retrain", digest, "--search", &search.id, "--seed", "7", "--wait"];
    let retrained = cluster.cakes(&[&retrain[..], &weights].concat()).await?;
    ensure!(retrained.code == Some(0) && retrained.stdout.contains("top-1"), "{retrained:?}");
    Ok(())
}

/// The supernet's trainer measured times, from which architectures are derived, the same
/// each time.
async fn by_time(cluster: &Cluster, search: &Search) -> Result<()> {
    let shown = cluster.cakes(&["search", "latency", &search.id, "-o", "json"]).await?;
    ensure!(shown.code == Some(0), "{shown:?}");
    let wire: LatencyTable = serde_json::from_str(&shown.stdout)?;
    let table = latency_from_wire(wire).map_err(|error| anyhow!("{error}"))?;
    let described = search_from_wire(search.spec.clone())?;
    let spec = described.spec();
    let costs = ChannelCosts::measured(&spec.backbone, &spec.supernet.kernels, &table)?;
    let lightest = costs.lightest(&spec.supernet.kernels) as f64 / table.reference_ns as f64;
    // A network that takes no time but for its calls may have nothing within its whole.
    let budget = format!("{}", (lightest + 0.05).min(1.0));
    let derive = ["search", "derive", &search.id, "--budget", &budget, "--measure", "latency", "-o", "json"];
    let first = cluster.cakes(&derive).await?;
    if lightest > 1.0 {
        ensure!(first.code != Some(0) && first.stderr.contains("lightest"), "{lightest}: {first:?}");
        return Ok(());
    }
    ensure!(first.code == Some(0), "{first:?}");
    ensure!(cluster.cakes(&derive).await?.stdout == first.stdout, "derived twice and not alike");
    let found: Value = serde_json::from_str(&first.stdout)?;
    let fraction = found["derivations"][0]["latency_fraction"].as_f64().context("no fraction")?;
    ensure!(fraction <= lightest + 0.05 && fraction >= lightest, "{fraction} {lightest}");
    Ok(())
}

fn bars() -> Value {
    let training = json!({
        "epochs": 2, "steps_per_epoch": 4, "batch_size": 4, "warmup_steps": 2, "checkpoint_every_epochs": 2,
    });
    json!({
        "search": {
            "name": "bars",
            "dataset": { "arrays": { "path": "bars" } },
            "backbone": { "volume_resnet": { "classes": 3, "base_width": 4 } },
            "patch": { "depth": EDGE, "height": EDGE, "width": EDGE },
            "supernet": { "training": training },
            "budgets": [0.5],
            "baselines": ["c3d", "p3d", "random"],
            "retrain": { "training": training, "seeds": [0] },
        }
    })
}

/// Volumes with one bar each, whose direction is the class, under MedMNIST's names.
fn write_bars(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for (part, count) in [("train", 24), ("val", VALIDATION)] {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (class, place) = (number % 3, number / 3);
            labels.push(class as u8);
            images.extend(bar(class, [2 + place % 8, 2 + (place * 3) % 8, 2 + (place * 5) % 8]));
        }
        write_npy(&folder.join(format!("{part}_images.npy")), &[count, EDGE, EDGE, EDGE], &images)?;
        write_npy(&folder.join(format!("{part}_labels.npy")), &[count, 1], &labels)?;
    }
    Ok(())
}

/// A bar of six voxels through `centre` along axis `axis`, in `[D, H, W]`.
fn bar(axis: usize, centre: [usize; 3]) -> Vec<u8> {
    let mut volume = vec![0; EDGE * EDGE * EDGE];
    for along in 3..9 {
        let mut at = centre;
        at[axis] = along;
        volume[(at[0] * EDGE + at[1]) * EDGE + at[2]] = 255;
    }
    volume
}

/// A NumPy array of bytes, format 1.0.
fn write_npy(path: &Path, shape: &[usize], values: &[u8]) -> Result<()> {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    let mut header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({}), }}", sizes.join(", "));
    while (header.len() + 11) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(values);
    Ok(std::fs::write(path, file)?)
}
