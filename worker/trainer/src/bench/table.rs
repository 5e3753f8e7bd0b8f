//! The results for people.

use super::Row;

pub const HEAD: &str = "\
config                mode            GMAC   ms/step  reference   speedup  (by CPU time)  samples/s  of matmul  time:c3d  MACs:c3d  peak MiB  reference";

pub fn line(row: &Row) -> String {
    let or_none = |value: Option<f64>, digits: usize, unit: &str| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}{unit}"))
    };
    format!(
        "{:<21} {:<13} {:>6.2} {:>9.1} {:>10} {:>9} {:>14} {:>10.1} {:>9.0}% {:>9.2} {:>9.2} {:>9.0} {:>10}",
        row.config,
        row.mode,
        row.gmac,
        row.step_ms,
        or_none(row.reference_step_ms, 1, ""),
        or_none(row.speedup, 2, "x"),
        or_none(row.reference_cpu_ms.map(|reference| reference / row.cpu_ms), 2, "x"),
        row.samples_per_s,
        row.matmul_share * 100.0,
        row.time_ratio_to_c3d,
        row.mac_ratio_to_c3d,
        row.peak_mib,
        or_none(row.reference_peak_mib, 0, ""),
    )
}
