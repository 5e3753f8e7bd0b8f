//! Files as users have them: every number type, any orientation, and broken ones.

mod common;

use std::fs;
use std::path::PathBuf;

use cakes_data::nifti_file::{Volume, read_volume, to_labels};
use common::{Nifti, gzip};
use tempfile::TempDir;

/// Reads `nifti` back from a file of that name.
fn read_as(name: &str, nifti: &Nifti) -> Result<Volume, String> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    nifti.write(&path);
    read_volume(&path).map_err(|error| error.to_string())
}

fn refused(nifti: &Nifti) -> String {
    let error = read_as("case_07.nii.gz", nifti).expect_err("must be refused");
    assert!(error.contains("case_07.nii.gz"), "the file is not named: {error}");
    error
}

#[test]
fn every_number_type_is_read_in_both_byte_orders() {
    let values = [0_u8, 1, 5, 100, 7, 2, 3, 4];
    macro_rules! body {
        ($type:ty, $to:ident) => {
            values.iter().flat_map(|value| (*value as $type).$to()).collect::<Vec<u8>>()
        };
    }
    let types = [
        (2, body!(u8, to_le_bytes), body!(u8, to_be_bytes), "uint8"),
        (256, body!(i8, to_le_bytes), body!(i8, to_be_bytes), "int8"),
        (512, body!(u16, to_le_bytes), body!(u16, to_be_bytes), "uint16"),
        (4, body!(i16, to_le_bytes), body!(i16, to_be_bytes), "int16"),
        (768, body!(u32, to_le_bytes), body!(u32, to_be_bytes), "uint32"),
        (8, body!(i32, to_le_bytes), body!(i32, to_be_bytes), "int32"),
        (1280, body!(u64, to_le_bytes), body!(u64, to_be_bytes), "uint64"),
        (1024, body!(i64, to_le_bytes), body!(i64, to_be_bytes), "int64"),
        (16, body!(f32, to_le_bytes), body!(f32, to_be_bytes), "float32"),
        (64, body!(f64, to_le_bytes), body!(f64, to_be_bytes), "float64"),
    ];
    for (code, little, big, name) in types {
        for (body, big_endian) in [(little, false), (big, true)] {
            let nifti = Nifti { big_endian, ..Nifti::new([2, 2, 2], code, body) };
            for file in ["v.nii", "v.nii.gz"] {
                let volume = read_as(file, &nifti).unwrap();
                assert_eq!(volume.stored_type, name);
                // The first stored axis runs fastest.
                assert_eq!(volume.data[[0, 1, 0, 0]], 1.0, "{name}");
                assert_eq!(volume.data[[0, 0, 1, 0]], 5.0, "{name}");
                assert_eq!(volume.data[[0, 1, 1, 0]], 100.0, "{name}");
                assert_eq!(volume.data[[0, 1, 1, 1]], 4.0, "{name}");
            }
        }
    }
}

#[test]
fn negative_integers_keep_their_sign() {
    let body = [-1000_i16, -1, 0, 1000].iter().flat_map(|value| value.to_le_bytes()).collect();
    let volume = read_as("v.nii", &Nifti::new([4, 1, 1], 4, body)).unwrap();
    assert_eq!(volume.data.iter().copied().collect::<Vec<f32>>(), [-1000.0, -1.0, 0.0, 1000.0]);
}

#[test]
fn slope_and_intercept_apply_and_a_slope_of_zero_means_none() {
    let base = Nifti::new([2, 1, 1], 2, vec![10, 20]);
    let with = |slope, intercept| {
        let volume = read_as("v.nii", &Nifti { slope, intercept, ..base.clone() }).unwrap();
        volume.data.iter().copied().collect::<Vec<f32>>()
    };
    assert_eq!(with(0.5, -3.0), [2.0, 7.0]);
    assert_eq!(with(0.0, 5.0), [10.0, 20.0]);
    assert_eq!(with(f32::NAN, 5.0), [10.0, 20.0]);
    assert_eq!(with(-1.0, 0.0), [-10.0, -20.0]);
}

