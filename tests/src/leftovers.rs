//! Which processes of a cluster still run, whoever started them.

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Environment variable that every process of a cluster inherits.
pub const MARK: &str = "TEST_CLUSTER_MARK";

/// A running process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub command: String,
}

/// Processes that carry the mark in their environment or the folder in their
/// command line. Zombies are gone already.
pub fn processes(mark: &str, folder: &Path) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let wanted = format!("{MARK}={mark}");
    let folder = folder.display().to_string();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != std::process::id() as i32)
        .filter_map(|pid| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ").trim().to_owned();
            let marked = read("environ").split(|byte| *byte == 0).any(|pair| pair == wanted.as_bytes());
            (!command.is_empty() && (marked || command.contains(&folder))).then_some(Process { pid, command })
        })
        .collect()
}

/// Ends processes that should not be there.
pub fn kill_all(processes: &[Process]) {
    for process in processes {
        // Gone in the meantime is as good.
        let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_marked_process_is_seen_until_it_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").env(MARK, "this one").spawn().unwrap();
        let pids = || -> Vec<i32> {
            processes("this one", folder.path()).into_iter().map(|process| process.pid).collect()
        };
        // The kernel lets a parent go on a moment before the child's environment
        // can be read.
        let limit = Instant::now() + Duration::from_secs(10);
        while pids() != [child.id() as i32] {
            assert!(Instant::now() < limit, "{:?} is not {}", pids(), child.id());
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(processes("another", folder.path()).is_empty());
        kill_all(&processes("this one", folder.path()));
        child.wait().unwrap();
        assert!(pids().is_empty());
    }
}
