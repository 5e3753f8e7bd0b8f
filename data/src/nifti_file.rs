//! One NIfTI-1 file as a volume in RAS+ orientation.
//!
//! The header is parsed by the `nifti` crate. Voxels are decoded here, because
//! sizes must be checked before memory is reserved, and scaling is done in
//! double precision whatever the stored type.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use ndarray::{Array3, Array4, ShapeBuilder};
use nifti::NiftiHeader;

use crate::DataError;

/// Most voxels of one file, over all channels.
pub const VOXELS_MAX: u64 = 1 << 29;

/// Bytes that may follow the voxels: some writers fill up to a block.
const TRAILING_BYTES_MAX: u64 = 1 << 16;

/// No deflate stream holds more than so many bytes for each of its own.
const DEFLATE_RATIO_MAX: u64 = 1032;

pub(crate) const HEADER_BYTES: usize = 348;

/// Maps voxel indices (plus a 1) to millimetres: three rows of four.
pub type Affine = [[f64; 4]; 3];

/// A volume in RAS+ orientation.
#[derive(Clone, Debug)]
pub struct Volume {
    /// `[C, D, H, W]`: D right, H anterior, W superior. Slope and intercept applied.
    pub data: Array4<f32>,
    /// Distance between voxels along D, H and W.
    pub spacing_mm: [f32; 3],
    /// Of the reoriented voxels.
    pub affine: Affine,
    /// Axis codes as stored: `RAS`, `LPI`.
    pub stored_orientation: String,
    /// Name of the stored number type: `uint8`.
    pub stored_type: &'static str,
}

/// A stored number type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NumberType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

impl NumberType {
    fn from_code(code: i16) -> Result<Self, String> {
        Ok(match code {
            2 => Self::U8,
            256 => Self::I8,
            512 => Self::U16,
            4 => Self::I16,
            768 => Self::U32,
            8 => Self::I32,
            1280 => Self::U64,
            1024 => Self::I64,
            16 => Self::F32,
            64 => Self::F64,
            32 | 1792 | 2048 => {
                return Err("holds complex numbers; convert it to one real number per voxel".into());
            }
            128 | 2304 => return Err("holds colours; convert it to one number per voxel".into()),
            other => {
                return Err(format!(
                    "has the number type {other}, which is not supported; convert it to float32"
                ));
            }
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::U32 => "uint32",
            Self::I32 => "int32",
            Self::U64 => "uint64",
            Self::I64 => "int64",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    fn decode(self, bytes: &[u8], little: bool) -> f64 {
        macro_rules! read {
            ($type:ty) => {{
                let mut raw = [0; size_of::<$type>()];
                raw.copy_from_slice(bytes);
                if little { <$type>::from_le_bytes(raw) } else { <$type>::from_be_bytes(raw) }
            }};
        }
        match self {
            Self::U8 => f64::from(read!(u8)),
            Self::I8 => f64::from(read!(i8)),
            Self::U16 => f64::from(read!(u16)),
            Self::I16 => f64::from(read!(i16)),
            Self::U32 => f64::from(read!(u32)),
            Self::I32 => f64::from(read!(i32)),
            Self::U64 => read!(u64) as f64,
            Self::I64 => read!(i64) as f64,
            Self::F32 => f64::from(read!(f32)),
            Self::F64 => read!(f64),
        }
    }
}

/// Reads a `.nii` or `.nii.gz` file.
///
/// # Errors
/// The file is missing, truncated, no NIfTI-1, of an unsupported type or size,
/// or holds voxels that are not finite.
pub fn read_volume(path: &Path) -> Result<Volume, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let stored = file.metadata().map_err(|error| DataError::io(path, error))?.len();
    let packed = path.extension().is_some_and(|ending| ending == "gz");
    let mut reader: Box<dyn Read> = if packed {
        Box::new(MultiGzDecoder::new(BufReader::new(file)))
    } else {
        Box::new(BufReader::new(file))
    };
    let mut head = vec![0; HEADER_BYTES];
    reader.read_exact(&mut head).map_err(|error| short_read(path, &error))?;
    let header = NiftiHeader::from_reader(head.as_slice()).map_err(|error| {
        DataError::file(path, format!("is no NIfTI-1 file: {error}; convert it to .nii or .nii.gz"))
    })?;
    let layout = Layout::of(&header).map_err(|problem| DataError::file(path, problem))?;
    let most = stored.saturating_mul(if packed { DEFLATE_RATIO_MAX } else { 1 });
    let promised = (layout.offset + layout.bytes()) as u64;
    if most < promised {
        return Err(DataError::file(
            path,
            format!(
                "has {stored} bytes, too few for the {promised} that its header promises; the file is truncated, copy it again"
            ),
        ));
    }
    let body = read_body(path, &mut reader, &layout)?;
    build(path, &header, &layout, &body)
}

/// Reads the voxels, and what follows them up to the end of the file, where
/// gzip has its checksum.
fn read_body(path: &Path, reader: &mut dyn Read, layout: &Layout) -> Result<Vec<u8>, DataError> {
    let skip = (layout.offset - HEADER_BYTES) as u64;
    let skipped = std::io::copy(&mut reader.take(skip), &mut std::io::sink());
    let length = layout.bytes();
    // `take` bounds what a file can make us read; the buffer grows with what is
    // really there, not with what the header promises.
    let mut body = Vec::new();
    skipped
        .and_then(|_| reader.take(length as u64).read_to_end(&mut body))
        .map_err(|error| short_read(path, &error))?;
    if body.len() < length {
        return Err(DataError::file(
            path,
            format!(
                "ends after {} of {length} bytes of voxels; the file is truncated, copy it again",
                body.len()
            ),
        ));
    }
    let trailing = std::io::copy(&mut reader.take(TRAILING_BYTES_MAX + 1), &mut std::io::sink())
        .map_err(|error| short_read(path, &error))?;
    if trailing > TRAILING_BYTES_MAX {
        return Err(DataError::file(
            path,
            format!(
                "goes on behind the {length} bytes of voxels that its header promises; repair its header"
            ),
        ));
    }
    Ok(body)
}

fn short_read(path: &Path, error: &std::io::Error) -> DataError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => DataError::file(path, "is truncated or empty; copy it again"),
        std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData => {
            DataError::file(path, format!("is not valid gzip ({error}); copy it again"))
        }
        _ => DataError::file(path, format!("cannot be read: {error}")),
    }
}

