//! Arrays for the tests that read some.

use std::fs;
use std::path::Path;

/// A NumPy array of bytes, format 1.0.
pub fn write_npy(path: &Path, shape: &str, values: &[u8]) {
    let header = format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}");
    let header = format!("{header:<117}\n");
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(values);
    fs::write(path, file).unwrap();
}