/// Volumes come out as right, anterior, superior, whatever way they are stored.
#[test]
fn an_affine_that_turns_and_flips_is_undone() {
    // Stored i runs inferior, j runs left, k runs anterior; 2, 3 and 4 mm.
    let srow = [[0.0, -3.0, 0.0, 30.0], [0.0, 0.0, 4.0, 5.0], [-2.0, 0.0, 0.0, 7.0]];
    let body: Vec<u8> = (0..24).collect();
    let nifti = Nifti { srow, ..Nifti::new([2, 3, 4], 2, body) };
    let volume = read_as("v.nii.gz", &nifti).unwrap();
    assert_eq!(volume.stored_orientation, "ILA");
    assert_eq!(volume.data.dim(), (1, 3, 4, 2));
    assert_eq!(volume.spacing_mm, [3.0, 4.0, 2.0]);
    // The first voxel is now the one that was last along i and j.
    assert_eq!(volume.data[[0, 0, 0, 0]], (1 + 2 * 2) as f32);
    assert_eq!(volume.data[[0, 2, 3, 1]], (3 * 2 * 3) as f32);
    // World position of that first voxel: stored (1, 2, 0).
    let corner: Vec<f64> = volume.affine.iter().map(|row| row[3]).collect();
    assert_eq!(corner, [30.0 - 6.0, 5.0, 7.0 - 2.0]);
}

#[test]
fn a_qform_serves_where_there_is_no_sform() {
    // Half a turn about the third axis (quaternion d = 1) with a mirrored third axis.
    let mut nifti = Nifti::new([2, 1, 2], 2, vec![1, 2, 3, 4]);
    nifti.sform_code = 0;
    nifti.qform_code = 1;
    nifti.quatern = [0.0, 0.0, 1.0, 9.0, 8.0, 7.0];
    nifti.pixdim = [-1.0, 1.5, 2.0, 2.5, 1.0, 1.0, 1.0, 1.0];
    let volume = read_as("v.nii", &nifti).unwrap();
    assert_eq!(volume.stored_orientation, "LPI");
    assert_eq!(volume.spacing_mm, [1.5, 2.0, 2.5]);
    assert_eq!(volume.data.iter().copied().collect::<Vec<f32>>(), [4.0, 2.0, 3.0, 1.0]);
}

#[test]
fn a_file_without_any_affine_is_read_as_it_is_stored() {
    let nifti = Nifti {
        sform_code: 0,
        pixdim: [1.0, 0.5, 0.0, 2.0, 1.0, 1.0, 1.0, 1.0],
        ..Nifti::new([2, 1, 1], 2, vec![1, 2])
    };
    let volume = read_as("v.nii", &nifti).unwrap();
    assert_eq!(volume.spacing_mm, [0.5, 1.0, 2.0]);
    assert_eq!(volume.stored_orientation, "RAS");
}

#[test]
fn an_affine_that_maps_to_a_plane_is_refused() {
    let flat = [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    let error = refused(&Nifti { srow: flat, ..Nifti::new([2, 2, 2], 2, vec![0; 8]) });
    assert!(error.contains("affine") && error.contains("sform"), "{error}");
    let none = [[0.0; 4]; 3];
    assert!(refused(&Nifti { srow: none, ..Nifti::new([2, 2, 2], 2, vec![0; 8]) }).contains("length 0"));
    let nan = [[f32::NAN; 4]; 3];
    assert!(refused(&Nifti { srow: nan, ..Nifti::new([2, 2, 2], 2, vec![0; 8]) }).contains("not finite"));
}

#[test]
fn a_fourth_axis_holds_channels_and_a_fifth_is_refused() {
    let mut nifti = Nifti::new([2, 1, 1], 2, vec![1, 2, 3, 4]);
    nifti.dim = vec![2, 1, 1, 2];
    let volume = read_as("v.nii", &nifti).unwrap();
    assert_eq!(volume.data.dim(), (2, 2, 1, 1));
    assert_eq!(volume.data[[1, 0, 0, 0]], 3.0);
    nifti.dim = vec![2, 1, 1, 1, 2];
    let error = refused(&nifti);
    assert!(error.contains("5 axes"), "{error}");
    nifti.dim = vec![2, 2];
    assert!(refused(&nifti).contains("2 axes"));
}

#[test]
fn complex_numbers_colours_and_unknown_types_are_refused_with_a_remedy() {
    for (code, words) in [(32, "complex"), (128, "colours"), (2304, "colours"), (1536, "1536"), (0, "0")] {
        let error = refused(&Nifti::new([1, 1, 1], code, vec![0; 32]));
        assert!(error.contains(words) && error.contains("convert"), "{code}: {error}");
    }
}

#[test]
fn voxels_that_are_not_finite_are_counted() {
    let values = [1.0, f32::NAN, f32::INFINITY, 2.0];
    let error = refused(&Nifti::floats([4, 1, 1], &values));
    assert!(error.contains("2 voxels") && error.contains("NaN"), "{error}");
    // A finite number whose scaling overflows is no better.
    let nifti = Nifti { slope: 3e38, ..Nifti::floats([1, 1, 1], &[3e38]) };
    assert!(refused(&nifti).contains("infinite"));
}

#[test]
fn a_truncated_file_is_told_from_a_damaged_one() {
    let folder = TempDir::new().unwrap();
    // Incompressible, so that half of the file is half of the voxels.
    let noise: Vec<f32> = (0..4096).map(|index| ((index * 2_654_435_761_u64) % 9973) as f32).collect();
    let nifti = Nifti::floats([16, 16, 16], &noise);
    let whole = gzip(&nifti.bytes());
    let read = |name: &str, bytes: &[u8]| {
        let path: PathBuf = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        read_volume(&path).map_err(|error| error.to_string())
    };
    assert!(read("whole.nii.gz", &whole).is_ok());
    for length in [0, 5, 30, whole.len() / 2, whole.len() - 1] {
        let error = read("cut.nii.gz", &whole[..length]).unwrap_err();
        assert!(error.contains("cut.nii.gz") && error.contains("copy it again"), "{length}: {error}");
    }
    let plain = nifti.bytes();
    for length in [0, 347, 360, plain.len() - 1] {
        let error = read("cut.nii", &plain[..length]).unwrap_err();
        assert!(error.contains("truncated"), "{length}: {error}");
    }
    let mut damaged = whole;
    let checksum = damaged.len() - 6;
    damaged[checksum] ^= 0xff;
    let error = read("damaged.nii.gz", &damaged).unwrap_err();
    assert!(error.contains("gzip"), "{error}");
}

#[test]
fn what_is_no_nifti_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("photo.nii");
    fs::write(&path, vec![b'x'; 4000]).unwrap();
    assert!(read_volume(&path).unwrap_err().to_string().contains("no NIfTI-1 file"));
    assert!(refused(&Nifti { magic: *b"abc\0", ..Nifti::new([1, 1, 1], 2, vec![0]) }).contains("no NIfTI-1"));
    let missing = read_volume(&folder.path().join("none.nii.gz")).unwrap_err().to_string();
    assert!(missing.contains("none.nii.gz"), "{missing}");
}

