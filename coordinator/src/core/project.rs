//! Projects: who may use how much of the devices.

use std::fmt;
use std::num::NonZeroU32;

/// The project of what names none. It is always there.
pub const DEFAULT: &str = "default";
/// Greatest weight.
pub const SHARE_MAX: u32 = 1_000_000;
/// Priorities go from minus this to this.
pub const PRIORITY_MAX: i32 = 1000;
/// Days of a period for which none is given.
pub const PERIOD_DAYS: u32 = 30;
/// Longest period, in days.
pub const PERIOD_DAYS_MAX: u32 = 366;
/// Most device-hours of a quota: a hundred thousand devices, for a year.
pub const DEVICE_HOURS_MAX: f64 = 1e9;
const NAME_CHARS_MAX: usize = 63;

/// The name of a project: 1 to 63 lower-case letters, digits, `.`, `_` and `-`, the first
/// of them a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectName(String);

impl ProjectName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ProjectName {
    fn default() -> Self {
        ProjectName(DEFAULT.to_owned())
    }
}

impl std::str::FromStr for ProjectName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_name = text.len() <= NAME_CHARS_MAX
            && text.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'_' | b'-'))
            && text.bytes().next().is_some_and(is_word);
        if is_name {
            return Ok(ProjectName(text.to_owned()));
        }
        Err(format!(
            "'{text}' is no name of a project: give 1 to {NAME_CHARS_MAX} of a-z, 0-9, '.', '_' and '-', the first \
             a letter or a digit"
        ))
    }
}

/// What an operator sets of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub share: NonZeroU32,
    /// Most devices at once; `None` for no limit.
    pub device_quota: Option<u32>,
    /// Most device-seconds in a period; `None` for no limit.
    pub device_s_quota: Option<u64>,
    pub period_days: u32,
}

impl Terms {
    /// Checks terms as they were given; 0 takes the default, of the share 1 and of the
    /// period [`PERIOD_DAYS`].
    ///
    /// # Errors
    /// The field that is out of its bounds, and the bounds.
    pub fn check(
        share: u32,
        device_quota: Option<u32>,
        device_hours_quota: Option<f64>,
        period_days: u32,
    ) -> Result<Terms, (&'static str, String)> {
        if share > SHARE_MAX {
            return Err(("share", format!("must be 1 to {SHARE_MAX}, got {share}")));
        }
        if device_quota.is_some_and(|quota| i32::try_from(quota).is_err()) {
            return Err(("device_quota", format!("must be at most {}", i32::MAX)));
        }
        if period_days > PERIOD_DAYS_MAX {
            return Err(("period_days", format!("must be 1 to {PERIOD_DAYS_MAX}, got {period_days}")));
        }
        let seconds = |hours: f64| match (0.0..=DEVICE_HOURS_MAX).contains(&hours) {
            true => Ok((hours * 3600.0).round() as u64),
            false => Err(("device_hours_quota", format!("must be 0 to {DEVICE_HOURS_MAX}, got {hours}"))),
        };
        Ok(Terms {
            share: NonZeroU32::new(share).unwrap_or(NonZeroU32::MIN),
            device_quota,
            device_s_quota: device_hours_quota.map(seconds).transpose()?,
            period_days: if period_days == 0 { PERIOD_DAYS } else { period_days },
        })
    }
}

impl fmt::Display for Terms {
    /// Field by field, under the names of the API.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        let device_quota = limit(self.device_quota.map(|quota| quota.to_string()));
        let device_hours_quota =
            limit(self.device_s_quota.map(|seconds| (seconds as f64 / 3600.0).to_string()));
        let Terms { share, period_days, .. } = self;
        write!(formatter, "share={share} device_quota={device_quota} ")?;
        write!(formatter, "device_hours_quota={device_hours_quota} period_days={period_days}")
    }
}

/// What a project may still take, as the grants of one transaction use it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Devices; `None` for no limit.
    pub devices: Option<i64>,
    /// Whether its device-hours are used up.
    pub is_used_up: bool,
}

impl Room {
    /// Takes the devices of a job, if they are left.
    pub fn take(&mut self, device_count: i32) -> bool {
        let left = self.devices.map(|devices| devices - i64::from(device_count));
        let is_left = !self.is_used_up && left.is_none_or(|left| left >= 0);
        if is_left {
            self.devices = left;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_of_lower_case() {
        for good in ["default", "a", "0x", "lung-ct.2026_b"] {
            assert_eq!(good.parse::<ProjectName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a b", "ä", &"a".repeat(64)] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn terms_name_the_field_that_is_out_of_bounds() {
        let terms = Terms::check(0, Some(3), Some(0.5), 0).unwrap();
        assert_eq!((terms.share.get(), terms.device_s_quota, terms.period_days), (1, Some(1800), 30));
        assert_eq!(terms.to_string(), "share=1 device_quota=3 device_hours_quota=0.5 period_days=30");
        let open = Terms::check(4, None, None, 7).unwrap().to_string();
        assert_eq!(open, "share=4 device_quota=none device_hours_quota=none period_days=7");
        let field = |checked: Result<Terms, (&'static str, String)>| checked.unwrap_err().0;
        assert_eq!(field(Terms::check(SHARE_MAX + 1, None, None, 0)), "share");
        assert_eq!(field(Terms::check(1, Some(u32::MAX), None, 0)), "device_quota");
        assert_eq!(field(Terms::check(1, None, Some(f64::NAN), 0)), "device_hours_quota");
        assert_eq!(field(Terms::check(1, None, Some(-1.0), 0)), "device_hours_quota");
        assert_eq!(field(Terms::check(1, None, None, 400)), "period_days");
    }

    #[test]
    fn what_is_left_is_given_once() {
        let mut room = Room { devices: Some(3), is_used_up: false };
        assert_eq!([2, 2, 1, 1].map(|count| room.take(count)), [true, false, true, false]);
        assert!(!Room { devices: None, is_used_up: true }.take(1));
        assert!(Room { devices: None, is_used_up: false }.take(64));
    }
}
