//! What the system must offer: a C++ compiler, Python 3 with pip, Postgres, FFmpeg, and for
//! tests Chromium and Slurm.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process;

/// A need, how to see whether it is met, and the Debian package that meets it.
struct Need {
    what: &'static str,
    package: &'static str,
    is_met: fn() -> bool,
}

const NEEDS: [Need; 5] = [
    Need {
        what: "a C++ compiler",
        package: "g++",
        is_met: || process::answers("c++") || process::answers("g++"),
    },
    Need { what: "Python 3", package: "python3", is_met: || process::answers("python3") },
    Need { what: "pip for Python 3", package: "python3-pip", is_met: has_pip },
    Need {
        what: "the Postgres server",
        package: "postgresql",
        is_met: || cakes_postgres::find_binaries().is_some(),
    },
    Need { what: "FFmpeg", package: "ffmpeg", is_met: has_ffmpeg },
];

/// What only the tests of the web page need.
const BROWSER: [Need; 2] = [
    Need { what: "Chromium", package: "chromium", is_met: || process::answers("chromium") },
    Need {
        what: "the driver of Chromium",
        package: "chromium-driver",
        is_met: || process::answers("chromedriver"),
    },
];

/// What only the tests of Slurm need.
const SLURM: [Need; 4] = [
    Need { what: "Slurm's controller", package: "slurmctld", is_met: || is_installed("slurmctld") },
    Need { what: "Slurm's node daemon", package: "slurmd", is_met: || is_installed("slurmd") },
    Need { what: "Slurm's commands", package: "slurm-client", is_met: || is_installed("squeue") },
    Need { what: "munge", package: "munge", is_met: || is_installed("munged") },
];

/// Daemons know no `--version`, and lie where not everybody looks.
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).any(|file| file.is_file())
}

/// It knows `-version` with one dash alone.
fn has_ffmpeg() -> bool {
    process::run_quiet(Command::new("ffmpeg").arg("-version")).is_ok()
}

fn has_pip() -> bool {
    let mut command = Command::new("python3");
    process::run_quiet(command.args(["-m", "pip", "--version"])).is_ok()
}

/// Installs what is missing, or names the command that does.
pub fn ensure() -> Result<()> {
    ensure_all(&NEEDS)
}

/// The same for what the tests of the web page need.
pub fn ensure_browser() -> Result<()> {
    ensure_all(&BROWSER)
}

/// The same for what the tests of Slurm need.
pub fn ensure_slurm() -> Result<()> {
    ensure_all(&SLURM)
}

fn ensure_all(needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.is_met)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let wanted = missing.iter().map(|need| need.what).collect::<Vec<_>>().join(", ");
    let install = format!("apt-get install -y --no-install-recommends {}", packages.join(" "));
    if !process::answers("apt-get") {
        bail!(
            "{wanted} missing, and this system has no apt-get; install the equivalents of: {}",
            packages.join(" ")
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("{wanted} missing; type\n\n    sudo apt-get update && sudo {install}\n\nand run this again");
    }
    println!("setup: installing {} ({wanted})", packages.join(", "));
    keep_packages_from_starting_a_cluster()?;
    process::run_quiet(Command::new("apt-get").args(["update", "-q"]))?;
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(&packages);
    process::run_quiet(&mut command)?;
    match missing.iter().find(|need| !(need.is_met)()) {
        Some(need) => bail!("{} is still missing after `{install}`", need.what),
        None => Ok(()),
    }
}

/// Debian's package would otherwise create and start a database cluster of its
/// own; cakes only needs the programs.
fn keep_packages_from_starting_a_cluster() -> Result<()> {
    let path = Path::new("/etc/postgresql-common/createcluster.conf");
    if !path.exists() && cakes_postgres::find_binaries().is_none() {
        std::fs::create_dir_all("/etc/postgresql-common")?;
        std::fs::write(path, "create_main_cluster = false\n")?;
    }
    Ok(())
}
