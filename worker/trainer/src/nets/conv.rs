//! How one convolution is computed.

use cakes::kernel::Kernel;
use tch::Tensor;

use crate::TrainerError;

/// Multiply-accumulates counted from the shapes that convolutions really saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConvCount {
    pub mac_count: u64,
}

impl ConvCount {
    fn add(&mut self, weight: &Tensor, output: &Tensor) {
        let weights: i64 = weight.size()[1..].iter().product();
        let outputs: i64 = output.size()[1..].iter().product();
        self.mac_count += (weights * outputs).unsigned_abs();
    }
}

/// Convolves `x` with padding that keeps the extent at stride 1.
///
/// # Shapes
/// `x`: `[N, C_in, D, H, W]`, `weight`: `[C_out, C_in, kD, kH, kW]`, result:
/// `[N, C_out, ⌈D/s⌉, ⌈H/s⌉, ⌈W/s⌉]`.
pub(super) fn convolve(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    kernel: Kernel,
    stride: [u32; 3],
    inference: bool,
    count: &mut ConvCount,
) -> Result<Tensor, TrainerError> {
    let padding = kernel.padding().map(i64::from);
    let stride = stride.map(i64::from);
    // For one sample libtorch's generic dispatch picks an im2col kernel that
    // is several times slower than oneDNN, which is used where no gradient is wanted.
    let single_inference = inference && x.size()[0] == 1 && x.device() == tch::Device::Cpu;
    let output = if single_inference {
        x.f_mkldnn_convolution(weight, bias, padding, stride, [1; 3], 1)?
    } else {
        x.f_conv3d(weight, bias, stride, padding, [1; 3], 1)?
    };
    count.add(weight, &output);
    Ok(output)
}
