use std::ffi::OsString;
use std::io::Write;

use super::*;
use crate::command::{Command, Invocation};
use crate::core::retention::Watermarks;

fn load(arguments: &[&str]) -> Result<Config, String> {
    let arguments = ["cakes-coordinator", "--data-dir", "/data"].iter().chain(arguments);
    match Invocation::parse(arguments.map(Into::into)) {
        Ok(invocation) => Ok(invocation.config),
        Err(error) => Err(error.to_string()),
    }
}

fn file(content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = file("lease_ttl = \"30s\"\noffer_ttl = \"5s\"\nlisten = \"127.0.0.1:1\"\n");
    let path = file.path().to_str().unwrap();
    let config = load(&["--config", path, "--lease-ttl", "40s"]).unwrap();
    assert_eq!(config.leases.lease_ttl, Duration::from_secs(40));
    assert_eq!(config.leases.offer_ttl, Duration::from_secs(5));
    assert_eq!(config.leases.report_interval, REPORT_INTERVAL);
    assert_eq!(config.listen.port(), 1);
    assert_eq!(config.artifacts, Artifacts::Folder(PathBuf::from("/data/artifacts")));
}

#[test]
fn artifacts_are_a_directory_or_a_bucket() {
    let bucket = load(&["--artifacts", "s3://bucket/prefix"]).unwrap().artifacts;
    assert_eq!(bucket, Artifacts::Bucket(Url::parse("s3://bucket/prefix").unwrap()));
    for wrong in ["gs://bucket", "s3://", "s3://key:secret@bucket"] {
        let error = load(&["--artifacts", wrong]).err().unwrap();
        assert!(error.contains("--artifacts") && error.contains("s3://BUCKET"), "{error}");
    }
}

#[test]
fn one_watermark_follows_the_other() {
    assert_eq!(load(&[]).unwrap().retention, Retention::default());
    let retention = load(&["--disk-high-percent", "50", "--keep-checkpoints", "0"]).unwrap().retention;
    assert_eq!(retention.marks, Watermarks { high_percent: 50, low_percent: 49 });
    assert_eq!(retention.newest, 0);
}

#[test]
fn a_misspelt_key_is_named_with_its_file() {
    let file = file("lease_tll = \"30s\"\n");
    let path = file.path().to_str().unwrap();
    let error = load(&["--config", path]).err().unwrap();
    assert!(error.contains("lease_tll") && error.contains("lease_ttl"), "{error}");
    assert!(error.contains(file.path().file_name().unwrap().to_str().unwrap()), "{error}");
}

#[test]
fn a_wrong_value_in_the_file_is_named_by_its_key() {
    for (content, key) in [("lease_ttl = 30\n", "lease_ttl"), ("listen = \"here\"\n", "listen")] {
        let file = file(content);
        let error = load(&["--config", file.path().to_str().unwrap()]).err().unwrap();
        assert!(error.contains(key), "{error}");
    }
    let error = load(&["--config", "/nonexistent.toml"]).err().unwrap();
    assert!(error.contains("/nonexistent.toml"), "{error}");
}

