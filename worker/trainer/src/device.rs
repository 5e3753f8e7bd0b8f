//! Where tensors live.

use std::time::Duration;

use cakes::spec::Precision;
use tch::Device;

use crate::TrainerError;

/// Makes CUDA known to a binary that was linked without naming it: the linker
/// drops a library of which no symbol is used, and libtorch then sees no GPU.
/// Harmless where there is none. Must run before the first tensor, and while no other
/// thread reads the environment.
///
/// libtorch lets cuDNN round float32 to TF32 unless it is told otherwise, which its
/// bindings do not offer; CUDA's libraries read a variable when they are loaded.
pub fn load_cuda(precision: Precision) {
    let (name, value) = match precision {
        Precision::Tf32 => ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "1"),
        Precision::Float32 | Precision::Bf16 => ("NVIDIA_TF32_OVERRIDE", "0"),
    };
    #[allow(unsafe_code)]
    // SAFETY: the name is a constant string that ends with NUL, and libtorch's
    // initialisers may run on this thread. Other threads, which wait for commands of
    // the daemon, do not touch the environment.
    unsafe {
        std::env::set_var(name, value);
        libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL);
    }
}

/// Uses `threads` CPU threads, or all cores. Must run before the first tensor, on
/// the thread that trains: it becomes one of them, so that a layer begins without
/// waking it up elsewhere.
///
/// # Errors
/// The threads cannot be started.
pub fn use_threads(threads: Option<usize>) -> Result<(), TrainerError> {
    let failed = |error| TrainerError::io("cannot start threads", std::io::Error::other(error));
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.unwrap_or_else(all).max(1);
    // Threads that read samples share the global pool: it never waits for this one.
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(failed)?;
    let own = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build();
    // For as long as the process runs.
    std::mem::forget(own.map_err(failed)?);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    tch::set_num_interop_threads(1);
    Ok(())
}

/// Keeps freed memory for the next step: tensors of a step are as large as
/// those of the step before, and fetching fresh pages for them costs a tenth of
/// the time.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    #[allow(unsafe_code)]
    // SAFETY: changes settings of the allocator, which it may at any time.
    unsafe {
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// The names of `count` devices: those of a list with commas, or the first ones of a kind.
///
/// # Errors
/// The list has another length.
pub fn names(wanted: &str, count: u32) -> Result<Vec<String>, TrainerError> {
    let names: Vec<String> = wanted.split(',').map(|name| name.trim().to_owned()).collect();
    let first = |number: u32| format!("cuda:{number}");
    match (names.as_slice(), count) {
        (names, count) if names.len() == count as usize => Ok(names.to_vec()),
        ([one], count) => Ok(match one.as_str() {
            "auto" if tch::Cuda::device_count() < i64::from(count) => vec!["cpu".to_owned(); count as usize],
            "auto" | "cuda" => (0..count).map(first).collect(),
            "cpu" => vec!["cpu".to_owned(); count as usize],
            other => return Err(too_few(other, count)),
        }),
        _ => Err(too_few(wanted, count)),
    }
}

fn too_few(wanted: &str, count: u32) -> TrainerError {
    TrainerError::User(format!(
        "--device {wanted}: the job's training.devices is {count}; name as many, with commas between"
    ))
}

/// The device of that name: `auto`, `cpu`, `cuda` or `cuda:N`.
///
/// # Errors
/// The name is unknown, or no such GPU is usable.
pub fn choose(name: &str) -> Result<Device, TrainerError> {
    let available = tch::Cuda::device_count();
    let number =
        match name {
            "auto" if available > 0 => 0,
            "auto" | "cpu" => return Ok(Device::Cpu),
            "cuda" => 0,
            other => other.strip_prefix("cuda:").and_then(|number| number.parse::<usize>().ok()).ok_or_else(
                || TrainerError::User(format!("'{other}' is no device; use auto, cpu, cuda or cuda:N")),
            )?,
        };
    if (number as i64) < available {
        return Ok(Device::Cuda(number));
    }
    Err(TrainerError::User(format!("there is no usable GPU {number}; libtorch sees {available}")))
}

/// `cpu` or `cuda:N`.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(number) => format!("cuda:{number}"),
        _ => "cpu".to_owned(),
    }
}

/// Highest resident memory of this process so far, in MiB; 0 where the system
/// does not tell.
pub fn peak_memory_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// Processor time that this process has used so far, over all its threads.
pub fn cpu_time() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID);
    time.map_or(Duration::ZERO, Duration::from)
}
