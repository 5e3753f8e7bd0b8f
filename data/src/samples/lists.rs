//! Lists of clips and folders of classes: which clips there are, of what class,
//! and which validate.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::Sides;
use crate::DataError;
use crate::inside::inside;

/// Larger labels are no numbers of classes.
const CLASSES_MAX: usize = 100_000;

/// Frames of a clip at most, four days at 30 a second; more is a slip of the pen.
pub const FRAMES_MAX: usize = 10_000_000;

/// A clip by its name in the data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedClip {
    /// Path of its file or folder, relative to the data set's folder.
    pub name: String,
    /// Frames, where the list says so.
    pub frames: Option<usize>,
    pub label: usize,
}

/// Clips of a data set and their sides.
#[derive(Clone, Debug)]
pub(super) struct ListedClips {
    pub clips: Vec<ListedClip>,
    pub classes: Vec<String>,
    pub sides: Sides,
}

/// Reads a list: `FOLDER FRAMES CLASS` with frames, else `FILE CLASS`, in every
/// line that is not empty. Names may hold blanks.
///
/// # Errors
/// The list cannot be read, is empty, or a line is not as expected, by its number.
pub fn read_list(path: &Path, has_frames: bool) -> Result<Vec<ListedClip>, DataError> {
    let text = fs::read_to_string(path).map_err(|error| DataError::io(path, error))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let clips = lines.map(|(index, line)| {
        parse_line(line.trim(), has_frames)
            .map_err(|problem| DataError::file(path, format!("line {}: {problem}", index + 1)))
    });
    let clips = clips.collect::<Result<Vec<_>, _>>()?;
    let mut seen = BTreeSet::new();
    match clips.iter().find(|clip| !seen.insert(&clip.name)) {
        Some(twice) => Err(DataError::file(path, format!("lists '{}' twice", twice.name))),
        None if clips.is_empty() => Err(DataError::file(path, "is empty")),
        None => Ok(clips),
    }
}

fn parse_line(line: &str, has_frames: bool) -> Result<ListedClip, String> {
    let form = if has_frames { "FOLDER FRAMES CLASS" } else { "FILE CLASS" };
    let unlike = || format!("'{line}' is not '{form}'");
    let (rest, label) = line.rsplit_once(char::is_whitespace).ok_or_else(unlike)?;
    let label: usize = label.parse().map_err(|_| {
        format!("'{label}' is no number of a class; {form} is expected, classes count from 0")
    })?;
    if label >= CLASSES_MAX {
        return Err(format!("class {label} is not below {CLASSES_MAX}"));
    }
    let (name, frames) = if has_frames {
        let (name, frames) = rest.trim_end().rsplit_once(char::is_whitespace).ok_or_else(unlike)?;
        let frames: usize = frames
            .parse()
            .ok()
            .filter(|frames| *frames > 0)
            .ok_or_else(|| format!("'{frames}' is no number of frames from 1; {form} is expected"))?;
        if frames > FRAMES_MAX {
            return Err(format!("a clip of {frames} frames is longer than {FRAMES_MAX}; correct the number"));
        }
        (name, Some(frames))
    } else {
        (rest, None)
    };
    let name = name.trim().to_owned();
    // Whoever writes a list reads no files with it that are not of the data set.
    inside(&name)?;
    Ok(ListedClip { name, frames, label })
}

/// Clips of two lists. Classes are 0 to the highest that occurs.
pub(super) fn two_lists(
    root: &Path,
    training: &Path,
    validation: &Path,
    has_frames: bool,
) -> Result<ListedClips, DataError> {
    let mut clips = read_list(&root.join(training), has_frames)?;
    let validating = read_list(&root.join(validation), has_frames)?;
    let known: BTreeSet<&String> = clips.iter().map(|clip| &clip.name).collect();
    if let Some(both) = validating.iter().find(|clip| known.contains(&clip.name)) {
        let problem = format!("lists '{}', which {} lists too", both.name, training.display());
        return Err(DataError::file(&root.join(validation), problem));
    }
    let first = clips.len();
    clips.extend(validating);
    let classes = clips.iter().map(|clip| clip.label + 1).max().unwrap_or(0);
    Ok(ListedClips {
        sides: Sides { training: (0..first).collect(), validation: (first..clips.len()).collect() },
        classes: (0..classes).map(|class| class.to_string()).collect(),
        clips,
    })
}

