//! How one network is trained, and its learning rate at every step.

use serde::{Deserialize, Serialize};

use super::Violations;

/// Length, optimizer, schedule and augmentation of one training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSpec {
    pub epochs: u32,
    /// Optimizer steps of one epoch.
    pub steps_per_epoch: u32,
    /// Patches of one step.
    pub batch_size: u32,
    pub optimizer: OptimizerSpec,
    /// Steps in which the learning rate rises linearly from 0 to its base.
    pub warmup_steps: u32,
    pub schedule: Schedule,
    /// Global norm to which gradients are clipped; 0 turns clipping off.
    pub gradient_clip_norm: f64,
    /// Epochs between whole-volume validations; the last epoch always validates.
    pub validate_every_epochs: u32,
    /// Epochs between checkpoints. Without it and without `checkpoint_every_steps` the
    /// machine decides, by how often it fails and how long a checkpoint takes. The last
    /// step always saves one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_epochs: Option<u32>,
    /// Steps between checkpoints, instead of epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_every_steps: Option<u32>,
    pub augmentation: Augmentation,
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: Precision,
    #[serde(default, skip_serializing_if = "is_default")]
    pub memory_format: MemoryFormat,
    /// Devices that train together, each on a part of every batch.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub devices: u32,
    /// Whether they may be of several machines, where no slot of one has so many.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spread: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub batch_statistics: BatchStatistics,
}

/// Which samples a norm's statistics are of, where several devices train together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchStatistics {
    /// Of the whole batch: a step is that of one device, but for rounding.
    #[default]
    Synchronised,
    /// Of each device's own samples, which saves two messages for every norm. Evaluation
    /// uses those of the first device.
    Local,
}

/// What numbers convolutions multiply. They are summed in float32 in each case;
/// weights, norms' statistics, the loss and the optimizer's state are float32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    Float32,
    /// Float32 of which a GPU reads the first 10 bits of a fraction. Elsewhere the
    /// same as float32.
    Tf32,
    /// Layers hand on bfloat16, which takes half the memory.
    Bf16,
}

/// How a GPU lays out the outputs of layers. The loops of the CPU have a layout of
/// their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryFormat {
    /// `[N, C, D, H, W]`
    #[default]
    Contiguous,
    /// `[N, D, H, W, C]`
    ChannelsLast,
}

/// What is not chosen is not written, so that a job keeps its identity.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> u32 {
    1
}

// As serde calls it.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_one(count: &u32) -> bool {
    *count == 1
}

/// The optimizer with its base learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerSpec {
    Sgd { learning_rate: f64, momentum: f64, nesterov: bool, weight_decay: f64 },
    AdamW { learning_rate: f64, beta1: f64, beta2: f64, epsilon: f64, weight_decay: f64 },
}

impl OptimizerSpec {
    pub fn learning_rate(&self) -> f64 {
        match self {
            OptimizerSpec::Sgd { learning_rate, .. } | OptimizerSpec::AdamW { learning_rate, .. } => {
                *learning_rate
            }
        }
    }
}

/// How the learning rate falls after the warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    Constant {},
    /// Times `factor` at the start of each of `drop_epochs`.
    Step {
        drop_epochs: Vec<u32>,
        factor: f64,
    },
    /// Base times (1 − progress)^`power`.
    Polynomial {
        power: f64,
    },
    /// Half a cosine from the base to `final_fraction` of it.
    Cosine {
        final_fraction: f64,
    },
}

/// Where patches are taken and how they are changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Share of patches that are centred on a foreground voxel.
    pub foreground_probability: f64,
    /// Axes D, H, W along which a patch is mirrored half of the time.
    pub flip_axes: [bool; 3],
    /// Share of patches that are rotated and scaled.
    pub affine_probability: f64,
    /// Largest rotation about each axis, in degrees.
    pub rotation_degrees_max: f64,
    /// Largest relative change of size: 0.1 for 0.9 to 1.1.
    pub scale_change_max: f64,
    /// Standard deviation of added noise, in standard deviations of the volume.
    pub noise_max: f64,
    /// Largest change of brightness and contrast, in standard deviations.
    pub intensity_change_max: f64,
    /// For clips: sides of training's crop as shares of those of the largest box of the
    /// patch's form that fits in a frame, falling; height and width are at most one entry
    /// apart. 1 alone crops nothing beside that box, in validation neither.
    #[serde(default = "crop_scales")]
    pub crop_scales: Vec<f64>,
    /// Pairs of classes that change places in a mirror ("from left to right" and
    /// "from right to left"): when a clip is mirrored along W, a volume along D.
    #[serde(default)]
    pub flip_swaps: Vec<[u32; 2]>,
}

/// Those of TSN (Wang et al. 2016), which the paper's code uses.
fn crop_scales() -> Vec<f64> {
    vec![1.0, 0.875, 0.75, 0.66]
}

