//! One NumPy array in a file.

use std::fs;
use std::path::Path;

use ndarray::ArrayD;

use crate::TrainerError;

const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";

/// A number that is written: its NumPy type and its bytes.
pub trait Number: Copy {
    const DTYPE: &str;
    fn bytes(self) -> impl IntoIterator<Item = u8>;
}

impl Number for f32 {
    const DTYPE: &str = "<f4";
    fn bytes(self) -> impl IntoIterator<Item = u8> {
        self.to_le_bytes()
    }
}

impl Number for f64 {
    const DTYPE: &str = "<f8";
    fn bytes(self) -> impl IntoIterator<Item = u8> {
        self.to_le_bytes()
    }
}

/// Reads an array of float32 in C order.
///
/// # Errors
/// The file is missing or holds something else.
pub fn read(path: &Path) -> Result<ArrayD<f32>, TrainerError> {
    let bytes =
        fs::read(path).map_err(|error| TrainerError::io(format!("cannot read {}", path.display()), error))?;
    let wrong = |problem: &str| {
        TrainerError::User(format!(
            "{}: {problem}; save it with numpy.save(..., x.astype('<f4'))",
            path.display()
        ))
    };
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| wrong("is no NumPy array of version 1.0"))?;
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(|| wrong("is truncated"))?;
    let length = usize::from(u16::from_le_bytes(*length));
    let (header, values) = rest.split_at_checked(length).ok_or_else(|| wrong("is truncated"))?;
    let header = String::from_utf8_lossy(header).replace(' ', "");
    if !header.contains("'descr':'<f4'") || !header.contains("'fortran_order':False") {
        return Err(wrong("is no array of float32 in C order"));
    }
    let shape = header.split_once("'shape':(").and_then(|(_, rest)| Some(rest.split_once(')')?.0));
    let shape: Option<Vec<usize>> = shape
        .map(|shape| shape.split(',').filter(|size| !size.is_empty()).map(|size| size.parse().ok()).collect())
        .ok_or_else(|| wrong("has no shape"))?;
    let (values, _) = values.as_chunks::<4>();
    let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
    if !values.iter().all(|value| value.is_finite()) {
        return Err(wrong("holds values that are not finite"));
    }
    ArrayD::from_shape_vec(shape.ok_or_else(|| wrong("has no shape"))?, values)
        .map_err(|_| wrong("does not hold as many values as its shape says"))
}

/// Writes an array; the file appears whole or not at all.
///
/// # Errors
/// The disk fails.
pub fn write<T: Number>(path: &Path, array: &ArrayD<T>) -> Result<(), TrainerError> {
    let sizes: Vec<String> = array.shape().iter().map(|size| format!("{size},")).collect();
    let (dtype, shape) = (T::DTYPE, sizes.join(" "));
    let mut header = format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({shape}), }}");
    // Values begin at a multiple of 64.
    while !(MAGIC.len() + 2 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(array.iter().flat_map(|value| value.bytes()));
    let failed = |error| TrainerError::io(format!("cannot write {}", path.display()), error);
    let folder = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    fs::write(temporary.path(), &bytes).map_err(failed)?;
    temporary.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_comes_back_as_it_was_written_and_anything_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        let array = ArrayD::from_shape_fn(vec![2, 1, 3], |at| at[0] as f32 * 3.0 + at[2] as f32 - 0.5);
        write(&path, &array).unwrap();
        assert_eq!(read(&path).unwrap(), array);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        assert!(read(&path).unwrap_err().message().contains("as many values"));
        fs::write(&path, "nothing").unwrap();
        assert!(read(&path).unwrap_err().message().contains("numpy.save"));
    }
}
