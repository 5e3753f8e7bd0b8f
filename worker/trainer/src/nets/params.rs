//! Parameters and running statistics, by name.

use std::collections::BTreeMap;

use cakes::kernel::{Kernel, KernelSet};
use cakes::network::{ConvKernels, FeatureShape, Network, Node, Op, SearchMode};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::TrainerError;

/// Which rows of a parameter take part in a step of a performance-priority
/// supernet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    /// All rows, always.
    All,
    /// One kernel's weights in `layer`: the rows of its drawn channels.
    Branch { layer: String, kernel: usize },
    /// A norm's features behind `layer`: the drawn candidates.
    Candidates { layer: String },
}

/// A trainable tensor.
#[derive(Debug)]
pub struct Param {
    pub tensor: Tensor,
    /// Whether weight decay acts on it: weights yes, norms and biases no.
    pub decays: bool,
    pub rows: Rows,
    /// For the scales γ of a cost-priority supernet: the L1 weight of each
    /// feature (its taps over the sum of all taps), `[K·C]`.
    pub l1_weights: Option<Tensor>,
}

/// What a network learns and remembers. Maps are ordered, so every traversal is.
#[derive(Debug, Default)]
pub(super) struct Params {
    pub trained: BTreeMap<String, Param>,
    pub statistics: BTreeMap<String, Tensor>,
}

/// Makes the parameters of `network`. Weights are normal with variance
/// 2 / fan-in (He et al. 2015), γ is 1, β is 0. In a cost-priority supernet γ
/// is 1/√K, so that the sum over K candidates keeps unit variance; in a
/// performance-priority one the kernels of a channel start alike.
pub(super) fn initialise(
    network: &Network,
    shapes: &[FeatureShape],
    seed: u64,
    device: Device,
) -> Result<Params, TrainerError> {
    let mut maker = Maker {
        params: Params::default(),
        rng: ChaCha8Rng::seed_from_u64(seed ^ 0x7765_6967_6874_7321),
        device,
    };
    for (node, shape) in network.nodes.iter().zip(shapes) {
        let input = node.inputs.first().map_or(*shape, |id| shapes[id.0]);
        maker.node(network, node, input, *shape)?;
    }
    Ok(maker.params)
}

struct Maker {
    params: Params,
    rng: ChaCha8Rng,
    device: Device,
}