impl Default for TrainingSpec {
    fn default() -> Self {
        TrainingSpec {
            epochs: 20,
            steps_per_epoch: 50,
            batch_size: 2,
            optimizer: OptimizerSpec::Sgd {
                learning_rate: 0.02,
                momentum: 0.9,
                nesterov: true,
                weight_decay: 3e-5,
            },
            warmup_steps: 20,
            schedule: Schedule::Polynomial { power: 0.9 },
            gradient_clip_norm: 12.0,
            validate_every_epochs: 5,
            checkpoint_every_epochs: None,
            checkpoint_every_steps: None,
            augmentation: Augmentation::default(),
            precision: Precision::default(),
            memory_format: MemoryFormat::default(),
            devices: 1,
            spread: false,
            batch_statistics: BatchStatistics::default(),
        }
    }
}

impl Default for Augmentation {
    fn default() -> Self {
        Augmentation {
            foreground_probability: 0.5,
            // Volumes are RAS+: bodies are symmetric from left to right only.
            flip_axes: [true, false, false],
            affine_probability: 0.2,
            rotation_degrees_max: 15.0,
            scale_change_max: 0.1,
            noise_max: 0.1,
            intensity_change_max: 0.1,
            crop_scales: crop_scales(),
            flip_swaps: Vec::new(),
        }
    }
}

impl Augmentation {
    /// What suits clips: a left is a right in a mirror, time and the vertical are
    /// not to be turned.
    pub fn video() -> Self {
        Augmentation { flip_axes: [false, false, true], affine_probability: 0.0, ..Augmentation::default() }
    }
}

impl TrainingSpec {
    /// Optimizer steps of the whole training.
    pub fn steps_total(&self) -> u64 {
        u64::from(self.epochs) * u64::from(self.steps_per_epoch)
    }

    /// Learning rate of step `step`, counted from 0.
    ///
    /// The warm-up multiplies the schedule instead of replacing it, so there is
    /// no step between the two where neither applies.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let warmup = match self.warmup_steps {
            0 => 1.0,
            steps => ((step + 1) as f64 / f64::from(steps)).min(1.0),
        };
        let progress = (step as f64 / self.steps_total().max(1) as f64).min(1.0);
        let decay = match &self.schedule {
            Schedule::Constant {} => 1.0,
            Schedule::Step { drop_epochs, factor } => {
                let epoch = step / u64::from(self.steps_per_epoch.max(1));
                let drops = drop_epochs.iter().filter(|drop| u64::from(**drop) <= epoch).count();
                factor.powi(drops as i32)
            }
            Schedule::Polynomial { power } => (1.0 - progress).powf(*power),
            Schedule::Cosine { final_fraction } => {
                let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
                final_fraction + (1.0 - final_fraction) * cosine
            }
        };
        self.optimizer.learning_rate() * warmup * decay
    }

    /// Whether validation follows epoch `epoch`, counted from 1.
    pub fn validates_after(&self, epoch: u64) -> bool {
        epoch == u64::from(self.epochs) || epoch.is_multiple_of(u64::from(self.validate_every_epochs.max(1)))
    }

    /// Steps between two checkpoints; none where the machine decides.
    pub fn checkpoint_interval_steps(&self) -> Option<u64> {
        let epoch = u64::from(self.steps_per_epoch);
        let epochs = self.checkpoint_every_epochs.map(|epochs| u64::from(epochs) * epoch);
        self.checkpoint_every_steps.map(u64::from).or(epochs)
    }

    /// Whether the job asks for a checkpoint behind step `step`, counted from 1.
    pub fn saves_after(&self, step: u64) -> bool {
        let interval = self.checkpoint_interval_steps();
        step == self.steps_total() || interval.is_some_and(|steps| step.is_multiple_of(steps.max(1)))
    }
}

