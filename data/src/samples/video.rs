//! Clips as files or as folders of frames, decoded into the cache.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::cache::{Cache, CacheKey, EntryWriter, Mapped, ValueType};
use super::ffmpeg::Ffmpeg;
use super::frames::{FrameFolder, FramePattern};
use super::lists::{ListedClip, ListedClips, folds_of_folders, two_lists};
use super::resize::shrink_to_short_side;
use super::source::{VideoLayout, VideoSource};
use super::{Entry, FrameValues, Frames, OpenOptions, Place, Sides, Skipped, tolerated};
use crate::DataError;

/// Decodes clips, once.
#[derive(Debug)]
pub(super) struct VideoStore {
    cache: Cache,
    /// None where no file is to be decoded.
    ffmpeg: Option<Ffmpeg>,
    channels: usize,
    short_side: Option<usize>,
}

/// An opened set of clips.
#[derive(Debug)]
pub(super) struct OpenedVideo {
    pub name: String,
    pub classes: Vec<String>,
    pub entries: Vec<Entry>,
    pub sides: Sides,
    pub skipped: Vec<Skipped>,
    pub store: VideoStore,
}

/// Lists the clips, decodes those that are not in the cache yet, and finds those
/// that cannot be read.
///
/// Folders of frames are decoded whole where all of them fit into the cache
/// together. Otherwise a frame is decoded when it is asked for, and here it is only
/// made sure that every frame is there: clips that push each other out of the
/// cache would be decoded over and over.
pub(super) fn open(
    source: &VideoSource,
    root: &Path,
    cache: Cache,
    options: &OpenOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<OpenedVideo, DataError> {
    let root = root.join(&source.path);
    if !root.is_dir() {
        return Err(DataError::file(&root, "is no folder; give the folder that holds the clips"));
    }
    let channels = options.channels.unwrap_or(3);
    if ![1, 3].contains(&channels) {
        return Err(DataError::file(&root, format!("video has 1 or 3 channels, {channels} were asked for")));
    }
    let (listed, pattern) = list(&source.layout, &root)?;
    let ffmpeg = if pattern.is_none() { Some(Ffmpeg::find()?) } else { None };
    let store = VideoStore { cache, ffmpeg, channels, short_side: options.short_side };
    let ListedClips { clips, classes, sides } = listed;
    let places = match pattern {
        None => clips.iter().map(|clip| Clip::File(root.join(&clip.name))).collect(),
        Some(pattern) => store.folders(&root, &clips, &pattern),
    };
    let done = AtomicUsize::new(0);
    let prepared: Vec<Result<Place, DataError>> = places
        .into_par_iter()
        .map(|clip| {
            let place = store.prepare(clip);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, clips.len());
            place
        })
        .collect();
    let (mut entries, mut skipped, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (clip, place)) in clips.into_iter().zip(prepared).enumerate() {
        let place = match place {
            Ok(place) => place,
            Err(error) if is_of_clip(&error, &root) => {
                broken.push(index);
                skipped.push(Skipped { name: clip.name.clone(), reason: reason(&error, &root, &clip.name) });
                Place::Broken
            }
            Err(error) => return Err(error),
        };
        entries.push(Entry { name: clip.name, label: clip.label, place });
    }
    tolerated(&root, &skipped, source.tolerate)?;
    let name = root.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(OpenedVideo { name, classes, entries, sides: sides.without(&broken), skipped, store })
}

/// Clips of a layout, and how frames are named where they are files of their own.
fn list(layout: &VideoLayout, root: &Path) -> Result<(ListedClips, Option<FramePattern>), DataError> {
    Ok(match layout {
        VideoLayout::FrameLists { training_list, validation_list, pattern } => {
            let pattern = FramePattern::parse(pattern)?;
            (two_lists(root, training_list, validation_list, true)?, Some(pattern))
        }
        VideoLayout::FileLists { training_list, validation_list } => {
            (two_lists(root, training_list, validation_list, false)?, None)
        }
        VideoLayout::ClassFolders { fold, folds, seed } => {
            (folds_of_folders(root, *fold, *folds, *seed)?, None)
        }
    })
}

/// Whether an error is one of the clip, not of the cache or of FFmpeg.
fn is_of_clip(error: &DataError, root: &Path) -> bool {
    match error {
        DataError::File { path, .. } | DataError::Io { path, .. } => path.starts_with(root),
        _ => false,
    }
}

/// What is wrong, with the file where it is one of several of the clip.
fn reason(error: &DataError, root: &Path, clip: &str) -> String {
    let inside = match error {
        DataError::File { path, .. } | DataError::Io { path, .. } => {
            path.strip_prefix(root.join(clip)).ok().filter(|inside| !inside.as_os_str().is_empty())
        }
        _ => None,
    };
    inside.map_or(error.problem(), |inside| format!("{}: {}", inside.display(), error.problem()))
}

/// A clip that was not looked at yet.
enum Clip {
    File(PathBuf),
    Frames { folder: FrameFolder, is_kept: bool },
}

