//! Texts from outside, made fit for a text column.

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
