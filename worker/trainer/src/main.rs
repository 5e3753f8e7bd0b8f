//! `cakes-trainer`: one training job, for the daemon or for a person.

mod roles;

use std::io::{BufWriter, Read};
use std::num::{NonZeroU16, NonZeroUsize};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cakes::frame::{FailureClass, SPANS_VARIABLE, TrainerCommand, TrainerEvent, decode};
use cakes::job::TrainerJob;
use cakes::spec::{DatasetSpec, InitialWeights};
use cakes_trainer::bench::{self, BenchArguments};
use cakes_trainer::data::DataOptions;
use cakes_trainer::folder::{self, Resume};
use cakes_trainer::predict::{self, PredictArguments};
use cakes_trainer::ranks::launch::{self, Block, Way};
use cakes_trainer::report::{FailuresAlone, Frames, Lines, Reporter};
use cakes_trainer::spans::Spans;
use cakes_trainer::train::{Ending, Surroundings, run};
use cakes_trainer::{TrainerError, device, job_file, nets};
use clap::{Args, Parser, Subcommand};

use crate::roles::{MachineArguments, Role, command_of_rank, meet};

/// Trains one network: a supernet, or an architecture from scratch.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a job without any server and prints what it does.
    #[command(after_help = RUN_HELP)]
    Run(RunArguments),
    /// Runs a job for a worker daemon: frames on standard output, commands on standard input.
    Attempt(AttemptArguments),
    /// One of the other processes of a job that trains on several devices; rank 0 starts it.
    #[command(hide = true)]
    Rank(RankArguments),
    /// Segments or classifies new volumes with a checkpoint.
    #[command(after_help = PREDICT_HELP)]
    Predict(PredictArguments),
    /// Measures training steps: the fast path against one `conv3d` per branch through libtorch.
    #[command(after_help = BENCH_HELP)]
    Bench(BenchArguments),
}

