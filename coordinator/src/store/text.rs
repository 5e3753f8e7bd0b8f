//! Texts from outside, made fit for a text column.

use super::error::Error;

/// Refuses what is no request id.
pub(super) fn check_request_id(request_id: Option<&str>) -> Result<(), Error> {
    let fits = |id: &str| (1..=128).contains(&id.chars().count()) && !id.contains('\0');
    if request_id.is_none_or(fits) {
        return Ok(());
    }
    Err(Error::InvalidArgument { field: "request_id", problem: "must have 1 to 128 characters".to_owned() })
}

/// `text` without the NUL that Postgres cannot store, at most `longest` bytes.
pub(super) fn storable(text: &str, longest: usize) -> String {
    let mut end = longest.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::storable;

    #[test]
    fn a_text_is_cut_between_characters_and_loses_nul() {
        assert_eq!(storable("aäb", 2), "a");
        assert_eq!(storable("aäb", 99), "aäb");
        assert_eq!(storable("a\0b", 99), "a\u{fffd}b");
    }
}
