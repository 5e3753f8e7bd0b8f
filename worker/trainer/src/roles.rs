//! Which of a job's processes this one is, and how it meets the others.

use std::path::Path;
use std::sync::Arc;

use cakes::job::TrainerJob;
use cakes::spec::TrainingSpec;
use cakes_trainer::TrainerError;
use cakes_trainer::ranks::Ranks;
use cakes_trainer::ranks::launch::{self, Block, Others, Way};
use clap::Args;
use tch::Device;

use crate::JobArguments;

/// One of several machines that train together.
#[derive(Args)]
pub(crate) struct MachineArguments {
    /// Ranks of all machines, where several train together.
    #[arg(long, value_name = "N", requires_all = ["rank_count", "own_address"])]
    world_size: Option<u32>,
    /// The first rank of this machine.
    #[arg(long, value_name = "N", default_value_t = 0)]
    first_rank: u32,
    /// Ranks of this machine, one for each of its devices.
    #[arg(long, value_name = "N")]
    rank_count: Option<u32>,
    /// Where the others reach this machine.
    #[arg(long, value_name = "ADDRESS")]
    own_address: Option<String>,
    /// Where rank 0 is; not for the machine that has it.
    #[arg(long, value_name = "HOST:PORT")]
    meeting: Option<String>,
}

impl MachineArguments {
    /// Where this machine stands among several; none where it is the only one.
    pub(crate) fn machine(&self) -> Result<Option<Machine>, TrainerError> {
        let (Some(world), Some(count), Some(own)) = (self.world_size, self.rank_count, &self.own_address)
        else {
            return Ok(None);
        };
        let block = Block::new(self.first_rank, count, world)?;
        let way = self.meeting.as_deref().map(|meeting| Way::to(own, meeting)).transpose()?;
        if way.is_none() && block.first > 0 {
            return Err(TrainerError::User(format!(
                "--meeting: is missing; rank 0 is on another machine than rank {}",
                block.first
            )));
        }
        Ok(Some(Machine { block, own: own.clone(), way }))
    }
}

/// A machine among several.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) block: Block,
    own: String,
    /// To rank 0, where that is elsewhere.
    pub(crate) way: Option<Way>,
}

/// Which of the processes of a job this is.
#[derive(Clone)]
pub(crate) enum Role {
    /// The first one of its machine. It starts the others, if there are any.
    First {
        tolerate: Option<u32>,
        /// Where several machines train together.
        machine: Option<Machine>,
    },
    Other {
        rank: u32,
        block: Block,
        way: Way,
    },
}

impl Role {
    /// The ranks of this machine, of a job on so many devices.
    pub(crate) fn block(&self, devices: u32) -> Result<Block, TrainerError> {
        let block = match self {
            Role::First { machine: None, .. } => return Ok(Block::whole(devices)),
            Role::First { machine: Some(machine), .. } => machine.block,
            Role::Other { block, .. } => *block,
        };
        if block.world == devices {
            return Ok(block);
        }
        Err(TrainerError::User(format!(
            "--world-size {}: the job's training.devices is {devices}",
            block.world
        )))
    }

    pub(crate) fn rank(&self, block: Block) -> u32 {
        match self {
            Role::First { .. } => block.first,
            Role::Other { rank, .. } => *rank,
        }
    }
}

/// The command line of another rank.
pub(crate) fn command_of_rank(
    program: &Path,
    arguments: &JobArguments,
    resume: Option<&Path>,
    tolerate: Option<u32>,
) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.arg("rank").arg(&arguments.spec).arg("--out").arg(&arguments.out);
    command.arg("--data-root").arg(&arguments.data_root).arg("--device").arg(&arguments.device);
    let paths = [
        ("--supernet", arguments.supernet.as_deref()),
        ("--cache-dir", arguments.cache_dir.as_deref()),
        ("--methods", arguments.methods.as_deref()),
        ("--resume", resume),
    ];
    for (flag, path) in paths {
        path.map(|path| command.arg(flag).arg(path));
    }
    let numbers = [
        ("--threads", arguments.threads.map(|threads| threads as u64)),
        ("--loader-threads", arguments.loader_threads.map(|threads| u64::from(threads.get()))),
        ("--cache-limit-gib", Some(arguments.cache_limit_gib)),
        ("--tolerate", tolerate.map(u64::from)),
    ];
    for (flag, number) in numbers {
        number.map(|number| command.arg(flag).arg(number.to_string()));
    }
    command
}

/// Meets the other processes of the job, of which this one starts those of its machine; none if
/// it trains alone.
pub(crate) fn meet(
    job: &TrainerJob,
    role: &Role,
    block: Block,
    device: Device,
    command: impl FnOnce(&Path, Option<u32>) -> std::process::Command,
    tell: impl FnOnce(u16) -> Result<(), TrainerError>,
) -> Result<(Option<Others>, Option<Arc<Ranks>>), TrainerError> {
    let TrainingSpec { batch_size, batch_statistics, .. } = job.training;
    let together = |group| {
        let ranks = Ranks::new(group, batch_size, batch_statistics)?;
        Ok::<_, TrainerError>(Some(Arc::new(ranks)))
    };
    match role {
        Role::First { .. } if block.world == 1 => Ok((None, None)),
        Role::First { tolerate, machine } => {
            let program = launch::own_program()?;
            let base = command(&program, *tolerate);
            let (own, way) = match machine {
                Some(machine) => (machine.own.as_str(), machine.way.clone()),
                None => (launch::HERE, None),
            };
            // Nobody but other machines wants to know.
            let tell = |port| if machine.is_some() { tell(port) } else { Ok(()) };
            let (others, group) = Others::start(block, own, way, device, tell, |rank, way| {
                let mut command = std::process::Command::new(base.get_program());
                command.args(base.get_args());
                let numbers = [
                    ("--rank", rank),
                    ("--ranks", block.world),
                    ("--first-rank", block.first),
                    ("--rank-count", block.count),
                ];
                for (flag, number) in numbers {
                    command.arg(flag).arg(number.to_string());
                }
                let meeting = format!("--meeting={}:{}", way.host, way.port);
                command.args(["--own-address", way.own.as_str(), meeting.as_str()]);
                command
            })?;
            Ok((Some(others), together(group)?))
        }
        Role::Other { rank, way, .. } => {
            Ok((None, together(launch::join(*rank, block.world, block.count, way, device)?)?))
        }
    }
}
