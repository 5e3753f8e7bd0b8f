//! The list of crates that the programs are made of, in CycloneDX's form, from
//! `Cargo.lock` and what cargo knows of each crate.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::process;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
    workspace_members: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// Members that end up in no program.
const TOOLS: [&str; 3] = ["cakes-model", "cakes-tests", "xtask"];

/// Writes the list for Linux on x86-64. `epoch` is the time of the commit, in seconds.
pub fn write(root: &Path, to: &Path, epoch: &str) -> Result<()> {
    let mut cargo = process::cargo();
    let words = ["metadata", "--locked", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu"];
    let text = process::output(cargo.current_dir(root).args(words))?;
    let metadata: Metadata = serde_json::from_str(&text).context("cargo metadata has another form")?;
    let lock = std::fs::read_to_string(root.join("Cargo.lock"))?;
    let list = list(&metadata, &checksums(&lock), epoch)?;
    std::fs::write(to, serde_json::to_string_pretty(&list)? + "\n")
        .with_context(|| format!("cannot write {}", to.display()))?;
    println!("{}: {} crates", to.display(), list["components"].as_array().map_or(0, Vec::len));
    Ok(())
}

fn list(metadata: &Metadata, checksums: &BTreeMap<(String, String), String>, epoch: &str) -> Result<Value> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let edges: BTreeMap<&str, Vec<&str>> = metadata.resolve.nodes.iter().map(edges_of).collect();
    let is_shipped = |id: &&str| packages.get(id).is_some_and(|package| !TOOLS.contains(&&*package.name));
    let roots = metadata.workspace_members.iter().map(String::as_str).filter(is_shipped);
    let (mut open, mut reached): (Vec<&str>, BTreeSet<&str>) = (roots.collect(), BTreeSet::new());
    while let Some(id) = open.pop() {
        if reached.insert(id) {
            open.extend(edges.get(id).into_iter().flatten());
        }
    }
    let mut chosen: Vec<&Package> = reached.iter().filter_map(|id| packages.get(id).copied()).collect();
    chosen.sort_by_key(|package| (&package.name, &package.version));
    let components: Vec<Value> = chosen.iter().map(|package| component(package, checksums)).collect();
    let depends = |package: &&Package| {
        let on = edges.get(package.id.as_str()).into_iter().flatten();
        let mut on: Vec<String> = on.filter_map(|id| packages.get(id)).map(|on| purl(on)).collect();
        on.sort();
        json!({ "ref": purl(package), "dependsOn": on })
    };
    let dependencies: Vec<Value> = chosen.iter().map(depends).collect();
    let time = process::output(
        std::process::Command::new("date")
            .args(["-u", "-d"])
            .arg(format!("@{epoch}"))
            .arg("+%Y-%m-%dT%H:%M:%SZ"),
    )?;
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": time.trim(),
            "component": { "type": "application", "name": "cakes", "version": env!("CARGO_PKG_VERSION"), "bom-ref": "cakes" },
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// What a crate is built with or linked to; what only its tests need is not shipped.
fn edges_of(node: &Node) -> (&str, Vec<&str>) {
    let is_shipped = |dependency: &&Dependency| {
        dependency.dep_kinds.iter().any(|kind| kind.kind.as_deref() != Some("dev"))
    };
    (&node.id, node.deps.iter().filter(is_shipped).map(|dependency| dependency.pkg.as_str()).collect())
}

fn component(package: &Package, checksums: &BTreeMap<(String, String), String>) -> Value {
    let mut component = json!({
        "type": "library",
        "name": package.name,
        "version": package.version,
        "bom-ref": purl(package),
        "purl": purl(package),
        "scope": "required",
    });
    if let Some(license) = &package.license {
        // Older crates write MIT/Apache-2.0.
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    if let Some(description) = &package.description {
        component["description"] = json!(description.trim());
    }
    if let Some(url) = &package.repository {
        component["externalReferences"] = json!([{ "type": "vcs", "url": url }]);
    }
    if let Some(sum) = checksums.get(&(package.name.clone(), package.version.clone())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    component
}

fn purl(package: &Package) -> String {
    let own = if package.source.is_none() { "?download_url=cakes" } else { "" };
    format!("pkg:cargo/{}@{}{own}", package.name, package.version)
}

/// Checksums of the lock file, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "))?;
        Some(line.trim_matches('"').to_owned())
    };
    lock.split("[[package]]")
        .filter_map(|block| {
            Some(((value(block, "name")?, value(block, "version")?), value(block, "checksum")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_tests_and_tools_need_is_not_listed() {
        let package = |name: &str, source: Option<&str>| Package {
            id: name.to_owned(),
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            license: Some("MIT/Apache-2.0".to_owned()),
            description: None,
            repository: None,
            source: source.map(str::to_owned),
        };
        let dependency = |name: &str, kind: Option<&str>| Dependency {
            pkg: name.to_owned(),
            dep_kinds: vec![DependencyKind { kind: kind.map(str::to_owned) }],
        };
        let node = |id: &str, deps: Vec<Dependency>| Node { id: id.to_owned(), deps };
        let metadata = Metadata {
            packages: vec![
                package("cakes", None),
                package("xtask", None),
                package("used", Some("registry")),
                package("built-with", Some("registry")),
                package("tested-with", Some("registry")),
                package("tool", Some("registry")),
            ],
            resolve: Resolve {
                nodes: vec![
                    node(
                        "cakes",
                        vec![
                            dependency("used", None),
                            dependency("built-with", Some("build")),
                            dependency("tested-with", Some("dev")),
                        ],
                    ),
                    node("xtask", vec![dependency("tool", None)]),
                ],
            },
            workspace_members: ["cakes", "xtask"].map(str::to_owned).into(),
        };
        let lock = "[[package]]\nname = \"used\"\nversion = \"1.0.0\"\nchecksum = \"ab12\"\n";
        let list = list(&metadata, &checksums(lock), "0").unwrap();
        let names: Vec<&str> =
            list["components"].as_array().unwrap().iter().filter_map(|c| c["name"].as_str()).collect();
        assert_eq!(names, ["built-with", "cakes", "used"]);
        assert_eq!(list["components"][2]["hashes"][0]["content"], "ab12");
        assert_eq!(list["components"][2]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(list["metadata"]["timestamp"], "1970-01-01T00:00:00Z");
    }
}
