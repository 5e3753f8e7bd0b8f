//! Use of devices that counts less the longer ago it was.

/// `usage_device_s` after `elapsed_s` in which `device_count` devices were in use. Cutting
/// the time into pieces changes nothing but last bits.
pub fn decayed(usage_device_s: f64, device_count: usize, elapsed_s: u64, half_life_s: u64) -> f64 {
    let half_life_s = half_life_s.max(1) as f64;
    let kept = (-(elapsed_s as f64) / half_life_s).exp2();
    // Of a steady use so much counts in the end.
    let lifetime_s = half_life_s / std::f64::consts::LN_2;
    usage_device_s * kept + device_count as f64 * lifetime_s * (1.0 - kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_life_later_half_counts_and_pieces_add_up() {
        assert!((decayed(800.0, 0, 3600, 3600) - 400.0).abs() < 1e-9);
        let whole = decayed(500.0, 3, 5000, 3600);
        let pieces = decayed(decayed(500.0, 3, 1200, 3600), 3, 3800, 3600);
        assert!((whole - pieces).abs() < 1e-6, "{whole} {pieces}");
        assert!((decayed(0.0, 2, 10, 1_000_000) - 20.0).abs() < 1e-3);
    }
}
