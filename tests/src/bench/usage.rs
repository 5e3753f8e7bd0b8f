//! What processes use, from `/proc`.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{SysconfVar, sysconf};

/// Resident memory of a process, in MiB.
pub fn rss_mib(pid: i32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
    Ok(kib / 1024.0)
}

/// Processor time of a process, in seconds; with that of its children that have
/// ended if `children` says so.
fn cpu_s(pid: i32, children: bool) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(cpu_ticks(&stat, children)? as f64 / ticks_per_second())
}

/// Fields are counted behind the name, which may hold anything.
fn cpu_ticks(stat: &str, children: bool) -> Option<u64> {
    let fields: Vec<u64> =
        stat.rsplit_once(')')?.1.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let own = fields.get(11)? + fields.get(12)?;
    Some(if children { own + fields.get(13)? + fields.get(14)? } else { own })
}

fn ticks_per_second() -> f64 {
    sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(100.0, |ticks| ticks as f64)
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Processor seconds that the parts of a bench have used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    pub coordinator_s: f64,
    pub postgres_s: f64,
    /// This process.
    pub workers_s: f64,
}

impl Cpu {
    pub fn read(coordinator: i32, postmaster: i32) -> Self {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let backends = processes
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| parent(*pid) == Some(postmaster));
        let living: f64 = backends.filter_map(|pid| cpu_s(pid, false)).sum();
        Cpu {
            coordinator_s: cpu_s(coordinator, false).unwrap_or(0.0),
            postgres_s: living + cpu_s(postmaster, true).unwrap_or(0.0),
            workers_s: cpu_s(std::process::id().cast_signed(), false).unwrap_or(0.0),
        }
    }

    pub fn since(self, earlier: Cpu) -> Self {
        Cpu {
            coordinator_s: self.coordinator_s - earlier.coordinator_s,
            postgres_s: self.postgres_s - earlier.postgres_s,
            workers_s: self.workers_s - earlier.workers_s,
        }
    }
}

/// Open files of a process.
pub fn open_files(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Raises this process's limit of open files as far as it may, which the
/// coordinator inherits.
///
/// # Errors
/// Even then fewer than `needed` may be open.
pub fn allow_open_files(needed: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    ensure!(
        hard >= needed,
        "{needed} files must be open at a time, but the limit is {hard}; raise it with `ulimit -n` as root, \
         or measure fewer workers"
    );
    Ok(())
}

/// # Errors
/// Files of this folder lie in memory.
pub fn expect_a_disk(folder: &std::path::Path) -> Result<()> {
    let kind = nix::sys::statfs::statfs(folder)
        .with_context(|| format!("look into {}", folder.display()))?
        .filesystem_type();
    if kind == nix::sys::statfs::TMPFS_MAGIC {
        bail!(
            "{} lies in memory, where a commit costs nothing; name a folder on a disk with --folder",
            folder.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_behind_any_name() {
        let stat = "7 (a ) 9 b) S 1 7 7 0 -1 4194304 100 0 0 0 30 12 5 2 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat, false), Some(42));
        assert_eq!(cpu_ticks(stat, true), Some(49));
        assert_eq!(cpu_ticks("7 (a) S", false), None);
    }

    #[test]
    fn this_process_uses_memory_and_files() {
        let own = std::process::id().cast_signed();
        assert!(rss_mib(own).unwrap() > 0.5);
        assert!(open_files(own) >= 3);
        assert!(rss_mib(-1).is_err());
    }

    #[test]
    fn more_files_than_any_limit_are_refused_with_a_remedy() {
        let error = allow_open_files(u64::MAX).unwrap_err().to_string();
        assert!(error.contains("ulimit -n"), "{error}");
    }
}
