//! Tensors in the file format of `torch.save`: a zip archive that holds a pickled
//! dictionary and the bytes of each tensor.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::pytorch::Entry;

/// # Errors
/// The archive would be too large.
pub(super) fn encode(tensors: &[(String, Entry<'_>)]) -> Result<Vec<u8>, zip::result::ZipError> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .large_file(false);
    let mut add = |name: &str, content: &[u8]| -> Result<(), zip::result::ZipError> {
        archive.start_file(format!("model/{name}"), stored)?;
        Ok(archive.write_all(content)?)
    };
    add("data.pkl", &pickle(tensors))?;
    add("byteorder", b"little")?;
    for (number, (_, entry)) in tensors.iter().enumerate() {
        let bytes: Vec<u8> = entry.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        add(&format!("data/{number}"), &bytes)?;
    }
    add("version", b"3\n")?;
    Ok(archive.finish()?.into_inner())
}

/// A dictionary of names and tensors, protocol 2.
fn pickle(tensors: &[(String, Entry<'_>)]) -> Vec<u8> {
    let mut out = Pickle(vec![0x80, 2]);
    out.op(b"}(");
    for (number, (name, entry)) in tensors.iter().enumerate() {
        out.text(name);
        out.op(b"ctorch._utils\n_rebuild_tensor_v2\n(");
        // The persistent id of its storage.
        out.op(b"(");
        out.text("storage");
        out.op(b"ctorch\nFloatStorage\n");
        out.text(&number.to_string());
        out.text("cpu");
        out.int(entry.values.len());
        out.op(b"tQ");
        out.int(0);
        out.ints(&entry.shape);
        out.ints(&strides(&entry.shape));
        // No gradient, no hooks.
        out.op(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    out.op(b"u.");
    out.0
}

fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()).collect()
}

/// Opcodes of Python's pickle.
struct Pickle(Vec<u8>);

impl Pickle {
    fn op(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.op(b"X");
        self.op(&(text.len() as u32).to_le_bytes());
        self.op(text.as_bytes());
    }

    fn int(&mut self, value: usize) {
        // LONG1 of eight bytes: sizes may pass 31 bits.
        self.op(b"\x8a\x08");
        self.op(&(value as u64).to_le_bytes());
    }

    fn ints(&mut self, values: &[usize]) {
        self.op(b"(");
        for value in values {
            self.int(*value);
        }
        self.op(b"t");
    }
}
