//! Writes NumPy arrays, archives and frames; finds real data where it is.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use cakes_data::DataError;
use cakes_data::samples::{
    ArraySource, ArraySplit, CacheOptions, MedmnistPart, OpenOptions, SampleKind, SampleSource, Samples,
};
use zip::write::SimpleFileOptions;

/// Data sets beside the checkout, or where `CAKES_TEST_DATA` says.
pub fn real_data(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    let root = std::env::var_os("CAKES_TEST_DATA").map_or_else(beside, PathBuf::from);
    let path = root.join(name);
    if !path.exists() {
        eprintln!("left out: {} is not there", path.display());
        return None;
    }
    Some(path)
}

/// A `.npy` file.
pub fn npy(descr: &str, fortran: bool, shape: &[usize], body: &[u8]) -> Vec<u8> {
    let shape: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let order = if fortran { "True" } else { "False" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({shape}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(body);
    file
}

/// Bytes of `[N, D, H, W]` samples that all differ.
pub fn bytes(shape: &[usize]) -> Vec<u8> {
    (0..shape.iter().product::<usize>()).map(|at| (at * 7 % 251) as u8).collect()
}

pub fn int64s(numbers: &[i64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

pub fn npz(path: &Path, arrays: &[(&str, Vec<u8>)]) {
    let mut archive = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (key, file) in arrays {
        let method = zip::CompressionMethod::Deflated;
        archive
            .start_file(format!("{key}.npy"), SimpleFileOptions::default().compression_method(method))
            .unwrap();
        archive.write_all(file).unwrap();
    }
    archive.finish().unwrap();
}

/// A cache in the folder of a test.
pub fn options(root: &Path) -> OpenOptions {
    OpenOptions {
        cache: CacheOptions { dir: Some(root.join("cache")), limit_bytes: 1 << 30 },
        channels: None,
        short_side: None,
    }
}

pub fn open(source: &SampleSource, root: &Path) -> Result<Samples, DataError> {
    Samples::open(source, root, &options(root), &|_, _| ())
}

/// What opening says is wrong.
pub fn refusal(source: &SampleSource, root: &Path) -> String {
    open(source, root).map(|samples| samples.name).unwrap_err().to_string()
}

pub fn arrays(path: impl Into<PathBuf>, split: ArraySplit) -> SampleSource {
    SampleSource::Arrays(ArraySource { path: path.into(), split, kind: SampleKind::Volume, tolerate: 0 })
}

pub fn medmnist(validation: MedmnistPart) -> ArraySplit {
    ArraySplit::Medmnist { validation }
}

pub fn row_fold(fold: u32, folds: u32) -> ArraySplit {
    ArraySplit::RowFold { samples: "x".into(), labels: "y".into(), fold, folds, seed: 0 }
}
