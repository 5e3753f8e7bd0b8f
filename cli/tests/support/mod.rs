//! Runs the real binary, and writes the files that it reads.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::GzEncoder;

/// What a command left behind.
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `cakes`, without the settings that a developer may have.
pub fn cakes(arguments: &[&str]) -> Ran {
    cakes_with(&[("CAKES_SETTINGS", OsStr::new("/dev/null"))], arguments)
}

/// The same with these variables.
pub fn cakes_with(variables: &[(&str, &OsStr)], arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cakes"));
    command.args(arguments).env_remove("CAKES_SERVER").env_remove("CAKES_CONTEXT").env("NO_COLOR", "1");
    command.envs(variables.iter().copied());
    let Output { status, stdout, stderr } = command.output().expect("cakes starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// A one-channel NIfTI-1 file in RAS+ with voxels of 1 mm, as bytes.
pub fn nifti([d, h, w]: [u16; 3], voxel: impl Fn(usize) -> f32) -> Vec<u8> {
    let mut file = vec![0_u8; 352];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &348_i32.to_le_bytes());
    for (index, size) in [3, d, h, w, 1, 1, 1, 1].into_iter().enumerate() {
        put(40 + 2 * index, &size.to_le_bytes());
    }
    put(70, &16_i16.to_le_bytes()); // float32
    put(72, &32_i16.to_le_bytes());
    for index in 0..8 {
        put(76 + 4 * index, &1_f32.to_le_bytes());
    }
    put(108, &352_f32.to_le_bytes());
    put(112, &1_f32.to_le_bytes());
    put(254, &1_i16.to_le_bytes()); // the affine is given by the rows below
    for row in 0..3 {
        put(280 + 20 * row, &1_f32.to_le_bytes());
    }
    put(344, b"n+1\0");
    let count = usize::from(d) * usize::from(h) * usize::from(w);
    file.extend((0..count).flat_map(|index| voxel(index).to_le_bytes()));
    file
}

/// Compresses.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

/// A good data set of two cases with three classes.
pub fn write_dataset(folder: &Path) {
    for name in ["imagesTr", "labelsTr"] {
        fs::create_dir_all(folder.join(name)).expect("folder");
    }
    let case =
        |id: &str| format!(r#"{{"image": "./imagesTr/{id}.nii.gz", "label": "./labelsTr/{id}.nii.gz"}}"#);
    let json = format!(
        r#"{{"name": "tiny", "modality": {{"0": "MRI"}}, "labels": {{"0": "background", "1": "front", "2": "back"}}, "training": [{}, {}]}}"#,
        case("a"),
        case("b")
    );
    fs::write(folder.join("dataset.json"), json).expect("dataset.json");
    for id in ["a", "b"] {
        let image = nifti([8, 9, 10], |index| (index % 97) as f32);
        let label = nifti([8, 9, 10], |index| (index % 3) as f32);
        fs::write(folder.join(format!("imagesTr/{id}.nii.gz")), gzip(&image)).expect("image");
        fs::write(folder.join(format!("labelsTr/{id}.nii.gz")), gzip(&label)).expect("label");
    }
}
