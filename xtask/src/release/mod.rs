//! `cargo xtask release`: programs that anybody can build again to the last bit, and the
//! list of what they are made of.
//!
//! What a build would pick up from where and when it happens is taken out: paths of the
//! checkout and of cargo's home ([`wrapper`]), the time (that of the commit), symbols.

mod sbom;
pub mod wrapper;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  cargo xtask release\n  cargo xtask release --bin cakes --check\n  cargo xtask release --sbom-only --out dist"
)]
pub struct ReleaseArguments {
    /// Programs to build; again for each [default: all four].
    #[arg(long = "bin", value_name = "NAME")]
    bins: Vec<String>,
    /// Folder for programs, checksums and the list of crates.
    #[arg(long, value_name = "DIR", default_value = "dist")]
    out: PathBuf,
    /// Builds twice, the second time from a copy in another folder, and compares.
    #[arg(long)]
    check: bool,
    /// Only writes the list of crates.
    #[arg(long)]
    sbom_only: bool,
    /// Takes what is not committed too; such a release is for trying.
    #[arg(long)]
    allow_dirty: bool,
}

const PROGRAMS: [&str; 4] = ["cakes", "cakes-coordinator", "cakes-worker", "cakes-trainer"];

/// Builds, lists and says what it made.
pub fn run(arguments: &ReleaseArguments) -> Result<()> {
    let root = crate::root();
    fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot create {}", arguments.out.display()))?;
    if !arguments.allow_dirty && !git(&root, &["status", "--porcelain"])?.is_empty() {
        bail!("the checkout has changes that are not committed; commit them, or pass --allow-dirty");
    }
    let epoch = git(&root, &["log", "-1", "--format=%ct"])?;
    sbom::write(&root, &arguments.out.join("cakes.cdx.json"), &epoch)?;
    if arguments.sbom_only {
        return Ok(());
    }
    let given: Vec<&str> = arguments.bins.iter().map(String::as_str).collect();
    let bins = if given.is_empty() { PROGRAMS.to_vec() } else { given };
    let made = build(&root, &root.join("target/release-build"), &bins, &epoch)?;
    if arguments.check {
        check(&root, &made, &bins, &epoch)?;
    }
    let mut sums = String::new();
    for (name, file) in bins.iter().zip(&made) {
        let to = arguments.out.join(name);
        fs::copy(file, &to).with_context(|| format!("cannot write {}", to.display()))?;
        sums += &format!("{}  {name}\n", sha256(&to)?);
    }
    fs::write(arguments.out.join("SHA256SUMS"), &sums)?;
    print!("{sums}");
    Ok(())
}

/// The second build sees another folder, another target folder and another time.
fn check(root: &Path, made: &[PathBuf], bins: &[&str], epoch: &str) -> Result<()> {
    let elsewhere = tempfile::Builder::new().prefix("cakes-release-").tempdir()?;
    let copy = elsewhere.path().join("another-checkout");
    git(root, &["worktree", "add", "--detach", &copy.to_string_lossy(), "HEAD"])?;
    let again = libtorch_as_in(root, &copy)
        .and_then(|()| build(&copy, &elsewhere.path().join("target"), bins, epoch));
    git(root, &["worktree", "remove", "--force", &copy.to_string_lossy()])?;
    for ((name, first), second) in bins.iter().zip(made).zip(&again?) {
        let (one, other) = (sha256(first)?, sha256(second)?);
        if one != other {
            bail!("{name} is {one} here and {other} in another folder: the build is not reproducible");
        }
        println!("{name}: twice {one}");
    }
    Ok(())
}

/// The copy's trainer is linked against the same libtorch.
fn libtorch_as_in(root: &Path, copy: &Path) -> Result<()> {
    if root.join(".libtorch").exists() {
        std::os::unix::fs::symlink(root.join(".libtorch"), copy.join(".libtorch"))?;
    }
    Ok(())
}

fn build(root: &Path, target: &Path, bins: &[&str], epoch: &str) -> Result<Vec<PathBuf>> {
    let mut cargo = process::cargo();
    cargo.current_dir(root).args(["build", "--release", "--locked", "--target-dir"]).arg(target);
    cargo.args(bins.iter().flat_map(|bin| ["--bin", bin]));
    // Whoever builds may have flags of their own; a release has none.
    cargo.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    cargo.env("CARGO_INCREMENTAL", "0").env("SOURCE_DATE_EPOCH", epoch).env("TZ", "UTC").env("LC_ALL", "C");
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols").env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    wrapper::put_before(&mut cargo, root, target)?;
    process::run(&mut cargo)?;
    Ok(bins.iter().map(|bin| target.join("release").join(bin)).collect())
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    Ok(process::output(command.current_dir(root).args(arguments))?.trim().to_owned())
}

fn sha256(file: &Path) -> Result<String> {
    let said = process::output(Command::new("sha256sum").arg("--binary").arg(file))?;
    said.split_whitespace().next().map(str::to_owned).context("sha256sum says nothing")
}
