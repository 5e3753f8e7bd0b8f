//! What this machine can train on: its processors, and the GPUs that NVIDIA's
//! driver lists.

use std::collections::BTreeSet;
use std::process::{Output, Stdio};
use std::time::Duration;

use cakes_proto::v1::Device;
use tokio::process::Command;
use tokio::time::timeout;

use crate::memory;

/// For the driver to answer; loading it for its first user takes seconds.
const DRIVER_LIMIT: Duration = Duration::from_secs(20);

/// Devices to offer, as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Every GPU; the processors where there is none.
    Auto,
    /// Exactly these, by name.
    Named(Vec<String>),
}

/// Why devices cannot be offered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error(
        "devices: '{0}' is no device; use auto, cpu or cuda:N, separated by commas, with + between those that \
         train together"
    )]
    Name(String),
    #[error("devices: '{0}' is named twice")]
    Twice(String),
    #[error("devices: this machine has no '{name}'; it has {present}")]
    Absent { name: String, present: String },
    #[error(
        "devices: nvidia-smi did not answer within {} s, so the driver hangs; see `dmesg` and restart the machine, \
         or offer the processors alone with --devices cpu", limit.as_secs()
    )]
    DriverHangs { limit: Duration },
}

impl DeviceChoice {
    /// Reads `auto`, or names separated by commas; `cuda:0+cuda:1` is one slot of two devices.
    ///
    /// # Errors
    /// A name that no device can have, or one that comes twice.
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        if text.trim() == "auto" {
            return Ok(DeviceChoice::Auto);
        }
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        let mut seen = BTreeSet::new();
        for name in names.iter().flat_map(|slot| slot.split('+')) {
            let index = name.strip_prefix("cuda:");
            let is_gpu = index.is_some_and(|index| index.parse::<u16>().is_ok());
            if name != "cpu" && !is_gpu {
                return Err(DeviceError::Name(name.to_owned()));
            }
            // Processors may be shared out to any number of processes.
            if name != "cpu" && !seen.insert(name) {
                return Err(DeviceError::Twice(name.to_owned()));
            }
        }
        let mut slots: Vec<&String> = names.iter().collect();
        slots.sort_unstable();
        match slots.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(DeviceError::Twice(pair[0].clone())),
            None => Ok(DeviceChoice::Named(names)),
        }
    }

    /// Whether the driver of GPUs must be asked.
    fn wants_gpus(&self) -> bool {
        match self {
            DeviceChoice::Auto => true,
            DeviceChoice::Named(names) => names.iter().any(|name| name.contains("cuda:")),
        }
    }
}

/// The devices to offer, one slot each.
///
/// # Errors
/// A device was asked for that the machine lacks, or the driver of GPUs that were asked for
/// does not answer.
pub async fn find(choice: &DeviceChoice) -> Result<Vec<Device>, DeviceError> {
    let gpus = if choice.wants_gpus() { gpus().await? } else { Vec::new() };
    choose(choice, processor(), gpus)
}

fn choose(
    choice: &DeviceChoice,
    processor: Device,
    mut gpus: Vec<Device>,
) -> Result<Vec<Device>, DeviceError> {
    match choice {
        DeviceChoice::Auto if gpus.is_empty() => Ok(vec![processor]),
        DeviceChoice::Auto => Ok(gpus),
        DeviceChoice::Named(names) => {
            gpus.push(processor);
            let present = || gpus.iter().map(|gpu| gpu.name.as_str()).collect::<Vec<_>>().join(", ");
            let find = |name: &str| {
                let device = gpus.iter().find(|device| device.name == name);
                device.ok_or_else(|| DeviceError::Absent { name: name.to_owned(), present: present() })
            };
            let slot = |name: &String| {
                let devices: Vec<&Device> = name.split('+').map(find).collect::<Result<_, _>>()?;
                Ok(together(name, &devices))
            };
            names.iter().map(slot).collect()
        }
    }
}

/// A slot of several devices, as large as the smallest of them. Those that share the
/// processors share their memory.
fn together(name: &str, devices: &[&Device]) -> Device {
    let count = devices.len() as u64;
    let memory = devices.iter().map(|device| match device.name.as_str() {
        "cpu" => device.memory_mib / count.max(1),
        _ => device.memory_mib,
    });
    Device {
        name: name.to_owned(),
        model: devices.first().map_or_else(String::new, |device| device.model.clone()),
        memory_mib: memory.min().unwrap_or(0),
        count: devices.len() as u32,
    }
}

/// The devices of a slot that a job of `count` devices uses, as the trainer reads them.
pub fn for_trainer(slot: &str, count: u32) -> String {
    slot.split('+').take(count.max(1) as usize).collect::<Vec<_>>().join(",")
}

