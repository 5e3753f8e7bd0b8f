//! How much memory trainers may take here, and how much one of them takes.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpgid};

use crate::process::all_processes;

const GROUPS: &str = "/sys/fs/cgroup";

/// Memory that this daemon and its trainers may take together, in MiB: that of the machine,
/// or the limit of a control group around them (of a container, a unit, an allocation) where
/// that is less. None where the kernel does not say.
pub fn usable_mib() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok()?;
    let own_group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let total = kib(&machine, "MemTotal:")? / 1024;
    Some(group_limit_mib(Path::new(GROUPS), &own_group).map_or(total, |limit| total.min(limit)))
}

/// Least limit of the groups around a process, whose `/proc/PID/cgroup` says `own_group`. In a
/// container `root` is its own group, whatever the path says.
fn group_limit_mib(root: &Path, own_group: &str) -> Option<u64> {
    let path = own_group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let around = Path::new(path).ancestors().map(|group| root.join(group).join("memory.max"));
    let limits = around.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    limits.min().map(|bytes| bytes >> 20)
}

/// Share of each of `slots` trainers, in MiB; nine tenths in all leave the rest alive.
pub fn share_mib(usable_mib: u64, slots: usize) -> u64 {
    (usable_mib / 10 * 9 / slots.max(1) as u64).max(1)
}

/// Between two looks for the processes of a group: on a large machine there are thousands to
/// look through.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What a trainer takes with the ranks and decoders that it has started.
#[derive(Debug)]
pub struct GroupMemory {
    leader: Pid,
    others: Vec<Pid>,
    looked_at: Option<Instant>,
}

impl GroupMemory {
    /// Of the process group that `leader` leads.
    pub fn new(leader: Pid) -> Self {
        GroupMemory { leader, others: Vec::new(), looked_at: None }
    }

    /// Memory that no file stands for, in MiB; none when the leader is gone. What is mapped from
    /// files the kernel takes back when it needs to. What processes share counts for each.
    pub fn mib(&mut self) -> Option<u64> {
        if self.looked_at.is_none_or(|looked_at| looked_at.elapsed() >= LOOK_INTERVAL) {
            let is_other = |pid: &Pid| *pid != self.leader && getpgid(Some(*pid)) == Ok(self.leader);
            self.others = all_processes().filter(is_other).collect();
            self.looked_at = Some(Instant::now());
        }
        // One that has ended meanwhile takes nothing.
        let others: u64 = self.others.iter().filter_map(|pid| taken_kib(*pid)).sum();
        Some((taken_kib(self.leader)? + others) / 1024)
    }
}

fn taken_kib(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(kib(&status, "RssAnon:")? + kib(&status, "RssShmem:")?)
}

/// The value of a line `Name:   123 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_least_limit_of_all_groups_around_counts() {
        let root = tempfile::tempdir().unwrap();
        let limit = |group: &str, text: &str| {
            let folder = root.path().join(group);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("memory.max"), text).unwrap();
        };
        let own = "1:name=systemd:/elsewhere\n0::/slurm/job_7/step_0\n";
        assert_eq!(group_limit_mib(root.path(), own), None, "the root of a machine has none");
        limit("slurm/job_7/step_0", "max\n");
        assert_eq!(group_limit_mib(root.path(), own), None);
        limit("slurm/job_7", "2147483648\n");
        limit("slurm", "8589934592\n");
        limit("slurm/job_8", "1048576\n");
        assert_eq!(group_limit_mib(root.path(), own), Some(2048));
        // A container sees its own group as the root, under whatever name.
        limit("", "1073741824\n");
        assert_eq!(group_limit_mib(root.path(), "0::/\n"), Some(1024));
        assert_eq!(group_limit_mib(root.path(), "0::/../docker/ab\n"), Some(1024));
        assert_eq!(group_limit_mib(root.path(), ""), Some(1024));
    }

    #[test]
    fn slots_share_what_there_is() {
        assert_eq!(share_mib(100_000, 1), 90_000);
        assert_eq!(share_mib(100_000, 4), 22_500);
        assert!(usable_mib().is_some_and(|usable| usable > 0), "of this machine");
    }
}
