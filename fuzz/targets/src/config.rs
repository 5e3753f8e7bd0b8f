//! Files that people write: settings, scenarios, searches, networks.

use std::path::Path;

use cakes_cli::autoscale::slurm::row;
use cakes_cli::input::{NetworkFile, Text, parse_extent, search_file};
use cakes_coordinator::config;
use cakes_planner::sim::Scenario;
use cakes_proto::convert::search_to_wire;
use cakes_proto::v1::SubmitSearchRequest;
use cakes_worker::config::Cli;
use clap::Parser;

use crate::place::with_file;
use crate::{choice, text};

/// The coordinator's settings file: nobody from elsewhere comes in plain text unasked.
pub fn coordinator_config(bytes: &[u8]) {
    with_file("coordinator.toml", bytes, |path| {
        match config::Config::load(Some(path), config::Settings::default()) {
            Ok(config) => {
                let addresses = [Some(config.listen), config.metrics];
                let is_near = addresses.into_iter().flatten().all(|address| address.ip().is_loopback());
                assert!(is_near || config.tls.is_some() || is_open(bytes));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}

/// The worker's settings file.
pub fn worker_config(bytes: &[u8]) {
    with_file("worker.toml", bytes, |path| {
        let words = [Path::new("cakes-worker"), Path::new("--config"), path];
        let Cli { flags, .. } = Cli::try_parse_from(words).expect("this is a command line");
        if let Ok(config) = cakes_worker::config::Config::load(&flags) {
            assert!(config.metrics.is_none_or(|address| address.ip().is_loopback()) || is_open(bytes));
        }
    });
}

/// Whether a file says that other machines may come.
fn is_open(bytes: &[u8]) -> bool {
    text(bytes).is_some_and(|text| text.contains("insecure_listen"))
}

/// A simulated cluster.
pub fn scenario(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let Ok(scenario) = toml::from_str::<Scenario>(text) else { return };
    if scenario.check().is_ok() {
        // Nothing comes back that was not there, and fewer days are not refused.
        let day = scenario.clone().for_days(1);
        assert!(day.jobs.len() <= scenario.jobs.len());
    }
}

/// A byte that says what is read, and the file.
pub fn command_files(bytes: &[u8]) {
    let Some((kind, rest)) = choice(bytes) else { return };
    let Some(content) = text(rest) else { return };
    let is_yaml = kind & 1 == 1;
    let file = || Text { name: "input".to_owned(), content: content.to_owned(), is_yaml };
    match kind >> 1 {
        0 => {
            let Ok((_, search)) = search_file(&file()) else { return };
            // What `cakes search get -o json` prints of a search can be submitted.
            let request =
                SubmitSearchRequest { search: Some(search_to_wire(search.spec())), ..Default::default() };
            let content = serde_json::to_string(&request).expect("a request is JSON");
            let printed = Text { content, is_yaml: false, ..file() };
            assert_eq!(search_file(&printed).expect("what is printed is read").1, search);
        }
        1 => drop(NetworkFile::parse(&file())),
        2 => {
            let Ok(settings) = toml::from_str::<cakes_cli::settings::Settings>(content) else { return };
            let printed = toml::to_string(&settings).expect("settings are TOML");
            assert_eq!(toml::from_str(&printed).ok(), Some(settings));
        }
        3 => {
            if let Ok(extent) = parse_extent(content) {
                assert!(extent.iter().all(|size| *size > 0));
            }
        }
        4 => {
            if let Ok(row) = row(content) {
                assert!(!row.id.contains('|') && !row.state.contains('|'));
            }
        }
        _ => {}
    }
}
