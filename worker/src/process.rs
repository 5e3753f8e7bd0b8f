//! Finding and killing what trainers leave behind.
//!
//! Every trainer carries its attempt's folder in its environment, and so does
//! everything that it starts, in whatever process group. A process that bears
//! the mark and should not run is therefore found without any file that a
//! killed daemon might not have written, and no other process is ever meant.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tracing::{error, info};

/// Environment variable that holds the attempt's folder.
pub const MARK: &str = "CAKES_ATTEMPT_DIR";

/// Between killing and looking again.
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: u32 = 250;
/// Between two looks at processes that the kernel does not end.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Processes whose mark lies in `folder`, zombies excepted.
pub fn marked(folder: &Path) -> Vec<Pid> {
    let own = Pid::this();
    all_processes().filter(|pid| *pid != own && bears_mark(*pid, folder)).collect()
}

/// Processes of this machine, as far as they can be seen.
pub fn all_processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok()).map(Pid::from_raw)
}

fn bears_mark(pid: Pid, folder: &Path) -> bool {
    // Unreadable means: of another user, or just gone.
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
    environment.split(|byte| *byte == 0).any(|variable| {
        let value = variable.strip_prefix(MARK.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|value| Path::new(std::ffi::OsStr::from_bytes(value)).starts_with(folder))
    })
}

/// Kills every process whose mark lies in `folder` and waits until they are
/// gone. Returns how many there were, and how many could not be killed.
pub fn kill_marked(folder: &Path) -> (usize, usize) {
    let mut seen = HashSet::new();
    let mut found = marked(folder);
    let mut looked_in_vain = 0;
    for _ in 0..TRIES {
        // A process in the middle of exec or fork shows no environment for a moment, so
        // one look in vain after a kill says nothing yet. None at all is the usual case of
        // a start without leftovers, and is not waited for.
        looked_in_vain = if found.is_empty() { looked_in_vain + 1 } else { 0 };
        if seen.is_empty() && found.is_empty() || looked_in_vain == 3 {
            break;
        }
        seen.extend(found.iter().copied());
        for pid in &found {
            // One that is gone meanwhile is what is wanted.
            let _ = kill(*pid, Signal::SIGKILL);
        }
        std::thread::sleep(PAUSE);
        found = marked(folder);
    }
    (seen.len(), found.len())
}

/// Waits for what the kernel does not end although it was killed: a trainer, and processes
/// whose mark lies in `folder`. Says what they are and what helps.
pub async fn until_gone(folder: &Path, trainer: Option<Pid>) {
    let mut left = left_of(folder, trainer).await;
    if left.is_empty() {
        return;
    }
    error!(
        pids = ?left.iter().map(|pid| pid.as_raw()).collect::<Vec<_>>(),
        "these processes cannot be killed; their device takes no further job until they are gone: if they stay, \
         restart the machine"
    );
    while !left.is_empty() {
        tokio::time::sleep(LOOK_INTERVAL).await;
        left = left_of(folder, trainer).await;
    }
    info!("the processes that could not be killed are gone; their device takes jobs again");
}

async fn left_of(folder: &Path, trainer: Option<Pid>) -> Vec<Pid> {
    let folder = folder.to_owned();
    // It may have to wait to read of such a process.
    let looked = tokio::task::spawn_blocking(move || {
        kill_marked(&folder);
        let mut left = marked(&folder);
        // One that hangs at its very end has no environment any more, and so no mark.
        let trainer = trainer.filter(|pid| kill(*pid, None::<Signal>).is_ok() && !left.contains(pid));
        left.extend(trainer);
        left
    });
    looked.await.unwrap_or_default()
}

/// How often the kernel has killed for memory since the machine started.
pub fn oom_kills() -> u64 {
    let counters = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    count.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_grandchild_in_a_group_of_its_own_is_found_by_its_mark_and_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("setsid")
            .args(["sh", "-c", "sleep 600 & wait"])
            .env(MARK, folder.path().join("job-1"))
            .process_group(0)
            .spawn()
            .unwrap();
        // setsid forks and ends, so that counting alone could count it.
        let names = || -> Vec<String> {
            let name = |pid: Pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
            marked(folder.path()).into_iter().filter_map(name).map(|name| name.trim().into()).collect()
        };
        while !["sh", "sleep"].iter().all(|wanted| names().iter().any(|name| name == wanted)) {
            std::thread::sleep(PAUSE);
        }
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(kill_marked(elsewhere.path()), (0, 0));
        let reaper = std::thread::spawn(move || child.wait());
        let (count, left) = kill_marked(folder.path());
        assert!(count >= 2 && left == 0, "{count} found, {left} left");
        let _ = reaper.join();
    }

    #[tokio::test]
    async fn a_trainer_that_does_not_end_is_waited_for_until_it_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut trainer = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::from_raw(trainer.id() as i32);
        let mut gone = std::pin::pin!(until_gone(folder.path(), Some(pid)));
        let early = tokio::time::timeout(LOOK_INTERVAL / 2, &mut gone).await;
        assert!(early.is_err(), "it is still there");
        trainer.kill().unwrap();
        trainer.wait().unwrap();
        tokio::time::timeout(10 * LOOK_INTERVAL, gone).await.expect("the device is free again");
    }
}