/// Clips in `CLASS/FILE`, sorted by name; hidden files are left out.
///
/// # Errors
/// There are not at least two folders, or one is empty.
pub fn class_folders(root: &Path) -> Result<(Vec<ListedClip>, Vec<String>), DataError> {
    let mut folders: Vec<PathBuf> = list(root)?.into_iter().filter(|path| path.is_dir()).collect();
    folders.sort();
    if folders.len() < 2 {
        return Err(DataError::file(
            root,
            format!("holds {} folder(s); every class needs one with its clips", folders.len()),
        ));
    }
    let (mut clips, mut classes) = (Vec::new(), Vec::new());
    for folder in folders {
        let class = file_name(&folder);
        let mut files: Vec<PathBuf> = list(&folder)?.into_iter().filter(|path| path.is_file()).collect();
        files.sort();
        if files.is_empty() {
            return Err(DataError::file(&folder, "is the folder of a class, but holds no file"));
        }
        clips.extend(files.iter().map(|file| ListedClip {
            name: format!("{class}/{}", file_name(file)),
            frames: None,
            label: classes.len(),
        }));
        classes.push(class);
    }
    Ok((clips, classes))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |error| DataError::io(dir, error);
    let entries = fs::read_dir(dir).map_err(io)?;
    let paths = entries.map(|entry| Ok(entry.map_err(io)?.path())).collect::<Result<Vec<_>, _>>()?;
    Ok(paths.into_iter().filter(|path| !file_name(path).starts_with('.')).collect())
}

/// Clips of class folders, fold `fold` of `folds` validating.
pub(super) fn folds_of_folders(
    root: &Path,
    fold: u32,
    folds: u32,
    seed: u64,
) -> Result<ListedClips, DataError> {
    let (clips, classes) = class_folders(root)?;
    let sources = sources(&clips);
    let dealt = deal(&clips, &sources, classes.len(), folds as usize, seed);
    let (validation, training) = (0..clips.len()).partition(|clip| dealt[*clip] == fold as usize);
    Ok(ListedClips { clips, classes, sides: Sides { training, validation } })
}

/// The source of a clip by its file's name: what stands before the last part, as
/// `_` and `-` divide it, that ends in a digit. `pat1_120303.mpeg` is of `pat1`,
/// `walk_v2_crop.mov` of `walk`. A name without such a part is its own source.
pub fn source_of(file: &str) -> &str {
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let mut end = stem.len();
    loop {
        let start = stem[..end].rfind(['_', '-']).map_or(0, |at| at + 1);
        if start == 0 {
            return stem;
        }
        if stem[start..end].ends_with(|last: char| last.is_ascii_digit()) {
            return stem[..start].trim_end_matches(['_', '-']);
        }
        end = start - 1;
    }
}

/// The source of each clip. A class of one source is dealt out file by file:
/// there is no other way to have it on both sides.
pub fn sources(clips: &[ListedClip]) -> Vec<String> {
    let own = |clip: &ListedClip| clip.name.rsplit('/').next().unwrap_or_default().to_owned();
    let mut of_class: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for clip in clips {
        of_class.entry(clip.label).or_default().insert(source_of(&own(clip)).to_owned());
    }
    let of = |clip: &ListedClip| {
        let name = own(clip);
        if of_class[&clip.label].len() > 1 { source_of(&name).to_owned() } else { clip.name.clone() }
    };
    clips.iter().map(of).collect()
}

