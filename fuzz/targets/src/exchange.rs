//! Files of searches that come from elsewhere.

use std::io::Cursor;

use cakes_coordinator::exchange::check::check;
use cakes_coordinator::exchange::{Archive, Exporter, Member, Writer};
use cakes_proto::ids::SearchId;
use serde_json::Value;

use crate::text;

/// The packed file.
pub fn exchange_file(bytes: &[u8]) {
    if let Ok(mut archive) = Archive::open(Cursor::new(bytes)) {
        let _ = check(&mut archive);
    }
}

/// Its lines, each behind the digit of its member; hashes and sizes are those of a whole file.
pub fn exchange_lines(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let mut writer = Writer::default();
    let of = |member: usize| {
        let digit = char::from(b'0' + member as u8);
        text.lines().filter_map(move |line| line.strip_prefix(digit))
    };
    writer.has_remarks();
    for (number, member) in Member::ALL.into_iter().enumerate() {
        writer.begin(member).expect("a member fits into memory");
        for line in of(number) {
            writer.line(line).expect("a line fits into memory");
        }
    }
    let search: Value = of(0).next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
    let id = search["id"].as_str().and_then(|id| id.parse::<SearchId>().ok());
    let exporter: Exporter = serde_json::from_str(
        r#"{"cakes_version": "0.1.0", "source": "gpu-01", "export_time": "2026-01-01T00:00:00Z"}"#,
    )
    .expect("this is an exporter");
    let Some(id) = id else { return };
    let is_snapshot = search["end_time"].is_null();
    let (file, digest) = writer.finish(id.0, is_snapshot, exporter).expect("a file fits into memory");
    match Archive::open(Cursor::new(file)) {
        Ok(mut archive) => {
            assert_eq!(archive.manifest.content_sha256, digest);
            if let Ok(checked) = check(&mut archive) {
                assert_eq!((checked.search, checked.is_snapshot), (id.0, is_snapshot));
            }
        }
        // Too many lines, or lines that pack too well.
        Err(refused) => assert!(!refused.place.is_empty()),
    }
}