/// A header can promise anything; memory is taken only for what is there.
#[test]
fn promises_that_the_file_cannot_keep_are_refused_before_memory_is_taken() {
    let mut nifti = Nifti::new([1, 1, 1], 64, vec![0; 8]);
    nifti.dim = vec![32_767, 32_767, 32_767];
    assert!(refused(&nifti).contains("voxels"));
    nifti.dim = vec![800, 800, 800];
    let error = refused(&nifti);
    assert!(error.contains("promises"), "{error}");
    nifti.dim = vec![0, 1, 1];
    assert!(refused(&nifti).contains("voxels"));
    nifti.dim = vec![-3, 1, 1];
    read_as("v.nii", &nifti).expect_err("a negative size");
    let far = Nifti { vox_offset: 1e12, ..Nifti::new([1, 1, 1], 2, vec![0]) };
    assert!(refused(&far).contains("begin at byte"));
}

#[test]
fn a_gzip_bomb_stops_at_the_size_that_its_header_promises() {
    // 64 MB of zeros in 64 kB, behind a header for one voxel.
    let mut nifti = Nifti::new([1, 1, 1], 2, vec![0; 64 << 20]);
    let error = refused(&nifti);
    assert!(error.contains("goes on behind"), "{error}");
    nifti.body = vec![7; 200];
    assert_eq!(read_as("v.nii.gz", &nifti).unwrap().data[[0, 0, 0, 0]], 7.0);
}

#[test]
fn labels_must_be_whole_numbers_of_declared_classes() {
    let path = PathBuf::from("labelsTr/a.nii.gz");
    let labels = |values: &[f32], classes| {
        let volume = read_as("v.nii", &Nifti::floats([values.len() as i16, 1, 1], values)).unwrap();
        to_labels(&path, &volume, classes).map_err(|error| error.to_string())
    };
    assert_eq!(labels(&[0.0, 2.0], 3).unwrap().iter().copied().collect::<Vec<u8>>(), [0, 2]);
    let error = labels(&[0.0, 3.0], 3).unwrap_err();
    assert!(error.contains("a.nii.gz") && error.contains("label 3") && error.contains("0 to 2"), "{error}");
    assert!(labels(&[-1.0], 3).unwrap_err().contains("-1"));
    assert!(labels(&[0.5], 3).unwrap_err().contains("whole numbers"));
    assert!(labels(&[1e9], 3).is_err());
}
