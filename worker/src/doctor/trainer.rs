//! The trainer, its libtorch, and the devices that they would train on.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Check;
use crate::config::{Settings, find_trainer};
use crate::devices::{self, DeviceChoice};

/// Checks of everything that a training needs of this machine's programs and devices.
pub(super) async fn look(settings: &Settings) -> Vec<Check> {
    let (trainer, libtorch) = match find_trainer(settings.trainer.clone()) {
        Ok(program) => of_trainer(&program),
        Err(problem) => {
            let remedy = "install cakes-trainer beside cakes-worker, or name it with --trainer";
            (vec![Check::failed("trainer", problem.to_string(), remedy)], None)
        }
    };
    let mut checks = trainer;
    checks.extend(of_devices(settings, libtorch.as_deref()).await);
    checks.push(ffmpeg());
    checks
}

/// Whether it runs, and the folder of its libtorch.
fn of_trainer(program: &Path) -> (Vec<Check>, Option<PathBuf>) {
    let shown = program.display();
    let version = match Command::new(program).arg("--version").output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let remedy = "libtorch must lie where the trainer was linked with it, or in LD_LIBRARY_PATH; \
                          `ldd` shows what is missing";
            return (vec![Check::failed("trainer", format!("{shown} does not run: {said}"), remedy)], None);
        }
        Err(error) => {
            let remedy = "--trainer names a program for this machine that may be executed";
            return (vec![Check::failed("trainer", format!("{shown}: {error}"), remedy)], None);
        }
    };
    let mut checks = vec![Check::ok("trainer", format!("{version}, {shown}"))];
    let folder = libtorch_of(program);
    checks.push(match &folder {
        Some(folder) => {
            let version = std::fs::read_to_string(folder.join("../build-version")).unwrap_or_default();
            let version = version.trim();
            let version = if version.is_empty() { "of unknown version" } else { version };
            Check::ok("libtorch", format!("{version}, {}", folder.display()))
        }
        None => Check::warning(
            "libtorch",
            "the trainer runs, but ldd does not say which libtorch it loads",
            "nothing, if trainings run; a static or wrapped trainer looks like this",
        ),
    });
    (checks, folder)
}

/// Where the dynamic linker finds libtorch for a program.
fn libtorch_of(program: &Path) -> Option<PathBuf> {
    let output = Command::new("ldd").arg(program).output().ok()?;
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = listed.lines().find(|line| line.trim().starts_with("libtorch_cpu.so"))?;
    let path = Path::new(line.split_once("=>")?.1.split_whitespace().next()?);
    Some(path.parent()?.to_owned())
}

async fn of_devices(settings: &Settings, libtorch: Option<&Path>) -> Vec<Check> {
    let driver = driver().await;
    let has_cuda = libtorch.map(|folder| folder.join("libtorch_cuda.so").exists());
    let gpu = match (&driver, has_cuda) {
        (Some(Ok(version)), Some(false)) => Check::warning(
            "gpu driver",
            format!("driver {version}, but the trainer's libtorch is for processors alone"),
            "fetch libtorch with `cargo xtask setup --variant cuda` and build the trainer with it",
        ),
        (Some(Ok(version)), _) => Check::ok("gpu driver", format!("driver {version}")),
        (Some(Err(problem)), _) => Check::failed(
            "gpu driver",
            format!("nvidia-smi: {problem}"),
            "load the driver, or start the container with the GPUs (`--gpus all`)",
        ),
        (None, Some(true)) => Check::warning(
            "gpu driver",
            "libtorch can use GPUs, but there is no nvidia-smi, and so none is offered",
            "install NVIDIA's driver, or start the container with the GPUs (`--gpus all`)",
        ),
        (None, _) => Check::ok("gpu driver", "no nvidia-smi: this machine trains on its processors"),
    };
    let found = match DeviceChoice::parse(&settings.devices) {
        Ok(choice) => devices::find(&choice).await,
        Err(error) => Err(error),
    };
    let devices = match found {
        Ok(devices) => {
            let named = devices
                .iter()
                .map(|device| format!("{} ({}, {} MiB)", device.name, device.model, device.memory_mib));
            Check::ok("devices", named.collect::<Vec<_>>().join(", "))
        }
        Err(error) => {
            Check::failed("devices", error.to_string(), "name devices that there are with --devices")
        }
    };
    vec![gpu, devices]
}

/// The driver's version; none where there is no driver's command.
async fn driver() -> Option<Result<String, String>> {
    let output = match devices::ask_driver("driver_version").await {
        Ok(answered) => answered?,
        Err(hangs) => return Some(Err(hangs.to_string())),
    };
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().lines().next().unwrap_or("").to_owned();
    match (output.status.success(), said(&output.stdout)) {
        (true, version) if !version.is_empty() => Some(Ok(version)),
        (_, out) => Some(Err(format!("{} {out}{}", output.status, said(&output.stderr)))),
    }
}

fn ffmpeg() -> Check {
    let missing: Vec<&str> = ["ffmpeg", "ffprobe"]
        .into_iter()
        .filter(|program| {
            let ended = Command::new(program).arg("-version").output();
            !ended.is_ok_and(|output| output.status.success())
        })
        .collect();
    if missing.is_empty() {
        return Check::ok("ffmpeg", "ffmpeg and ffprobe run");
    }
    let found = format!("{} cannot be run; jobs on videos fail here", missing.join(" and "));
    Check::warning("ffmpeg", found, "install FFmpeg, unless no job reads videos")
}
