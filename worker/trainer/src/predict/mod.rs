//! What a trained network says of new volumes.
//!
//! | input | a network that segments | one that classifies |
//! |---|---|---|
//! | `.nii`, `.nii.gz` | a segmentation with the volume's geometry | probabilities; refused for one of clips |
//! | `.npy`, `[N, C, D, H, W]` float32, normalised | scores | probabilities, scores |

pub mod npy;

use std::path::{Path, PathBuf};

use cakes::Extent;
use cakes::input::{InputKind, InputNormalisation, NetworkInput};
use cakes::job::Task;
use cakes::spec::TaskKind;
use cakes_data::nifti_file::read_volume;
use cakes_data::nifti_labels::write_labels;
use cakes_data::normalise;
use clap::Args;
use ndarray::{Array4, ArrayD, Axis, s};
use tch::{Device, Kind, Tensor};

use crate::evaluate::{Windows, segment};
use crate::loss::class_scores;
use crate::nets::{Engine, Net, Use};
use crate::{TrainerError, checkpoint, device};

/// Samples of an array that run together.
const SAMPLES_AT_ONCE: usize = 4;

#[derive(Debug, Args)]
pub struct PredictArguments {
    /// Folder of a checkpoint: OUT/checkpoints/step-... of a run.
    #[arg(value_name = "CHECKPOINT")]
    pub checkpoint: PathBuf,
    /// Volumes (.nii, .nii.gz), or arrays [N, C, D, H, W] of float32 as the network reads
    /// them (.npy); clips are given as arrays.
    #[arg(value_name = "INPUT", required = true)]
    pub inputs: Vec<PathBuf>,
    /// Folder for segmentations, which get the names of their volumes, or for
    /// probabilities.tsv; made if it is missing.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Where to write the scores before softmax of an array.
    #[arg(long, value_name = "FILE.npy")]
    pub logits: Option<PathBuf>,
    /// Computes in float64, slowly: what the scores of float32 and of exports are judged by.
    #[arg(long)]
    pub float64: bool,
    /// Computes each branch as one conv3d of libtorch, as exports to PyTorch do: with as many
    /// threads both give the same bits. Without it the faster loops of trainings compute.
    #[arg(long, conflicts_with = "float64")]
    pub published_form: bool,
    /// Extent of a window, for checkpoints that do not say on what patches they were trained.
    #[arg(long, value_name = "DxHxW", value_parser = parse_extent)]
    pub patch: Option<Extent>,
    /// Replaces predictions that are there.
    #[arg(long)]
    pub force: bool,
    /// auto, cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// CPU threads; all cores without it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

fn parse_extent(text: &str) -> Result<Extent, String> {
    let sizes: Option<Vec<u32>> =
        text.split('x').map(|size| size.parse().ok().filter(|size| *size > 0)).collect();
    match sizes.as_deref() {
        Some([depth, height, width]) => Ok([*depth, *height, *width]),
        _ => Err(format!("'{text}' is no extent; give DxHxW in voxels, for example 32x32x32")),
    }
}

/// Predicts every input.
///
/// # Errors
/// The checkpoint or an input is wrong, something is in the way, or libtorch fails.
pub fn run(arguments: &PredictArguments) -> Result<(), TrainerError> {
    check(arguments)?;
    device::keep_freed_memory();
    device::load_cuda(cakes::spec::Precision::Float32);
    device::use_threads(arguments.threads)?;
    let device = device::choose(&arguments.device)?;
    let mut predictor = Predictor::open(&arguments.checkpoint, arguments.patch, device)?;
    if arguments.float64 {
        predictor = predictor.in_double()?;
    }
    if arguments.published_form {
        predictor = predictor.in_published_form();
    }
    let has_volumes = arguments.inputs.iter().any(|input| !is_array(input));
    if predictor.task == TaskKind::Segmentation && has_volumes && arguments.out.is_none() {
        return Err(TrainerError::User("--out: is needed, the folder that segmentations go to".into()));
    }
    if let Some(out) = &arguments.out {
        std::fs::create_dir_all(out)
            .map_err(|error| TrainerError::io(format!("cannot create {}", out.display()), error))?;
    }
    let mut table = Table::new(&predictor);
    for input in &arguments.inputs {
        if is_array(input) {
            let scores = predictor.scores(&npy::read(input)?)?;
            if let Some(path) = &arguments.logits {
                if arguments.float64 {
                    npy::write(path, &scores)?;
                } else {
                    npy::write(path, &scores.mapv(|score| score as f32))?;
                }
                println!("wrote {}", path.display());
            }
            if predictor.task == TaskKind::Classification {
                table.add(&name_of(input), &scores)?;
            }
        } else if predictor.task == TaskKind::Classification {
            let scores = predictor.classify(input)?;
            table.add(&name_of(input), &scores)?;
        } else if let Some(out) = &arguments.out {
            let target = out.join(input.file_name().unwrap_or_default());
            predictor.segment(input, &target)?;
            println!("wrote {}", target.display());
        }
    }
    table.write(arguments.out.as_deref(), arguments.force)
}

/// What is wrong with the arguments, before anything takes time.
fn check(arguments: &PredictArguments) -> Result<(), TrainerError> {
    let wrong = |text: String| Err(TrainerError::User(text));
    let arrays = arguments.inputs.iter().filter(|input| is_array(input)).count();
    if arguments.logits.is_some() && (arrays != 1 || arguments.inputs.len() != 1) {
        return wrong("--logits: takes the scores of one array; give one .npy file as the input".into());
    }
    let Some(out) = &arguments.out else { return Ok(()) };
    let mut targets: Vec<PathBuf> =
        arguments.inputs.iter().map(|input| out.join(input.file_name().unwrap_or_default())).collect();
    targets.sort();
    if let Some(pair) = targets.windows(2).find(|pair| pair[0] == pair[1]) {
        return wrong(format!("two inputs would both become {}; predict them one by one", pair[0].display()));
    }
    for (input, target) in arguments
        .inputs
        .iter()
        .zip(arguments.inputs.iter().map(|input| out.join(input.file_name().unwrap_or_default())))
    {
        let is_itself = matches!((input.canonicalize(), target.canonicalize()), (Ok(a), Ok(b)) if a == b);
        if is_itself {
            return wrong(format!(
                "--out: {} would be replaced by its own prediction; give another folder",
                input.display()
            ));
        }
        if target.exists() && !arguments.force {
            return wrong(format!(
                "--out: {} exists; choose another folder or add --force",
                target.display()
            ));
        }
    }
    Ok(())
}

fn is_array(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "npy")
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A trained network that reads files.
pub struct Predictor {
    net: Net,
    kind: Kind,
    task: TaskKind,
    input: Option<NetworkInput>,
    patch: Extent,
    stride: u32,
    classes: Vec<String>,
}

impl Predictor {
    /// # Errors
    /// The checkpoint is missing or damaged, or of a supernet.
    pub fn open(directory: &Path, patch: Option<Extent>, device: Device) -> Result<Self, TrainerError> {
        let refuse = |text: &str| TrainerError::User(format!("{}: {text}", directory.display()));
        let contents = checkpoint::contents(directory)?;
        let architecture = match contents.task {
            Some(Task::Retrain { architecture }) => architecture,
            Some(Task::Supernet { .. }) => {
                return Err(refuse("is of a supernet; predict with a network that was retrained from it"));
            }
            None => return Err(refuse("does not say of which network it is; train it again")),
        };
        let patch = patch
            .or(contents.input.as_ref().map(|input| input.patch))
            .ok_or_else(|| refuse("does not say on what patches it was trained; give --patch DxHxW"))?;
        let backbone = architecture.backbone();
        let net = Net::new(architecture.network(), patch, 0, device)?;
        let targets = net.state().map(|(name, tensor)| (name.clone(), tensor));
        checkpoint::fill(contents.weights, directory, targets)?;
        let classes = match &contents.input {
            Some(input) if input.classes.len() == backbone.classes() as usize => input.classes.clone(),
            _ => (0..backbone.classes()).map(|class| class.to_string()).collect(),
        };
        let (task, stride) = (backbone.task(), backbone.total_stride());
        Ok(Predictor { net, kind: Kind::Float, task, input: contents.input, patch, stride, classes })
    }

