//! Commands that need no server, run as a user runs them.

mod support;

use std::fs;
use std::path::Path;

use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, EncoderDecoder};
use cakes::cost::cost;
use cakes::kernel::Kernel;
use serde_json::Value;
use support::{cakes, gzip, nifti, write_dataset};
use tempfile::tempdir;

fn architecture(kernels: &[Kernel]) -> Architecture {
    let config = EncoderDecoder {
        input_channels: 1,
        classes: 3,
        base_width: 8,
        levels: 3,
        ..EncoderDecoder::default()
    };
    Architecture::even(Backbone::EncoderDecoder(config), kernels).unwrap()
}

fn write_architecture(path: &Path, architecture: &Architecture) {
    fs::write(path, serde_json::to_string(architecture).unwrap()).unwrap();
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).or(value.as_u64()).expect("a number")
}

#[test]
fn arch_cost_of_a_file_is_the_cost_models() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("net.json");
    let architecture = architecture(&[Kernel::K133, Kernel::K311]);
    write_architecture(&path, &architecture);
    let file = path.to_str().unwrap();

    let ran = cakes(&["arch", "cost", file, "--extent", "16x24x32", "-o", "json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let printed: Value = serde_json::from_str(&ran.stdout).unwrap();
    let expected = cost(&architecture.network(), [16, 24, 32]).unwrap();
    assert_eq!(number(&printed["param_count"]), expected.param_count);
    assert_eq!(number(&printed["mac_count"]), expected.mac_count);
    assert_eq!(printed["layers"].as_array().unwrap().len(), expected.layers.len());

    let table = cakes(&["arch", "cost", file, "--extent", "16x24x32"]);
    assert!(table.stdout.contains(&expected.mac_count.to_string()), "{}", table.stdout);
    let missing = cakes(&["arch", "cost", file]);
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("--extent"), "{}", missing.stderr);
    let unfit = cakes(&["arch", "cost", file, "--extent", "15"]);
    assert_eq!(unfit.code, Some(2));
    assert!(unfit.stderr.contains("multiple of 4"), "{}", unfit.stderr);
}

