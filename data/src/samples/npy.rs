//! NumPy arrays, from an `.npz` archive or a folder of `.npy` files.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use py_literal::Value;

use super::cache::{EntryWriter, ValueType};
use crate::DataError;

/// An archive or a folder, with the keys of its arrays.
#[derive(Clone, Debug)]
pub struct ArrayFile {
    pub path: PathBuf,
    /// Sorted.
    pub keys: Vec<String>,
    is_folder: bool,
}

/// What the header of an array says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArrayHeader {
    pub shape: Vec<usize>,
    pub element: Element,
    is_fortran: bool,
}

impl ArrayHeader {
    /// Values of one entry of the first axis.
    fn row_values(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Bytes of all values as [`Element::stored_as`] says.
    pub fn stored_bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.element.stored_as().size()) as u64
    }
}

/// Values that are read or turned at once.
const PIECE_VALUES: usize = 1 << 20;

/// A number type of NumPy that samples or labels may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    kind: ElementKind,
    bytes: usize,
    is_big_endian: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ElementKind {
    Bool,
    Signed,
    Unsigned,
    Float,
}

impl Element {
    /// Parses NumPy's description of a type: byte order, kind, bytes.
    fn parse(description: &str) -> Option<Self> {
        let (is_big_endian, rest) = match description.split_at_checked(1)? {
            ("<" | "|" | "=", rest) => (false, rest),
            (">", rest) => (true, rest),
            _ => return None,
        };
        let (kind, bytes) = rest.split_at_checked(1)?;
        let kind = match kind {
            "b" => ElementKind::Bool,
            "i" => ElementKind::Signed,
            "u" => ElementKind::Unsigned,
            "f" => ElementKind::Float,
            _ => return None,
        };
        let bytes = bytes.parse().ok()?;
        let known = match kind {
            ElementKind::Bool => bytes == 1,
            ElementKind::Float => matches!(bytes, 2 | 4 | 8),
            ElementKind::Signed | ElementKind::Unsigned => matches!(bytes, 1 | 2 | 4 | 8),
        };
        known.then_some(Element { kind, bytes, is_big_endian })
    }

    /// NumPy's name of the type.
    pub fn name(self) -> String {
        let kind = match self.kind {
            ElementKind::Bool => return "bool".to_owned(),
            ElementKind::Signed => "int",
            ElementKind::Unsigned => "uint",
            ElementKind::Float => "float",
        };
        format!("{kind}{}", self.bytes * 8)
    }

    /// How samples of this type are kept: bytes as they are, all else as float32.
    pub fn stored_as(self) -> ValueType {
        match self.kind {
            ElementKind::Bool | ElementKind::Unsigned if self.bytes == 1 => ValueType::U8,
            _ => ValueType::F32,
        }
    }

    fn is_integer(self) -> bool {
        matches!(self.kind, ElementKind::Signed | ElementKind::Unsigned)
    }

    /// The element's bytes, lowest first.
    fn low_first(self, bytes: &[u8]) -> [u8; 8] {
        let mut low = [0; 8];
        low[..self.bytes].copy_from_slice(bytes);
        if self.is_big_endian {
            low[..self.bytes].reverse();
        }
        low
    }

    fn to_f32(self, bytes: &[u8]) -> f32 {
        let low = self.low_first(bytes);
        let bits = u64::from_le_bytes(low);
        match (self.kind, self.bytes) {
            (ElementKind::Float, 2) => half_to_f32(bits as u16),
            (ElementKind::Float, 4) => f32::from_bits(bits as u32),
            (ElementKind::Float, _) => f64::from_bits(bits) as f32,
            (ElementKind::Signed, _) => self.signed(bits) as f32,
            (ElementKind::Bool | ElementKind::Unsigned, _) => bits as f32,
        }
    }

    /// None for a number over the range of i64.
    fn to_i64(self, bytes: &[u8]) -> Option<i64> {
        let bits = u64::from_le_bytes(self.low_first(bytes));
        if self.kind == ElementKind::Signed { Some(self.signed(bits)) } else { i64::try_from(bits).ok() }
    }

