//! Layers through libtorch, on any device and with its autograd.

use cakes::Extent;
use cakes::kernel::Kernel;
use cakes::network::{Conv, ConvKernels, Node, Op, Pool, SearchMode};
use cakes::spec::{MemoryFormat, Precision};
use tch::{Kind, Tensor};

use super::dropout;
use super::net::{NORM_EPSILON, NORM_MOMENTUM, Net, Use, draw_of};
use crate::TrainerError;
use crate::ranks::Ranks;

/// Multiply-accumulates of one sample, counted from the shapes that
/// convolutions really saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConvCount {
    pub mac_count: u64,
}

impl ConvCount {
    pub(super) fn add(&mut self, weight: &Tensor, output: &Tensor) {
        let weights: i64 = weight.size()[1..].iter().product();
        let outputs: i64 = output.size()[1..].iter().product();
        self.mac_count += (weights * outputs).unsigned_abs();
    }
}

/// A layer whose output follows from its inputs alone.
pub(super) fn stateless(op: &Op, inputs: &[&Tensor]) -> Result<Tensor, TrainerError> {
    let x = inputs[0];
    Ok(match op {
        Op::Relu => x.f_relu()?,
        Op::Pool { kind, size, stride, padding } => {
            let [size, stride, padding] = [size, stride, padding].map(|values| values.map(i64::from));
            match kind {
                Pool::Max => x.f_max_pool3d(size, stride, padding, [1; 3], false)?,
                Pool::Average => x.f_avg_pool3d(size, stride, padding, false, false, None)?,
            }
        }
        Op::Mean { axes } => widened(x)?.f_mean_dim(mean_axes(*axes).as_slice(), true, None)?,
        Op::Resize { factor } => {
            let shape = x.size();
            let size: Vec<i64> = (0..3).map(|axis| shape[axis + 2] * i64::from(factor[axis])).collect();
            x.f_upsample_trilinear3d(size, false, None, None, None)?
        }
        Op::Concat => Tensor::f_cat(inputs, 1)?,
        Op::Add => inputs[1..].iter().try_fold(x.shallow_clone(), |sum, term| sum.f_add(term))?,
        Op::Fold { groups } => {
            let [samples, channels, d, h, w] = shape_of(x)?;
            let groups = i64::from(*groups);
            let split = [samples, groups, channels / groups, d, h, w];
            x.f_reshape(split)?.f_sum_dim_intlist(1, false, None)?
        }
        Op::Input { .. } | Op::Conv(_) | Op::Norm { .. } | Op::Linear { .. } | Op::Dropout { .. } => {
            return Err(TrainerError::Report(format!("{op:?} has a state")));
        }
    })
}

/// Positions of the chosen axes in `[N, C, D, H, W]`.
pub(super) fn mean_axes(axes: [bool; 3]) -> Vec<i64> {
    (0..3).filter(|axis| axes[*axis as usize]).map(|axis| axis + 2).collect()
}

/// A convolution with zero padding that keeps the extent at stride 1.
pub(super) fn convolve_window(
    x: &Tensor,
    weight: &Tensor,
    window: Extent,
    stride: Extent,
) -> Result<Tensor, TrainerError> {
    let padding = window.map(|taps| i64::from(taps / 2));
    Ok(x.f_conv3d(weight, None::<&Tensor>, stride.map(i64::from), padding, [1; 3], 1)?)
}

/// bfloat16 as float32, anything else as it is.
pub(super) fn widened(x: &Tensor) -> Result<Tensor, TrainerError> {
    match x.f_kind()? {
        Kind::BFloat16 => Ok(x.f_to_kind(Kind::Float)?),
        _ => Ok(x.shallow_clone()),
    }
}

/// The same values, those of a position one behind the other; libtorch takes the
/// layout of what a layer writes from what it reads.
fn channels_last(x: &Tensor) -> Result<Tensor, TrainerError> {
    let last = x.f_permute([0, 2, 3, 4, 1])?;
    Ok(last.f_contiguous()?.f_permute([0, 4, 1, 2, 3])?)
}

/// `[N, C, D, H, W]`
pub(super) fn shape_of(x: &Tensor) -> Result<[i64; 5], TrainerError> {
    let size = x.size();
    size.as_slice()
        .try_into()
        .map_err(|_| TrainerError::Report(format!("expected five axes [N, C, D, H, W], got {size:?}")))
}