/// The fold of each clip. Sources stay whole; the largest are dealt first, each to
/// the fold that has the fewest clips of its classes so far.
fn deal(clips: &[ListedClip], sources: &[String], classes: usize, folds: usize, seed: u64) -> Vec<usize> {
    let mut groups: BTreeMap<&String, Vec<usize>> = BTreeMap::new();
    for (clip, source) in sources.iter().enumerate() {
        groups.entry(source).or_default().push(clip);
    }
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    groups.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let mut filled = vec![vec![0; classes]; folds];
    let mut fold_of = vec![0; clips.len()];
    for group in groups {
        let load = |fold: &Vec<usize>| {
            let of_classes: usize = group.iter().map(|clip| fold[clips[*clip].label]).sum();
            (of_classes, fold.iter().sum::<usize>())
        };
        let fold = (0..folds).min_by_key(|fold| load(&filled[*fold])).unwrap_or(0);
        for clip in group {
            filled[fold][clips[clip].label] += 1;
            fold_of[clip] = fold;
        }
    }
    fold_of
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sources_of_names() {
        for (file, source) in [
            ("Cov_convex_volpecelli_sonographic_v1.mov", "Cov_convex_volpecelli_sonographic"),
            ("Reg_pat1Image_132943.mpeg", "Reg_pat1Image"),
            ("Reg_Image_181602_trimmed_crop.mp4", "Reg_Image"),
            ("Cov_recommendations_lightbeam_mov6.mov", "Cov_recommendations_lightbeam"),
            ("v_Diving_g03_c02.avi", "v_Diving_g03"),
            ("set2_vid-1.avi", "set2_vid"),
            ("Reg-NormalLungs.mp4", "Reg-NormalLungs"),
            ("clip001.mp4", "clip001"),
            ("7.mp4", "7"),
            ("noending", "noending"),
        ] {
            assert_eq!(source_of(file), source, "{file}");
        }
    }

    #[test]
    fn lines_that_are_no_clips_are_named_by_number() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("train.txt");
        let read = |text: &str, has_frames: bool| {
            fs::write(&path, text).unwrap();
            read_list(&path, has_frames).map_err(|error| error.to_string())
        };
        let clips = read("a b/1 7 2\n\nc\t3 0\r\n", true).unwrap();
        let expected = [("a b/1", 7, 2), ("c", 3, 0)].map(|(name, frames, label)| ListedClip {
            name: name.into(),
            frames: Some(frames),
            label,
        });
        assert_eq!(clips, expected);
        assert_eq!(read("x y.mp4 1", false).unwrap()[0].name, "x y.mp4");
        for (text, has_frames, problem) in [
            ("a 3 0\na 3 cat", true, "line 2: 'cat' is no number of a class"),
            ("a 3", true, "line 1: 'a 3' is not 'FOLDER FRAMES CLASS'"),
            ("a 0 1", true, "'0' is no number of frames"),
            ("a 10000000 0\nb 10000001 1", true, "line 2: a clip of 10000001 frames is longer than 10000000"),
            ("a -1", false, "'-1' is no number of a class"),
            ("a 4000000000", false, "not below"),
            ("a 1\na 2", false, "lists 'a' twice"),
            ("\n \n", false, "is empty"),
        ] {
            let error = read(text, has_frames).unwrap_err();
            assert!(error.contains(problem) && error.contains("train.txt"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn folds_keep_sources_whole_and_are_together_complete(
            sizes in proptest::collection::vec((0_usize..3, 1_usize..9), 6..30), folds in 2_u32..6, seed in any::<u64>(),
        ) {
            let mut clips = Vec::new();
            for (source, (label, size)) in sizes.iter().enumerate() {
                clips.extend((0..*size).map(|take| ListedClip {
                    name: format!("{label}/source{source}_{take}.avi"), frames: None, label: *label,
                }));
            }
            let sources = sources(&clips);
            let dealt = deal(&clips, &sources, 3, folds as usize, seed);
            prop_assert_eq!(&dealt, &deal(&clips, &sources, 3, folds as usize, seed));
            prop_assert!(dealt.iter().all(|fold| *fold < folds as usize));
            for (one, first) in sources.iter().enumerate() {
                for (other, second) in sources.iter().enumerate() {
                    prop_assert!(first != second || dealt[one] == dealt[other]);
                }
            }
            // A class with two sources or more trains in every fold.
            for label in 0..3 {
                let of_class: Vec<usize> = (0..clips.len()).filter(|clip| clips[*clip].label == label).collect();
                let distinct: BTreeSet<usize> = of_class.iter().map(|clip| dealt[*clip]).collect();
                prop_assert!(of_class.len() < 2 || distinct.len() > 1);
            }
        }
    }
}
