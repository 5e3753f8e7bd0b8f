//! How much people may remark. The table `note` checks the same lengths.

/// Notes of one thing, at the most: they all travel with it.
pub const NOTES_MAX: i64 = 200;
/// Longest name of an author, in characters.
pub const AUTHOR_CHARS_MAX: usize = 100;
/// Longest text of a note, in characters.
pub const TEXT_CHARS_MAX: usize = 2000;