pub(super) fn check(training: &TrainingSpec, path: &str, found: &mut Violations) {
    let at = |field: &str| format!("{path}.{field}");
    let mut count = |value: u32, least: u32, most: u32, field: &str| {
        found.require((least..=most).contains(&value), &at(field), || {
            format!("must be {least} to {most}, got {value}")
        });
    };
    count(training.epochs, 1, 100_000, "epochs");
    count(training.steps_per_epoch, 1, 100_000, "steps_per_epoch");
    count(training.batch_size, 1, 4096, "batch_size");
    count(training.validate_every_epochs, 1, 100_000, "validate_every_epochs");
    if let Some(epochs) = training.checkpoint_every_epochs {
        count(epochs, 1, 100_000, "checkpoint_every_epochs");
    }
    if let Some(steps) = training.checkpoint_every_steps {
        count(steps, 1, 10_000_000, "checkpoint_every_steps");
    }
    let both = training.checkpoint_every_epochs.and(training.checkpoint_every_steps).is_some();
    found.require(!both, &at("checkpoint_every_steps"), || {
        "says what checkpoint_every_epochs says, too; leave one of them out".to_owned()
    });
    found.require(u64::from(training.warmup_steps) <= training.steps_total(), &at("warmup_steps"), || {
        format!(
            "{} steps of warm-up are more than the whole training of {}",
            training.warmup_steps,
            training.steps_total()
        )
    });
    found.require((1..=training.batch_size.max(1)).contains(&training.devices), &at("devices"), || {
        format!(
            "must be 1 to batch_size, which is {}, as each device needs a sample; got {}",
            training.batch_size, training.devices
        )
    });
    found.require(!training.spread || training.devices > 1, &at("spread"), || {
        "spreads several devices over machines, but devices is 1; say how many train together".to_owned()
    });
    found.within(training.gradient_clip_norm, 0.0..=1e6, &at("gradient_clip_norm"));
    check_optimizer(&training.optimizer, &at("optimizer"), found);
    check_schedule(training, &at("schedule"), found);
    check_augmentation(&training.augmentation, &at("augmentation"), found);
}

fn check_optimizer(optimizer: &OptimizerSpec, path: &str, found: &mut Violations) {
    let at = |field: &str| format!("{path}.{field}");
    let rate = optimizer.learning_rate();
    match optimizer {
        OptimizerSpec::Sgd { momentum, nesterov, weight_decay, .. } => {
            found.within(rate, f64::MIN_POSITIVE..=100.0, &at("sgd.learning_rate"));
            found.within(*momentum, 0.0..=0.9999, &at("sgd.momentum"));
            found.within(*weight_decay, 0.0..=1.0, &at("sgd.weight_decay"));
            found.require(!nesterov || *momentum > 0.0, &at("sgd.nesterov"), || {
                "needs a momentum above 0".to_owned()
            });
        }
        OptimizerSpec::AdamW { beta1, beta2, epsilon, weight_decay, .. } => {
            found.within(rate, f64::MIN_POSITIVE..=100.0, &at("adam_w.learning_rate"));
            found.within(*beta1, 0.0..=0.9999, &at("adam_w.beta1"));
            found.within(*beta2, 0.0..=0.999_999, &at("adam_w.beta2"));
            found.within(*epsilon, 1e-16..=1.0, &at("adam_w.epsilon"));
            found.within(*weight_decay, 0.0..=10.0, &at("adam_w.weight_decay"));
        }
    }
}

fn check_schedule(training: &TrainingSpec, path: &str, found: &mut Violations) {
    let at = |field: &str| format!("{path}.{field}");
    match &training.schedule {
        Schedule::Constant {} => {}
        Schedule::Step { drop_epochs, factor } => {
            found.within(*factor, 1e-6..=1.0, &at("step.factor"));
            let rising = drop_epochs.windows(2).all(|pair| pair[0] < pair[1]);
            let inside = drop_epochs.iter().all(|epoch| (1..training.epochs).contains(epoch));
            found.require(rising && inside, &at("step.drop_epochs"), || {
                format!(
                    "{drop_epochs:?} must rise and lie between 1 and the last of {} epochs",
                    training.epochs
                )
            });
        }
        Schedule::Polynomial { power } => found.within(*power, 0.01..=10.0, &at("polynomial.power")),
        Schedule::Cosine { final_fraction } => {
            found.within(*final_fraction, 0.0..=1.0, &at("cosine.final_fraction"))
        }
    }
}

