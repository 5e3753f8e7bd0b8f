//! `cakes-coordinator simulate`, the program.

use std::path::Path;
use std::process::{Command, Output};

const SMALL: &str = r#"
seed = 5
days = 3
nodes = [{ name = "n", count = 2, devices = 4, memory_gib = 80, days_between_failures = 4 }]
projects = [{ name = "a", share = 2 }, { name = "b", share = 1, device_quota = 4 }]
streams = [
    { project = "a", jobs_per_day = 30, pattern = "office", sizes = [{ devices = 1 }, { devices = 4 }],
      hours = { median = 2, spread = 0.7, max = 12 }, data = ["lung"] },
    { project = "b", jobs_per_day = 40, burst = 5, sizes = [{ devices = 1 }],
      hours = { median = 1, max = 4 }, wants = { priority = 5, estimate = "none" } },
]
"#;

fn simulate(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cakes-coordinator"))
        .arg("simulate")
        .args(arguments)
        .current_dir(folder)
        // It needs neither a home nor a database.
        .env_clear()
        .output()
        .unwrap()
}

#[track_caller]
fn report(folder: &Path, arguments: &[&str]) -> String {
    let output = simulate(folder, arguments);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("rounds in"), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("small.toml"), SMALL).unwrap();
    for output in ["json", "table"] {
        let first = report(folder.path(), &["small.toml", "-o", output]);
        assert_eq!(first, report(folder.path(), &["small.toml", "-o", output]));
        assert_ne!(first, report(folder.path(), &["small.toml", "-o", output, "--seed", "6"]));
        assert_ne!(first, report(folder.path(), &["small.toml", "-o", output, "--policy", "fifo"]));
    }
    let json: serde_json::Value =
        serde_json::from_str(&report(folder.path(), &["small.toml", "-o", "json"])).unwrap();
    assert_eq!(json["policy"], "fair");
    assert!(json["done"].as_u64() > Some(100), "{json:#}");
}

#[test]
fn fewer_days_leave_out_the_jobs_that_come_later() {
    let folder = tempfile::tempdir().unwrap();
    let job =
        |hours: u32| format!("\n[[jobs]]\nproject = \"a\"\nsubmit_hours = {hours}\ndevices = 1\nhours = 1\n");
    std::fs::write(folder.path().join("few.toml"), SMALL).unwrap();
    std::fs::write(folder.path().join("more.toml"), format!("{SMALL}{}{}", job(1), job(60))).unwrap();
    let submitted = |file: &str, days: &str| {
        let text = report(folder.path(), &[file, "-o", "json", "--days", days]);
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["jobs"].as_u64().unwrap()
    };
    for (days, own) in [("2", 1), ("3", 2)] {
        assert_eq!(submitted("more.toml", days), submitted("few.toml", days) + own, "{days}");
    }
}

#[test]
fn the_example_is_a_month_of_500_devices() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let text = std::fs::read_to_string(examples.join("cluster-month.toml")).unwrap();
    let scenario: cakes_planner::sim::Scenario = toml::from_str(&text).unwrap();
    scenario.check().unwrap();
    let devices: u32 = scenario.nodes.iter().map(|nodes| nodes.count * nodes.devices).sum();
    assert_eq!((scenario.days, devices), (30, 500));
}

#[test]
fn a_bad_file_names_itself_the_field_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        ("days = 3", "days = \"three\"", ["bad.toml", "days", "invalid type"]),
        ("median = 2", "medain = 2", ["bad.toml", "streams[0].hours", "medain"]),
        ("share = 2", "share = 0", ["bad.toml", "projects[0].share", "nonzero"]),
        ("project = \"b\"", "project = \"c\"", ["bad.toml", "streams[1].project", "name one of a, b"]),
        ("days = 3", "days = 3\n[", ["bad.toml", "TOML parse error", "line"]),
    ];
    for (old, new, parts) in cases {
        std::fs::write(folder.path().join("bad.toml"), SMALL.replacen(old, new, 1)).unwrap();
        let output = simulate(folder.path(), &["bad.toml"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{new}: {text}");
        assert!(output.stdout.is_empty());
        assert!(parts.iter().all(|part| text.contains(part)), "{new}: {text}");
    }
    std::fs::write(folder.path().join("bad.json"), "{\"seed\": 1, \"days\": -1}").unwrap();
    let output = simulate(folder.path(), &["bad.json"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("days: invalid value"), "{output:?}");
    let output = simulate(folder.path(), &["nowhere.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("read nowhere.toml"), "{output:?}");
}