impl Maker {
    fn node(
        &mut self,
        network: &Network,
        node: &Node,
        input: FeatureShape,
        output: FeatureShape,
    ) -> Result<(), TrainerError> {
        let inputs = i64::from(input.channels);
        match &node.op {
            Op::Conv(conv) => {
                let name = &node.name;
                match &conv.kernels {
                    ConvKernels::Uniform(kernel) => {
                        self.weight(format!("{name}.weight"), conv.channels, inputs, *kernel, Rows::All)?;
                    }
                    ConvKernels::Window(size) => {
                        let taps: i64 = size.iter().map(|taps| i64::from(*taps)).product();
                        let [d, h, w] = size.map(i64::from);
                        let shape = [i64::from(conv.channels), inputs, d, h, w];
                        let tensor = self.normal(&shape, inputs * taps)?;
                        self.insert(format!("{name}.weight"), &tensor, true, Rows::All, None)?;
                    }
                    ConvKernels::Mixed(allocation) => {
                        for (kernel, count) in allocation.iter() {
                            self.weight(format!("{name}.{kernel}.weight"), count, inputs, kernel, Rows::All)?;
                        }
                    }
                    ConvKernels::Candidates { kernels, mode: SearchMode::CostPriority } => {
                        for kernel in kernels.iter() {
                            let name = format!("{name}.{kernel}.weight");
                            self.weight(name, conv.channels, inputs, kernel, Rows::All)?;
                        }
                    }
                    ConvKernels::Candidates { kernels, mode: SearchMode::PerformancePriority } => {
                        self.alike(name, conv.channels, inputs, kernels)?;
                    }
                }
                if conv.bias {
                    self.vector(format!("{name}.bias"), conv.channels, 0.0, Rows::All, None)?;
                }
            }
            Op::Norm { candidates } => self.norm(network, node, output.channels * candidates)?,
            Op::Linear { features, bias } => {
                let tensor = self.normal(&[i64::from(*features), inputs], inputs)?;
                self.insert(format!("{}.weight", node.name), &tensor, true, Rows::All, None)?;
                if *bias {
                    self.vector(format!("{}.bias", node.name), *features, 0.0, Rows::All, None)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn norm(&mut self, network: &Network, node: &Node, features: u32) -> Result<(), TrainerError> {
        let producer = node.inputs.first().and_then(|id| network.nodes.get(id.0));
        let candidates = producer.and_then(|producer| match &producer.op {
            Op::Conv(conv) => match &conv.kernels {
                ConvKernels::Candidates { kernels, mode } => {
                    Some((producer.name.clone(), conv.channels, kernels.clone(), *mode))
                }
                _ => None,
            },
            _ => None,
        });
        let (rows, scale, l1_weights) = match candidates {
            None => (Rows::All, 1.0, None),
            Some((layer, _, _, SearchMode::PerformancePriority)) => (Rows::Candidates { layer }, 1.0, None),
            Some((_, channels, kernels, SearchMode::CostPriority)) => {
                let weights: Vec<f32> = kernels
                    .iter()
                    .flat_map(|kernel| vec![kernel.taps() as f32 / kernels.taps() as f32; channels as usize])
                    .collect();
                let weights = Tensor::f_from_slice(&weights)?.f_to(self.device)?;
                (Rows::All, 1.0 / (kernels.len() as f64).sqrt(), Some(weights))
            }
        };
        let name = &node.name;
        self.vector(format!("{name}.weight"), features, scale, rows.clone(), l1_weights)?;
        self.vector(format!("{name}.bias"), features, 0.0, rows, None)?;
        let constant = |value: f64| Tensor::f_full([i64::from(features)], value, (Kind::Float, self.device));
        self.params.statistics.insert(format!("{name}.running_mean"), constant(0.0)?);
        self.params.statistics.insert(format!("{name}.running_var"), constant(1.0)?);
        Ok(())
    }

    fn weight(
        &mut self,
        name: String,
        outputs: u32,
        inputs: i64,
        kernel: Kernel,
        rows: Rows,
    ) -> Result<(), TrainerError> {
        let [d, h, w] = kernel.size().map(i64::from);
        let tensor =
            self.normal(&[i64::from(outputs), inputs, d, h, w], inputs * i64::from(kernel.taps()))?;
        self.insert(name, &tensor, true, rows, None)
    }

    /// Weights of kernels that take turns in a channel: sums of one `3x3x3` over
    /// the axes that a kernel lacks. Each has the variance that it would be given
    /// by itself, and answers like the others where the input is constant along
    /// those axes, so what reads the channel finds one feature and not K.
    fn alike(
        &mut self,
        layer: &str,
        outputs: u32,
        inputs: i64,
        kernels: &KernelSet,
    ) -> Result<(), TrainerError> {
        let whole = Kernel::K333;
        let fan_in = inputs * i64::from(whole.taps());
        let full = self.normal(&[i64::from(outputs), inputs, 3, 3, 3], fan_in)?;
        for (position, kernel) in kernels.iter().enumerate() {
            let size = kernel.size();
            let lacking: Vec<i64> =
                (0..3).filter(|axis| size[*axis as usize] == 1).map(|axis| axis + 2).collect();
            let tensor = if lacking.is_empty() {
                full.f_detach_copy()
            } else {
                full.f_sum_dim_intlist(lacking.as_slice(), true, None)
            }?;
            let rows = Rows::Branch { layer: layer.to_owned(), kernel: position };
            self.insert(format!("{layer}.{kernel}.weight"), &tensor, true, rows, None)?;
        }
        Ok(())
    }

    /// From this job's own generator, so that it does not depend on the state of
    /// libtorch's.
    fn normal(&mut self, shape: &[i64], fan_in: i64) -> Result<Tensor, TrainerError> {
        let deviation = (2.0 / fan_in.max(1) as f64).sqrt();
        let count: i64 = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| (gaussian(&mut self.rng) * deviation) as f32).collect();
        Ok(Tensor::f_from_slice(&values)?.f_view(shape)?)
    }

    fn vector(
        &mut self,
        name: String,
        length: u32,
        value: f64,
        rows: Rows,
        l1_weights: Option<Tensor>,
    ) -> Result<(), TrainerError> {
        let tensor = Tensor::f_full([i64::from(length)], value, (Kind::Float, Device::Cpu))?;
        self.insert(name, &tensor, false, rows, l1_weights)
    }

    fn insert(
        &mut self,
        name: String,
        tensor: &Tensor,
        decays: bool,
        rows: Rows,
        l1_weights: Option<Tensor>,
    ) -> Result<(), TrainerError> {
        let tensor = tensor.f_to(self.device)?.f_set_requires_grad(true)?;
        self.params.trained.insert(name, Param { tensor, decays, rows, l1_weights });
        Ok(())
    }
}

/// A standard normal number (Box and Muller 1958).
fn gaussian(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
