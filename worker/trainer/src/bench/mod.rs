//! Speed of whole training steps: the reference path, which is one `conv3d` per
//! branch through libtorch and its autograd, against the fast path.
//!
//! Both run in turn, in one process, on the same fresh random data. Peak memory
//! is taken in a process of its own for each network and path.

mod cases;
mod plain;
mod table;

use std::process::{Command, Stdio};
use std::time::Instant;

use cases::{Config, Mode, name};
use clap::{Args, ValueEnum};
use plain::PlainSgd;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

use crate::nets::{Engine, Net};
use crate::optim::{Optimizer, Step};
use crate::{TrainerError, device};

/// Of every step.
const LEARNING_RATE: f64 = 0.01;

/// Measures whole training steps of the reference path and of the fast path.
#[derive(Args, Debug)]
pub struct BenchArguments {
    /// Only this configuration; may be given several times.
    #[arg(long, value_enum, value_name = "NAME")]
    config: Vec<Config>,
    /// Only this network; `c3d` always runs, the ratios refer to it. May be given several times.
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Vec<Mode>,
    /// Steps of each path, in turn; the median counts.
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u64).range(1..1000))]
    rounds: u64,
    /// CPU threads; all cores without it.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Leaves out the reference path.
    #[arg(long)]
    fast_only: bool,
    /// Prints the peak memory of one network and path, in MiB.
    #[arg(long, value_enum, hide = true)]
    peak_of: Option<Path>,
}

/// Which of the two ways to compute the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Path {
    Reference,
    Fast,
}

/// One network of one configuration.
#[derive(Debug, Serialize)]
struct Row {
    config: String,
    mode: String,
    device: String,
    dtype: &'static str,
    batch: usize,
    /// Of one sample's forward pass, mean of the rounds.
    gmac: f64,
    /// Median of the fast path.
    step_ms: f64,
    reference_step_ms: Option<f64>,
    speedup: Option<f64>,
    /// Processor time of a step over all threads, median: what other load on the
    /// machine changes least.
    cpu_ms: f64,
    reference_cpu_ms: Option<f64>,
    samples_per_s: f64,
    /// Three passes of two operations per multiply-accumulate.
    gflops: f64,
    /// Of the measured rate of a matrix product.
    matmul_share: f64,
    mac_ratio_to_c3d: f64,
    time_ratio_to_c3d: f64,
    reference_time_ratio_to_c3d: Option<f64>,
    peak_mib: f64,
    reference_peak_mib: Option<f64>,
}

/// The last line, for programs.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    threads: i32,
    rounds: u64,
    matmul_gflops: f64,
    rows: Vec<Row>,
}

/// # Errors
/// libtorch fails.
pub fn run(arguments: &BenchArguments) -> Result<(), TrainerError> {
    device::keep_freed_memory();
    device::use_threads(arguments.threads)?;
    if let Some(path) = arguments.peak_of {
        let (config, mode) = (chosen(&arguments.config)[0], chosen(&arguments.mode)[0]);
        let mut subject = Subject::new(config, mode, path)?;
        for round in 0..3 {
            subject.step(round)?;
        }
        println!("{}", device::peak_memory_mib());
        return Ok(());
    }
    let matmul_gflops = matmul_gflops()?;
    let mut report = Report {
        bench: "train",
        threads: tch::get_num_threads(),
        rounds: arguments.rounds,
        matmul_gflops,
        rows: Vec::new(),
    };
    println!("matrix product of 2048: {matmul_gflops:.0} GFLOP/s with {} threads", report.threads);
    println!("{}", table::HEAD);
    for config in chosen(&arguments.config) {
        let first = report.rows.len();
        let modes = chosen(&arguments.mode).into_iter().filter(|mode| *mode != Mode::C3d);
        for mode in std::iter::once(Mode::C3d).chain(modes) {
            let mut row = measure(config, mode, arguments, matmul_gflops)?;
            if let Some(c3d) = report.rows.get(first) {
                row.relate_to(c3d);
            }
            println!("{}", table::line(&row));
            report.rows.push(row);
        }
    }
    let text = serde_json::to_string(&report)
        .map_err(|error| TrainerError::Report(format!("the results are no JSON: {error}")))?;
    println!("{text}");
    Ok(())
}

/// What was asked for, or all there are.
fn chosen<T: ValueEnum + Copy>(wanted: &[T]) -> Vec<T> {
    if wanted.is_empty() { T::value_variants().to_vec() } else { wanted.to_vec() }
}

impl Row {
    fn relate_to(&mut self, c3d: &Row) {
        self.mac_ratio_to_c3d = self.gmac / c3d.gmac;
        self.time_ratio_to_c3d = self.step_ms / c3d.step_ms;
        self.reference_time_ratio_to_c3d =
            self.reference_step_ms.zip(c3d.reference_step_ms).map(|(own, c3d)| own / c3d);
    }
}

