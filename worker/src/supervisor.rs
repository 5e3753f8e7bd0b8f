//! One trainer process: how it is started, heard, stopped and killed.
//!
//! It runs in a process group of its own with pipes for its three streams. Three
//! layers see to it that it does not outlive its use: it exits by itself when
//! its standard input ends, which the death of this daemon brings about; its
//! group is killed when the [`Trainer`] goes out of scope; and what bears the
//! attempt's mark is killed when the attempt, or the next daemon, begins or ends.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cakes::frame::{SPANS_VARIABLE, TrainerCommand, TrainerEvent, decode, encode};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::Instant;

use crate::attempt::{Event, Exit};
use crate::gangs::Ranks;
use crate::memory::GroupMemory;
use crate::process::{MARK, kill_marked, oom_kills};

/// Longer lines of the log are cut into pieces of this size.
pub const LINE_BYTES_MAX: usize = 4096;
/// Last lines that explain a silent end.
const LAST_LINES: usize = 20;
const CHUNK_BYTES: usize = 64 << 10;
/// How long the streams of a process that is gone may still hold something.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// What a trainer is started with.
#[derive(Clone, Debug)]
pub struct Launch {
    pub program: PathBuf,
    pub spec: PathBuf,
    pub out: PathBuf,
    pub data_root: PathBuf,
    pub resume: Option<PathBuf>,
    /// A checkpoint of the supernet that the job starts from.
    pub supernet: Option<PathBuf>,
    pub device: String,
    pub threads: Option<u32>,
    pub loader_threads: Option<u16>,
    /// Where decoded samples are kept, and how much of them.
    pub cache_dir: PathBuf,
    pub cache_limit_gib: u64,
    /// Of this machine; decides how often a job saves that does not say it.
    pub mean_time_between_failures: Duration,
    /// The attempt's folder: working directory and mark.
    pub folder: PathBuf,
    /// Somebody records what the trainer does.
    pub tells_spans: bool,
    /// Where slots of other machines train with it.
    pub ranks: Option<Ranks>,
}

impl Launch {
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["attempt".into(), self.spec.clone().into()];
        let mut option = |name: &str, value: &Path| {
            arguments.push(name.into());
            arguments.push(value.into());
        };
        option("--out", &self.out);
        option("--data-root", &self.data_root);
        option("--device", Path::new(&self.device));
        if let Some(resume) = &self.resume {
            option("--resume", resume);
        }
        if let Some(supernet) = &self.supernet {
            option("--supernet", supernet);
        }
        if let Some(threads) = self.threads {
            option("--threads", Path::new(&threads.to_string()));
        }
        if let Some(threads) = self.loader_threads {
            option("--loader-threads", Path::new(&threads.to_string()));
        }
        option("--cache-dir", &self.cache_dir);
        option("--cache-limit-gib", Path::new(&self.cache_limit_gib.to_string()));
        option("--mtbf-s", Path::new(&self.mean_time_between_failures.as_secs().to_string()));
        if let Some(ranks) = &self.ranks {
            option("--world-size", Path::new(&ranks.world_size.to_string()));
            option("--first-rank", Path::new(&ranks.first_rank.to_string()));
            option("--rank-count", Path::new(&ranks.rank_count.to_string()));
            option("--own-address", Path::new(&ranks.own));
            if let Some(meeting) = &ranks.meeting {
                // Another machine says it: one word, whatever it is.
                arguments.push(format!("--meeting={meeting}").into());
            }
        }
        arguments
    }
}

/// A trainer process. Dropping it kills it with everything in its group.
#[derive(Debug)]
pub struct Trainer {
    child: Child,
    group: Pid,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    frames: Vec<u8>,
    stderr: Option<ChildStderr>,
    log: LineBuffer,
    last_lines: VecDeque<String>,
    ended: Option<(ExitStatus, Instant)>,
    told: bool,
    oom_kills_before: u64,
    memory: Mutex<GroupMemory>,
    /// The attempt's folder, which is its mark.
    folder: PathBuf,
}

