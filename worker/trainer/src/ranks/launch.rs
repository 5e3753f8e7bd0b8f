//! Starts the processes of the other ranks, and tells what became of them.
//!
//! They live no longer than rank 0: each reads its standard input, which ends with it.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cakes::frame::{FailureClass, TrainerEvent, decode};
use cakes_ranks::{Group, Meeting, Seat};

use crate::TrainerError;

/// How long ranks wait for each other as they begin: loading the program takes a second.
pub const MEETING_LIMIT: Duration = Duration::from_secs(120);

/// How long one rank waits for another between: rank 0 validates and saves while the
/// others wait. That a rank hangs is the daemon's to see, long before.
pub const CALL_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// How long an ending rank is waited for before it is ended.
const GRACE: Duration = Duration::from_secs(20);

/// Where ranks of one machine meet.
pub const HERE: &str = "127.0.0.1";

/// The processes of ranks 1 and on.
#[derive(Debug)]
pub struct Others {
    others: Vec<Other>,
}

#[derive(Debug)]
struct Other {
    rank: u32,
    child: Child,
    /// Its end tells the process that this one is gone.
    life: Option<ChildStdin>,
    failure: Receiver<(FailureClass, String)>,
}

impl Others {
    /// Starts a process for each of ranks 1 to `devices - 1` and meets them. `command`
    /// makes that of a rank from its number and the port of the meeting.
    ///
    /// # Errors
    /// One cannot be started, or ends before it came.
    pub fn start(size: u32, command: impl Fn(u32, u16) -> Command) -> Result<(Self, Group), TrainerError> {
        let meeting = Meeting::host(HERE, MEETING_LIMIT)?;
        let mut others = Others { others: Vec::new() };
        for rank in 1..size {
            let mut command = command(rank, meeting.port());
            let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command
                .spawn()
                .map_err(|error| TrainerError::io(format!("cannot start rank {rank}"), error))?;
            let (life, output) = (child.stdin.take(), child.stdout.take());
            let (tell, failure) = channel();
            std::thread::spawn(move || {
                let mut buffer = Vec::new();
                let mut chunk = [0; 4096];
                let Some(mut output) = output else { return };
                while let Ok(read @ 1..) = output.read(&mut chunk) {
                    buffer.extend_from_slice(&chunk[..read]);
                    while let Ok(Some(event)) = decode::<TrainerEvent>(&mut buffer) {
                        if let TrainerEvent::Failed { class, message } = event {
                            let _ = tell.send((class, message));
                        }
                    }
                }
            });
            others.others.push(Other { rank, child, life, failure });
        }
        let joined = Seat::new(0, size).and_then(|seat| Group::join(meeting, seat, CALL_LIMIT));
        match joined {
            Ok(group) => Ok((others, group)),
            Err(error) => Err(others.blame(error.into())),
        }
    }

    /// What to tell of `error` of this rank: if another rank has ended by itself, why.
    pub fn blame(&mut self, error: TrainerError) -> TrainerError {
        if !error.is_of_ranks() {
            return error;
        }
        let start = Instant::now();
        // Those that only noticed that somebody else is gone say so in the same words.
        while start.elapsed() < GRACE {
            for other in &mut self.others {
                if let Ok((class, message)) = other.failure.try_recv()
                    && !message.starts_with(crate::error::RANKS)
                {
                    return TrainerError::OtherRank { rank: other.rank, class, message };
                }
                let Ok(Some(status)) = other.child.try_wait() else { continue };
                if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
                    let message = format!("was ended by signal {signal}");
                    return TrainerError::OtherRank {
                        rank: other.rank,
                        class: FailureClass::Infrastructure,
                        message,
                    };
                }
            }
            if self.others.iter_mut().all(|other| matches!(other.child.try_wait(), Ok(Some(_)))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        error
    }
}

impl Drop for Others {
    /// They end by themselves when the work is done; whoever does not is ended.
    fn drop(&mut self) {
        let start = Instant::now();
        for other in &mut self.others {
            drop(other.life.take());
            while matches!(other.child.try_wait(), Ok(None)) {
                if start.elapsed() > GRACE {
                    let _ = other.child.kill();
                    let _ = other.child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Joins the processes as rank `rank`.
///
/// # Errors
/// Rank 0 is not there.
pub fn join(rank: u32, size: u32, port: u16) -> Result<Group, TrainerError> {
    let meeting = Meeting::visit(HERE, port, MEETING_LIMIT)?;
    Ok(Group::join(meeting, Seat::new(rank, size)?, CALL_LIMIT)?)
}

/// CPU threads of each of `size` processes on one machine, of `threads` or all cores.
pub fn threads_of_each(threads: Option<usize>, size: u32) -> Option<usize> {
    if size <= 1 {
        return threads;
    }
    let all = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    Some((all / size as usize).max(1))
}

/// The program of this process.
///
/// # Errors
/// The system does not tell.
pub fn own_program() -> Result<PathBuf, TrainerError> {
    std::env::current_exe().map_err(|error| TrainerError::io("cannot find this program", error))
}
