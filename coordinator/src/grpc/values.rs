//! Values of requests that the database could not hold.

use cakes_proto::field_mask::{CheckedMask, FieldMask};
use chrono::{DateTime, Utc};
use pbjson_types::Timestamp;
use tonic::Status;

use super::status::invalid_field;
use crate::core::etag::{AsSeen, InvalidEtag};
use crate::core::project::DEVICE_HOURS_MAX;

/// The last second of the year 9999.
const TIME_S_MAX: i64 = 253_402_300_799;

/// A text for people or machines, at most `chars_max` characters, without NUL,
/// which Postgres cannot store.
pub(super) fn checked(field: &str, text: String, chars_max: usize) -> Result<String, Status> {
    if text.contains('\0') {
        return Err(invalid_field(field, "must not hold the character NUL"));
    }
    if text.chars().count() > chars_max {
        return Err(invalid_field(field, format!("has more than {chars_max} characters")));
    }
    Ok(text)
}

/// A text that somebody else wrote: cut and cleaned instead of refused.
pub(super) fn cleaned(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).map(|char| if char == '\0' { '\u{fffd}' } else { char }).collect()
}

/// What a caller saw of what it wants to change; empty for whatever it is now.
pub(super) fn as_seen<Id>(id: Id, etag: &str) -> Result<AsSeen<Id>, Status> {
    let etag = if etag.is_empty() { None } else { Some(etag.parse()) };
    let etag = etag.transpose().map_err(|problem: InvalidEtag| invalid_field("etag", problem))?;
    Ok(AsSeen { id, etag })
}

/// Which fields of the message of this name are wanted; without a mask all.
pub(super) fn read_mask(mask: Option<FieldMask>, message: &str) -> Result<CheckedMask, Status> {
    mask.unwrap_or_default().check(message).map_err(|problem| invalid_field("read_mask", problem))
}

/// A number that the database holds with a sign.
pub(super) fn signed(field: &str, value: u64) -> Result<i64, Status> {
    i64::try_from(value).map_err(|_| invalid_field(field, format!("{value} is more than {}", i64::MAX)))
}

/// A time from 1970 on.
pub(super) fn time(field: &str, time: Option<Timestamp>) -> Result<DateTime<Utc>, Status> {
    let time = time.ok_or_else(|| invalid_field(field, "is missing"))?;
    if !(0..=TIME_S_MAX).contains(&time.seconds) {
        return Err(invalid_field(field, "must lie between the years 1970 and 9999"));
    }
    DateTime::try_from(time).map_err(|problem| invalid_field(field, problem))
}

/// A finite number that is not below zero.
pub(super) fn amount(field: &str, value: f64) -> Result<f64, Status> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(invalid_field(field, format!("must be a number from 0 on, got {value}")))
}

/// Device-seconds of a limit in device-hours. `without` says what leaving it out means.
pub(super) fn cost_limit(
    field: &str,
    hours: Option<f64>,
    without: &'static str,
) -> Result<Option<i64>, Status> {
    let seconds = |hours: f64| match hours > 0.0 && hours <= DEVICE_HOURS_MAX {
        true => Ok(((hours * 3600.0).round() as i64).max(1)),
        false => Err(invalid_field(
            field,
            format!(
                "must be more than 0 and at most {DEVICE_HOURS_MAX} device-hours, got {hours}; leave it out {without}"
            ),
        )),
    };
    hours.map(seconds).transpose()
}

/// A share, 0 to 1.
pub(super) fn share(field: &str, value: f64) -> Result<f64, Status> {
    if (0.0..=1.0).contains(&value) {
        return Ok(value);
    }
    Err(invalid_field(field, format!("must be 0 to 1, got {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_database_cannot_hold_is_refused_or_cleaned() {
        assert!(checked("reason", "a\0".into(), 10).is_err());
        assert!(checked("reason", "ä".repeat(11), 10).is_err());
        assert_eq!(checked("reason", "ä".repeat(10), 10).unwrap(), "ä".repeat(10));
        assert_eq!(cleaned("a\0bc", 3), "a\u{fffd}b");
        assert!(signed("step", u64::MAX).is_err());
        let before = Timestamp { seconds: -1, nanos: 0 };
        assert!(time("time", Some(before)).is_err());
        assert!(time("time", None).is_err());
        assert!(amount("latency_ms", f64::NAN).is_err() && share("mean_dice", 1.5).is_err());
    }

    #[test]
    fn a_limit_is_device_seconds_or_says_what_leaving_it_out_means() {
        let limit = |hours| cost_limit("cost_limit_device_hours", hours, "for no limit");
        assert_eq!((limit(Some(0.5)).unwrap(), limit(Some(1e-9)).unwrap()), (Some(1800), Some(1)));
        assert_eq!(limit(None).unwrap(), None);
        for wrong in [0.0, -1.0, f64::NAN, 2.0 * DEVICE_HOURS_MAX] {
            let refused = limit(Some(wrong)).unwrap_err();
            assert!(refused.message().contains("leave it out for no limit"), "{refused}");
        }
    }
}