impl Net {
    pub(super) fn run_torch(
        &self,
        index: usize,
        inputs: &[&Tensor],
        purpose: Use<'_>,
        count: &mut ConvCount,
    ) -> Result<Tensor, TrainerError> {
        let node = &self.network.nodes[index];
        match &node.op {
            Op::Conv(conv) => self.torch_conv(&node.name, conv, inputs[0], purpose, count),
            Op::Norm { candidates } => self.torch_norm(node, inputs[0], *candidates, purpose),
            Op::Linear { .. } => self.linear(&node.name, inputs[0]),
            Op::Dropout { percent } => {
                let x = inputs[0];
                match dropout::mask(index, *percent, &x.size(), self.device(), purpose)? {
                    Some(mask) => Ok(x.f_mul(&mask)?),
                    None => Ok(x.shallow_clone()),
                }
            }
            op => stateless(op, inputs),
        }
    }

    /// An affine map of the channels, position by position.
    pub(super) fn linear(&self, name: &str, x: &Tensor) -> Result<Tensor, TrainerError> {
        let bias = self.params().get(&format!("{name}.bias")).map(|param| &param.tensor);
        let last = widened(x)?.f_movedim([1_i64].as_slice(), [-1_i64].as_slice())?;
        let output = last.f_linear(self.param(&format!("{name}.weight"))?, bias)?;
        Ok(output.f_movedim([-1_i64].as_slice(), [1_i64].as_slice())?.f_contiguous()?)
    }

    /// What a convolution reads, in the numbers and the layout that were chosen.
    fn read_by_conv(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let x = self.in_numbers(x)?;
        match self.numbers.memory_format {
            MemoryFormat::Contiguous => Ok(x),
            // Nothing is copied where it is laid out like this already.
            MemoryFormat::ChannelsLast => channels_last(&x),
        }
    }

    /// Weights are kept in float32 and rounded for each pass; their gradients are
    /// float32 again.
    fn in_numbers(&self, values: &Tensor) -> Result<Tensor, TrainerError> {
        match self.numbers.precision {
            Precision::Float32 | Precision::Tf32 => Ok(values.shallow_clone()),
            Precision::Bf16 => Ok(values.f_to_kind(Kind::BFloat16)?),
        }
    }

    fn torch_conv(
        &self,
        name: &str,
        conv: &Conv,
        x: &Tensor,
        purpose: Use<'_>,
        count: &mut ConvCount,
    ) -> Result<Tensor, TrainerError> {
        let x = self.read_by_conv(x)?;
        let mut convolve_window = |weight: &Tensor, window: Extent| {
            let output = convolve_window(&x, &self.in_numbers(weight)?, window, conv.stride)?;
            count.add(weight, &output);
            Ok::<Tensor, TrainerError>(output)
        };
        let mut convolve = |weight: &Tensor, kernel: Kernel| convolve_window(weight, kernel.size());
        let branch = |kernel: Kernel| self.param(&format!("{name}.{kernel}.weight"));
        let mut branches = Vec::new();
        match &conv.kernels {
            ConvKernels::Uniform(kernel) => {
                branches.push(convolve(self.param(&format!("{name}.weight"))?, *kernel)?);
            }
            ConvKernels::Window(size) => {
                branches.push(convolve_window(self.param(&format!("{name}.weight"))?, *size)?);
            }
            ConvKernels::Mixed(allocation) => {
                for (kernel, _) in allocation.iter() {
                    branches.push(convolve(branch(kernel)?, kernel)?);
                }
            }
            ConvKernels::Candidates { kernels, mode: SearchMode::CostPriority } => {
                for kernel in kernels.iter() {
                    branches.push(convolve(branch(kernel)?, kernel)?);
                }
            }
            ConvKernels::Candidates { kernels, mode: SearchMode::PerformancePriority } => {
                let draw = draw_of(purpose, name)?;
                for (kernel, channels) in kernels.iter().zip(&draw.channels_of_kernel) {
                    let Some(channels) = channels else { continue };
                    branches.push(convolve(&branch(kernel)?.f_index_select(0, channels)?, kernel)?);
                }
                branches = vec![Tensor::f_cat(&branches, 1)?.f_index_select(1, &draw.order)?];
            }
        }
        let output = if branches.len() == 1 { branches.remove(0) } else { Tensor::f_cat(&branches, 1)? };
        if !conv.bias {
            return Ok(output);
        }
        // All candidates of a channel share its bias.
        let bias = self.param(&format!("{name}.bias"))?;
        let groups = output.size()[1] / bias.size()[0].max(1);
        Ok(output.f_add(&bias.f_repeat([groups])?.f_view([1, -1, 1, 1, 1])?)?)
    }

