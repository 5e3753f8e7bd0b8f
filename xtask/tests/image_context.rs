//! What an image is built from holds the whole workspace: cargo reads the manifest of every
//! member, also of those that no image has.

use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap()
}

fn members() -> Vec<String> {
    let manifest = read("Cargo.toml");
    let (_, list) = manifest.split_once("members = [").unwrap();
    let (list, _) = list.split_once(']').unwrap();
    list.split(',').map(|member| member.trim().trim_matches('"').to_owned()).collect()
}

#[test]
fn every_member_of_the_workspace_is_let_through() {
    let ignored = read("deploy/container/Dockerfile.dockerignore");
    assert_eq!(ignored.lines().next(), Some("*"), "what is let through is said behind it");
    let let_through: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    for path in &let_through {
        assert!(root().join(path).exists(), "there is no {path}");
    }
    let members = members();
    assert!(members.iter().any(|member| member == "xtask"), "{members:?}");
    // The licence goes into exported bundles.
    let others = ["Cargo.toml", "Cargo.lock", "LICENSE", ".cargo/config.toml", ".sqlx", "migrations"];
    for needed in members.iter().map(String::as_str).chain(others) {
        assert!(
            let_through.iter().any(|path| Path::new(needed).starts_with(path)),
            "images cannot be built: {needed} is left out"
        );
    }
}
