//! Compiles the bridge against the libtorch that `torch-sys` is linked with.

use std::path::{Path, PathBuf};

fn main() {
    // Set because `torch-sys` is a direct dependency that `links` libtorch.
    let libraries = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    let libraries = std::fs::canonicalize(&libraries).unwrap_or_else(|_| PathBuf::from(&libraries));
    let include = libraries.parent().unwrap_or(Path::new("")).join("include");
    cc::Build::new()
        .cpp(true)
        .file("bridge/ranks.cc")
        .include("bridge")
        .include(include.join("torch/csrc/api/include"))
        .include(include)
        .define("USE_C10D_GLOO", None)
        .define("USE_DISTRIBUTED", None)
        .std("c++17")
        .warnings(false)
        .compile("cakes-ranks");
    println!("cargo::rerun-if-changed=bridge");
    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
}
