//! libtorch in the ignored folder `.libtorch` of the checkout.
//!
//! ```text
//! .libtorch/wheels/            downloads, removed once unpacked
//! .libtorch/2.11.0-cpu/        include, lib, build-version, .complete
//! .libtorch/2.11.0-cuda/torch  the same, beside the packages of NVIDIA that it needs
//! .libtorch/current            link to one of them; `.cargo/config.toml` points here
//! ```
//!
//! PyPI's wheel for Linux is the CUDA build. Its CPU library works alone with
//! two small packages, so a machine without a GPU downloads 0.5 GB, not 3 GB.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::fcntl::{Flock, FlockArg};

use crate::process;

const VERSION: &str = "2.11.0";

/// Wheels of the CPU variant, with what pip must find them to be.
const CPU_WHEELS: [(&str, &str); 3] = [
    ("torch==2.11.0", "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a"),
    ("nvidia-cuda-runtime==13.0.96", "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"),
    ("nvidia-cuda-cupti==13.0.85", "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"),
];

/// Libraries that the CPU variant takes out of the wheels.
const CPU_LIBRARIES: [&str; 5] = [
    "torch/lib/libtorch_cpu.so",
    "torch/lib/libc10.so",
    "torch/lib/libgomp.so.1",
    "nvidia/cu13/lib/libcudart.so.13",
    "nvidia/cu13/lib/libcupti.so.13",
];

#[derive(Args, Default)]
pub struct SetupArguments {
    /// Which libtorch: CUDA where an NVIDIA driver is present unless said otherwise.
    #[arg(long)]
    variant: Option<Variant>,
}

/// A build of libtorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    Cpu,
    Cuda,
}

impl Variant {
    fn detect() -> Self {
        if Path::new("/proc/driver/nvidia/version").exists() { Variant::Cuda } else { Variant::Cpu }
    }

    /// Folder below `.libtorch`, and the library folder inside it.
    fn folder(self) -> &'static str {
        match self {
            Variant::Cpu => "2.11.0-cpu",
            Variant::Cuda => "2.11.0-cuda",
        }
    }

    fn library_root(self) -> &'static str {
        match self {
            Variant::Cpu => "2.11.0-cpu",
            Variant::Cuda => "2.11.0-cuda/torch",
        }
    }
}

/// Makes sure that libtorch is there. A `LIBTORCH` set by the user wins.
pub fn ensure(root: &Path, arguments: &SetupArguments) -> Result<()> {
    let home = root.join(".libtorch");
    if let Some(chosen) = chosen_by_user(&home) {
        return check_users_own(&chosen);
    }
    let installed = [Variant::Cpu, Variant::Cuda].into_iter().find(|variant| is_current(&home, *variant));
    let variant = arguments.variant.unwrap_or_else(|| installed.unwrap_or_else(Variant::detect));
    if is_current(&home, variant) {
        return Ok(());
    }
    fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    let _lock = lock(&home)?;
    if !home.join(variant.folder()).join(".complete").exists() {
        let start = Instant::now();
        install(&home, variant)?;
        println!("setup: libtorch {VERSION} ready after {}", process::show_duration(start.elapsed()));
    }
    point_current_to(&home, variant)
}

fn chosen_by_user(home: &Path) -> Option<PathBuf> {
    // Cargo sets LIBTORCH to `.libtorch/current` for what it runs.
    let value = PathBuf::from(std::env::var_os("LIBTORCH")?);
    (value != home.join("current")).then_some(value)
}

fn check_users_own(chosen: &Path) -> Result<()> {
    if !chosen.join("lib/libtorch_cpu.so").is_file() {
        bail!(
            "LIBTORCH={} holds no lib/libtorch_cpu.so; unset LIBTORCH to let the set-up fetch one",
            chosen.display()
        );
    }
    let version = fs::read_to_string(chosen.join("build-version")).unwrap_or_default();
    if !version.is_empty() && !version.starts_with(VERSION) {
        bail!("LIBTORCH={} is version {}, cakes needs {VERSION}", chosen.display(), version.trim());
    }
    Ok(())
}

fn is_current(home: &Path, variant: Variant) -> bool {
    home.join(variant.folder()).join(".complete").exists()
        && fs::read_link(home.join("current")).is_ok_and(|target| target == Path::new(variant.library_root()))
}