    /// The same network in float64.
    ///
    /// # Errors
    /// Memory is exhausted.
    pub fn in_double(self) -> Result<Self, TrainerError> {
        Ok(Predictor { net: self.net.in_double()?, kind: Kind::Double, ..self })
    }

    /// The same network, computed by libtorch alone.
    #[must_use]
    pub fn in_published_form(self) -> Self {
        Predictor { net: self.net.with_engine(Engine::Torch), ..self }
    }

    /// Writes the segmentation of a volume.
    ///
    /// # Errors
    /// The volume is wrong, or the disk fails.
    pub fn segment(&mut self, volume: &Path, target: &Path) -> Result<(), TrainerError> {
        let mut image = self.read(volume)?;
        normalise(&mut image);
        let _no_grad = tch::no_grad_guard();
        let draws = self.net.best_draw()?;
        let windows = Windows { patch: self.patch, stride: self.stride };
        let (labels, _) = segment(&mut self.net, &image, windows, Use::Evaluate(&draws))?;
        Ok(write_labels(target, volume, &labels)?)
    }

    /// Scores of a volume, read as validation reads it: `[1, classes]`.
    ///
    /// # Errors
    /// The volume is wrong, or the network was trained on clips.
    pub fn classify(&mut self, volume: &Path) -> Result<ArrayD<f64>, TrainerError> {
        if self.input.as_ref().is_some_and(|input| input.kind == InputKind::Clip) {
            return Err(TrainerError::User(format!(
                "{}: is a volume, and the network was trained on clips; give an array [N, C, T, H, W] of \
                 float32, resized and normalised as in training (.npy)",
                volume.display()
            )));
        }
        let mut image = self.read(volume)?;
        match self.input.as_ref().map(|input| &input.normalisation) {
            Some(InputNormalisation::Fixed { mean, deviation }) => {
                for (mut channel, (mean, deviation)) in image.outer_iter_mut().zip(mean.iter().zip(deviation))
                {
                    let scale = if *deviation > 0.0 { 1.0 / deviation } else { 0.0 };
                    channel.mapv_inplace(|value| (value - mean) * scale);
                }
            }
            Some(InputNormalisation::PerSample) | None => normalise(&mut image),
        }
        let image = middle(&image, self.patch.map(|size| size as usize));
        self.scores(&image.insert_axis(Axis(0)).into_dyn())
    }

