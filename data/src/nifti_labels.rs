//! A segmentation as a NIfTI-1 file with the geometry of the image it belongs to.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use ndarray::{Array3, Axis};
use nifti::NiftiHeader;

use crate::DataError;
use crate::nifti_file::{HEADER_BYTES, Layout, affine_of, closest_axes};

/// Voxels begin behind the header and four bytes that say that nothing extends it.
const VOXEL_OFFSET: f32 = 352.0;
const NO_EXTENSION: [u8; 4] = [0; 4];

/// NIfTI's number of unsigned bytes.
const UINT8: i16 = 2;

/// Writes `labels` (`[D, H, W]` in RAS+ orientation, as [`crate::nifti_file::read_volume`]
/// gives volumes) to `path`, which appears whole or not at all. Extent, orientation, sform,
/// qform and units are those of the file `image`; numbers are uint8.
///
/// # Errors
/// `image` is no NIfTI-1 file or has another extent, or the disk fails.
pub fn write_labels(path: &Path, image: &Path, labels: &Array3<u8>) -> Result<(), DataError> {
    let mut head = read_header(image)?;
    let header = NiftiHeader::from_reader(head.as_slice())
        .map_err(|error| DataError::file(image, format!("is no NIfTI-1 file: {error}")))?;
    let layout = Layout::of(&header).map_err(|problem| DataError::file(image, problem))?;
    let affine = affine_of(&header).map_err(|problem| DataError::file(image, problem))?;
    let (axes, flipped) = closest_axes(&affine).map_err(|problem| DataError::file(image, problem))?;
    let stored = as_stored(labels, axes, flipped);
    let [i, j, k, _] = layout.extent;
    if stored.dim() != (i, j, k) {
        let problem = format!("has the extent {:?}, its labels {:?}", [i, j, k], stored.dim());
        return Err(DataError::file(image, problem));
    }
    describe_labels(&mut head, layout.little);
    // The first stored axis runs fastest.
    let voxels: Vec<u8> = stored.t().iter().copied().collect();
    let temporary = beside(path);
    let written = write(&temporary, &head, &voxels, path.extension().is_some_and(|ending| ending == "gz"))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|error| {
        // What is left of it is of no use.
        let _ = std::fs::remove_file(&temporary);
        DataError::io(path, error)
    })
}

fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}.part", std::process::id()))
}

fn read_header(path: &Path) -> Result<Vec<u8>, DataError> {
    let file = BufReader::new(File::open(path).map_err(|error| DataError::io(path, error))?);
    let packed = path.extension().is_some_and(|ending| ending == "gz");
    let mut reader: Box<dyn Read> = if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut head = vec![0; HEADER_BYTES];
    reader.read_exact(&mut head).map_err(|error| DataError::io(path, error))?;
    Ok(head)
}

/// RAS+ voxels in the order of the file whose stored axis `axes[world]` runs along each
/// world axis, backwards where `flipped`.
fn as_stored(labels: &Array3<u8>, axes: [usize; 3], flipped: [bool; 3]) -> Array3<u8> {
    let mut view = labels.view();
    for (world, flip) in flipped.into_iter().enumerate() {
        if flip {
            view.invert_axis(Axis(world));
        }
    }
    let mut world_of = [0; 3];
    for (world, stored) in axes.into_iter().enumerate() {
        world_of[stored] = world;
    }
    view.permuted_axes(world_of).to_owned()
}

/// Makes an image's header that of one uint8 for each voxel; where voxels are in the
/// patient is left as it is.
fn describe_labels(head: &mut [u8], little: bool) {
    let mut short = |at: usize, value: i16| {
        let bytes = if little { value.to_le_bytes() } else { value.to_be_bytes() };
        head[at..at + 2].copy_from_slice(&bytes);
    };
    short(40, 3); // dim[0]: axes
    (48..56).step_by(2).for_each(|at| short(at, 1)); // dim[4..8]
    short(68, 0); // intent_code
    short(70, UINT8); // datatype
    short(72, 8); // bitpix
    let mut float = |at: usize, value: f32| {
        let bytes = if little { value.to_le_bytes() } else { value.to_be_bytes() };
        head[at..at + 4].copy_from_slice(&bytes);
    };
    float(108, VOXEL_OFFSET);
    float(112, 1.0); // scl_slope
    float(116, 0.0); // scl_inter
    float(124, 0.0); // cal_max: readers choose
    float(128, 0.0); // cal_min
    head[344..348].copy_from_slice(b"n+1\0");
}

fn write(path: &Path, head: &[u8], voxels: &[u8], packed: bool) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    if packed {
        let mut encoder = GzEncoder::new(&mut file, Compression::default());
        for part in [head, &NO_EXTENSION, voxels] {
            encoder.write_all(part)?;
        }
        encoder.finish()?;
    } else {
        for part in [head, &NO_EXTENSION, voxels] {
            file.write_all(part)?;
        }
    }
    file.into_inner()?.sync_all()
}

#[cfg(test)]
mod tests {
    use ndarray::Array3;

    use super::*;

    #[test]
    fn voxels_go_back_where_reading_took_them_from() {
        // Stored as (W, D, H) with D backwards: RAS+ [d, h, w] is stored [w, D-1-d, h].
        let labels = Array3::from_shape_fn((2, 3, 4), |(d, h, w)| (d * 12 + h * 4 + w) as u8);
        let stored = as_stored(&labels, [1, 2, 0], [true, false, false]);
        assert_eq!(stored.dim(), (4, 2, 3));
        for ((d, h, w), value) in labels.indexed_iter() {
            assert_eq!(stored[[w, 1 - d, h]], *value);
        }
    }
}
