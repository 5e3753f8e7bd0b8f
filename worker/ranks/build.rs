//! Compiles the bridge against the libtorch that `torch-sys` is linked with.

use std::path::{Path, PathBuf};

fn main() {
    // Set because `torch-sys` is a direct dependency that `links` libtorch.
    let libraries = std::env::var("DEP_TCH_LIBTORCH_LIB").unwrap_or_default();
    let libraries = std::fs::canonicalize(&libraries).unwrap_or_else(|_| PathBuf::from(&libraries));
    let include = libraries.parent().unwrap_or(Path::new("")).join("include");
    println!("cargo::rerun-if-changed=bridge");
    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let with_nccl = nccl_headers(&libraries, &include).is_some_and(|folders| {
        let mut build = bridge(&include);
        build.includes(folders).define("USE_C10D_NCCL", None);
        let compiled = build.try_compile("cakes-ranks");
        if let Err(error) = &compiled {
            println!("cargo::warning=GPUs are summed through host memory: the bridge to NCCL fails: {error}");
        }
        compiled.is_ok()
    });
    if with_nccl {
        println!("cargo::rustc-link-lib=torch_cuda");
        println!("cargo::rustc-link-lib=c10_cuda");
    } else {
        bridge(&include).compile("cakes-ranks");
    }
    println!("cargo::rustc-link-lib=torch_cpu");
    println!("cargo::rustc-link-lib=c10");
}

fn bridge(include: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .file("bridge/ranks.cc")
        .include("bridge")
        .include(include.join("torch/csrc/api/include"))
        .include(include)
        .define("USE_C10D_GLOO", None)
        .define("USE_DISTRIBUTED", None)
        .std("c++17")
        .warnings(false);
    build
}

/// Folders of the headers that NCCL's process group needs, where this libtorch has it: those of
/// CUDA and NCCL are in a toolkit, or in the packages beside libtorch.
fn nccl_headers(libraries: &Path, include: &Path) -> Option<Vec<PathBuf>> {
    let header = include.join("torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp");
    if !(header.is_file() && libraries.join("libtorch_cuda.so").is_file()) {
        return None;
    }
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let toolkits = toolkits.chain([PathBuf::from("/usr/local/cuda")]).map(|folder| folder.join("include"));
    let beside = libraries.parent().and_then(Path::parent).map(|home| home.join("nvidia"));
    let packages = beside.and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten();
    let packages = packages.filter_map(|entry| Some(entry.ok()?.path().join("include")));
    let folders: Vec<PathBuf> = toolkits
        .chain(packages)
        .chain([PathBuf::from("/usr/include")])
        .filter(|folder| folder.is_dir())
        .collect();
    let is_there = |header: &str| folders.iter().any(|folder| folder.join(header).is_file());
    let needed = ["nccl.h", "cuda_runtime_api.h", "cublas_v2.h", "cusparse.h", "cusolverDn.h"];
    needed.iter().all(|header| is_there(header)).then_some(folders)
}
