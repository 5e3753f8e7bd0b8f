//! Every property is upheld by a statement, which says so in a comment above it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cakes_model::property::Safety;

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `S3` and `S15` of a comment like `// S3 S15: why`.
fn tags(line: &str) -> Vec<&str> {
    let Some((numbers, _)) = line.trim().strip_prefix("// S").and_then(|rest| rest.split_once(':')) else {
        return Vec::new();
    };
    let numbers: Vec<&str> = numbers.split(" S").collect();
    let all_digits = numbers.iter().all(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    if all_digits { numbers } else { Vec::new() }
}

#[test]
fn each_property_is_named_at_a_statement_that_upholds_it() {
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("../coordinator/src/store");
    let mut files = Vec::new();
    sources(&store, &mut files);
    let mut tagged = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let numbers = tags(line);
            let below = lines.get(index + 1).copied().unwrap_or_default();
            let at_a_statement = below.contains("sqlx::query") || below.contains("commit()");
            assert!(numbers.is_empty() || at_a_statement, "{}: no statement below '{line}'", file.display());
            tagged.extend(numbers.into_iter().map(|number| format!("S{number}")));
        }
    }
    let wanted: BTreeSet<String> = Safety::ALL.iter().map(|safety| format!("{safety:?}")).collect();
    assert_eq!(tagged, wanted);
}
