//! `src/core` decides and does nothing else: no word in it waits, asks a clock,
//! or talks to a database.

use std::path::Path;

#[test]
fn the_core_neither_waits_nor_asks_the_outside() {
    let forbidden = [
        "async ",
        ".await",
        "sqlx",
        "tonic",
        "tokio",
        "SystemTime::now",
        "elapsed(",
        "Instant",
        "Utc::now",
        "std::fs",
    ];
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core")];
    let mut paths = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let (inner, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
        folders.extend(inner);
        paths.extend(files);
    }
    assert!(paths.len() > 5 && paths.iter().any(|path| path.ends_with("schedule/facts.rs")));
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in
            text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            for word in forbidden {
                assert!(!line.contains(word), "{}:{}: {word}", path.display(), number + 1);
            }
        }
    }
}