fn check_augmentation(augmentation: &Augmentation, path: &str, found: &mut Violations) {
    let at = |field: &str| format!("{path}.{field}");
    found.within(augmentation.foreground_probability, 0.0..=1.0, &at("foreground_probability"));
    found.within(augmentation.affine_probability, 0.0..=1.0, &at("affine_probability"));
    found.within(augmentation.rotation_degrees_max, 0.0..=180.0, &at("rotation_degrees_max"));
    found.within(augmentation.scale_change_max, 0.0..=0.9, &at("scale_change_max"));
    found.within(augmentation.noise_max, 0.0..=10.0, &at("noise_max"));
    found.within(augmentation.intensity_change_max, 0.0..=10.0, &at("intensity_change_max"));
    let scales = &augmentation.crop_scales;
    let falling = scales.windows(2).all(|pair| pair[0] > pair[1]);
    let inside = scales.iter().all(|scale| (0.1..=1.0).contains(scale));
    found.require(!scales.is_empty() && falling && inside, &at("crop_scales"), || {
        format!("{scales:?} must fall and lie between 0.1 and 1; [1] crops nothing")
    });
    let mut swapped: Vec<u32> = augmentation.flip_swaps.iter().flatten().copied().collect();
    let count = swapped.len();
    swapped.sort_unstable();
    swapped.dedup();
    found.require(swapped.len() == count, &at("flip_swaps"), || {
        "a class can change places with one other only".to_owned()
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn warm_up_rises_to_the_base_and_hands_over_without_a_gap() {
        let training = TrainingSpec {
            warmup_steps: 10,
            schedule: Schedule::Step { drop_epochs: vec![2, 3], factor: 0.1 },
            epochs: 4,
            steps_per_epoch: 10,
            ..TrainingSpec::default()
        };
        let base = training.optimizer.learning_rate();
        assert!((training.learning_rate(0) - base / 10.0).abs() < 1e-12);
        assert!((training.learning_rate(9) - base).abs() < 1e-12);
        assert!((training.learning_rate(19) - base).abs() < 1e-12);
        assert!((training.learning_rate(20) - base * 0.1).abs() < 1e-12);
        assert!((training.learning_rate(39) - base * 0.01).abs() < 1e-12);
    }

    /// Checkpoints and results of jobs from before these choices stay theirs.
    #[test]
    fn numbers_and_layout_are_written_only_where_they_are_chosen() {
        let mut training = TrainingSpec::default();
        let plain = serde_json::to_value(&training).unwrap();
        for field in ["precision", "memory_format", "devices", "spread", "batch_statistics"] {
            assert!(plain.get(field).is_none(), "{field}");
        }
        assert_eq!(serde_json::from_value::<TrainingSpec>(plain).unwrap(), training);
        (training.precision, training.memory_format) = (Precision::Bf16, MemoryFormat::ChannelsLast);
        let chosen = serde_json::to_value(&training).unwrap();
        assert_eq!(
            (&chosen["precision"], &chosen["memory_format"]),
            (&"bf16".into(), &"channels_last".into())
        );
        assert_eq!(serde_json::from_value::<TrainingSpec>(chosen).unwrap(), training);
    }

    #[test]
    fn the_last_epoch_always_validates_and_saves() {
        let mut training = TrainingSpec {
            epochs: 7,
            steps_per_epoch: 2,
            validate_every_epochs: 5,
            checkpoint_every_epochs: Some(3),
            ..TrainingSpec::default()
        };
        let validated: Vec<u64> = (1..=7).filter(|epoch| training.validates_after(*epoch)).collect();
        assert_eq!(validated, [5, 7]);
        let saved = |training: &TrainingSpec| -> Vec<u64> {
            (1..=14).filter(|step| training.saves_after(*step)).collect()
        };
        assert_eq!(saved(&training), [6, 12, 14]);
        (training.checkpoint_every_epochs, training.checkpoint_every_steps) = (None, Some(5));
        assert_eq!(saved(&training), [5, 10, 14]);
        training.checkpoint_every_steps = None;
        assert_eq!((saved(&training), training.checkpoint_interval_steps()), (vec![14], None));
    }

    #[test]
    fn one_device_cannot_be_spread() {
        let problems = |devices| {
            let training = TrainingSpec { batch_size: 4, devices, spread: true, ..TrainingSpec::default() };
            let mut found = Violations(Vec::new());
            check(&training, "training", &mut found);
            found.0.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        assert_eq!(problems(1), ["training.spread"]);
        assert_eq!(problems(2), [""; 0]);
    }

    #[test]
    fn checkpoints_are_counted_in_epochs_or_in_steps() {
        let violations = |epochs, steps| {
            let training = TrainingSpec {
                checkpoint_every_epochs: epochs,
                checkpoint_every_steps: steps,
                ..TrainingSpec::default()
            };
            let mut found = Violations(Vec::new());
            check(&training, "training", &mut found);
            found.0.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        assert_eq!(violations(None, Some(10_000_000)), [""; 0]);
        assert_eq!(violations(Some(0), None), ["training.checkpoint_every_epochs"]);
        assert_eq!(violations(None, Some(0)), ["training.checkpoint_every_steps"]);
        assert_eq!(violations(Some(1), Some(1)), ["training.checkpoint_every_steps"]);
    }

    proptest! {
        #[test]
        fn the_rate_stays_between_zero_and_its_base(step in 0_u64..5000, kind in 0..4, warmup in 0_u32..50) {
            let schedule = match kind {
                0 => Schedule::Constant {},
                1 => Schedule::Step { drop_epochs: vec![3, 9], factor: 0.1 },
                2 => Schedule::Polynomial { power: 0.9 },
                _ => Schedule::Cosine { final_fraction: 0.01 },
            };
            let training = TrainingSpec { schedule, warmup_steps: warmup, ..TrainingSpec::default() };
            let rate = training.learning_rate(step);
            prop_assert!(rate >= 0.0 && rate <= training.optimizer.learning_rate());
        }
    }
}
