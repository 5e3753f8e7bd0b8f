//! Video files, decoded by the command `ffmpeg`.
//!
//! Frames come through a pipe as a stream of PNM images, each with its size before
//! it. What a container says of the number of frames or their size is not used: it
//! is wrong in files that play.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::DataError;

/// Names the program where it is not in `PATH`.
pub const PROGRAM_VARIABLE: &str = "CAKES_FFMPEG";

/// What installs it on Debian and Ubuntu.
pub const INSTALL: &str = "sudo apt-get install -y --no-install-recommends ffmpeg";

/// Longest time for a file. A clip of minutes takes seconds.
const TIME_LIMIT: Duration = Duration::from_secs(600);

/// Larger frames are a broken header.
const SIDE_MAX: usize = 16_384;

/// The installed program.
#[derive(Clone, Debug)]
pub struct Ffmpeg {
    program: PathBuf,
    /// How this version is told to keep every frame once.
    keep_frames: [&'static str; 2],
    time_limit: Duration,
}

/// One decoded frame.
#[derive(Clone, Copy, Debug)]
pub struct VideoFrame<'a> {
    pub height: usize,
    pub width: usize,
    /// `[H, W, C]`
    pub values: &'a [u8],
}

/// What was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub frames: usize,
    /// The last line that FFmpeg complained with although it went on.
    pub complaint: Option<String>,
}

impl Ffmpeg {
    /// Finds the program: what `CAKES_FFMPEG` names, else `ffmpeg` in `PATH`.
    ///
    /// # Errors
    /// It is missing or does not run, with what installs it.
    pub fn find() -> Result<Self, DataError> {
        let named = std::env::var_os(PROGRAM_VARIABLE).filter(|value| !value.is_empty());
        Self::at(PathBuf::from(named.unwrap_or_else(|| OsString::from("ffmpeg"))))
    }