fn measure(
    config: Config,
    mode: Mode,
    arguments: &BenchArguments,
    matmul_gflops: f64,
) -> Result<Row, TrainerError> {
    let mut fast = Subject::new(config, mode, Path::Fast)?;
    let mut reference = match arguments.fast_only {
        true => None,
        false => Some(Subject::new(config, mode, Path::Reference)?),
    };
    let (mut fast_times, mut reference_times, mut macs) = (Times::default(), Times::default(), 0.0);
    for round in 0..=arguments.rounds {
        let reference_step = reference.as_mut().map(|subject| subject.step(round)).transpose()?;
        let fast_step = fast.step(round)?;
        // The first step makes what later ones reuse.
        if round > 0 {
            fast_times.push(fast_step);
            reference_step.into_iter().for_each(|step| reference_times.push(step));
            macs += fast.net.last_count().mac_count as f64 / arguments.rounds as f64;
        }
    }
    let (batch, _) = config.batch();
    let step_ms = median(&mut fast_times.wall_ms);
    let reference_step_ms = reference.is_some().then(|| median(&mut reference_times.wall_ms));
    let gflops = 6.0 * macs * batch as f64 / step_ms / 1e6;
    let peak = |path| peak_mib(config, mode, path, arguments.threads);
    Ok(Row {
        config: name(config),
        mode: name(mode),
        device: device::name(Device::Cpu),
        dtype: "float32",
        batch,
        gmac: macs / 1e9,
        step_ms,
        reference_step_ms,
        speedup: reference_step_ms.map(|reference| reference / step_ms),
        cpu_ms: median(&mut fast_times.cpu_ms),
        reference_cpu_ms: reference.is_some().then(|| median(&mut reference_times.cpu_ms)),
        samples_per_s: batch as f64 / step_ms * 1e3,
        gflops,
        matmul_share: gflops / matmul_gflops,
        mac_ratio_to_c3d: 1.0,
        time_ratio_to_c3d: 1.0,
        reference_time_ratio_to_c3d: reference.is_some().then_some(1.0),
        peak_mib: peak(Path::Fast)?,
        reference_peak_mib: reference.is_some().then(|| peak(Path::Reference)).transpose()?,
    })
}

/// Milliseconds of steps.
#[derive(Default)]
struct Times {
    wall_ms: Vec<f64>,
    cpu_ms: Vec<f64>,
}

impl Times {
    fn push(&mut self, (wall_ms, cpu_ms): (f64, f64)) {
        self.wall_ms.push(wall_ms);
        self.cpu_ms.push(cpu_ms);
    }
}

/// A network in training.
struct Subject {
    config: Config,
    net: Net,
    stepper: Stepper,
}

/// What moves the parameters.
enum Stepper {
    Reference(PlainSgd),
    Fast(Box<Optimizer>),
}

impl Subject {
    fn new(config: Config, mode: Mode, path: Path) -> Result<Self, TrainerError> {
        let engine = match path {
            Path::Reference => Engine::Torch,
            Path::Fast => Engine::Direct,
        };
        let net = Net::new(config.network(mode)?, config.batch().1, 1, Device::Cpu)?.with_engine(engine);
        let sgd = cakes::spec::OptimizerSpec::Sgd {
            learning_rate: LEARNING_RATE,
            momentum: PlainSgd::MOMENTUM,
            nesterov: true,
            weight_decay: PlainSgd::WEIGHT_DECAY,
        };
        let stepper = match path {
            Path::Reference => Stepper::Reference(PlainSgd::default()),
            Path::Fast => Stepper::Fast(Box::new(Optimizer::new(sgd, &net)?)),
        };
        Ok(Subject { config, stepper, net })
    }

    /// Trains one step; returns its milliseconds by the clock and of the
    /// processor, without the making of the data.
    fn step(&mut self, index: u64) -> Result<(f64, f64), TrainerError> {
        let (images, labels) = self.config.data(index)?;
        let (start, cpu_start) = (Instant::now(), device::cpu_time());
        let draws = self.net.draw(1, index)?;
        let config = self.config;
        let (loss, gradients) = self.net.gradients(&images, &draws, |output| config.loss(output, &labels))?;
        if !loss.is_finite() {
            return Err(TrainerError::Numeric(format!("the loss of step {index} is {loss}")));
        }
        match &mut self.stepper {
            Stepper::Reference(sgd) => sgd.step(&mut self.net, gradients, LEARNING_RATE)?,
            Stepper::Fast(optimizer) => {
                let step = Step {
                    index,
                    learning_rate: LEARNING_RATE,
                    clip_norm: PlainSgd::CLIP_NORM,
                    l1_strength: PlainSgd::L1_STRENGTH,
                    draws: &draws,
                };
                optimizer.step(&mut self.net, &gradients, step)?;
            }
        }
        let cpu = device::cpu_time().saturating_sub(cpu_start);
        Ok((start.elapsed().as_secs_f64() * 1e3, cpu.as_secs_f64() * 1e3))
    }
}

/// Peak memory of a process that only trains this network in this way.
fn peak_mib(config: Config, mode: Mode, path: Path, threads: Option<usize>) -> Result<f64, TrainerError> {
    let failed = |error| TrainerError::io("cannot measure memory in a process of its own", error);
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(["bench", "--config", &name(config), "--mode", &name(mode), "--peak-of", &name(path)]);
    command.args(threads.map(|threads| format!("--threads={threads}")));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| failed(std::io::Error::other(format!("it printed '{}'", text.trim()))))
}

/// Rate of the product of two square matrices, the best of some.
fn matmul_gflops() -> Result<f64, TrainerError> {
    const SIZE: i64 = 2048;
    let matrix = || Tensor::f_full([SIZE, SIZE], 0.5, (Kind::Float, Device::Cpu));
    let (left, right) = (matrix()?, matrix()?);
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let start = Instant::now();
        let _product = left.f_mm(&right)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(2.0 * (SIZE * SIZE * SIZE) as f64 / best / 1e9)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length.is_multiple_of(2) => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}
