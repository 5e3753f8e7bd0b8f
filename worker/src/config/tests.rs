use clap::Parser as _;

use super::*;

/// Loads `flags` over a file with `toml`; the trainer is this test program.
fn load(flags: &[&str], toml: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("worker.toml");
    let own = std::env::current_exe().unwrap();
    std::fs::write(&file, format!("trainer = {own:?}\n{toml}")).unwrap();
    let always = ["cakes-worker", "--config", file.to_str().unwrap()];
    let flags = Cli::try_parse_from(always.iter().chain(flags)).map_err(|error| error.to_string())?.flags;
    Config::load(&flags).map_err(|error| error.to_string())
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let file = "id = \"from-file\"\nstep_limit = \"90s\"\nhold = \"1m\"";
    let config = load(&["--step-limit", "5s"], file).unwrap();
    assert_eq!(config.id.as_str(), "from-file");
    assert_eq!(config.patience.limits.step, Duration::from_secs(5));
    assert_eq!(config.patience.hold, minutes(1));
    assert_eq!(config.patience.limits.loading, minutes(30));
    assert_eq!(config.devices, DeviceChoice::Auto);
}

#[test]
fn trainers_share_the_memory_unless_it_is_said_what_each_may_take() {
    let limit = |flags: &[&str], slots| {
        let mut config = load(flags, "").unwrap();
        config.share_memory(slots);
        config.patience.memory_mib_max
    };
    let usable = memory::usable_mib().unwrap();
    assert_eq!(limit(&[], 1), memory::share_mib(usable, 1));
    assert_eq!(limit(&[], 4), memory::share_mib(usable, 4));
    assert_eq!(limit(&["--memory-limit-mib", "700"], 4), 700);
}

#[test]
fn decoded_samples_are_kept_below_the_work_folder_unless_it_is_said_where() {
    let config = load(&["--work-dir", "some/where"], "").unwrap();
    assert!(config.cache_dir.is_absolute() && config.cache_dir.ends_with("some/where/cache"));
    let config = load(&["--cache-limit-gib", "7"], "cache_dir = \"/fast/cache\"").unwrap();
    assert_eq!((config.cache_dir.as_path(), config.cache_limit_gib), (Path::new("/fast/cache"), 7));
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let error = load(&[], "step_limt = \"90s\"").unwrap_err();
    assert!(error.contains("step_limt") && error.contains("step_limit"), "{error}");
}

#[test]
fn wrong_values_name_their_setting() {
    for (setting, flags, file) in [
        ("id", &["--id", "../x"][..], ""),
        ("server", &["--server", "coordinator:7550"], ""),
        ("devices", &["--devices", "gpu"], ""),
        ("labels", &["--labels", "gpu"], ""),
        ("threads", &["--threads", "0"], ""),
        ("loader_threads", &["--loader-threads", "0"], ""),
        ("cache_limit_gib", &[], "cache_limit_gib = 0"),
        ("memory_limit_mib", &["--memory-limit-mib", "0"], ""),
        ("self_fence", &["--self-fence", "1.5"], ""),
        ("step-limit", &["--step-limit", "soon"], ""),
        ("step_limit", &["--step-limit", "0s"], ""),
        ("mtbf", &["--mtbf", "0s"], ""),
        ("data_root", &["--data-root", "/no/such/folder"], ""),
        ("trainer", &["--trainer", "/no/such/trainer"], ""),
        ("cert_file", &["--server", "https://a:1", "--cert-file", "c.pem"], ""),
        ("cert_file", &["--server", "http://a:1", "--ca-file", "ca.pem"], ""),
        ("/no/ca.pem", &["--server", "https://a:1", "--ca-file", "/no/ca.pem"], ""),
        ("hold", &[], "hold = 3"),
        ("hold", &[], "hold = \"0s\""),
        ("log-format", &["--log-format", "xml"], ""),
    ] {
        let error = load(flags, file).unwrap_err();
        assert!(error.contains(setting), "{setting}: {error}");
    }
}

#[test]
fn a_worker_has_labels_of_the_file_or_of_the_flag() {
    let file = "labels = \"gpu=a100\"";
    assert_eq!(load(&[], file).unwrap().labels.to_string(), "gpu=a100");
    assert_eq!(
        load(&["--labels", "gpu=h200, site=basel"], file).unwrap().labels.to_string(),
        "gpu=h200,site=basel"
    );
    assert!(load(&[], "").unwrap().labels.is_empty());
}

#[test]
fn several_coordinators_may_be_named() {
    let config = load(&["--server", "http://a:7550, http://b:7550", "--id", "w"], "").unwrap();
    assert_eq!(config.other_servers.len(), 1);
}
