//! The program itself: what it says, what it refuses, and that it leaves nothing
//! behind.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Initialising a cluster takes seconds on a slow disk.
const PATIENCE: Duration = Duration::from_secs(60);

fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cakes-coordinator"));
    command.arg("--data-dir").arg(folder.join("data")).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A started daemon; killed if the test ends before it.
struct Daemon {
    process: Child,
    port: u16,
}

impl Daemon {
    fn start(folder: &Path) -> Self {
        let port_file = folder.join("port");
        let mut command = command(folder);
        command.args(["--listen", "127.0.0.1:0", "--port-file"]).arg(&port_file);
        let mut process = command.spawn().unwrap();
        let start = Instant::now();
        let port = loop {
            if let Ok(text) = std::fs::read_to_string(&port_file) {
                break text.trim().parse().unwrap();
            }
            if let Some(status) = process.try_wait().unwrap() {
                panic!("ended with {status}: {:?}", process.wait_with_output());
            }
            assert!(start.elapsed() < PATIENCE, "no port file");
            std::thread::sleep(Duration::from_millis(20));
        };
        Daemon { process, port }
    }

    /// Asks it to stop; its code and what it wrote to standard output.
    fn stop(mut self) -> (Option<i32>, String) {
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM).unwrap();
        let status = self.process.wait().unwrap();
        let mut said = String::new();
        self.process.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[track_caller]
fn refused(output: &Output, code: i32, parts: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in parts {
        assert!(text.contains(part), "'{part}' is missing in: {text}");
    }
}

#[test]
fn it_owns_its_data_directory_and_its_port_and_stops_what_it_started() {
    // As root, Postgres runs as somebody else, who must get in.
    let folder = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o711))
        .tempdir()
        .unwrap();
    let daemon = Daemon::start(folder.path());

    let port = daemon.port.to_string();
    let second = command(folder.path()).args(["--listen", "127.0.0.1:0"]).output().unwrap();
    refused(&second, 1, &["in use", "--data-dir"]);
    let elsewhere = tempfile::tempdir().unwrap();
    let same_port =
        command(elsewhere.path()).arg("--listen").arg(format!("127.0.0.1:{port}")).output().unwrap();
    refused(&same_port, 1, &[&port, "in use", "--listen"]);
    assert!(!elsewhere.path().join("data").exists(), "nothing is half-made");

    // Tokens are made beside it, in its private database.
    let issued =
        command(folder.path()).args(["token", "issue", "anna", "--role", "operator"]).output().unwrap();
    let token = String::from_utf8_lossy(&issued.stdout).trim().to_owned();
    assert!(issued.status.success() && token.starts_with("cakes_") && token.len() == 70, "{issued:?}");
    let nowhere =
        command(elsewhere.path()).args(["token", "issue", "anna", "--role", "viewer"]).output().unwrap();
    refused(&nowhere, 1, &["there is no database in", "--config", "--database-url", "--data-dir"]);
    assert!(nowhere.stdout.is_empty() && !elsewhere.path().join("data").exists(), "{nowhere:?}");
    let again = command(folder.path()).args(["token", "issue", "anna", "--role", "viewer"]).output().unwrap();
    refused(&again, 1, &["'anna'", "revoke it first"]);

    let cluster = folder.path().join("data/postgres/cluster");
    assert!(cluster.join("postmaster.pid").exists());
    let (code, said) = daemon.stop();
    assert_eq!(code, Some(0));
    for part in [&format!("http://127.0.0.1:{port}"), "private Postgres", "file:///"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(!cluster.join("postmaster.pid").exists(), "Postgres goes on");

    // Without it as well.
    let listed = command(folder.path()).args(["token", "list"]).output().unwrap();
    let list = String::from_utf8_lossy(&listed.stdout);
    assert!(list.starts_with("anna  operator  issued") && list.contains("never used"), "{listed:?}");
    assert!(!list.contains(&token[6..]) && !cluster.join("postmaster.pid").exists(), "{list}");
}

#[test]
fn a_database_or_a_directory_that_cannot_be_used_is_named_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let url = "postgres://cakes:hunter2@127.0.0.1:1/cakes";
    let nobody =
        command(folder.path()).args(["--listen", "127.0.0.1:0", "--database-url", url]).output().unwrap();
    refused(&nobody, 1, &["--database-url", "refused"]);
    assert!(!String::from_utf8_lossy(&nobody.stderr).contains("hunter2"));

    std::fs::write(folder.path().join("data"), "a file").unwrap();
    let no_directory = command(folder.path()).args(["--listen", "127.0.0.1:0"]).output().unwrap();
    refused(&no_directory, 1, &["data cannot be used", "--data-dir"]);
    let lost = folder.path().join("lost.toml");
    let lost = command(folder.path()).arg("--config").arg(lost).output().unwrap();
    refused(&lost, 2, &["lost.toml", "cannot be read"]);
    let said = String::from_utf8_lossy(&lost.stderr);
    assert_eq!(said.matches("No such file").count(), 1, "{said}");
    let misspelt = command(folder.path()).arg("--lease-tll=3s").output().unwrap();
    refused(&misspelt, 2, &["--lease-tll", "--lease-ttl"]);
}
