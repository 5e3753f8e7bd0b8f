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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in
            text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            for word in forbidden {
                assert!(!line.contains(word), "{}:{}: {word}", path.display(), number + 1);
            }
        }
        files += 1;
    }
    assert!(files > 5);
}
