//! libtorch in the ignored folder `.libtorch` of the checkout.
//!
//! ```text
//! .libtorch/wheels/            downloads, removed once unpacked
//! .libtorch/2.11.0-cpu/        include, lib, build-version, .complete
//! .libtorch/2.11.0-cuda/torch  the same, beside the packages of NVIDIA that it needs
//! .libtorch/current            link to one of them; `.cargo/config.toml` points here
//! ```
//!
//! The package index's wheel for Linux is the CUDA build. Its CPU library works alone with
//! two small packages, so a machine without a GPU downloads 0.5 GB, not 3 GB.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::fcntl::{Flock, FlockArg};

use crate::{process, wheels};

const VERSION: &str = "2.11.0";

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
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "the set-up fetches libtorch for x86_64 alone, this machine is {}; build libtorch {VERSION} and set LIBTORCH to its folder",
            std::env::consts::ARCH
        );
    }
    fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
    let _lock = lock(&home)?;
    // Another set-up may have done it while this one waited.
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
    let wheels = home.join("wheels");
    match variant {
        Variant::Cpu => install_cpu(&wheels, &temporary)?,
        Variant::Cuda => install_cuda(&wheels, &temporary)?,
    }
    fs::write(temporary.join(".complete"), VERSION)?;
    let target = home.join(variant.folder());
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    fs::rename(&temporary, &target)?;
    fs::remove_dir_all(&wheels)?;
    Ok(())
}

fn install_cpu(wheels: &Path, temporary: &Path) -> Result<()> {
    wheels::fetch(wheels, &wheels::CPU)?;
    println!("setup: unpacking libtorch {VERSION} for CPUs");
    wheels::unpack_libraries(wheels, temporary, &CPU_LIBRARIES)?;
    // torch-sys links `libtorch.so`, which in the wheel pulls in CUDA.
    let stub = temporary.join("lib/libtorch.so");
    let mut command = Command::new("cc");
    command.args(["-shared", "-Wl,-soname,libtorch.so", "-x", "c", "/dev/null", "-o"]).arg(&stub);
    process::run_quiet(&mut command)?;
    fs::write(temporary.join("build-version"), format!("{VERSION}+cpu\n"))?;
    Ok(())
}

fn install_cuda(wheels: &Path, temporary: &Path) -> Result<()> {
    println!("setup: an NVIDIA driver is present, or CUDA was asked for: about 3 GB will be downloaded");
    wheels::fetch(wheels, &[&wheels::CPU[..], &wheels::CUDA[..]].concat())?;
    println!("setup: unpacking libtorch {VERSION} for NVIDIA GPUs");
    wheels::unpack(wheels, temporary)?;
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
