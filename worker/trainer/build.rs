//! Lets the trainer and its tests find libtorch where it was linked, from any
//! folder and without environment variables.

fn main() {
    // Set because `torch-sys` is a direct dependency that `links` libtorch.
    if let Ok(libraries) = std::env::var("DEP_TCH_LIBTORCH_LIB") {
        let absolute = std::fs::canonicalize(&libraries).unwrap_or_else(|_| libraries.into());
        println!("cargo::rustc-link-arg=-Wl,-rpath,{}", absolute.display());
    }
}
