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

/// Environment variable that holds the attempt's folder.
pub const MARK: &str = "CAKES_ATTEMPT_DIR";

/// Between killing and looking again.
const PAUSE: Duration = Duration::from_millis(20);
const TRIES: u32 = 250;

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
}
