//! Folders with a file per frame.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::resize::shrink_to_short_side;
use super::{FrameValues, Frames};
use crate::DataError;

/// How a frame's file is named by its number: `{:05}.jpg`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FramePattern {
    before: String,
    /// Digits, filled up with zeros.
    width: usize,
    after: String,
}

impl FramePattern {
    /// Parses `{:05}.jpg`, `img_{:05}.png`, `{:}.jpg` or `{}.jpg`.
    ///
    /// # Errors
    /// It has no or more than one number, or one of another form.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let wrong = || {
            DataError::Split(format!(
                "'{text}' does not name a frame by its number: write for example {{:05}}.jpg"
            ))
        };
        let (before, rest) = text.split_once('{').ok_or_else(wrong)?;
        let (number, after) = rest.split_once('}').ok_or_else(wrong)?;
        let digits = number.strip_prefix(':').unwrap_or(number);
        let width = match digits {
            "" => 0,
            digits => digits.strip_prefix('0').and_then(|width| width.parse().ok()).ok_or_else(wrong)?,
        };
        let plain = |part: &str| !part.contains(['{', '}', '/', '\0']);
        if width > 20 || !plain(before) || !plain(after) {
            return Err(wrong());
        }
        Ok(FramePattern { before: before.to_owned(), width, after: after.to_owned() })
    }

    /// Name of frame `number`, counted from 1.
    pub fn name(&self, number: usize) -> String {
        format!("{}{number:0width$}{}", self.before, self.after, width = self.width)
    }

    /// The number of the frame that has this name.
    fn number(&self, name: &str) -> Option<usize> {
        let digits = name.strip_prefix(self.before.as_str())?.strip_suffix(self.after.as_str())?;
        digits.parse().ok().filter(|number| self.name(*number) == name)
    }
}

/// A folder of frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameFolder {
    pub dir: PathBuf,
    pub frames: usize,
    pub pattern: FramePattern,
    pub channels: usize,
    pub short_side: Option<usize>,
}

impl FrameFolder {
    /// File of frame `index`, counted from 0.
    pub fn file(&self, index: usize) -> PathBuf {
        self.dir.join(self.pattern.name(index + 1))
    }

    /// Makes sure that every frame is there. What that takes follows from the files
    /// of the folder, however many frames are said to be in it.
    ///
    /// # Errors
    /// The folder cannot be listed or a frame is missing, by name.
    pub fn check(&self) -> Result<(), DataError> {
        let entries = std::fs::read_dir(&self.dir).map_err(|error| DataError::io(&self.dir, error))?;
        let number = |entry: std::fs::DirEntry| self.pattern.number(entry.file_name().to_str()?);
        let found: HashSet<usize> = entries
            .flatten()
            .filter_map(number)
            .filter(|number| (1..=self.frames).contains(number))
            .collect();
        match (1..=self.frames).find(|number| !found.contains(number)) {
            None => Ok(()),
            Some(first) => {
                let (missing, first) = (self.frames - found.len(), self.pattern.name(first));
                let problem = format!("{missing} of {} frames missing, first '{first}'", self.frames);
                Err(DataError::file(&self.dir, problem))
            }
        }
    }

    /// Reads frames by number from 0, shrunk to the short side.
    ///
    /// # Errors
    /// A frame is missing, unreadable, or of another size than the first, by name.
    pub fn read(&self, numbers: &[usize]) -> Result<Frames<'static>, DataError> {
        let mut all: Option<Frames<'static>> = None;
        for number in numbers {
            let path = self.file(*number);
            let frame = self.read_one(&path)?;
            match &mut all {
                None => all = Some(frame),
                Some(all) if (all.height, all.width) == (frame.height, frame.width) => {
                    if let (FrameValues::U8(all), FrameValues::U8(new)) = (&mut all.values, frame.values) {
                        all.extend(new);
                    }
                }
                Some(all) => {
                    let (h, w) = (frame.height, frame.width);
                    let problem = format!("is {h}x{w}, frames before it are {}x{}", all.height, all.width);
                    return Err(DataError::file(&path, problem));
                }
            }
        }
        all.ok_or_else(|| DataError::file(&self.dir, "no frame was asked for"))
    }

    fn read_one(&self, path: &Path) -> Result<Frames<'static>, DataError> {
        let file = std::fs::read(path).map_err(|error| DataError::io(path, error))?;
        // Decoders of a reader's type would be compiled here, for minutes.
        let image = image::load_from_memory(&file)
            .map_err(|error| DataError::file(path, format!("is no readable JPEG or PNG image: {error}")))?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let values =
            if self.channels == 1 { image.into_luma8().into_raw() } else { image.into_rgb8().into_raw() };
        let values = FrameValues::U8(vec![Cow::Owned(values)]);
        let frames = Frames { height, width, channels: self.channels, values };
        shrink_to_short_side(frames, self.short_side)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_frames() {
        for (pattern, name) in [
            ("{:05}.jpg", "00007.jpg"),
            ("img_{:03}.png", "img_007.png"),
            ("{:}.jpg", "7.jpg"),
            ("f{}", "f7"),
        ] {
            assert_eq!(FramePattern::parse(pattern).unwrap().name(7), name);
        }
        for wrong in ["a.jpg", "{:05", "{:5}.jpg", "{:0x}.jpg", "{:05}{:05}.jpg", "{name}.jpg", "{:099}.jpg"]
        {
            let error = FramePattern::parse(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains("{:05}.jpg"), "{error}");
        }
    }

    #[test]
    fn missing_frames_are_counted_without_going_through_them() {
        let dir = tempfile::TempDir::new().unwrap();
        // The last three are no frames of the pattern.
        for name in ["001.png", "002.png", "1000.png", "0003.png", "+03.png", "003.jpg"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let pattern = FramePattern::parse("{:03}.png").unwrap();
        let folder = |frames: usize| FrameFolder {
            dir: dir.path().to_owned(),
            frames,
            pattern: pattern.clone(),
            channels: 3,
            short_side: None,
        };
        folder(2).check().unwrap();
        let error = folder(usize::MAX).check().unwrap_err().to_string();
        let said = format!("{} of {} frames missing, first '003.png'", usize::MAX - 3, usize::MAX);
        assert!(error.contains(&said), "{error}");
    }
}
