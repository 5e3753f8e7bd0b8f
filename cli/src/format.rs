//! Numbers, times and identities as people read them.

use std::time::Duration;

use cakes::Extent;
use chrono::{DateTime, TimeDelta, Utc};

/// Three significant digits: `0.0123`, `4.20`, `131`.
fn significant(value: f64) -> String {
    let magnitude = value.abs();
    match magnitude {
        m if m >= 99.95 => format!("{value:.0}"),
        m if m >= 9.995 => format!("{value:.1}"),
        m if m >= 0.9995 || m == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A count with an SI prefix and its unit: `4.20 M`, `1.31 GMAC`, `27 MAC`.
pub fn si(count: u64, unit: &str) -> String {
    const STEPS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let value = count as f64;
    // 999 950 rounds to 1.00 M, not to 1000 k.
    let prefixed = STEPS.into_iter().find(|(factor, _)| value >= 0.9995 * factor);
    let text = match prefixed {
        Some((factor, prefix)) => format!("{} {prefix}{unit}", significant(value / factor)),
        None => format!("{count} {unit}"),
    };
    text.trim_end().to_owned()
}

/// Multiply-accumulates: `1.31 GMAC`.
pub fn macs(count: u64) -> String {
    si(count, "MAC")
}

/// A time in milliseconds: `12.4 ms`, `1.25 s`.
pub fn latency(milliseconds: f64) -> String {
    if milliseconds >= 999.5 {
        format!("{} s", significant(milliseconds / 1e3))
    } else {
        format!("{} ms", significant(milliseconds))
    }
}

/// A share as per cent: `41.2 %`.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A share, such as Dice or top-1: `0.871`.
pub fn share(value: f64) -> String {
    format!("{value:.3}")
}

/// A length of time in at most two units: `42 s`, `3 min 05 s`, `2 h 07 min`, `3 d 04 h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// Seconds as [`duration`] shows them; nonsense (negative, not finite) is `?`.
pub fn seconds(seconds: f64) -> String {
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "?".to_owned(), duration)
}

/// A limit below it is told in device-seconds, as the coordinator does.
const SHORT_DEVICE_HOURS: f64 = 0.1;

/// How many of a unit a device-hour has, and the unit, where there are so many device-hours.
fn device_unit(hours: f64) -> (f64, &'static str) {
    if hours < SHORT_DEVICE_HOURS { (3600.0, "device-seconds") } else { (1.0, "device-hours") }
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Time on devices: `24 device-hours`, `11 device-seconds`.
pub fn device_hours(hours: f64) -> String {
    let (per_hour, unit) = device_unit(hours);
    format!("{} {unit}", hundredths(hours * per_hour))
}

/// Time on devices that was used: as [`device_hours`], or `nothing`.
pub fn device_hours_used(hours: f64) -> String {
    if hundredths(hours * 3600.0) > 0.0 { device_hours(hours) } else { "nothing".to_owned() }
}

/// What is used of a time on devices: `2.51 of 24 device-hours`, `13 of 11 device-seconds`, and
/// at first `36 device-seconds of 24 device-hours`.
pub fn device_hours_of(used_hours: f64, limit_hours: f64) -> String {
    let (per_hour, unit) = device_unit(limit_hours);
    // One unit for both, but where little is used of much: it would be 0.
    let (_, finer) = device_unit(used_hours.min(limit_hours));
    if unit == finer {
        return format!("{} of {}", hundredths(used_hours * per_hour), device_hours(limit_hours));
    }
    format!("{} of {}", device_hours_used(used_hours), device_hours(limit_hours))
}

/// How long ago `time` was: `just now`, `42 s ago`, `3 h ago`.
pub fn ago(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - time).num_seconds();
    match seconds {
        ..1 => "just now".to_owned(),
        1..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Time from `start` to `end`, or to `now` while there is no end.
pub fn elapsed(start: DateTime<Utc>, end: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Duration {
    (end.unwrap_or(now) - start).max(TimeDelta::zero()).to_std().unwrap_or_default()
}

/// A message's time.
pub fn time(wire: Option<&pbjson_types::Timestamp>) -> Option<DateTime<Utc>> {
    let wire = wire?;
    DateTime::from_timestamp(wire.seconds, u32::try_from(wire.nanos).ok()?)
}

/// An extent: `32x32x48`.
pub fn extent([depth, height, width]: Extent) -> String {
    format!("{depth}x{height}x{width}")
}

/// The first 12 digits of an architecture's digest.
pub fn short_digest(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// How many characters of these ids are needed to tell them apart, at least
/// `least`. Ids begin with their time, so neighbours share much.
pub fn id_length<'a>(ids: impl IntoIterator<Item = &'a str>, least: usize) -> usize {
    let mut sorted: Vec<&str> = ids.into_iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let shared = |pair: &[&str]| pair[0].bytes().zip(pair[1].bytes()).take_while(|(a, b)| a == b).count();
    sorted.windows(2).map(|pair| shared(pair) + 1).max().unwrap_or(0).max(least)
}

/// The first `length` characters, without a dash at the end.
pub fn short_id(id: &str, length: usize) -> &str {
    id.get(..length).unwrap_or(id).trim_end_matches('-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_have_three_digits_and_a_prefix() {
        assert_eq!(macs(1_310_720_000), "1.31 GMAC");
        assert_eq!(macs(27), "27 MAC");
        assert_eq!(si(4_200_000, ""), "4.20 M");
        assert_eq!(si(999_499, ""), "999 k");
        assert_eq!(si(999_950, ""), "1.00 M");
        assert_eq!(si(0, ""), "0");
        assert_eq!(latency(12.44), "12.4 ms");
        assert_eq!(latency(0.0421), "0.042 ms");
        assert_eq!(latency(1250.0), "1.25 s");
    }

    #[test]
    fn times_on_devices_are_hours_or_seconds() {
        assert_eq!(device_hours(24.0), "24 device-hours");
        assert_eq!(device_hours(1.0 / 3.0), "0.33 device-hours");
        assert_eq!(device_hours_of(9036.0 / 3600.0, 24.0), "2.51 of 24 device-hours");
        assert_eq!(device_hours_of(0.0, 0.5), "nothing of 0.5 device-hours");
        assert_eq!(device_hours_of(0.01, 2.0), "36 device-seconds of 2 device-hours");
        assert_eq!(device_hours_of(0.0, 11.0 / 3600.0), "0 of 11 device-seconds");
        assert_eq!((device_hours_used(0.0).as_str(), device_hours_used(0.5)), ("nothing", device_hours(0.5)));
        assert_eq!(device_hours_of(13.0 / 3600.0, 11.0 / 3600.0), "13 of 11 device-seconds");
    }

    #[test]
    fn times_use_two_units_at_most() {
        let of = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!(of(42), "42 s");
        assert_eq!(of(185), "3 min 05 s");
        assert_eq!(of(7620), "2 h 07 min");
        assert_eq!(of(273_600), "3 d 04 h");
        assert_eq!(seconds(f64::NAN), "?");
        let now = DateTime::from_timestamp(10_000, 0).unwrap();
        assert_eq!(ago(DateTime::from_timestamp(9_990, 0).unwrap(), now), "10 s ago");
        assert_eq!(ago(DateTime::from_timestamp(10_007, 0).unwrap(), now), "just now");
        assert_eq!(elapsed(now, Some(now - TimeDelta::seconds(9)), now), Duration::ZERO);
    }

    #[test]
    fn ids_are_cut_where_they_still_differ() {
        let ids = ["0198f3a2-7c1e-7abc-8000", "0198f3a2-7c1e-7abd-8000"];
        assert_eq!(id_length(ids, 8), 18);
        assert_eq!(id_length(["0198f3a2-7c1e"], 8), 8);
        assert_eq!(short_id(ids[0], 9), "0198f3a2");
        assert_eq!(short_id("ab", 9), "ab");
    }

    proptest! {
        #[test]
        fn a_prefixed_count_is_within_half_a_per_cent(count in 1_u64..u64::MAX / 2) {
            let text = si(count, "");
            let (number, prefix) = text.split_once(' ').unwrap_or((&text, ""));
            let factor = match prefix { "T" => 1e12, "G" => 1e9, "M" => 1e6, "k" => 1e3, _ => 1.0 };
            let read: f64 = number.parse().unwrap();
            prop_assert!((read * factor / count as f64 - 1.0).abs() < 0.0051, "{count} {text}");
        }
    }
}
