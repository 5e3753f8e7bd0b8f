//! Writes NIfTI files and folders of them, sound and broken.
#![allow(dead_code)] // each test file uses some of it

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// A NIfTI-1 file, field by field. `Nifti::new` makes a sound one.
#[derive(Clone, Debug)]
pub struct Nifti {
    pub dim: Vec<i16>,
    pub datatype: i16,
    pub pixdim: [f32; 8],
    pub vox_offset: f32,
    pub slope: f32,
    pub intercept: f32,
    pub qform_code: i16,
    pub sform_code: i16,
    /// quatern b, c, d, then offset x, y, z.
    pub quatern: [f32; 6],
    pub srow: [[f32; 4]; 3],
    pub magic: [u8; 4],
    pub big_endian: bool,
    /// Stored voxels, the first axis fastest.
    pub body: Vec<u8>,
}

impl Nifti {
    /// A volume of one number type with the identity as its affine.
    pub fn new(extent: [i16; 3], datatype: i16, body: Vec<u8>) -> Self {
        Nifti {
            dim: extent.to_vec(),
            datatype,
            pixdim: [1.0; 8],
            vox_offset: 352.0,
            slope: 1.0,
            intercept: 0.0,
            qform_code: 0,
            sform_code: 1,
            quatern: [0.0; 6],
            srow: [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]],
            magic: *b"n+1\0",
            big_endian: false,
            body,
        }
    }

    pub fn floats(extent: [i16; 3], values: &[f32]) -> Self {
        Nifti::new(extent, 16, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    pub fn labels(extent: [i16; 3], values: &[u8]) -> Self {
        Nifti::new(extent, 2, values.to_vec())
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut head = vec![0_u8; 352];
        let big = self.big_endian;
        let i16_at = |head: &mut Vec<u8>, at: usize, value: i16| {
            let bytes = if big { value.to_be_bytes() } else { value.to_le_bytes() };
            head[at..at + 2].copy_from_slice(&bytes);
        };
        let f32_at = |head: &mut Vec<u8>, at: usize, value: f32| {
            let bytes = if big { value.to_be_bytes() } else { value.to_le_bytes() };
            head[at..at + 4].copy_from_slice(&bytes);
        };
        let size = if big { 348_i32.to_be_bytes() } else { 348_i32.to_le_bytes() };
        head[..4].copy_from_slice(&size);
        i16_at(&mut head, 40, self.dim.len() as i16);
        for axis in 0..7 {
            i16_at(&mut head, 42 + 2 * axis, self.dim.get(axis).copied().unwrap_or(1));
        }
        i16_at(&mut head, 70, self.datatype);
        for (axis, value) in self.pixdim.iter().enumerate() {
            f32_at(&mut head, 76 + 4 * axis, *value);
        }
        for (at, value) in [(108, self.vox_offset), (112, self.slope), (116, self.intercept)] {
            f32_at(&mut head, at, value);
        }
        i16_at(&mut head, 252, self.qform_code);
        i16_at(&mut head, 254, self.sform_code);
        for (index, value) in self.quatern.iter().chain(self.srow.iter().flatten()).enumerate() {
            f32_at(&mut head, 256 + 4 * index, *value);
        }
        head[344..348].copy_from_slice(&self.magic);
        head.extend_from_slice(&self.body);
        head
    }

    pub fn write(&self, path: &Path) {
        let bytes = self.bytes();
        let packed = path.extension().is_some_and(|ending| ending == "gz");
        fs::write(path, if packed { gzip(&bytes) } else { bytes }).unwrap();
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A folder in the layout of the Medical Segmentation Decathlon with `cases`
/// cases of 8x8x8 voxels and two classes.
pub fn folder(root: &Path, cases: usize) -> Vec<(PathBuf, PathBuf)> {
    for name in ["imagesTr", "labelsTr"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    let mut entries = Vec::new();
    let mut files = Vec::new();
    for case in 0..cases {
        let name = format!("case_{case:02}.nii.gz");
        let (image, label) = (root.join("imagesTr").join(&name), root.join("labelsTr").join(&name));
        let values: Vec<f32> = (0..512).map(|voxel| ((voxel * 7 + case) % 13) as f32).collect();
        let classes: Vec<u8> = (0..512).map(|voxel| u8::from(voxel % 8 > 3)).collect();
        Nifti::floats([8, 8, 8], &values).write(&image);
        Nifti::labels([8, 8, 8], &classes).write(&label);
        entries.push(format!(r#"{{"image": "./imagesTr/{name}", "label": "./labelsTr/{name}"}}"#));
        files.push((image, label));
    }
    let json = format!(
        r#"{{"name": "small", "modality": {{"0": "MRI"}}, "labels": {{"0": "background", "1": "thing"}},
            "training": [{}]}}"#,
        entries.join(", ")
    );
    fs::write(root.join("dataset.json"), json).unwrap();
    files
}