#[test]
fn values_that_make_no_sense_name_the_setting_and_the_remedy() {
    let cases: [(&[&str], &str); 21] = [
        (&["--keep-checkpoints", "20000"], "--keep-checkpoints: must be 0 to"),
        (&["--disk-low-percent", "95"], "--disk-low-percent: must be below --disk-high-percent"),
        (&["--disk-high-percent", "101"], "at most 100"),
        (&["--orphan-age", "10ms"], "--orphan-age: must be 1s to"),
        (&["--lease-ttl", "6s"], "--lease-ttl: 6s must be more than three times --report-interval"),
        (&["--report-interval", "1ms"], "--report-interval: must be 10ms to 1h"),
        (&["--offer-ttl", "2h"], "--offer-ttl: must be 10ms to 1h"),
        (&["--drain-time", "2h"], "--drain-time: must be 10ms to 1h"),
        (&["--listen", "0.0.0.0:7550"], "`cakes-coordinator pki init --host NAME`"),
        (&["--web-listen", "0.0.0.0:7551"], "--web-listen: 0.0.0.0:7551 can be reached"),
        (&["--tls-cert", "a.pem"], "--tls-cert: needs its key"),
        (&["--tls-key", "a.pem"], "--tls-key: needs its certificate"),
        (&["--tls-users-ca", "a.pem"], "--tls-cert: is needed"),
        (&["--pki-dir", "pki", "--insecure-listen"], "leave one of them out"),
        (&["--trust-domain", "Cakes"], "--trust-domain: 'Cakes' is no name"),
        (&["--web-allow-host", "https://lab"], "--web-allow-host: 'https://lab' is no name of a host"),
        (&["--web-listen", "on"], "--web-listen: 'on' is no address"),
        (&["--database-url", "mysql://u:secret@h/d"], "--database-url: must begin with postgres://"),
        (&["--database-connections", "1"], "--database-connections: must be 5 to 500"),
        (&["--log-level", "cakes=loud"], "--log-level: 'cakes=loud' is no level"),
        (&["--lease-ttl", "60"], "--lease-ttl"),
    ];
    for (arguments, expected) in cases {
        let error = load(arguments).err().unwrap();
        assert!(error.contains(expected), "{arguments:?}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    assert!(load(&["--listen", "0.0.0.0:7550", "--insecure-listen"]).is_ok());
    assert_eq!(load(&[]).unwrap().drain_time, Duration::ZERO);
    assert_eq!(load(&["--drain-time", "0s"]).unwrap().drain_time, Duration::ZERO);
    assert!(load(&["--web-listen", "0.0.0.0:7551", "--insecure-listen"]).is_ok());
}

#[test]
fn certificates_come_from_a_folder_or_from_files_and_open_other_addresses() {
    assert_eq!(load(&[]).unwrap().tls, None);
    let config =
        load(&["--listen", "0.0.0.0:7550", "--pki-dir", "/pki", "--tls-key", "/run/key.pem"]).unwrap();
    let files = config.tls.unwrap();
    assert_eq!(files.certificate, PathBuf::from("/pki/cert.pem"));
    assert_eq!(files.key, PathBuf::from("/run/key.pem"));
    assert_eq!(files.workers_ca, Some(PathBuf::from("/pki/workers-ca.pem")));
    let single = ["--tls-cert", "/c.pem", "--tls-key", "/k.pem", "--tls-users-ca", "/u.pem"];
    let files = load(&single).unwrap().tls.unwrap();
    assert_eq!((files.users_ca, files.workers_ca), (Some(PathBuf::from("/u.pem")), None));
    assert_eq!(files.domain.as_str(), "cakes");
}

#[test]
fn only_plain_text_lets_in_who_is_unknown() {
    let identity = |arguments: &[&str]| load(arguments).unwrap().requires_identity;
    assert!(!identity(&[]));
    assert!(identity(&["--require-identity"]));
    assert!(identity(&["--pki-dir", "/pki", "--require-identity=false"]));
}

#[test]
fn a_switch_does_not_take_the_command_behind_it_for_its_value() {
    for switch in ["--require-identity", "--web-require-token", "--insecure-listen", "--insecure-webhooks"] {
        let arguments = ["cakes-coordinator", "--data-dir", "/data", switch, "token", "list"];
        let invocation = Invocation::parse(arguments.map(OsString::from)).unwrap();
        assert!(matches!(invocation.command, Some(Command::Token(_))), "{switch}");
    }
}

#[test]
fn the_page_is_near_its_port_where_it_was_told_or_nowhere() {
    assert_eq!(load(&[]).unwrap().web, WebListen::Near(listen::WEB_LISTEN));
    assert_eq!(load(&["--web-listen", "off"]).unwrap().web, WebListen::Off);
    let address = "127.0.0.1:8080".parse().unwrap();
    assert_eq!(load(&["--web-listen", "127.0.0.1:8080"]).unwrap().web, WebListen::At(address));
    let file = file("web_listen = \"off\"\n");
    let path = file.path().to_str().unwrap();
    assert_eq!(load(&["--config", path]).unwrap().web, WebListen::Off);
}

#[test]
fn limits_are_flags_variables_and_a_table_of_the_file() {
    assert_eq!(load(&[]).unwrap().limits, Limits::default());
    let file =
        file("[limits]\nmax_connections = 7\nidle_timeout = \"30s\"\nmax_call_rate_per_identity = 3\n");
    let path = file.path().to_str().unwrap();
    let limits = load(&["--config", path, "--max-connections", "9"]).unwrap().limits;
    assert_eq!(limits.connections.connections, 9);
    assert_eq!(limits.connections.idle_timeout, Duration::from_secs(30));
    assert_eq!(limits.calls.callers.rate_of_identity.per_s, 3.0);
    assert_eq!(limits.calls.callers.rate_of_identity.burst, 2000.0);
}

#[test]
fn every_limit_has_a_setting_of_its_own_that_says_what_it_may_be() {
    let mut seen = vec![Limits::default()];
    for argument in LimitSettings::augment_args(clap::Command::new("limits")).get_arguments() {
        let flag = format!("--{}", argument.get_long().unwrap());
        let (value, wrong, expected) = match argument.get_value_names().unwrap()[0].as_str() {
            "COUNT" => ("7", ["0", "10000001"], "must be 1 to 10000000"),
            "DURATION" => ("7s", ["9ms", "61m"], "must be 10ms to 1h"),
            other => panic!("{flag} takes a {other}"),
        };
        let limits = load(&[&flag, value]).unwrap().limits;
        assert!(!seen.contains(&limits), "{flag} changes nothing, or what another one does");
        seen.push(limits);
        for wrong in wrong {
            let error = load(&[&flag, wrong]).err().unwrap();
            assert!(error.contains(&format!("{flag}: {expected}, got ")), "{error}");
        }
        let error = load(&[&flag, "many"]).err().unwrap();
        assert!(error.contains(&flag), "{error}");
    }
    assert_eq!(seen.len(), 22, "so many and the defaults are tried");
}

#[test]
fn a_misspelt_limit_is_named() {
    let file = file("[limits]\nmax_connection = 7\n");
    let error = load(&["--config", file.path().to_str().unwrap()]).err().unwrap();
    assert!(error.contains("max_connection"), "{error}");
}