    fn read(&self, path: &Path) -> Result<Array4<f32>, TrainerError> {
        let image = read_volume(path)?.data;
        let (found, wanted) = (image.dim().0, self.net.input_channels() as usize);
        if found == wanted {
            return Ok(image);
        }
        Err(TrainerError::User(format!(
            "{}: has {found} channels, the network reads {wanted}",
            path.display()
        )))
    }

    /// Scores before softmax of normalised samples, `[N, C, D, H, W]`.
    ///
    /// # Errors
    /// The shape is not one that the network reads, or libtorch fails.
    pub fn scores(&mut self, samples: &ArrayD<f32>) -> Result<ArrayD<f64>, TrainerError> {
        self.check_shape(samples.shape())?;
        let _no_grad = tch::no_grad_guard();
        let draws = self.net.best_draw()?;
        let mut parts = Vec::new();
        for part in samples.axis_chunks_iter(Axis(0), SAMPLES_AT_ONCE) {
            let shape: Vec<i64> = part.shape().iter().map(|size| *size as i64).collect();
            let values: Vec<f32> = part.iter().copied().collect();
            let input = Tensor::f_from_slice(&values)?.f_view(shape.as_slice())?.f_to_kind(self.kind)?;
            let input = input.f_to(self.net.device())?;
            let mut output = self.net.forward(&input, Use::Evaluate(&draws))?;
            if self.task == TaskKind::Classification {
                output = class_scores(&output)?;
            }
            parts.push(to_array(&output)?);
        }
        let views: Vec<_> = parts.iter().map(|part| part.view()).collect();
        ndarray::concatenate(Axis(0), &views).map_err(|error| TrainerError::Report(error.to_string()))
    }