impl Trainer {
    /// Starts a trainer.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn start(launch: &Launch) -> std::io::Result<Self> {
        let oom_kills_before = oom_kills();
        let mut child = Command::new(&launch.program)
            .args(launch.arguments())
            .current_dir(&launch.folder)
            .env(MARK, &launch.folder)
            .envs(launch.tells_spans.then_some((SPANS_VARIABLE, "1")))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or_else(|| std::io::Error::other("the process has no id"))?;
        let group = Pid::from_raw(pid as i32);
        Ok(Trainer {
            group,
            memory: Mutex::new(GroupMemory::new(group)),
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            frames: Vec::new(),
            stderr: child.stderr.take(),
            log: LineBuffer::default(),
            last_lines: VecDeque::new(),
            ended: None,
            told: false,
            oom_kills_before,
            folder: launch.folder.clone(),
            child,
        })
    }

    /// What the trainer does next; for ever pending behind its exit, which is
    /// told last. May be dropped and called again. Its log is left in the pipe
    /// unless `read_log`.
    pub async fn next(&mut self, read_log: bool) -> Event {
        loop {
            if let Some(event) = self.take_heard(read_log) {
                return event;
            }
            let ended = self.ended.is_some();
            let drained_by = self.ended.map_or_else(Instant::now, |(_, at)| at + DRAIN_LIMIT);
            tokio::select! {
                more = read_more(self.stdout.as_mut(), &mut self.frames), if self.stdout.is_some() => {
                    if !more {
                        self.stdout = None;
                    }
                }
                more = read_more(self.stderr.as_mut(), &mut self.log.bytes), if self.stderr.is_some() && (read_log || ended) => {
                    if !more {
                        self.stderr = None;
                        self.log.end();
                    }
                }
                status = self.child.wait(), if !ended => self.process_ended(status),
                () = tokio::time::sleep_until(drained_by), if ended && !self.told => {
                    (self.stdout, self.stderr) = (None, None);
                    self.log.end();
                }
                else => std::future::pending().await,
            }
        }
    }

    /// Something that was read before and not told yet.
    fn take_heard(&mut self, read_log: bool) -> Option<Event> {
        match decode::<TrainerEvent>(&mut self.frames) {
            Ok(Some(event)) => return Some(Event::Trainer(event)),
            // An end within a frame shows in how the process ended.
            Ok(None) => {}
            Err(error) => {
                self.frames.clear();
                self.stdout = None;
                return Some(Event::BadFrame(error.to_string()));
            }
        }
        if (read_log || self.ended.is_some())
            && let Some(line) = self.log.take()
        {
            self.remember(&line);
            return Some(Event::Log(line));
        }
        let (status, _) = self.ended?;
        if self.told || self.stdout.is_some() || self.stderr.is_some() {
            return None;
        }
        self.told = true;
        Some(Event::Exited(Exit {
            code: status.code(),
            signal: status.signal(),
            memory_exhausted: oom_kills() > self.oom_kills_before,
            last_lines: self.last_lines.drain(..).collect(),
        }))
    }

    fn process_ended(&mut self, status: std::io::Result<ExitStatus>) {
        // What it started must not hold its streams open, nor outlive it, not even
        // in a group of its own.
        self.kill();
        let folder = self.folder.clone();
        tokio::task::spawn_blocking(move || kill_marked(&folder));
        self.stdin = None;
        let status = status.unwrap_or_else(|_| ExitStatus::from_raw(0xff00));
        self.ended = Some((status, Instant::now()));
    }

    fn remember(&mut self, line: &str) {
        if self.last_lines.len() == LAST_LINES {
            self.last_lines.pop_front();
        }
        self.last_lines.push_back(line.to_owned());
    }

    /// The number of its process.
    pub fn pid(&self) -> Pid {
        self.group
    }

    /// Memory that the trainer's processes take together, in MiB; none once it is gone.
    pub fn memory_mib(&self) -> Option<u64> {
        if self.ended.is_some() {
            return None;
        }
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).mib()
    }

    /// Asks for a checkpoint and an exit. A trainer that is gone needs no asking.
    pub async fn stop(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        if let Ok(frame) = encode(&TrainerCommand::Stop) {
            let _ = stdin.write_all(&frame).await;
            let _ = stdin.flush().await;
        }
    }

    /// Kills the process group.
    pub fn kill(&mut self) {
        // There may be nobody left in it, which is what is wanted.
        let _ = killpg(self.group, Signal::SIGKILL);
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
        }
    }
}

/// Appends what is there to `buffer`; false at the end of the stream.
async fn read_more<R: AsyncReadExt + Unpin>(stream: Option<&mut R>, buffer: &mut Vec<u8>) -> bool {
    let Some(stream) = stream else { return false };
    buffer.reserve(CHUNK_BYTES);
    matches!(stream.read_buf(buffer).await, Ok(read) if read > 0)
}

/// Bytes of a log on their way to become lines.
#[derive(Debug, Default)]
pub struct LineBuffer {
    pub bytes: Vec<u8>,
    ended: bool,
}

impl LineBuffer {
    /// The last line may lack its end.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// The next line that is not empty, without its end; of a line that is too long, a piece.
    pub fn take(&mut self) -> Option<String> {
        loop {
            let end = self.bytes.iter().take(LINE_BYTES_MAX).position(|byte| matches!(byte, b'\n' | b'\r'));
            let (length, skip) = match end {
                Some(end) => (end, 1),
                None if self.bytes.len() >= LINE_BYTES_MAX => (LINE_BYTES_MAX, 0),
                None if self.ended && !self.bytes.is_empty() => (self.bytes.len(), 0),
                None => return None,
            };
            let line: Vec<u8> = self.bytes.drain(..length + skip).take(length).collect();
            if !line.is_empty() {
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_becomes_lines_of_bounded_length() {
        let mut log = LineBuffer::default();
        log.bytes.extend(b"one\r\n\ntwo\nthr");
        assert_eq!(log.take().as_deref(), Some("one"));
        assert_eq!(log.take().as_deref(), Some("two"));
        assert_eq!(log.take(), None);
        log.bytes.extend(b"ee");
        log.bytes.extend([b'x'; LINE_BYTES_MAX]);
        assert_eq!(log.take().unwrap().len(), LINE_BYTES_MAX);
        assert_eq!(log.take(), None);
        log.end();
        assert_eq!(log.take().as_deref(), Some("xxxxx"));
        assert_eq!(log.take(), None);
    }
}