const PREDICT_HELP: &str = "\
Examples:
  cakes-trainer predict runs/c3d/checkpoints/step-000000500 scans/*.nii.gz --out segmentations
  cakes-trainer predict checkpoint volume.nii.gz
  cakes-trainer predict checkpoint input.npy --logits scores.npy

Volumes are cut in windows and normalised as in validation; segmentations have the
orientation, spacing and position of their volumes, one uint8 for each voxel.
Probabilities are printed, one line for each sample.

Exit codes: 0 done, 1 failed, 2 the checkpoint, an input or the command is wrong.";

const BENCH_HELP: &str = "\
Examples:
  cakes-trainer bench
  cakes-trainer bench --config unet_32 --mode derived --rounds 11
  cakes-trainer bench --config hippocampus --threads 1 --fast-only

The last line is JSON.

Exit codes: 0 done, 1 failed, 2 the command is wrong.";

const RUN_HELP: &str = "\
Examples:
  cakes-trainer run job.json --out runs/c3d
  cakes-trainer run job.json --out runs/c3d --resume latest
  cakes-trainer run job.json --out runs/c3d --data-root /data --device cuda:0
  cakes-trainer run job.json --out runs/c3d --device cuda:0,cuda:1   # training.devices is 2
  cakes-trainer run job.json --out runs/c3d --threads 8 --loader-threads 4
  cakes-trainer run job.json --out runs/c3d --tolerate 3
  cakes-trainer run job.json --out runs/derived --supernet runs/supernet/checkpoints/step-000000500
  cakes-trainer run job.json --out runs/copy --resume runs/c3d/checkpoints/step-000000500

Ctrl-C saves a checkpoint behind the current step and ends. The results are
OUT/summary.json and, for a supernet, OUT/scores.json and OUT/latency.json.

Exit codes: 0 done or stopped as asked, 1 failed, 2 the job, the data or the command is wrong.";

#[derive(Args)]
struct RunArguments {
    #[command(flatten)]
    job: JobArguments,
    /// A checkpoint folder to go on from, or `latest` for the newest below --out.
    #[arg(long, value_name = "DIR|latest")]
    resume: Option<PathBuf>,
    /// Checkpoints of this run that are kept, the newest ones; 0 for all.
    #[arg(long, value_name = "N", default_value_t = 3)]
    keep: usize,
    /// Samples that may be unreadable, instead of what the job says; they are left
    /// out and named.
    #[arg(long, value_name = "N")]
    tolerate: Option<u32>,
}

#[derive(Args)]
struct AttemptArguments {
    #[command(flatten)]
    job: JobArguments,
    /// A checkpoint folder to go on from.
    #[arg(long, value_name = "DIR")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArguments,
}

#[derive(Args)]
struct RankArguments {
    #[command(flatten)]
    job: JobArguments,
    #[arg(long)]
    resume: Option<PathBuf>,
    #[arg(long)]
    tolerate: Option<u32>,
    #[arg(long)]
    rank: u32,
    #[arg(long)]
    ranks: u32,
    /// The first rank of this machine, and how many there are here.
    #[arg(long)]
    first_rank: u32,
    #[arg(long)]
    rank_count: u32,
    #[arg(long)]
    own_address: String,
    /// Where rank 0 waits.
    #[arg(long)]
    meeting: String,
}

#[derive(Args)]
struct JobArguments {
    /// The job: a JSON file with task, dataset, patch, training and seed.
    spec: PathBuf,
    /// Folder for checkpoints and results; made if it is missing.
    #[arg(long, value_name = "DIR", alias = "dir")]
    out: PathBuf,
    /// A checkpoint folder of the supernet that a job with `"initial_weights":
    /// "supernet"` starts from.
    #[arg(long, value_name = "DIR")]
    supernet: Option<PathBuf>,
    /// Where relative data set folders are looked up.
    #[arg(long, value_name = "DIR", default_value = ".")]
    data_root: PathBuf,
    /// auto, cpu, cuda or cuda:N; with commas where the job trains on several devices.
    #[arg(long, default_value = "auto")]
    device: String,
    /// CPU threads, of all devices together; all cores without it.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Threads that read samples and make batches; half as many as CPU threads,
    /// at most 8, without it. The results are the same with any number.
    #[arg(long, value_name = "N")]
    loader_threads: Option<NonZeroU16>,
    /// Where decoded samples are kept; `cakes` in the user's cache folder without it.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Most that decoded samples may take on disk, in GiB.
    #[arg(long, value_name = "N", default_value_t = 50)]
    cache_limit_gib: u64,
    /// Mean time between failures of this machine, in seconds. A job that does not say
    /// how often it saves does so every sqrt(2 * this * the time of a save).
    #[arg(long, value_name = "N", default_value_t = 86_400)]
    mtbf_s: u64,
    /// A checkpoint's manifest.json: computes every layer as that job did, to repeat it bit by bit.
    #[arg(long, value_name = "FILE")]
    methods: Option<PathBuf>,
}

/// Set by a signal or the daemon: save and stop after the current step.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    wait_without_spinning();
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run_for_person(&arguments),
        Command::Attempt(arguments) => run_for_daemon(&arguments),
        Command::Rank(arguments) => run_rank(&arguments),
        Command::Bench(arguments) => return run_bench(&arguments),
        Command::Predict(arguments) => return run_predict(&arguments),
    };
    match outcome {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) if error.class() == FailureClass::User => ExitCode::from(2),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Starts this process again with libgomp told so, if nobody has told it: threads
/// that spin behind every operation of libtorch take the cores from the engine's
/// threads, and from the trainer of the next slot. It listens only as it begins.
fn wait_without_spinning() {
    const POLICY: &str = "OMP_WAIT_POLICY";
    if std::env::var_os(POLICY).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    // Returns only if it fails: then this process is slower, not wrong.
    let _ =
        std::process::Command::new(program).args(std::env::args_os().skip(1)).env(POLICY, "PASSIVE").exec();
}

fn run_bench(arguments: &BenchArguments) -> ExitCode {
    match bench::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.message());
            ExitCode::FAILURE
        }
    }
}

fn run_predict(arguments: &PredictArguments) -> ExitCode {
    match predict::run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", error.message());
            ExitCode::from(if error.class() == FailureClass::User { 2 } else { 1 })
        }
    }
}

fn run_for_person(arguments: &RunArguments) -> Result<Ending, TrainerError> {
    stop_on_signals();
    let out = &arguments.job.out;
    let wanted = match &arguments.resume {
        None => Resume::No,
        Some(latest) if latest.as_os_str() == "latest" => Resume::Latest,
        Some(directory) => Resume::From(directory.clone()),
    };
    let claim = |job: &TrainerJob| folder::claim(out, job, wanted);
    let change = |job: &mut TrainerJob| match arguments.tolerate {
        Some(count) => tolerate(&mut job.dataset, count),
        None => Ok(()),
    };
    let keep = NonZeroUsize::new(arguments.keep);
    let role = Role::First { tolerate: arguments.tolerate, machine: None };
    let outcome = prepare_and_run(&arguments.job, &role, keep, change, claim, &mut Lines::new(out));
    if let Ok(Ending::Stopped) = outcome {
        println!("stopped behind a checkpoint; go on with --resume latest");
    }
    outcome
}

fn run_for_daemon(arguments: &AttemptArguments) -> Result<Ending, TrainerError> {
    let frames = frames_on_standard_output()?;
    let machine = match arguments.machine.machine() {
        Ok(machine) => machine,
        Err(error) => return Err(told(&mut FailuresAlone(frames), error)),
    };
    let follows = machine.as_ref().is_some_and(|machine| machine.way.is_some());
    let mut reporter: Box<dyn Reporter> = match std::env::var_os(SPANS_VARIABLE) {
        // How the job goes is told where rank 0 is.
        _ if follows => Box::new(FailuresAlone(frames)),
        Some(_) => Box::new(Spans::new(frames)),
        None => Box::new(frames),
    };
    std::thread::spawn(obey_daemon);
    let resume = |_: &TrainerJob| Ok(arguments.resume.clone());
    let role = Role::First { tolerate: None, machine };
    // The daemon removes what it has stored.
    prepare_and_run(&arguments.job, &role, None, |_| Ok(()), resume, &mut *reporter)
}

fn run_rank(arguments: &RankArguments) -> Result<Ending, TrainerError> {
    stop_on_signals();
    let mut failures = FailuresAlone(frames_on_standard_output()?);
    // Nobody commands it; its standard input ends when rank 0 does.
    std::thread::spawn(obey_daemon);
    let resume = |_: &TrainerJob| Ok(arguments.resume.clone());
    let change = |job: &mut TrainerJob| match arguments.tolerate {
        Some(count) => tolerate(&mut job.dataset, count),
        None => Ok(()),
    };
    let RankArguments { rank, ranks, first_rank, rank_count, .. } = *arguments;
    let placed = Block::new(first_rank, rank_count, ranks)
        .and_then(|block| Ok((block, Way::to(&arguments.own_address, &arguments.meeting)?)));
    let (block, way) = match placed {
        Ok(placed) => placed,
        Err(error) => return Err(told(&mut failures, error)),
    };
    let role = Role::Other { rank, block, way };
    prepare_and_run(&arguments.job, &role, None, change, resume, &mut failures)
}

fn frames_on_standard_output() -> Result<Frames<BufWriter<std::fs::File>>, TrainerError> {
    // Frames go to a private copy of standard output; the number itself is
    // pointed at standard error, so that nothing a library prints gets between.
    let failed = |error: std::io::Error| TrainerError::io("cannot set up standard output", error);
    let frames = std::io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
    nix::unistd::dup2_stdout(std::io::stderr()).map_err(|errno| failed(errno.into()))?;
    Ok(Frames(BufWriter::new(std::fs::File::from(frames))))
}

/// Overrides how many samples of a data set may be unreadable.
fn tolerate(dataset: &mut DatasetSpec, count: u32) -> Result<(), TrainerError> {
    match dataset {
        DatasetSpec::Arrays(arrays) => arrays.tolerate = count,
        DatasetSpec::Video(video) => video.tolerate = count,
        DatasetSpec::Folder(_) | DatasetSpec::Phantoms(_) => {
            return Err(TrainerError::User(
                "--tolerate: is for data sets of arrays or video; every labelled volume must be sound".into(),
            ));
        }
    }
    Ok(())
}

fn data_options(arguments: &JobArguments) -> DataOptions<'_> {
    let mut options = DataOptions::new(&arguments.data_root);
    if let Some(threads) = arguments.loader_threads {
        options.loader_threads = usize::from(threads.get());
    } else if let Some(threads) = arguments.threads {
        options.loader_threads = DataOptions::loader_threads_for(threads);
    }
    options.cache.dir.clone_from(&arguments.cache_dir);
    options.cache.limit_bytes = arguments.cache_limit_gib.saturating_mul(1 << 30);
    options
}

/// Tells of an error that comes before everything else.
fn told(reporter: &mut dyn Reporter, error: TrainerError) -> TrainerError {
    // If even this cannot be said, the exit code still tells.
    let _ = reporter.report(&TrainerEvent::Failed { class: error.class(), message: error.message() });
    error
}

/// Runs the job and reports how it failed, panics included. `change` changes what
/// its file says, `resume` says which checkpoint to go on from.
fn prepare_and_run(
    arguments: &JobArguments,
    role: &Role,
    keep: Option<NonZeroUsize>,
    change: impl FnOnce(&mut TrainerJob) -> Result<(), TrainerError>,
    resume: impl FnOnce(&TrainerJob) -> Result<Option<PathBuf>, TrainerError>,
    reporter: &mut dyn Reporter,
) -> Result<Ending, TrainerError> {
    let attempt = std::panic::catch_unwind(AssertUnwindSafe(|| -> Result<Ending, TrainerError> {
        let mut job = job_file::read(&arguments.spec)?;
        change(&mut job)?;
        job.check().map_err(|error| TrainerError::User(format!("{}: {error}", arguments.spec.display())))?;
        if arguments.supernet.is_some() && job.initial_weights != InitialWeights::Supernet {
            return Err(TrainerError::User(format!(
                "--supernet: {} starts from other weights; say \"initial_weights\": \"supernet\" there",
                arguments.spec.display()
            )));
        }
        device::keep_freed_memory();
        device::load_cuda(job.training.precision);
        let block = role.block(job.training.devices)?;
        device::use_threads(launch::threads_of_each(arguments.threads, block.count))?;
        let names = device::names(&arguments.device, block.count)?;
        let place = role.rank(block).saturating_sub(block.first) as usize;
        let device = device::choose(names.get(place).map_or("auto", String::as_str))?;
        nets::remember_in(&data_options(arguments).cache.folder().join("trainer"));
        arguments.methods.as_deref().map(nets::repeat_from).transpose()?;
        let resume = resume(&job)?;
        std::fs::create_dir_all(&arguments.out)
            .map_err(|error| TrainerError::io(format!("cannot create {}", arguments.out.display()), error))?;
        let (mut others, ranks) = meet(
            &job,
            role,
            block,
            device,
            |program, tolerate| command_of_rank(program, arguments, resume.as_deref(), tolerate),
            |port| reporter.report(&TrainerEvent::Meets { port }),
        )?;
        let around = Surroundings {
            device,
            data: DataOptions { device, ..data_options(arguments) },
            folder: &arguments.out,
            resume,
            supernet: arguments.supernet.clone(),
            keep,
            mean_time_between_failures: Duration::from_secs(arguments.mtbf_s),
            stop: &STOP,
            ranks,
        };
        let outcome = run(&job, &around, reporter);
        match &mut others {
            Some(others) => outcome.map_err(|error| others.blame(error)),
            None => outcome,
        }
    }));
    let outcome = attempt.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(TrainerError::Report(format!("the trainer panicked: {}", text.unwrap_or("no message"))))
    });
    if let Err(error) = &outcome {
        let failed = TrainerEvent::Failed { class: error.class(), message: error.message() };
        // If even this cannot be said, the exit code still tells.
        let _ = reporter.report(&failed);
    }
    outcome
}

/// Reads the daemon's commands. When the daemon is gone this process ends at
/// once: nobody is left to hear of its results.
fn obey_daemon() {
    let mut input = std::io::stdin().lock();
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        match input.read(&mut chunk) {
            Ok(0) | Err(_) => leave(),
            Ok(read) => buffer.extend_from_slice(&chunk[..read]),
        }
        loop {
            match decode::<TrainerCommand>(&mut buffer) {
                Ok(Some(TrainerCommand::Stop)) => STOP.store(true, Ordering::Relaxed),
                Ok(None) => break,
                Err(_) => leave(),
            }
        }
    }
}

/// Ends at once, without the clean-up of libraries whose threads still compute;
/// a signal handler may do this too.
fn leave() -> ! {
    #[allow(unsafe_code)]
    // SAFETY: ends the process.
    unsafe {
        nix::libc::_exit(3)
    }
}

fn stop_on_signals() {
    extern "C" fn stop(_: nix::libc::c_int) {
        // A second signal ends the process.
        if STOP.swap(true, Ordering::Relaxed) {
            leave();
        }
    }
    let action = nix::sys::signal::SigAction::new(
        nix::sys::signal::SigHandler::Handler(stop),
        nix::sys::signal::SaFlags::SA_RESTART,
        nix::sys::signal::SigSet::empty(),
    );
    for signal in [nix::sys::signal::Signal::SIGINT, nix::sys::signal::Signal::SIGTERM] {
        #[allow(unsafe_code)]
        // SAFETY: the handler only touches an atomic.
        let _ = unsafe { nix::sys::signal::sigaction(signal, &action) };
    }
}
