//! Real clusters: each takes a second or two, so each test tries several things.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cakes_postgres::{Cluster, ClusterConfig, Durability, Error, find_binaries};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown, geteuid};

/// A folder that every account may enter.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn config(data_dir: &Path, durability: Durability) -> ClusterConfig {
    ClusterConfig { data_dir: data_dir.to_owned(), durability }
}

fn psql(url: &str, statement: &str) -> String {
    let psql = find_binaries().unwrap().join("psql");
    let output = Command::new(psql).args([url, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what} did not happen within 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Pids of processes with this text in their command line.
fn processes_with(text: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

#[test]
fn data_survive_stops_crashes_and_stale_files() {
    let folder = open_folder();
    let data_dir = folder.path().join("postgres");
    let config = config(&data_dir, Durability::Durable);

    let first = Cluster::start(&config).unwrap();
    psql(&first.url("cakes"), "create table t as select 42 as answer");
    assert_eq!(psql(&first.url("cakes"), "show fsync"), "on");
    assert_eq!(psql(&first.url("postgres"), "show listen_addresses"), "");
    let error = Cluster::start(&config).unwrap_err();
    assert!(matches!(&error, Error::InUse { .. }), "{error}");
    assert!(error.to_string().contains("--data-dir"), "{error}");
    first.stop();
    assert_eq!(processes_with(&data_dir.display().to_string()), Vec::<i32>::new());

    // The number in a stale file now belongs to another process of the same account.
    let mut stranger = Command::new("sleep");
    stranger.arg("60").stdin(Stdio::null());
    if let Some(user) = geteuid().is_root().then(|| User::from_name("postgres").unwrap()).flatten() {
        stranger.uid(user.uid.as_raw());
    }
    let mut stranger = stranger.spawn().unwrap();
    let stale = format!("{}\n{}\n", stranger.id(), data_dir.join("cluster").display());
    fs::write(data_dir.join("cluster/postmaster.pid"), stale).unwrap();
    let second = Cluster::start(&config).unwrap();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert_eq!(psql(&second.url("cakes"), "select answer from t"), "42");

    kill(Pid::from_raw(second.process_id() as i32), Signal::SIGKILL).unwrap();
    drop(second);
    let third = Cluster::start(&config).unwrap();
    assert_eq!(psql(&third.url("cakes"), "select answer from t"), "42");
}

/// Not a test by itself: the process that the next one kills.
#[test]
fn owner_of_a_cluster() {
    let Some(data_dir) = std::env::var_os("CAKES_POSTGRES_TEST_OWNER") else { return };
    let cluster = Cluster::start(&config(Path::new(&data_dir), Durability::Durable)).unwrap();
    fs::write(Path::new(&data_dir).with_extension("url"), cluster.url("cakes")).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_server_ends_soon_after_its_owner_was_killed() {
    let folder = open_folder();
    // Too long for a socket, so that the temporary folder is tried as well.
    let data_dir = folder.path().join("long".repeat(30)).join("postgres");
    fs::create_dir(data_dir.parent().unwrap()).unwrap();
    // What an interrupted initdb leaves.
    fs::create_dir_all(data_dir.join("cluster.new/base")).unwrap();
    if let Some(user) = geteuid().is_root().then(|| User::from_name("postgres").unwrap()).flatten() {
        chown(&data_dir, Some(user.uid), Some(user.gid)).unwrap();
    }

    let mut owner = Command::new(std::env::current_exe().unwrap());
    owner.args(["--exact", "owner_of_a_cluster"]).env("CAKES_POSTGRES_TEST_OWNER", &data_dir);
    let mut owner = owner.stdout(Stdio::null()).spawn().unwrap();
    let url_file = data_dir.with_extension("url");
    wait_for("the start of the owner's cluster", || url_file.exists());
    let url = fs::read_to_string(&url_file).unwrap();
    assert_eq!(psql(&url, "select 1"), "1");
    let socket_dir = url.split(['@', '/']).find(|part| part.starts_with("%2F")).unwrap();
    let socket_dir = PathBuf::from(socket_dir.replace("%2F", "/"));
    assert!(!socket_dir.starts_with(&data_dir));
    owner.kill().unwrap();
    owner.wait().unwrap();

    // A new owner waits for the end of the old server by itself.
    let next = Cluster::start(&config(&data_dir, Durability::ThrowAway)).unwrap();
    assert_eq!(psql(&next.url("cakes"), "select 1"), "1");
    next.stop();
    wait_for("the end of all processes", || processes_with(&data_dir.display().to_string()).is_empty());
    assert!(!socket_dir.exists());
}

#[test]
fn a_folder_that_cannot_be_used_is_named_with_the_remedy() {
    let folder = open_folder();
    let data_dir = folder.path().join("old");
    fs::create_dir_all(data_dir.join("cluster")).unwrap();
    fs::write(data_dir.join("cluster/PG_VERSION"), "9\n").unwrap();
    if geteuid().is_root() {
        let user = ["postgres", "nobody"].iter().find_map(|name| User::from_name(name).unwrap()).unwrap();
        for path in [&data_dir, &data_dir.join("cluster")] {
            chown(path, Some(user.uid), Some(user.gid)).unwrap();
        }
    }
    let error = Cluster::start(&config(&data_dir, Durability::Durable)).unwrap_err().to_string();
    assert!(error.contains("made by Postgres 9") && error.contains("--data-dir"), "{error}");

    if geteuid().is_root() {
        let private = folder.path().join("private");
        fs::create_dir(&private).unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
        let error = Cluster::start(&config(&private.join("postgres"), Durability::Durable)).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with(&private.display().to_string()) && text.contains("--data-dir"), "{text}");

        let taken = folder.path().join("taken");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("thesis.tex"), "").unwrap();
        let error = Cluster::start(&config(&taken, Durability::Durable)).unwrap_err();
        assert!(matches!(error, Error::NotOurs { .. }), "{error}");
    }
}