impl VideoStore {
    fn folders(&self, root: &Path, clips: &[ListedClip], pattern: &FramePattern) -> Vec<Clip> {
        let folders: Vec<FrameFolder> = clips
            .iter()
            .map(|clip| FrameFolder {
                dir: root.join(&clip.name),
                frames: clip.frames.unwrap_or(0),
                pattern: pattern.clone(),
                channels: self.channels,
                short_side: self.short_side,
            })
            .collect();
        // The first clip that can be read speaks for all.
        let first = folders.iter().find_map(|folder| folder.read(&[0]).ok());
        let frame_bytes = first.map_or(0, |frame| (frame.height * frame.width * frame.channels) as u64);
        let bytes = bytes_of_frames(frame_bytes, folders.iter().map(|folder| folder.frames));
        let is_kept = bytes < self.cache.limit_bytes();
        folders.into_iter().map(|folder| Clip::Frames { folder, is_kept }).collect()
    }

    fn prepare(&self, clip: Clip) -> Result<Place, DataError> {
        match clip {
            Clip::File(path) => {
                let key = CacheKey::of(std::slice::from_ref(&path), &self.how())?;
                self.map_file(&path, key)?;
                Ok(Place::File { path, key })
            }
            Clip::Frames { folder, is_kept: false } => {
                folder.check()?;
                Ok(Place::Frames { folder: Arc::new(folder), key: None })
            }
            Clip::Frames { folder, is_kept: true } => {
                folder.check()?;
                let files: Vec<PathBuf> = (0..folder.frames).map(|index| folder.file(index)).collect();
                let key = CacheKey::of(&files, &self.how())?;
                self.map_folder(&folder, key)?;
                Ok(Place::Frames { folder: Arc::new(folder), key: Some(key) })
            }
        }
    }

    fn how(&self) -> String {
        format!("video, {} channels, short side {:?}", self.channels, self.short_side)
    }

    /// The decoded frames of a file, `[T, H, W, C]`.
    pub fn map_file(&self, path: &Path, key: CacheKey) -> Result<Arc<Mapped>, DataError> {
        let ffmpeg = self.ffmpeg.as_ref().ok_or_else(|| DataError::file(path, "is no folder of frames"))?;
        self.cache.get_or_make(key, |out| {
            let mut kept = KeptFrames { out, cache: &self.cache, source: path, size: None, count: 0 };
            ffmpeg.decode(path, self.channels, &mut |frame| {
                let values = FrameValues::U8(vec![frame.values.into()]);
                let frame =
                    Frames { height: frame.height, width: frame.width, channels: self.channels, values };
                kept.push(&shrink_to_short_side(frame, self.short_side)?)
            })?;
            kept.shape()
        })
    }

    /// The frames of a folder, `[T, H, W, C]`.
    pub fn map_folder(&self, folder: &FrameFolder, key: CacheKey) -> Result<Arc<Mapped>, DataError> {
        self.cache.get_or_make(key, |out| {
            let mut kept = KeptFrames { out, cache: &self.cache, source: &folder.dir, size: None, count: 0 };
            for number in 0..folder.frames {
                kept.push(&folder.read(&[number])?)?;
            }
            kept.shape()
        })
    }
}

/// Bytes of all frames of clips; lists may say numbers whose product is no number.
fn bytes_of_frames(frame_bytes: u64, frames: impl Iterator<Item = usize>) -> u64 {
    let bytes = frames.map(|frames| frame_bytes.saturating_mul(frames as u64));
    bytes.fold(0, u64::saturating_add)
}

/// Writes frames of one size.
struct KeptFrames<'a> {
    out: &'a mut EntryWriter,
    cache: &'a Cache,
    source: &'a Path,
    /// H, W, C of the first frame.
    size: Option<[usize; 3]>,
    count: usize,
}

impl KeptFrames<'_> {
    fn push(&mut self, frame: &Frames<'_>) -> Result<(), DataError> {
        let size = [frame.height, frame.width, frame.channels];
        let first = *self.size.get_or_insert(size);
        if size != first {
            let problem = format!(
                "frame {} is {}x{}, frames before it are {}x{}",
                self.count, size[0], size[1], first[0], first[1]
            );
            return Err(DataError::file(self.source, problem));
        }
        self.count += 1;
        let FrameValues::U8(values) = &frame.values else { return Ok(()) };
        for values in values {
            self.out.write_all(values).map_err(|error| self.cache.not_written(&error))?;
        }
        self.cache.check_fits(self.out.written(), self.source)
    }

    fn shape(self) -> Result<(ValueType, Vec<usize>), DataError> {
        let [h, w, c] = self.size.ok_or_else(|| DataError::file(self.source, "holds no frame"))?;
        Ok((ValueType::U8, vec![self.count, h, w, c]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_cannot_be_counted_are_more_than_any_cache_takes() {
        assert_eq!(bytes_of_frames(144, [7, 5].into_iter()), 1728);
        assert_eq!(bytes_of_frames(1 << 40, [1 << 30].into_iter()), u64::MAX);
        assert_eq!(bytes_of_frames(1, [usize::MAX, 1].into_iter()), u64::MAX);
    }
}
