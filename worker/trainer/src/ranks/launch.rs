//! Starts the processes of the other ranks of this machine, and tells what became of them.
//!
//! They live no longer than the first one of their machine: each reads its standard input, which
//! ends with it. Ranks of other machines are started there in the same way, and meet those here
//! at the address of rank 0.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cakes::frame::{FailureClass, TrainerEvent, decode, tells_of_others};
use cakes_ranks::{Group, Meeting, Seat};
use tch::Device;

use crate::TrainerError;

/// How long ranks wait for each other as they begin: loading the program takes a second.
pub const MEETING_LIMIT: Duration = Duration::from_secs(120);

/// The same for ranks of several machines: all of them fetch the checkpoint before. Their daemons
/// give up earlier, by limits of their own.
pub const MEETING_OF_MACHINES_LIMIT: Duration = Duration::from_secs(3600);

/// How long one rank waits for another between: rank 0 validates and saves while the
/// others wait. That a rank hangs is the daemon's to see, long before.
pub const CALL_LIMIT: Duration = Duration::from_secs(6 * 3600);

/// How long an ending rank is waited for before it is ended.
const GRACE: Duration = Duration::from_secs(20);

/// Where ranks of one machine meet.
pub const HERE: &str = "127.0.0.1";

/// Ranks of one machine among all of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub first: u32,
    pub count: u32,
    /// Of all machines.
    pub world: u32,
}

impl Block {
    /// All ranks of a job on one machine.
    pub fn whole(world: u32) -> Self {
        Block { first: 0, count: world, world }
    }

    /// # Errors
    /// There are not so many ranks.
    pub fn new(first: u32, count: u32, world: u32) -> Result<Self, TrainerError> {
        let is_within = count > 0 && first.checked_add(count).is_some_and(|end| end <= world);
        is_within.then_some(Block { first, count, world }).ok_or_else(|| {
            let end = first.saturating_add(count);
            TrainerError::User(format!(
                "--first-rank, --rank-count: ranks {first} to {end} are not below {world}"
            ))
        })
    }
}

/// Where a process finds the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where they reach this machine.
    pub own: String,
    /// Where rank 0 is.
    pub host: String,
    pub port: u16,
}

impl Way {
    /// To a meeting at `host:port`.
    ///
    /// # Errors
    /// It has no port.
    pub fn to(own: &str, meeting: &str) -> Result<Self, TrainerError> {
        let parts = meeting.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = parts.ok_or_else(|| {
            TrainerError::User(format!("--meeting: '{meeting}' is no address like 10.0.0.5:7000"))
        })?;
        Ok(Way { own: own.to_owned(), host: host.to_owned(), port })
    }
}

/// The processes of this machine behind the first one.
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
    /// Starts a process for each other rank of this machine and meets all ranks. `command` makes
    /// that of a rank from its number and its way to rank 0. Where this process is rank 0, it
    /// serves the meeting, and `tell` is told the port first; elsewhere `way` leads there. It
    /// computes on `device`.
    ///
    /// # Errors
    /// One cannot be started, or ends before it came.
    pub fn start(
        block: Block,
        own: &str,
        way: Option<Way>,
        device: Device,
        tell: impl FnOnce(u16) -> Result<(), TrainerError>,
        command: impl Fn(u32, &Way) -> Command,
    ) -> Result<(Self, Group), TrainerError> {
        let limit = if block.count == block.world { MEETING_LIMIT } else { MEETING_OF_MACHINES_LIMIT };
        let (meeting, way) = match way {
            None => {
                let meeting = Meeting::host(own, limit)?;
                let port = meeting.port();
                tell(port)?;
                (meeting, Way { own: own.to_owned(), host: own.to_owned(), port })
            }
            Some(way) => (Meeting::visit_from(&way.own, &way.host, way.port, limit)?, way),
        };
        let mut others = Others { others: Vec::new() };
        for rank in block.first + 1..block.first + block.count {
            let mut command = command(rank, &way);
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
        let seat = Seat::new(block.first, block.world);
        let joined = seat.and_then(|seat| Group::join_on(meeting, seat, CALL_LIMIT, device));
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
                    && !tells_of_others(&message)
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

/// Joins the processes as rank `rank` of `size`, on `device`; `count` of them are on this machine.
///
/// # Errors
/// Rank 0 is not there.
pub fn join(rank: u32, size: u32, count: u32, way: &Way, device: Device) -> Result<Group, TrainerError> {
    let limit = if count == size { MEETING_LIMIT } else { MEETING_OF_MACHINES_LIMIT };
    let meeting = Meeting::visit_from(&way.own, &way.host, way.port, limit)?;
    Ok(Group::join_on(meeting, Seat::new(rank, size)?, CALL_LIMIT, device)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_a_machine_lie_within_those_of_the_job() {
        assert_eq!(Block::new(2, 2, 4).unwrap(), Block { first: 2, count: 2, world: 4 });
        for (first, count, world) in [(0, 0, 4), (3, 2, 4), (u32::MAX, 2, 4)] {
            assert!(Block::new(first, count, world).is_err(), "{first} {count} {world}");
        }
    }

    #[test]
    fn a_meeting_has_a_host_and_a_port() {
        let way = Way::to("10.0.0.6", "10.0.0.5:7000").unwrap();
        assert_eq!((way.host.as_str(), way.port, way.own.as_str()), ("10.0.0.5", 7000, "10.0.0.6"));
        assert_eq!(Way::to("a", "fe80::1:7000").unwrap().host, "fe80::1");
        for wrong in ["10.0.0.5", "10.0.0.5:", "10.0.0.5:70000"] {
            assert!(Way::to("a", wrong).is_err(), "{wrong}");
        }
    }
}
