//! A daemon as a real process between a recording peer and a scripted trainer.
#![allow(dead_code)] // each test file uses some of it

pub mod coordinator;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use cakes_proto::v1;
use cakes_worker::process::{kill_marked, marked};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use coordinator::Coordinator;

/// One test's world.
pub struct Bench {
    pub coordinator: Coordinator,
    folder: tempfile::TempDir,
}

impl Bench {
    pub async fn new() -> Self {
        Bench::with_lease(Duration::from_secs(20)).await
    }

    pub async fn with_lease(lease_ttl: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = folder.path().join("artifacts");
        std::fs::create_dir(&artifacts).unwrap();
        Bench { coordinator: Coordinator::start(&artifacts, lease_ttl).await, folder }
    }

    /// With an artifact store elsewhere.
    pub async fn with_store(artifact_url: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let coordinator = Coordinator::start_with_store(artifact_url, Duration::from_secs(20)).await;
        Bench { coordinator, folder }
    }

    pub fn artifacts(&self) -> PathBuf {
        self.folder.path().join("artifacts")
    }

    pub fn attempts(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("work/attempts")
    }

    /// Processes of trainers and of what they started.
    pub fn trainers(&self) -> usize {
        marked(&self.attempts()).len()
    }

    /// Queues a job; its id.
    pub fn grant(&self, acts: &Value, resume_from: Option<v1::CheckpointReference>) -> String {
        self.grant_with(acts, resume_from, None)
    }

    /// Queues a job that may start from a supernet's checkpoint; its id.
    pub fn grant_with(
        &self,
        acts: &Value,
        resume_from: Option<v1::CheckpointReference>,
        start_from: Option<v1::CheckpointReference>,
    ) -> String {
        self.queue(&json!({ "acts": acts }), resume_from, start_from)
    }

    /// Queues this member's part in an attempt of two slots of one rank each; the job's id.
    pub fn grant_seat(&self, member: u32, acts: &Value) -> String {
        let job_id = self.grant(acts, None);
        let mut seen = self.coordinator.seen();
        let grant = seen.grants.back_mut().unwrap();
        grant.token.as_mut().unwrap().member = member;
        grant.gang = Some(v1::GangSeat { member_count: 2, first_rank: member, rank_count: 1, world_size: 2 });
        job_id
    }

    /// Queues a job on the folder of volumes at `path`; its id.
    pub fn grant_on(&self, path: &str, acts: &Value) -> String {
        let folder = json!({ "path": path, "validation": "splits_file", "pad_small_volumes": false });
        self.queue(&json!({ "acts": acts, "dataset": { "folder": folder } }), None, None)
    }

    fn queue(
        &self,
        job: &Value,
        resume_from: Option<v1::CheckpointReference>,
        start_from: Option<v1::CheckpointReference>,
    ) -> String {
        let job_id = uuid::Uuid::new_v4().to_string();
        self.coordinator.seen().grants.push_back(v1::Grant {
            token: Some(v1::LeaseToken {
                job_id: job_id.clone(),
                epoch: 2,
                nonce: "ab".repeat(16),
                member: 0,
            }),
            trainer_job_json: job.to_string(),
            resume_from,
            start_from,
            artifact_prefix: format!("{job_id}/2-abababab"),
            offer_ttl_ms: 15_000,
            ..v1::Grant::default()
        });
        job_id
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cakes-worker"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CAKES_"))
        {
            command.env_remove(name);
        }
        let trainer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/trainer.py");
        command.args(["--server", &format!("http://{}", self.coordinator.address)]);
        command.args(["--id", "tester", "--devices", "cpu", "--data-root", "/"]);
        command.arg("--work-dir").arg(self.folder.path().join("work"));
        command.arg("--trainer").arg(trainer).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    pub fn daemon(&self, arguments: &[&str]) -> Daemon {
        Daemon::start(&mut self.command(arguments))
    }

    /// Waits until a condition of this machine holds.
    pub async fn until(&self, what: &str, within: Duration, condition: impl Fn(&Self) -> bool) {
        let start = std::time::Instant::now();
        while !condition(self) {
            assert!(start.elapsed() < within, "did not happen within {within:?}: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Neither a process nor a file of any attempt is left.
    pub async fn until_clear(&self) {
        let is_clear = |bench: &Bench| {
            let files = std::fs::read_dir(bench.attempts()).map_or(0, Iterator::count);
            bench.trainers() == 0 && files == 0
        };
        self.until("nothing is left of the attempts", Duration::from_secs(60), is_clear).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // After a failed test: its trainers must not live on.
        kill_marked(&self.attempts());
    }
}

/// A running daemon, killed with this value.
pub struct Daemon {
    child: Child,
}

impl Daemon {
    pub fn start(command: &mut Command) -> Self {
        Daemon { child: command.spawn().unwrap() }
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// How it ended, which must happen within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < limit, "the daemon did not end within {limit:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
