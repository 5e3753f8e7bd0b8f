//! Where tensors live.

use tch::Device;

use crate::TrainerError;

/// Makes CUDA known to a binary that was linked without naming it: the linker
/// drops a library of which no symbol is used, and libtorch then sees no GPU.
/// Harmless where there is none. Must run before the first tensor.
pub fn load_cuda() {
    #[allow(unsafe_code)]
    // SAFETY: the name is a constant string that ends with NUL, and libtorch's
    // initialisers may run on this thread, the only one at this time.
    unsafe {
        libc::dlopen(c"libtorch_cuda.so".as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL);
    }
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