#[test]
fn arch_cost_of_a_published_configuration_is_the_papers_table() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/published.txt");
    let count = |name: &str, frames: &str| {
        let ran =
            cakes(&["arch", "cost", "--published", file, "--name", name, "--frames", frames, "-o", "json"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        let printed: Value = serde_json::from_str(&ran.stdout).unwrap();
        let round = |value: &Value, unit: f64| format!("{:.3}", number(value) as f64 / unit);
        (round(&printed["param_count"], 1e6), round(&printed["mac_count"], 1e9))
    };
    assert_eq!(count("CAKES12D_C", "8"), ("20.498".into(), "29.096".into()));
    assert_eq!(count("CAKES123D_P", "16"), ("33.508".into(), "87.232".into()));

    let table = cakes(&["arch", "cost", "--published", file, "--name", "CAKES12D_C"]);
    assert!(table.stdout.contains("1x3x3:34 3x1x1:30"), "{}", table.stdout);
    let misspelt = cakes(&["arch", "cost", "--published", file, "--name", "CAKES12D"]);
    assert_eq!(misspelt.code, Some(2));
    let names = "the file has CAKES12D_P, CAKES12D_C, CAKES23D_P, CAKES23D_C, CAKES123D_P, CAKES123D_C";
    assert!(misspelt.stderr.contains(names), "{}", misspelt.stderr);
    assert_eq!(cakes(&["arch", "cost"]).code, Some(2));
}

#[test]
fn arch_diff_names_the_layers_that_differ() {
    let folder = tempdir().unwrap();
    let (left, right) = (folder.path().join("left.json"), folder.path().join("right.json"));
    write_architecture(&left, &architecture(&[Kernel::K333]));
    write_architecture(&right, &architecture(&[Kernel::K333, Kernel::K113]));
    let (left, right) = (left.to_str().unwrap(), right.to_str().unwrap());
    let ran = cakes(&["arch", "diff", left, right]);
    assert!(ran.stdout.contains("encoder.0.conv1  3x3x3:8       3x3x3:4 1x1x3:4"), "{}", ran.stdout);
    assert!(cakes(&["arch", "diff", left, left]).stdout.starts_with("equal"));
}

#[test]
fn arch_plot_writes_svg_and_png_by_the_files_ending() {
    let folder = tempdir().unwrap();
    let net = folder.path().join("net.json");
    write_architecture(&net, &architecture(&[Kernel::K333, Kernel::K113]));
    let at = |name: &str| folder.path().join(name).display().to_string();
    for name in ["net.svg", "net.png"] {
        let ran = cakes(&["arch", "plot", net.to_str().unwrap(), "--out", &at(name)]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    assert!(fs::read_to_string(at("net.svg")).unwrap().starts_with("<svg"));
    assert!(fs::read(at("net.png")).unwrap().starts_with(b"\x89PNG"));
    let ran = cakes(&["arch", "plot", net.to_str().unwrap(), "--out", &at("net.gif")]);
    assert_eq!(ran.code, Some(2));
}

#[test]
fn dataset_check_describes_a_good_folder() {
    let folder = tempdir().unwrap();
    write_dataset(folder.path());
    let ran = cakes(&["dataset", "check", folder.path().to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("2 cases, 2 readable") && ran.stdout.contains("8x9x10"), "{}", ran.stdout);
    let json = cakes(&["dataset", "check", folder.path().to_str().unwrap(), "-o", "json"]);
    let report: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["case_count"], 2);
    assert_eq!(report["findings"].as_array().unwrap().len(), 0);
}

/// What is done to a good folder, and what must be said.
type Damage = (&'static str, fn(&Path), &'static str);

#[test]
fn dataset_check_names_the_file_and_what_is_wrong_with_it() {
    let damages: [Damage; 5] = [
        (
            "truncated gzip",
            |folder| {
                let path = folder.join("imagesTr/a.nii.gz");
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            },
            "imagesTr/a.nii.gz",
        ),
        (
            "another shape",
            |folder| {
                fs::write(folder.join("labelsTr/b.nii.gz"), gzip(&nifti([8, 9, 9], |_| 0.0))).unwrap();
            },
            "labelsTr/b.nii.gz",
        ),
        (
            "unknown class",
            |folder| {
                fs::write(folder.join("labelsTr/a.nii.gz"), gzip(&nifti([8, 9, 10], |_| 7.0))).unwrap();
            },
            "labelsTr/a.nii.gz",
        ),
        (
            "not a number",
            |folder| {
                fs::write(folder.join("imagesTr/a.nii.gz"), gzip(&nifti([8, 9, 10], |_| f32::NAN))).unwrap();
            },
            "imagesTr/a.nii.gz",
        ),
        (
            "missing file",
            |folder| fs::remove_file(folder.join("imagesTr/b.nii.gz")).unwrap(),
            "imagesTr/b.nii.gz",
        ),
    ];
    for (name, damage, file) in damages {
        let folder = tempdir().unwrap();
        write_dataset(folder.path());
        damage(folder.path());
        let ran = cakes(&["dataset", "check", folder.path().to_str().unwrap()]);
        assert_eq!(ran.code, Some(1), "{name}: {}{}", ran.stdout, ran.stderr);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("error") && said.contains(file), "{name}: {said}");
    }
}

#[test]
fn dataset_check_refuses_what_is_no_data_set() {
    let folder = tempdir().unwrap();
    let empty = cakes(&["dataset", "check", folder.path().to_str().unwrap()]);
    assert_eq!(empty.code, Some(2));
    assert!(empty.stderr.contains("is empty") && empty.stderr.contains("imagesTr"), "{}", empty.stderr);
    write_dataset(folder.path());
    fs::write(folder.path().join("dataset.json"), "{}").unwrap();
    let wrong = cakes(&["dataset", "check", folder.path().to_str().unwrap()]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("dataset.json"), "{}", wrong.stderr);
}

#[test]
fn help_is_shown_for_every_command_and_for_a_missing_verb() {
    for arguments in [&["--help"][..], &["search", "submit", "--help"], &["completion", "bash"]] {
        let ran = cakes(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}");
        assert!(ran.stdout.contains("cakes"), "{arguments:?}: {}", ran.stdout);
    }
    for noun in ["search", "job", "arch", "worker", "dataset"] {
        let ran = cakes(&[noun]);
        assert_eq!(ran.code, Some(2));
        assert!(ran.stderr.contains("Commands:"), "{noun}: {}", ran.stderr);
    }
}

#[test]
fn contexts_are_kept_in_a_file_and_say_where_commands_go() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let cakes = |arguments: &[&str]| support::cakes_with(&[("CAKES_SETTINGS", file.as_os_str())], arguments);
    assert_eq!(cakes(&["context", "set", "lab", "127.0.0.1:1"]).code, Some(0));
    assert_eq!(cakes(&["context", "set", "home", "http://127.0.0.1:2"]).code, Some(0));
    let listed: Value = serde_json::from_str(&cakes(&["context", "list", "-o", "json"]).stdout).unwrap();
    assert_eq!(listed["contexts"][1]["name"], "lab");
    assert_eq!(listed["contexts"][1]["used"], true);

    // Nobody listens there, and the error says where that is.
    assert!(cakes(&["worker", "list"]).stderr.contains("127.0.0.1:1"));
    assert!(cakes(&["worker", "list", "--context", "home"]).stderr.contains("127.0.0.1:2"));
    assert!(cakes(&["worker", "list", "--server", "127.0.0.1:3"]).stderr.contains("127.0.0.1:3"));
    assert_eq!(cakes(&["context", "use", "home"]).code, Some(0));
    assert!(cakes(&["worker", "list"]).stderr.contains("127.0.0.1:2"));

    let unknown = cakes(&["worker", "list", "--context", "lib"]);
    assert_eq!(unknown.code, Some(2));
    assert!(unknown.stderr.contains("'lib' (home, lab)"), "{}", unknown.stderr);
    assert_eq!(cakes(&["context", "set", "a b", "http://x:1"]).code, Some(2));
    assert_eq!(cakes(&["context", "remove", "home"]).code, Some(0));
    assert!(!cakes(&["context", "list"]).stdout.contains("FILE"), "columns of files that nobody named");
    let with_files = "[contexts.lab]\nserver = \"https://127.0.0.1:1\"\nca_file = \"/lab/ca.pem\"\n";
    fs::write(&file, with_files).unwrap();
    let listed = cakes(&["context", "list"]).stdout;
    assert!(listed.contains("CA FILE") && listed.contains("/lab/ca.pem"), "{listed}");
    assert!(!listed.contains("KEY FILE"), "{listed}");
    fs::write(&file, "contexts = 3").unwrap();
    let broken = cakes(&["worker", "list"]);
    assert!(broken.code == Some(2) && broken.stderr.contains("config.toml"), "{}", broken.stderr);
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempdir().unwrap();
    let out = folder.path().join("man");
    assert_eq!(cakes(&["man", "--out", out.to_str().unwrap()]).code, Some(0));
    let page = fs::read_to_string(out.join("cakes-search-submit.1")).unwrap();
    assert!(page.contains("cakes search submit search.json"), "{page}");
    assert!(out.join("cakes.1").is_file() && out.join("cakes-arch-cost.1").is_file());
}