    /// Uses the program at a path.
    ///
    /// # Errors
    /// It is missing or does not run, with what installs it.
    pub fn at(program: PathBuf) -> Result<Self, DataError> {
        let missing = |problem: &dyn std::fmt::Display| {
            DataError::Program(format!(
                "FFmpeg is needed to read video, but '{}' does not run: {problem}; install it with \
                 `{INSTALL}`, or name it in {PROGRAM_VARIABLE}",
                program.display()
            ))
        };
        // Since 5.1 the older option is about to go.
        let help = Command::new(&program)
            .args(["-hide_banner", "-h", "long"])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| missing(&error))?;
        if !help.status.success() {
            return Err(missing(&help.status));
        }
        let is_new = String::from_utf8_lossy(&help.stdout).contains("-fps_mode");
        let keep_frames = if is_new { ["-fps_mode", "passthrough"] } else { ["-vsync", "passthrough"] };
        Ok(Ffmpeg { program, keep_frames, time_limit: TIME_LIMIT })
    }

    /// The same with another limit for the time that a file may take.
    pub fn with_time_limit(self, time_limit: Duration) -> Self {
        Ffmpeg { time_limit, ..self }
    }

    /// Decodes the first stream of video in a file and gives each frame, in grey
    /// for one channel, else in colours, to `take`. One frame is in memory.
    ///
    /// # Errors
    /// The file cannot be decoded or takes too long, with FFmpeg's last words; or
    /// `take` fails. FFmpeg has ended then.
    pub fn decode(
        &self,
        path: &Path,
        channels: usize,
        take: &mut dyn FnMut(VideoFrame<'_>) -> Result<(), DataError>,
    ) -> Result<Decoded, DataError> {
        // Tells an error of the disk from one of the file's content.
        std::fs::File::open(path).map_err(|error| DataError::io(path, error))?;
        let mut child = self.command(path, channels).spawn().map_err(|error| {
            DataError::Program(format!("'{}' does not start: {error}", self.program.display()))
        })?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(DataError::Program("FFmpeg was started without pipes".to_owned()));
        };
        let child = KilledOnDrop(Mutex::new(child));
        let (done, wait_for_done) = channel::<()>();
        let (read, status, timed_out, complaint) = std::thread::scope(|scope| {
            let complaint = scope.spawn(|| last_line(stderr));
            let (watched, limit) = (&child, self.time_limit);
            let watch = scope.spawn(move || {
                let timed_out = wait_for_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
                if timed_out {
                    watched.kill();
                }
                timed_out
            });
            let read = read_frames(path, stdout, channels, take);
            if read.is_err() {
                child.kill();
            }
            let status = child.wait();
            drop(done);
            (read, status, watch.join().unwrap_or(false), complaint.join().unwrap_or_default())
        });
        if timed_out {
            let limit = self.time_limit.as_secs_f64();
            return Err(DataError::file(path, format!("was not decoded within {limit} s")));
        }
        let status = status.map_err(|error| DataError::io(path, error))?;
        let said = complaint.as_deref().map_or(String::new(), |line| format!(": {line}"));
        match read {
            // Killed by this function: what went wrong came before.
            Err(error @ (DataError::Io { .. } | DataError::Program(_))) => Err(error),
            Err(error) if complaint.is_none() => Err(error),
            Err(error) => Err(DataError::file(path, format!("{}{said}", error.problem()))),
            Ok(_) if !status.success() => {
                Err(DataError::file(path, format!("cannot be decoded ({status}){said}")))
            }
            Ok(0) => Err(DataError::file(path, format!("holds no frame of video{said}"))),
            Ok(frames) => Ok(Decoded { frames, complaint }),
        }
    }

    fn command(&self, path: &Path, channels: usize) -> Command {
        // A name with a colon or a leading dash is a file all the same.
        let mut input = OsString::from("file:");
        input.push(path);
        let (codec, pixels) = if channels == 1 { ("pgm", "gray") } else { ("ppm", "rgb24") };
        let mut command = Command::new(&self.program);
        // Files are decoded side by side, so each needs but one thread.
        command.args(["-nostdin", "-hide_banner", "-v", "error", "-threads", "1", "-i"]).arg(input);
        command.args(["-map", "0:v:0"]).args(self.keep_frames);
        command.args(["-f", "image2pipe", "-c:v", codec, "-pix_fmt", pixels, "pipe:1"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

/// A child that does not outlive its use.
struct KilledOnDrop(Mutex<Child>);

impl KilledOnDrop {
    fn kill(&self) {
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).kill();
    }

    /// Waits without holding the lock, so that it can be killed meanwhile.
    fn wait(&self) -> std::io::Result<ExitStatus> {
        loop {
            let status = self.0.lock().unwrap_or_else(PoisonError::into_inner).try_wait()?;
            match status {
                Some(status) => return Ok(status),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }
}

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let child = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The last line that is not empty.
fn last_line(mut stderr: impl Read) -> Option<String> {
    let mut tail = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut piece) {
        tail.extend_from_slice(&piece[..count]);
        tail.drain(..tail.len().saturating_sub(4096));
    }
    let text = String::from_utf8_lossy(&tail);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

/// Reads PNM images until the stream ends, and counts them. `path` is what errors name.
///
/// # Errors
/// What comes is no such image or ends in the middle of one; or `take` fails.
pub fn read_frames(
    path: &Path,
    stdout: impl Read,
    channels: usize,
    take: &mut dyn FnMut(VideoFrame<'_>) -> Result<(), DataError>,
) -> Result<usize, DataError> {
    let mut reader = BufReader::with_capacity(1 << 16, stdout);
    let mut values = Vec::new();
    let mut count = 0;
    loop {
        if reader.fill_buf().map_err(|error| DataError::io(path, error))?.is_empty() {
            return Ok(count);
        }
        let [width, height] = read_pnm_header(&mut reader, channels)
            .map_err(|problem| DataError::file(path, format!("frame {count}: {problem}")))?;
        // Grows with what comes, not with what a header promises.
        let length = width * height * channels;
        values.clear();
        let read = reader.by_ref().take(length as u64).read_to_end(&mut values);
        if read.map_err(|error| DataError::io(path, error))? < length {
            let problem = format!("decoding ended in the middle of frame {count}");
            return Err(DataError::file(path, problem));
        }
        take(VideoFrame { height, width, values: &values })?;
        count += 1;
    }
}

/// Width and height of a binary PGM or PPM image with one byte per value.
fn read_pnm_header(reader: &mut impl BufRead, channels: usize) -> Result<[usize; 2], String> {
    let mut words = Vec::new();
    for _ in 0..4 {
        let mut word = String::new();
        loop {
            let mut byte = [0];
            reader
                .read_exact(&mut byte)
                .map_err(|_| "decoding ended in the middle of a header".to_owned())?;
            if byte[0].is_ascii_whitespace() {
                break;
            }
            if word.len() > 8 {
                return Err("FFmpeg did not give a PNM image".to_owned());
            }
            word.push(char::from(byte[0]));
        }
        words.push(word);
    }
    let magic = if channels == 1 { "P5" } else { "P6" };
    let side = |word: &String| word.parse::<usize>().ok().filter(|side| (1..=SIDE_MAX).contains(side));
    match (words[0] == magic && words[3] == "255", side(&words[1]), side(&words[2])) {
        (true, Some(width), Some(height)) => Ok([width, height]),
        _ => Err(format!("FFmpeg did not give a PNM image, but '{}'", words.join(" "))),
    }
}
