//! What the system knows of this process, under the names that all of Prometheus' clients use.

use std::fmt;
use std::fs;

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::registry::{Description, Kind};

#[derive(Debug)]
pub(crate) struct Process;

const CPU: &str = "process_cpu_seconds_total";
const OTHERS: [(&str, &str); 5] = [
    ("process_resident_memory_bytes", "Memory of the machine that it takes."),
    ("process_virtual_memory_bytes", "Memory that it has addresses for, taken or not."),
    ("process_open_fds", "Open file descriptors."),
    ("process_max_fds", "Most file descriptors that it may open."),
    ("process_threads", "Threads."),
];
const CPU_MEANING: &str = "Time of processors, in user and system mode.";

pub(crate) fn descriptions() -> Vec<Description> {
    let one =
        |name: &str, kind, meaning| Description { name: name.to_owned(), kind, labels: Vec::new(), meaning };
    let others = OTHERS.iter().map(|(name, meaning)| one(name, Kind::Gauge, *meaning));
    std::iter::once(one(CPU, Kind::Counter, CPU_MEANING)).chain(others).collect()
}

/// Fields of `/proc/self/stat` behind the program's name, from its state on.
fn stat() -> Option<Vec<String>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn per(variable: SysconfVar) -> f64 {
    sysconf(variable).ok().flatten().map_or(f64::NAN, |value| value as f64)
}

/// The soft limit of file descriptors; NaN where there is none.
pub fn fd_limit() -> f64 {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
}

/// Those of [`OTHERS`], in their order.
fn others(stat: &[String]) -> [f64; 5] {
    let number = |at: usize| stat.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN);
    let open = fs::read_dir("/proc/self/fd").map_or(f64::NAN, |listed| listed.count() as f64);
    [number(21) * per(SysconfVar::PAGE_SIZE), number(20), open, fd_limit(), number(17)]
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(stat) = stat() else { return Ok(()) };
        let ticks = |at: usize| stat.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        let cpu = ConstCounter::new((ticks(11) + ticks(12)) / per(SysconfVar::CLK_TCK));
        let (name, meaning) = (CPU.trim_end_matches("_total"), CPU_MEANING);
        cpu.encode(encoder.encode_descriptor(name, meaning, None, cpu.metric_type())?)?;
        for ((name, meaning), value) in OTHERS.iter().zip(others(&stat)) {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, meaning, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::Registry;

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let mut registry = Registry::default();
        registry.process();
        let text = registry.text();
        for about in registry.descriptions() {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{} ", about.name)));
            let value: f64 =
                value.unwrap_or_else(|| panic!("{} is not in\n{text}", about.name)).parse().unwrap();
            assert!(value.is_finite(), "{} {value}", about.name);
        }
        let of = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap().parse().unwrap()
        };
        assert!(of("process_resident_memory_bytes") > 1e5, "{text}");
        assert!((3.0..of("process_max_fds")).contains(&of("process_open_fds")), "{text}");
        assert!((1.0..10_000.0).contains(&of("process_threads")), "{text}");
    }
}
