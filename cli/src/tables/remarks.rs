//! Labels and notes.

use std::collections::BTreeMap;

use cakes_proto::v1;
use chrono::{DateTime, Utc};

use super::ago;

/// `owner=ada,paper=miccai`; empty for none.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// One line for each note, and one more for each line break in it.
pub fn notes(notes: &[v1::Note], now: DateTime<Utc>) -> Vec<String> {
    let line = |note: &v1::Note| {
        let text = note.text.replace('\n', "\n  ");
        format!("note by {}, {}: {text}", note.author, ago(note.create_time.as_ref(), now))
    };
    notes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_in_one_word_and_notes_in_lines() {
        let given =
            BTreeMap::from([("owner".to_owned(), "ada".to_owned()), ("keep".to_owned(), String::new())]);
        assert_eq!(labels(&given), "keep=,owner=ada");
        let note = v1::Note {
            author: "ada".into(),
            text: "first\nsecond".into(),
            create_time: Some(pbjson_types::Timestamp { seconds: 0, nanos: 0 }),
        };
        let now = DateTime::from_timestamp(120, 0).unwrap();
        assert_eq!(notes(&[note], now), ["note by ada, 2 min ago: first\n  second"]);
    }
}