    /// Carries the sign of a shorter number up.
    fn signed(self, bits: u64) -> i64 {
        let unused = 64 - 8 * self.bytes as u32;
        ((bits << unused) as i64) >> unused
    }
}

/// IEEE 754 binary16.
fn half_to_f32(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(bits & 0x3ff);
    sign * match (bits >> 10) & 0x1f {
        0 => fraction * 2_f32.powi(-24),
        0x1f if fraction == 0.0 => f32::INFINITY,
        0x1f => f32::NAN,
        exponent => (1.0 + fraction / 1024.0) * 2_f32.powi(i32::from(exponent) - 15),
    }
}

impl ArrayFile {
    /// Lists the arrays of an archive or folder.
    ///
    /// # Errors
    /// It is missing, damaged, or holds no arrays.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let facts = std::fs::metadata(path).map_err(|error| DataError::io(path, error))?;
        let is_folder = facts.is_dir();
        let mut keys: Vec<String> = if is_folder {
            let entries = std::fs::read_dir(path).map_err(|error| DataError::io(path, error))?;
            let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.filter_map(|name| Some(name.strip_suffix(".npy")?.to_owned())).collect()
        } else {
            let archive = open_zip(path)?;
            let names = archive.file_names().flatten();
            names.filter_map(|name| Some(name.strip_suffix(".npy")?.to_owned())).collect()
        };
        keys.sort();
        if keys.is_empty() {
            return Err(DataError::file(path, "holds no .npy array"));
        }
        Ok(ArrayFile { path: path.to_owned(), keys, is_folder })
    }

    /// Name of the set: the file's without its ending.
    pub fn name(&self) -> String {
        let name = if self.is_folder { self.path.file_name() } else { self.path.file_stem() };
        name.unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The file that holds array `key`.
    ///
    /// # Errors
    /// There is no such array, with the keys that there are.
    pub fn file_of(&self, key: &str) -> Result<PathBuf, DataError> {
        if !self.keys.iter().any(|known| known == key) {
            let known = self.keys.join(", ");
            return Err(DataError::file(&self.path, format!("has no array '{key}'; there are: {known}")));
        }
        Ok(if self.is_folder { self.path.join(format!("{key}.npy")) } else { self.path.clone() })
    }

    /// An error of array `key`.
    pub fn wrong(&self, key: &str, problem: impl std::fmt::Display) -> DataError {
        DataError::file(&self.path, format!("array '{key}': {problem}"))
    }

    /// Lets `act` read array `key` from behind its header.
    fn with_array<T>(
        &self,
        key: &str,
        act: impl FnOnce(&ArrayHeader, &mut dyn Read) -> Result<T, DataError>,
    ) -> Result<T, DataError> {
        let path = self.file_of(key)?;
        if self.is_folder {
            let file = File::open(&path).map_err(|error| DataError::io(&path, error))?;
            let mut reader = BufReader::with_capacity(1 << 20, file);
            let header = self.parse_header(key, &mut reader)?;
            return act(&header, &mut reader);
        }
        let mut archive = open_zip(&path)?;
        let member = archive.by_name(&format!("{key}.npy")).map_err(|error| self.wrong(key, error))?;
        let mut reader = BufReader::with_capacity(1 << 20, member);
        let header = self.parse_header(key, &mut reader)?;
        act(&header, &mut reader)
    }

    fn parse_header(&self, key: &str, reader: &mut dyn Read) -> Result<ArrayHeader, DataError> {
        let text = read_header(reader)
            .map_err(|problem| self.wrong(key, format!("no readable NumPy header: {problem}")))?;
        parse_header(&text).map_err(|problem| self.wrong(key, problem))
    }

    /// Shape and type of array `key`.
    ///
    /// # Errors
    /// It is missing or has no readable header.
    pub fn header(&self, key: &str) -> Result<ArrayHeader, DataError> {
        self.with_array(key, |header, _| Ok(header.clone()))
    }

    /// The integers of array `key`, `[N]` or `[N, 1]`.
    ///
    /// # Errors
    /// It has another shape or type, or is cut off.
    pub fn integers(&self, key: &str) -> Result<Vec<i64>, DataError> {
        self.with_array(key, |header, reader| {
            let rows = match header.shape.as_slice() {
                [rows] | [rows, 1] => *rows,
                shape => return Err(self.wrong(key, format!("must be [N] or [N, 1], is {shape:?}"))),
            };
            if !header.element.is_integer() {
                let problem = format!("must hold whole numbers, holds {}", header.element.name());
                return Err(self.wrong(key, problem));
            }
            let mut numbers = Vec::new();
            let mut bytes = vec![0; header.element.bytes];
            for row in 0..rows {
                self.fill(key, header, reader, &mut bytes, row)?;
                let number = header.element.to_i64(&bytes);
                numbers.push(number.ok_or_else(|| self.wrong(key, format!("row {row} is out of range")))?);
            }
            self.at_end(key, reader)?;
            Ok(numbers)
        })
    }

    /// Writes the values of array `key` in C order, as [`Element::stored_as`]
    /// says, row by row.
    ///
    /// # Errors
    /// The array is cut off or damaged, with the row.
    pub fn copy_to(&self, key: &str, out: &mut EntryWriter) -> Result<(ValueType, Vec<usize>), DataError> {
        self.with_array(key, |header, reader| {
            let stored = header.element.stored_as();
            let keep = |out: &mut EntryWriter, bytes: &[u8]| {
                let kept = match stored {
                    ValueType::U8 => out.write_all(bytes),
                    ValueType::F32 => out.write_all(&to_floats(header.element, bytes)),
                };
                kept.map_err(|error| self.wrong(key, format!("cannot be kept: {error}")))
            };
            let row_values = header.row_values();
            // Rows without values are as many as a header likes to say.
            let rows = if row_values == 0 { 0 } else { header.shape.first().copied().unwrap_or(1) };
            if header.is_fortran && header.shape.len() > 1 {
                let values = self.read_values(key, header, reader)?;
                let at_once = (PIECE_VALUES / row_values.max(1)).max(1);
                for first in (0..rows).step_by(at_once) {
                    keep(out, &turned(header, &values, first..(first + at_once).min(rows)))?;
                }
            } else {
                let mut piece = vec![0; row_values.min(PIECE_VALUES) * header.element.bytes];
                for row in 0..rows {
                    let mut left = row_values;
                    while left > 0 {
                        let bytes = &mut piece[..left.min(PIECE_VALUES) * header.element.bytes];
                        self.fill(key, header, reader, bytes, row)?;
                        keep(out, bytes)?;
                        left -= left.min(PIECE_VALUES);
                    }
                }
            }
            self.at_end(key, reader)?;
            Ok((stored, header.shape.clone()))
        })
    }

    /// All values of an array as they stand in its file: in Fortran order a row lies
    /// all over it.
    fn read_values(
        &self,
        key: &str,
        header: &ArrayHeader,
        reader: &mut dyn Read,
    ) -> Result<Vec<u8>, DataError> {
        let values: usize = header.shape.iter().product();
        let mut bytes = Vec::new();
        let length = values * header.element.bytes;
        let read = reader.take(length as u64).read_to_end(&mut bytes);
        match read {
            Ok(read) if read == length => Ok(bytes),
            Ok(read) => {
                Err(self.wrong(key, format!("is cut off after {read} of {length} bytes; copy it again")))
            }
            Err(error) => Err(self.wrong(key, format!("is damaged: {error}"))),
        }
    }

    /// Nothing may follow the values; an archive's checksum is compared here.
    fn at_end(&self, key: &str, reader: &mut dyn Read) -> Result<(), DataError> {
        match reader.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.wrong(key, "holds more values than its header says")),
            Err(error) => Err(self.wrong(key, format!("is damaged: {error}; copy it again"))),
        }
    }

    fn fill(
        &self,
        key: &str,
        header: &ArrayHeader,
        reader: &mut dyn Read,
        bytes: &mut [u8],
        row: usize,
    ) -> Result<(), DataError> {
        reader.read_exact(bytes).map_err(|error| {
            let rows = header.shape.first().copied().unwrap_or(1);
            self.wrong(key, format!("is cut off or damaged in row {row} of {rows}: {error}; copy it again"))
        })
    }
}