pub(crate) struct Layout {
    number: NumberType,
    /// Stored extents along i, j, k and of the fourth axis.
    pub(crate) extent: [usize; 4],
    offset: usize,
    pub(crate) little: bool,
    slope: f64,
    intercept: f64,
}

impl Layout {
    pub(crate) fn of(header: &NiftiHeader) -> Result<Self, String> {
        let number = NumberType::from_code(header.datatype)?;
        let rank = usize::from(header.dim[0]);
        if !(3..=7).contains(&rank) {
            return Err(format!("has {rank} axes; a volume has three, or four with channels"));
        }
        let mut extent = [1_usize; 4];
        for (axis, size) in header.dim[1..=rank].iter().enumerate() {
            match axis {
                0..=3 => extent[axis] = usize::from(*size),
                _ if *size > 1 => {
                    return Err(format!("has {rank} axes; a volume has three, or four with channels"));
                }
                _ => {}
            }
        }
        let voxels = extent.iter().map(|size| *size as u64).product::<u64>();
        if voxels == 0 || voxels > VOXELS_MAX {
            return Err(format!("claims {extent:?} voxels; 1 to {VOXELS_MAX} are accepted"));
        }
        let offset = if header.vox_offset.is_finite() { header.vox_offset.max(352.0) as usize } else { 352 };
        if offset > 1 << 24 {
            return Err(format!("claims that its voxels begin at byte {offset}"));
        }
        // A slope of 0 means "not scaled" (NIfTI-1 standard, scl_slope).
        let scaled = header.scl_slope != 0.0 && header.scl_slope.is_finite();
        let intercept =
            if scaled && header.scl_inter.is_finite() { f64::from(header.scl_inter) } else { 0.0 };
        Ok(Layout {
            number,
            extent,
            offset,
            little: header.endianness == nifti::Endianness::Little,
            slope: if scaled { f64::from(header.scl_slope) } else { 1.0 },
            intercept,
        })
    }

    fn voxels(&self) -> usize {
        self.extent.iter().product()
    }

    fn bytes(&self) -> usize {
        self.voxels() * self.number.bytes()
    }
}

fn build(path: &Path, header: &NiftiHeader, layout: &Layout, body: &[u8]) -> Result<Volume, DataError> {
    let mut values = Vec::with_capacity(layout.voxels());
    for bytes in body.chunks_exact(layout.number.bytes()) {
        values.push((layout.number.decode(bytes, layout.little) * layout.slope + layout.intercept) as f32);
    }
    let bad = values.iter().filter(|value| !value.is_finite()).count();
    if bad > 0 {
        return Err(DataError::file(
            path,
            format!("has {bad} voxels that are NaN or infinite; replace them"),
        ));
    }
    let [i, j, k, channels] = layout.extent;
    // The first stored axis runs fastest; channels are the slowest.
    let stored = Array4::from_shape_vec((i, j, k, channels).f(), values)
        .map_err(|error| DataError::file(path, error.to_string()))?;
    let affine = affine_of(header).map_err(|problem| DataError::file(path, problem))?;
    let (axes, flipped) = closest_axes(&affine).map_err(|problem| DataError::file(path, problem))?;
    let mut oriented = stored.permuted_axes([3, axes[0], axes[1], axes[2]]);
    for (world, flip) in flipped.into_iter().enumerate() {
        if flip {
            oriented.invert_axis(ndarray::Axis(world + 1));
        }
    }
    let affine = reorient(&affine, layout.extent, axes, flipped);
    Ok(Volume {
        data: oriented.as_standard_layout().into_owned(),
        spacing_mm: std::array::from_fn(|axis| column_norm(&affine, axis) as f32),
        affine,
        stored_orientation: orientation_codes(axes, flipped),
        stored_type: layout.number.name(),
    })
}