    fn torch_norm(
        &self,
        node: &Node,
        x: &Tensor,
        candidates: u32,
        purpose: Use<'_>,
    ) -> Result<Tensor, TrainerError> {
        let name = &node.name;
        let (scale, shift) = (self.param(&format!("{name}.weight"))?, self.param(&format!("{name}.bias"))?);
        let (mean, variance) = (
            self.statistic(&format!("{name}.running_mean"))?,
            self.statistic(&format!("{name}.running_var"))?,
        );
        let run = |scale: &Tensor, shift: &Tensor, mean: &Tensor, variance: &Tensor| {
            if let Some(ranks) = self.synchronised().filter(|_| purpose.trains()) {
                return synchronised_norm(ranks, x, [scale, shift], [mean, variance]);
            }
            Ok::<Tensor, TrainerError>(x.f_batch_norm(
                Some(scale),
                Some(shift),
                Some(mean),
                Some(variance),
                purpose.trains(),
                NORM_MOMENTUM,
                NORM_EPSILON,
                false,
            )?)
        };
        if candidates == 1 {
            return run(scale, shift, mean, variance);
        }
        let chosen = &draw_of(purpose, self.producer_name(node))?.candidates;
        let pick = |tensor: &Tensor| tensor.f_index_select(0, chosen);
        let (own_mean, own_variance) = (pick(mean)?, pick(variance)?);
        let output = run(&pick(scale)?, &pick(shift)?, &own_mean, &own_variance)?;
        if purpose.trains() {
            // The picked statistics are copies: what the pass made of them must
            // be put back, or evaluation would see those of the start.
            tch::no_grad(|| -> Result<(), TrainerError> {
                let _ = mean.shallow_clone().f_index_copy_(0, chosen, &own_mean)?;
                let _ = variance.shallow_clone().f_index_copy_(0, chosen, &own_variance)?;
                Ok(())
            })?;
        }
        Ok(output)
    }
}

/// As libtorch's batch normalisation in training, by the moments of all processes'
/// samples, through which gradients find their way back.
///
/// # Shapes
/// `x`: `[N, C, D, H, W]`, all others `[C]`.
fn synchronised_norm(
    ranks: &Ranks,
    x: &Tensor,
    [scale, shift]: [&Tensor; 2],
    [mean, variance]: [&Tensor; 2],
) -> Result<Tensor, TrainerError> {
    let own = widened(x)?;
    let count = ranks.sum_of(&[(own.numel() as i64 / own.size()[1].max(1)) as f64])?[0];
    let sum = |values: &Tensor| -> Result<Tensor, TrainerError> {
        ranks.summed(&values.f_sum_dim_intlist([0_i64, 2, 3, 4].as_slice(), false, None)?)
    };
    let per_channel = |values: &Tensor| values.f_view([1, -1, 1, 1, 1]);
    let batch_mean = sum(&own)?.f_div_scalar(count)?;
    let centred = own.f_sub(&per_channel(&batch_mean)?)?;
    let batch_variance = sum(&centred.f_square()?)?.f_div_scalar(count)?;
    let slope = scale.f_mul(&batch_variance.f_add_scalar(NORM_EPSILON)?.f_rsqrt()?)?;
    let output = centred.f_mul(&per_channel(&slope)?)?.f_add(&per_channel(shift)?)?;
    tch::no_grad(|| -> Result<(), TrainerError> {
        let unbiased = batch_variance.f_mul_scalar(count / (count - 1.0).max(1.0))?;
        for (statistic, new) in [(mean, batch_mean), (variance, unbiased)] {
            let _ = statistic.shallow_clone().f_lerp_(&new.f_detach()?, NORM_MOMENTUM)?;
        }
        Ok(())
    })?;
    Ok(output.f_to_kind(x.f_kind()?)?)
}
