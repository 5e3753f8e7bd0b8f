//! Python packages that tests read exported networks with: ONNX' checker and ONNX
//! Runtime, some tens of megabytes, in `.python/site`. PyTorch and MONAI are not among
//! them; tests that need them say that they are left out.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Names, versions and hashes, as pip reads them.
const REQUIREMENTS: &str = include_str!("python.txt");

/// The oldest Python for which there are wheels.
const MINOR_MIN: u32 = 11;

/// Says for what `.python/site` was filled.
const STAMP: &str = ".requirements";

/// Installs what is missing. A second run changes nothing.
pub fn ensure(root: &Path) -> Result<()> {
    let folder = root.join(".python");
    let minor = minor_version()?;
    if minor < MINOR_MIN {
        println!(
            "setup: Python 3.{minor} is too old for ONNX Runtime; tests of exported networks will say that they are left out (3.{MINOR_MIN} or newer is needed)"
        );
        return Ok(());
    }
    let stamp = format!("Python 3.{minor}\n{REQUIREMENTS}");
    let site = folder.join("site");
    if fs::read_to_string(site.join(STAMP)).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    println!("setup: installing ONNX Runtime for tests into {}", site.display());
    let filled = folder.join("new");
    for left in [&filled, &site] {
        if left.exists() {
            fs::remove_dir_all(left).with_context(|| format!("cannot remove {}", left.display()))?;
        }
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS)?;
    let mut command = Command::new("python3");
    command
        .env_remove("PYTHONHOME")
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement"])
        .arg(&requirements)
        .arg("--target")
        .arg(&filled);
    process::run_named("the installation of ONNX Runtime", &mut command)
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