/// Voxel to world, by the standard's order of preference: sform, qform, spacing.
pub(crate) fn affine_of(header: &NiftiHeader) -> Result<Affine, String> {
    let affine = if header.sform_code > 0 {
        [header.srow_x, header.srow_y, header.srow_z].map(|row| row.map(f64::from))
    } else if header.qform_code > 0 {
        qform(header)
    } else {
        let step = |axis: usize| positive_or_one(header.pixdim[axis]);
        [[step(1), 0.0, 0.0, 0.0], [0.0, step(2), 0.0, 0.0], [0.0, 0.0, step(3), 0.0]]
    };
    if affine.iter().flatten().any(|value| !value.is_finite()) {
        return Err("has an affine that is not finite; repair its sform or qform".into());
    }
    if (0..3).any(|axis| column_norm(&affine, axis) < 1e-9) {
        return Err("has an affine with an axis of length 0; repair its sform or qform".into());
    }
    Ok(affine)
}

fn positive_or_one(step: f32) -> f64 {
    let step = f64::from(step).abs();
    if step.is_finite() && step > 0.0 { step } else { 1.0 }
}

/// Quaternion, offset and spacing of NIfTI-1 (method 2 of the standard).
fn qform(header: &NiftiHeader) -> Affine {
    let [b, c, d] = [header.quatern_b, header.quatern_c, header.quatern_d].map(f64::from);
    let a = (1.0 - b * b - c * c - d * d).max(0.0).sqrt();
    let handed = if header.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
    let step = [
        positive_or_one(header.pixdim[1]),
        positive_or_one(header.pixdim[2]),
        handed * positive_or_one(header.pixdim[3]),
    ];
    let rotation = [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ];
    let offset = [header.quatern_x, header.quatern_y, header.quatern_z].map(f64::from);
    std::array::from_fn(|row| {
        std::array::from_fn(
            |column| if column < 3 { rotation[row][column] * step[column] } else { offset[row] },
        )
    })
}

fn column_norm(affine: &Affine, column: usize) -> f64 {
    affine.iter().map(|row| row[column] * row[column]).sum::<f64>().sqrt()
}

/// For each world axis the stored axis that runs most along it, and whether it
/// runs backwards. Every stored axis is used once.
pub(crate) fn closest_axes(affine: &Affine) -> Result<([usize; 3], [bool; 3]), String> {
    let cosine = |world: usize, stored: usize| affine[world][stored] / column_norm(affine, stored);
    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    let fit = |order: &[usize; 3]| -> f64 { (0..3).map(|world| cosine(world, order[world]).abs()).product() };
    let best = ORDERS.into_iter().max_by(|left, right| fit(left).total_cmp(&fit(right)));
    match best {
        Some(axes) if fit(&axes) > 1e-6 => {
            Ok((axes, std::array::from_fn(|world| cosine(world, axes[world]) < 0.0)))
        }
        _ => Err("has an affine whose axes fall together; repair its sform or qform".into()),
    }
}

fn reorient(affine: &Affine, extent: [usize; 4], axes: [usize; 3], flipped: [bool; 3]) -> Affine {
    let mut result = [[0.0; 4]; 3];
    for row in 0..3 {
        result[row][3] = affine[row][3];
        for world in 0..3 {
            let step = affine[row][axes[world]];
            if flipped[world] {
                result[row][world] = -step;
                result[row][3] += step * (extent[axes[world]] as f64 - 1.0);
            } else {
                result[row][world] = step;
            }
        }
    }
    result
}

fn orientation_codes(axes: [usize; 3], flipped: [bool; 3]) -> String {
    let mut codes = ['?'; 3];
    for world in 0..3 {
        let pair = [('R', 'L'), ('A', 'P'), ('S', 'I')][world];
        codes[axes[world]] = if flipped[world] { pair.1 } else { pair.0 };
    }
    codes.iter().collect()
}

/// The volume's voxels as class numbers, `[D, H, W]`.
///
/// # Errors
/// More than one channel, values that are no whole numbers, or outside
/// `0..classes`.
pub fn to_labels(path: &Path, volume: &Volume, classes: usize) -> Result<Array3<u8>, DataError> {
    let (channels, ..) = volume.data.dim();
    if channels != 1 {
        return Err(DataError::file(path, format!("has {channels} channels; a label has one")));
    }
    let labels = volume.data.index_axis(ndarray::Axis(0), 0);
    if let Some(value) = labels.iter().find(|value| value.fract() != 0.0) {
        return Err(DataError::file(path, format!("holds the label {value}; labels are whole numbers")));
    }
    if let Some(value) = labels.iter().find(|value| **value < 0.0 || **value as usize >= classes) {
        return Err(DataError::file(
            path,
            format!(
                "holds the label {value}, but dataset.json declares the classes 0 to {}; declare it there or change the label",
                classes - 1
            ),
        ));
    }
    Ok(labels.mapv(|value| value as u8))
}