fn processor() -> Device {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Device {
        name: "cpu".to_owned(),
        model: cpu_model(&text).unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        memory_mib: memory::usable_mib().unwrap_or(0),
        count: 1,
    }
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

async fn gpus() -> Result<Vec<Device>, DeviceError> {
    let Some(output) = ask_driver("index,name,memory.total").await? else { return Ok(Vec::new()) };
    if !output.status.success() {
        tracing::warn!("nvidia-smi failed ({}); no GPU is offered", output.status);
        return Ok(Vec::new());
    }
    Ok(parse_gpus(&String::from_utf8_lossy(&output.stdout)))
}

/// What `nvidia-smi` says of these fields of each GPU. None without such a command, which means
/// no driver, and so no GPU of this kind.
///
/// # Errors
/// It does not end.
pub(crate) async fn ask_driver(fields: &str) -> Result<Option<Output>, DeviceError> {
    let mut command = Command::new("nvidia-smi");
    command.arg(format!("--query-gpu={fields}")).arg("--format=csv,noheader,nounits");
    answer(command, DRIVER_LIMIT).await
}

async fn answer(mut command: Command, limit: Duration) -> Result<Option<Output>, DeviceError> {
    // At the limit it is killed, but not waited for: the kernel may not let go of it.
    let answered = command.kill_on_drop(true).stdin(Stdio::null()).output();
    match timeout(limit, answered).await {
        Ok(output) => Ok(output.ok()),
        Err(_) => Err(DeviceError::DriverHangs { limit }),
    }
}

fn parse_gpus(csv: &str) -> Vec<Device> {
    let parse = |line: &str| {
        let (index, rest) = line.split_once(',')?;
        // A model's name may hold a comma.
        let (model, memory) = rest.rsplit_once(',')?;
        Some(Device {
            name: format!("cuda:{}", index.trim().parse::<u16>().ok()?),
            model: model.trim().to_owned(),
            memory_mib: memory.trim().parse().ok()?,
            count: 1,
        })
    };
    csv.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> Device {
        Device { name: name.to_owned(), ..Device::default() }
    }

    #[test]
    fn the_driver_s_table_is_read() {
        let found = parse_gpus("0, NVIDIA H100 80GB HBM3, 81559\n1, NVIDIA A100, SXM4, 40960\n[N/A]\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name.as_str(), found[0].memory_mib), ("cuda:0", 81_559));
        assert_eq!(found[1].model, "NVIDIA A100, SXM4");
    }

    #[test]
    fn auto_prefers_gpus_and_a_missing_device_is_named() {
        let choose_from = |text: &str, gpus: Vec<Device>| {
            let found = choose(&DeviceChoice::parse(text)?, device("cpu"), gpus)?;
            Ok::<_, DeviceError>(found.into_iter().map(|device| device.name).collect::<Vec<_>>())
        };
        assert_eq!(choose_from("auto", vec![]), Ok(vec!["cpu".to_owned()]));
        assert_eq!(choose_from("auto", vec![device("cuda:0")]), Ok(vec!["cuda:0".to_owned()]));
        assert_eq!(
            choose_from("cuda:0, cpu", vec![device("cuda:0")]),
            Ok(vec!["cuda:0".to_owned(), "cpu".to_owned()])
        );
        let absent = choose_from("cuda:3", vec![device("cuda:0")]).unwrap_err();
        assert!(absent.to_string().contains("it has cuda:0, cpu"), "{absent}");
    }

    #[test]
    fn devices_that_train_together_are_one_slot_as_large_as_the_smallest() {
        let sized = |name: &str, memory_mib| Device { memory_mib, ..device(name) };
        let gpus = vec![sized("cuda:0", 80), sized("cuda:1", 40), sized("cuda:2", 80)];
        let choice = DeviceChoice::parse("cuda:0+cuda:1, cuda:2, cpu+cpu").unwrap();
        let found = choose(&choice, sized("cpu", 64), gpus).unwrap();
        let found: Vec<_> =
            found.iter().map(|slot| (slot.name.as_str(), slot.memory_mib, slot.count)).collect();
        assert_eq!(found, [("cuda:0+cuda:1", 40, 2), ("cuda:2", 80, 1), ("cpu+cpu", 32, 2)]);
        assert_eq!(for_trainer("cuda:0+cuda:1", 2), "cuda:0,cuda:1");
        assert_eq!(for_trainer("cuda:0+cuda:1", 1), "cuda:0");
    }

    #[test]
    fn wrong_names_are_refused() {
        for text in [
            "",
            "gpu",
            "cuda",
            "cuda:x",
            "cpu,cpu",
            "cuda:-1",
            "cuda:0+cuda:0",
            "cuda:0+cuda:1,cuda:1",
            "cpu+",
        ] {
            assert!(DeviceChoice::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_driver_is_asked_for_gpus_alone() {
        for (text, wanted) in [("auto", true), ("cuda:0", true), ("cpu,cpu+cuda:1", true), ("cpu+cpu", false)]
        {
            assert_eq!(DeviceChoice::parse(text).unwrap().wants_gpus(), wanted, "{text}");
        }
    }

    #[tokio::test]
    async fn a_driver_that_hangs_is_not_waited_for() {
        let mut hung = Command::new("sleep");
        hung.arg("600");
        let error = answer(hung, Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("--devices cpu"), "{error}");
        let absent = Command::new("/no/such/nvidia-smi");
        assert!(answer(absent, DRIVER_LIMIT).await.unwrap().is_none());
    }
}