    fn check_shape(&self, shape: &[usize]) -> Result<(), TrainerError> {
        let channels = self.net.input_channels() as usize;
        match shape {
            [samples, found, extent @ ..] if *samples > 0 && *found == channels && extent.len() == 3 => {
                let wrong = extent.iter().find(|size| **size == 0 || *size % self.stride as usize != 0);
                wrong.map_or(Ok(()), |size| {
                    let text = format!(
                        "an axis of {size} is not a multiple of {}, which this network's depth needs",
                        self.stride
                    );
                    Err(TrainerError::User(text))
                })
            }
            _ => Err(TrainerError::User(format!(
                "an array of the shape {shape:?} is not [N, {channels}, D, H, W]"
            ))),
        }
    }
}

/// The middle of a volume, padded with zeros where it is smaller than `extent`.
fn middle(image: &Array4<f32>, extent: [usize; 3]) -> Array4<f32> {
    let (channels, d, h, w) = image.dim();
    let mut cut = Array4::zeros((channels, extent[0], extent[1], extent[2]));
    let range = |size: usize, room: usize| {
        let (common, first) = (size.min(room), (size - size.min(room)) / 2);
        first..first + common
    };
    let [x, y, z] =
        [0, 1, 2].map(|axis| (range([d, h, w][axis], extent[axis]), range(extent[axis], [d, h, w][axis])));
    cut.slice_mut(s![.., x.1, y.1, z.1]).assign(&image.slice(s![.., x.0, y.0, z.0]));
    cut
}

fn to_array(tensor: &Tensor) -> Result<ArrayD<f64>, TrainerError> {
    let tensor = tensor.f_to(Device::Cpu)?.f_to_kind(Kind::Double)?.f_contiguous()?;
    let mut values = vec![0_f64; tensor.numel()];
    let length = values.len();
    tensor.f_copy_data(&mut values, length)?;
    let shape: Vec<usize> = tensor.size().iter().map(|size| *size as usize).collect();
    ArrayD::from_shape_vec(shape, values).map_err(|error| TrainerError::Report(error.to_string()))
}

/// Probabilities of samples, one line each.
struct Table {
    classes: Vec<String>,
    lines: Vec<String>,
}

impl Table {
    fn new(predictor: &Predictor) -> Self {
        Table { classes: predictor.classes.clone(), lines: Vec::new() }
    }

    /// `scores`: `[N, classes]`
    fn add(&mut self, name: &str, scores: &ArrayD<f64>) -> Result<(), TrainerError> {
        for (number, row) in scores.outer_iter().enumerate() {
            let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = row.iter().map(|score| (score - highest).exp()).collect();
            let sum: f64 = powers.iter().sum();
            let best = powers.iter().enumerate().max_by(|left, right| left.1.total_cmp(right.1));
            let class = best.and_then(|(class, _)| self.classes.get(class)).cloned().unwrap_or_default();
            let name = if scores.shape()[0] > 1 { format!("{name}[{number}]") } else { name.to_owned() };
            let shares: Vec<String> = powers.iter().map(|power| format!("{:.6}", power / sum)).collect();
            self.lines.push(format!("{name}\t{class}\t{}", shares.join("\t")));
        }
        Ok(())
    }

    /// Prints them, and writes them below `out`.
    fn write(&self, out: Option<&Path>, force: bool) -> Result<(), TrainerError> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let text = format!("sample\tclass\t{}\n{}\n", self.classes.join("\t"), self.lines.join("\n"));
        print!("{text}");
        let Some(out) = out else { return Ok(()) };
        let path = out.join("probabilities.tsv");
        if path.exists() && !force {
            return Err(TrainerError::User(format!(
                "--out: {} exists; choose another folder or add --force",
                path.display()
            )));
        }
        std::fs::write(&path, text)
            .map_err(|error| TrainerError::io(format!("cannot write {}", path.display()), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_cut_where_there_is_more_and_padded_where_there_is_less() {
        let image = Array4::from_shape_fn((1, 5, 2, 1), |(_, d, h, _)| (10 * d + h + 1) as f32);
        let cut = middle(&image, [3, 4, 1]);
        let column = |d: usize| (0..4).map(|h| cut[[0, d, h, 0]]).collect::<Vec<_>>();
        assert_eq!(column(0), [0.0, 11.0, 12.0, 0.0]);
        assert_eq!(column(2), [0.0, 31.0, 32.0, 0.0]);
    }
}
