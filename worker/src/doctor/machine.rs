//! Folders, disks and limits.

use std::path::Path;

use super::Check;
use crate::config::{Settings, default_work_dir};

/// Free space below which a disk is worth a warning, in MiB: some checkpoints of a large network.
const FREE_MIB_SCARCE: u64 = 5 << 10;
/// Below which nothing can be saved, in MiB.
const FREE_MIB_LEAST: u64 = 64;

/// Descriptors below which a daemon with its trainers may run out, and what units give it.
const FDS_LEAST: f64 = 256.0;
const FDS_SCARCE: f64 = 4096.0;

/// Checks of what the worker writes and reads, and of what the system lets it.
pub(super) fn look(settings: &Settings) -> Vec<Check> {
    let mut checks = Vec::new();
    let work = settings.work_dir.clone().map_or_else(default_work_dir, Ok);
    match work {
        Ok(work) => {
            let least = settings.disk_free_min_mib;
            checks.push(written("work folder", &work, "--work-dir", least));
            let cache = settings.cache_dir.clone().unwrap_or_else(|| work.join("cache"));
            checks.push(written("cache folder", &cache, "--cache-dir", 0));
        }
        Err(problem) => {
            checks.push(Check::failed("work folder", problem.to_string(), "name one with --work-dir"));
        }
    }
    checks.push(data(&settings.data_root));
    checks.push(descriptors());
    checks
}

/// Whether a folder, or the first one above it that is there, takes a file, and how much more
/// goes onto its disk.
fn written(name: &str, folder: &Path, setting: &str, least_mib: u64) -> Check {
    let Some(there) = folder.ancestors().find(|part| part.as_os_str().is_empty() || part.exists()) else {
        return Check::failed(name, format!("{} cannot be made", folder.display()), format!("see {setting}"));
    };
    let there = if there.as_os_str().is_empty() { Path::new(".") } else { there };
    let probe = there.join(format!(".cakes-doctor-{}", uuid::Uuid::new_v4()));
    // Some file systems say only when bytes are written that they are full.
    let tried = std::fs::write(&probe, [0; 4096]);
    let _ = std::fs::remove_file(&probe);
    if let Err(error) = tried {
        let found = format!("{} cannot be written: {error}", there.display());
        let remedy =
            format!("give the user of the worker the folder, make room, or choose another with {setting}");
        return Check::failed(name, found, remedy);
    }
    let found = format!("{} can be written", folder.display());
    room(name, &found, there, least_mib, &format!("make room, or choose another disk with {setting}"))
}

/// Whether enough more goes onto the disk of a folder that is there; `found` is what else was found.
pub(super) fn room(name: &str, found: &str, folder: &Path, least_mib: u64, remedy: &str) -> Check {
    let Ok(disk) = nix::sys::statvfs::statvfs(folder) else {
        return Check::ok(name, found);
    };
    let free_mib = (disk.blocks_available() * disk.fragment_size()) >> 20;
    let found = format!("{found}, {free_mib} MiB are free");
    match free_mib {
        free if free < least_mib.max(FREE_MIB_LEAST) => Check::failed(name, found, remedy),
        free if free < FREE_MIB_SCARCE => Check::warning(name, found, remedy),
        _ => Check::ok(name, found),
    }
}

fn data(folder: &Path) -> Check {
    match std::fs::read_dir(folder) {
        Ok(_) => Check::ok("data folder", format!("{} can be read", folder.display())),
        Err(error) => Check::failed(
            "data folder",
            format!("{}: {error}", folder.display()),
            "mount the data, let the worker's user read it, or name another folder with --data-root",
        ),
    }
}

fn descriptors() -> Check {
    let limit = cakes_telemetry::process::fd_limit();
    let found = format!("{limit} file descriptors may be open");
    let remedy = "raise it: LimitNOFILE=65536 in the unit, or `ulimit -n 65536`";
    match limit {
        limit if limit < FDS_LEAST => Check::failed("file descriptors", found, remedy),
        limit if limit < FDS_SCARCE => Check::warning("file descriptors", found, remedy),
        limit if limit.is_nan() => Check::ok("file descriptors", "without a limit"),
        _ => Check::ok("file descriptors", found),
    }
}