/// Longest header that is read; NumPy's own reader takes 10 000 bytes.
const HEADER_BYTES_MAX: usize = 1 << 16;

/// The text of a header (NEP 1): magic, version, length, then a Python dict.
fn read_header(reader: &mut dyn Read) -> Result<String, String> {
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(|error| error.to_string())?;
    if start[..6] != *b"\x93NUMPY" {
        return Err("it does not start as NumPy's files do".to_owned());
    }
    let length_bytes = if start[6] == 1 { 2 } else { 4 };
    let mut length = [0; 4];
    reader.read_exact(&mut length[..length_bytes]).map_err(|error| error.to_string())?;
    let length = u32::from_le_bytes(length) as usize;
    if length > HEADER_BYTES_MAX {
        return Err(format!("it is {length} bytes long"));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text).map_err(|error| error.to_string())?;
    String::from_utf8(text).map_err(|error| error.to_string())
}

fn parse_header(text: &str) -> Result<ArrayHeader, String> {
    let unlike = || format!("no readable NumPy header: '{}'", text.trim());
    // The parser recurses.
    if text.matches(['(', '[', '{']).count() > 64 {
        return Err(unlike());
    }
    let value: Value = text.trim().parse().map_err(|_| unlike())?;
    let fields = value.as_dict().ok_or_else(unlike)?;
    let field = |name: &str| {
        let found = fields.iter().find(|(key, _)| key.as_string().is_some_and(|key| key == name));
        found.map(|(_, value)| value).ok_or_else(unlike)
    };
    let descr = field("descr")?;
    let element = descr
        .as_string()
        .and_then(|descr| Element::parse(descr))
        .ok_or_else(|| format!("holds elements of type {descr}; whole numbers or floats are needed"))?;
    let is_fortran = field("fortran_order")?.as_boolean().ok_or_else(unlike)?;
    let sizes = field("shape")?.as_tuple().ok_or_else(unlike)?;
    let size = |size: &Value| size.as_integer().and_then(|size| usize::try_from(size).ok());
    let shape: Option<Vec<usize>> = sizes.iter().map(size).collect();
    // Whatever is counted of it is a number, also where an axis has no entry.
    let fits = |shape: &Vec<usize>| {
        let all = shape.iter().try_fold(8, |total: usize, size| total.checked_mul((*size).max(1)));
        all.is_some_and(|all| all < 1 << 48)
    };
    let shape = shape
        .filter(fits)
        .ok_or_else(|| format!("cannot be as large as its header says: {}", Value::Tuple(sizes.clone())))?;
    Ok(ArrayHeader { shape, element, is_fortran })
}

