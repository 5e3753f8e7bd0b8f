//! `cakes-worker doctor` finds a healthy node healthy, and each thing that is broken.

mod certificates {
    pub mod made;
}

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cakes_tests::cluster::certificates::files_in;
use cakes_tests::{Cluster, Options, scenario};
use certificates::made::Made;
use serde_json::Value;

#[test]
fn a_healthy_node_is_healthy_and_a_broken_one_is_told_what_to_mend() {
    scenario(Options { workers: &[], tls: true, ..Options::default() }, async |cluster| {
        healthy(cluster)?;
        for (settings, check) in broken(cluster)? {
            let (code, report) = doctor(cluster, &settings)?;
            ensure!(code == Some(1), "{settings:?}: {code:?} {report:#}");
            let found = named(&report, check);
            ensure!(found.iter().any(|found| found["verdict"] == "failed"), "{settings:?}: {report:#}");
            ensure!(found.iter().any(|found| !found["remedy"].is_null()), "{settings:?}: {report:#}");
        }
        Ok(())
    });
}

fn healthy(cluster: &Cluster) -> Result<()> {
    let (code, report) = doctor(cluster, &[])?;
    ensure!(code == Some(0) && report["failed"] == 0, "{report:#}");
    for check in [
        "trainer",
        "libtorch",
        "devices",
        "data folder",
        "certificate",
        "name",
        "connection",
        "identity",
        "clock",
    ] {
        let found = named(&report, check);
        ensure!(found.len() == 1 && found[0]["verdict"] == "ok", "{check}: {report:#}");
    }
    for check in ["gpu driver", "ffmpeg", "work folder", "cache folder", "file descriptors", "other workers"]
    {
        ensure!(named(&report, check).len() == 1, "{check}: {report:#}");
    }
    let folder = cluster.folder().join("artifacts").display().to_string();
    let (_, report) = doctor(cluster, &[("--artifacts", folder)])?;
    let store = named(&report, "artifact folder");
    let found = store.first().and_then(|store| store["found"].as_str()).context("no artifact folder")?;
    // A disk that is nearly full is a warning.
    ensure!(store.len() == 1 && store[0]["verdict"] != "failed", "{report:#}");
    for part in ["created in", "read in", "deleted in", ", on ", "MiB are free"] {
        ensure!(found.contains(part), "{part}: {found}");
    }
    // It leaves nothing behind, and has told the coordinator nothing.
    let left = fs::read_dir(cluster.folder().join("artifacts"))?.count();
    ensure!(left == 0 && !cluster.folder().join("worker-a").exists(), "{left}");
    ensure!(cluster.sql("select count(*) from worker")? == "0", "it has registered");
    let said = command(cluster, &[], "text")?.output()?;
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    ensure!(said.contains("identity") && said.contains(" 0 failed"), "{said}");
    Ok(())
}

type Settings = Vec<(&'static str, String)>;

/// What is broken, and the check that must find it.
fn broken(cluster: &Cluster) -> Result<Vec<(Settings, &'static str)>> {
    let one = |flag: &'static str, value: &str| vec![(flag, value.to_owned())];
    let with = |folder: &Path| -> Settings {
        let files = files_in(folder);
        let text = |path: Option<std::path::PathBuf>| path.unwrap_or_default().display().to_string();
        vec![("--cert-file", text(files.certificate)), ("--key-file", text(files.key))]
    };
    let uri = ["spiffe://cakes/worker/a"];
    let made = |made: Made<'_>, name: &str| -> Result<Settings> {
        let files = made.files(cluster, name)?;
        let text = |path: Option<std::path::PathBuf>| path.unwrap_or_default().display().to_string();
        Ok(vec![("--cert-file", text(files.certificate)), ("--key-file", text(files.key))])
    };
    let expired = Made { uris: &uri, signer: Some("workers"), from: -48, to: -1, ..Made::default() };
    let foreign = Made { uris: &uri, signer: None, ..Made::default() };
    let early = Made { uris: &uri, signer: Some("workers"), from: 5, to: 9, ..Made::default() };
    let token = cluster.folder().join("wrong-token");
    fs::write(&token, format!("cakes_{}", "0".repeat(64)))?;
    let file = cluster.folder().join("a-file");
    fs::write(&file, "")?;
    let port = cluster.url().replace("https", "http");
    Ok(vec![
        (one("--server", "https://127.0.0.1:1"), "connection"),
        (one("--server", "https://no-such-host.invalid:7550"), "name"),
        (one("--server", &port), "identity"),
        (one("--server", "ftp//nowhere"), "coordinator"),
        (one("--ca-file", &cluster.pki().join("no-ca.pem").display().to_string()), "certificate"),
        (made(expired, "expired")?, "certificate"),
        (made(early, "early")?, "certificate"),
        (made(foreign, "foreign")?, "identity"),
        (with(&cluster.pki().join("users/tester")), "certificate"),
        (one("--id", "somebody-else"), "certificate"),
        (one("--token-file", &token.display().to_string()), "identity"),
        (one("--trainer", "/no/such/trainer"), "trainer"),
        (one("--trainer", "/bin/false"), "trainer"),
        (one("--devices", "cuda:77"), "devices"),
        (one("--advertise-address", "192.0.2.1"), "other workers"),
        (one("--advertise-address", "10.0.0.5:7000"), "other workers"),
        (one("--work-dir", "/proc/nothing"), "work folder"),
        (one("--work-dir", &file.join("below").display().to_string()), "work folder"),
        (one("--cache-dir", "/proc/nothing"), "cache folder"),
        (one("--disk-free-min-mib", "99999999999"), "work folder"),
        (one("--data-root", "/no/such/data"), "data folder"),
        (one("--artifacts", "/no/such/artifacts"), "artifact folder"),
        (one("--artifacts", "gs://bucket"), "artifact store"),
        (one("--artifacts", "s3://bucket/prefix"), "artifact bucket"),
        (one("--config", "/no/such/file.toml"), "settings"),
    ])
}

fn named<'a>(report: &'a Value, name: &str) -> Vec<&'a Value> {
    report["checks"].as_array().into_iter().flatten().filter(|check| check["name"] == name).collect()
}

/// A bucket in a store that is not there.
const NO_BUCKET: [(&str, &str); 4] = [
    ("AWS_ENDPOINT", "http://127.0.0.1:1"),
    ("AWS_ALLOW_HTTP", "true"),
    ("AWS_ACCESS_KEY_ID", "worker"),
    ("AWS_SECRET_ACCESS_KEY", "secret"),
];

/// The settings of the worker `a`, some of them others.
fn command(cluster: &Cluster, settings: &[(&'static str, String)], output: &str) -> Result<Command> {
    let words = cluster.worker_command("a", &[])?;
    // The environment of the one, the words of the other.
    let known: Vec<String> = words.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut command = Command::new(words.get_program());
    for (name, value) in words.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.envs(NO_BUCKET).args(["doctor", "-o", output]);
    for pair in known.chunks(2) {
        let [flag, value] = pair else { anyhow::bail!("{known:?} are no pairs") };
        if settings.iter().all(|(other, _)| other != flag) {
            command.args([flag, value]);
        }
    }
    for (flag, value) in settings {
        command.args([*flag, value]);
    }
    Ok(command)
}

fn doctor(cluster: &Cluster, settings: &[(&'static str, String)]) -> Result<(Option<i32>, Value)> {
    let output = command(cluster, settings, "json")?.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(&said)
        .with_context(|| format!("{settings:?}: {said}{}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((output.status.code(), report))
}