fn lock(home: &Path) -> Result<Flock<File>> {
    let file = File::create(home.join("lock"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((file, _)) => {
            println!("setup: waiting for another set-up of this checkout");
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
        }
    }
}

fn install(home: &Path, variant: Variant) -> Result<()> {
    let temporary = home.join(format!("tmp-{}", variant.folder()));
    if temporary.exists() {
        fs::remove_dir_all(&temporary)?;
    }
    fs::create_dir_all(&temporary)?;
    match variant {
        Variant::Cpu => install_cpu(home, &temporary)?,
        Variant::Cuda => install_cuda(&temporary)?,
    }
    fs::write(temporary.join(".complete"), VERSION)?;
    let target = home.join(variant.folder());
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    fs::rename(&temporary, &target)?;
    Ok(())
}

/// Wheels are for CPython 3.11 whatever Python is at hand: only their C++
/// libraries are used.
const WHEEL_PLATFORM: [&str; 12] = [
    "--only-binary=:all:",
    "--implementation",
    "cp",
    "--python-version",
    "3.11",
    "--abi",
    "cp311",
    "--platform",
    "manylinux_2_28_x86_64",
    "--platform",
    "manylinux2014_x86_64",
    "--platform=manylinux_2_25_x86_64",
];

fn pip(verb: &str) -> Command {
    let mut command = Command::new("python3");
    command
        .args(["-m", "pip", verb, "--disable-pip-version-check", "--no-input", "--quiet"])
        .args(WHEEL_PLATFORM);
    command.args(["--abi", "none"]);
    command
}

fn install_cpu(home: &Path, temporary: &Path) -> Result<()> {
    let wheels = home.join("wheels");
    fs::create_dir_all(&wheels)?;
    for (index, (requirement, sha256)) in CPU_WHEELS.iter().enumerate() {
        println!(
            "setup: downloading {requirement} ({} of {}{})",
            index + 1,
            CPU_WHEELS.len(),
            if index == 0 { ", 530 MB" } else { "" }
        );
        let list = wheels.join("requirements.txt");
        fs::write(&list, format!("{requirement} --hash=sha256:{sha256}\n"))?;
        let mut command = pip("download");
        command
            .args(["--no-deps", "--require-hashes", "--dest"])
            .arg(&wheels)
            .arg("--requirement")
            .arg(&list);
        process::run_quiet(&mut command).context("the download failed; run the set-up again to go on")?;
    }
    println!("setup: unpacking libtorch {VERSION} for CPUs");
    unpack(&wheels, temporary)?;
    // torch-sys links `libtorch.so`, which in the wheel pulls in CUDA.
    let stub = temporary.join("lib/libtorch.so");
    let mut command = Command::new("cc");
    command.args(["-shared", "-Wl,-soname,libtorch.so", "-x", "c", "/dev/null", "-o"]).arg(&stub);
    process::run_quiet(&mut command)?;
    fs::write(temporary.join("build-version"), format!("{VERSION}+cpu\n"))?;
    fs::remove_dir_all(&wheels)?;
    Ok(())
}

/// Takes headers and [`CPU_LIBRARIES`] out of the wheels.
fn unpack(wheels: &Path, target: &Path) -> Result<()> {
    let script = "
import pathlib, shutil, sys, zipfile
wheels, target, wanted = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), set(sys.argv[3:])
for wheel in sorted(wheels.glob('*.whl')):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name in wanted:
                place = target / 'lib' / name.rsplit('/', 1)[1]
                wanted.discard(name)
            elif name.startswith('torch/include/') and not name.endswith('/'):
                place = target / name.removeprefix('torch/')
            else:
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, open(place, 'wb') as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
if wanted:
    sys.exit('the wheels lack ' + ', '.join(sorted(wanted)))
";
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(wheels).arg(target).args(CPU_LIBRARIES);
    process::run_quiet(&mut command)
}

fn install_cuda(temporary: &Path) -> Result<()> {
    println!("setup: downloading libtorch {VERSION} for NVIDIA GPUs (about 3 GB)");
    let mut command = pip("install");
    command.args(["--no-compile", "--target"]).arg(temporary).arg(CPU_WHEELS[0].0);
    process::run_quiet(&mut command).context("the download failed; run the set-up again")?;
    fs::write(temporary.join("torch/build-version"), format!("{VERSION}+cu130\n"))?;
    Ok(())
}

fn point_current_to(home: &Path, variant: Variant) -> Result<()> {
    let link = home.join("current-new");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(variant.library_root(), &link)?;
    fs::rename(&link, home.join("current"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_its_mark_of_completion_is_not_current() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir_all(home.path().join(Variant::Cpu.folder())).unwrap();
        point_current_to(home.path(), Variant::Cpu).unwrap();
        assert!(!is_current(home.path(), Variant::Cpu));
        fs::write(home.path().join(Variant::Cpu.folder()).join(".complete"), "").unwrap();
        assert!(is_current(home.path(), Variant::Cpu));
        assert!(!is_current(home.path(), Variant::Cuda));
    }

    #[test]
    fn a_users_libtorch_without_the_library_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        assert!(check_users_own(empty.path()).unwrap_err().to_string().contains("unset LIBTORCH"));
    }
}