/// Rows of an array in Fortran order, brought into C order. There the rows' values of
/// one place stand side by side, so that several rows at once are turned faster.
fn turned(header: &ArrayHeader, values: &[u8], rows: Range<usize>) -> Vec<u8> {
    let (size, row_values) = (header.element.bytes, header.row_values());
    let mut turned = vec![0; rows.len() * row_values * size];
    for place in 0..row_values {
        let from = (fortran_position(&header.shape, place) + rows.start) * size;
        let of_place = values[from..from + rows.len() * size].chunks_exact(size);
        for (row, value) in of_place.enumerate() {
            let to = (row * row_values + place) * size;
            turned[to..to + size].copy_from_slice(value);
        }
    }
    turned
}

/// Where value `place` of row 0, counted in C order, stands in Fortran order.
fn fortran_position(shape: &[usize], mut place: usize) -> usize {
    let mut stride: usize = shape.iter().product();
    let mut position = 0;
    for size in shape.iter().skip(1).rev() {
        stride /= size;
        position += place % size * stride;
        place /= size;
    }
    position
}

fn to_floats(element: Element, bytes: &[u8]) -> Vec<u8> {
    bytes.chunks_exact(element.bytes).flat_map(|value| element.to_f32(value).to_ne_bytes()).collect()
}

fn open_zip(path: &Path) -> Result<zip::ZipArchive<BufReader<File>>, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    zip::ZipArchive::new(BufReader::new(file)).map_err(|error| {
        DataError::file(path, format!("is no whole .npz archive: {error}; it may be cut off: copy it again"))
    })
}
