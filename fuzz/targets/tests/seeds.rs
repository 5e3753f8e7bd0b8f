//! Every input that is known: examples, and whatever once broke something.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use cakes_fuzz_targets::TARGETS;

fn fuzz() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn names(folder: &Path) -> BTreeSet<String> {
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    fs::read_dir(folder).unwrap().map(|entry| stem(entry.unwrap().path())).collect()
}

#[test]
fn no_known_input_breaks_a_target() {
    for target in TARGETS {
        let folder = fuzz().join("seeds").join(target.name);
        let mut seeds: Vec<PathBuf> =
            fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        seeds.sort();
        assert!(!seeds.is_empty(), "{} has no seed", target.name);
        for seed in seeds {
            // The last line before a panic says which it was.
            println!("{}", seed.display());
            (target.run)(&fs::read(&seed).unwrap());
        }
        for short in [&b""[..], b"\0", b"\xff", b"{}", b"\n\n"] {
            (target.run)(short);
        }
    }
}

#[test]
fn every_target_is_a_program_with_seeds() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len());
    assert_eq!(names(&fuzz().join("fuzz_targets")), targets);
    assert_eq!(names(&fuzz().join("seeds")), targets);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in targets {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "fuzz/Cargo.toml builds no {name}");
    }
}
