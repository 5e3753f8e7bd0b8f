//! A convolution of one tap as what it is: a product of its weight with the
//! matrix of channels by positions, sample by sample.

use tch::{Device, Kind, Tensor};

use super::torch_ops::shape_of;
use crate::TrainerError;

/// A `1x1x1` convolution.
pub(super) struct Pointwise<'a> {
    /// `[C_out, C_in, 1, 1, 1]`
    pub weight: &'a Tensor,
    pub stride: [usize; 3],
}

impl Pointwise<'_> {
    fn matrix(&self) -> Result<Tensor, TrainerError> {
        Ok(self.weight.f_detach()?.f_flatten(1, -1)?)
    }

    /// `[N, C_out, ⌈D/s⌉, ⌈H/s⌉, ⌈W/s⌉]`
    pub fn forward(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let read = self.read(x)?;
        let [samples, _, d, h, w] = shape_of(&read)?;
        let weight = self.matrix()?;
        products(&weight, &read, [samples, weight.size()[0], d, h, w])
    }

    /// `[C_out, C_in, 1, 1, 1]`, summed over samples and positions.
    pub fn weight_gradient(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor, TrainerError> {
        let (read, arrived) = (self.read(x)?.f_flatten(2, -1)?, gradient.f_flatten(2, -1)?);
        let mut sum = Tensor::f_zeros_like(&self.matrix()?)?;
        for sample in 0..read.size()[0] {
            let _ = sum.f_addmm_(&arrived.f_get(sample)?, &read.f_get(sample)?.f_tr()?)?;
        }
        Ok(sum.f_view(self.weight.size().as_slice())?)
    }

    /// Of the shape of `x`.
    pub fn input_gradient(&self, x: &Tensor, gradient: &Tensor) -> Result<Tensor, TrainerError> {
        let weight = self.matrix()?.f_tr()?;
        let [samples, _, d, h, w] = shape_of(gradient)?;
        let read = products(&weight, gradient, [samples, weight.size()[0], d, h, w])?;
        if self.stride == [1; 3] {
            return Ok(read);
        }
        let full = Tensor::f_zeros(x.size(), (Kind::Float, Device::Cpu))?;
        self.skip(&full)?.f_copy_(&read)?;
        Ok(full)
    }

    /// The positions that the kernel reads, one behind the other.
    fn read(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        Ok(self.skip(x)?.f_contiguous()?)
    }

    fn skip(&self, x: &Tensor) -> Result<Tensor, TrainerError> {
        let mut view = x.shallow_clone();
        for (axis, step) in (2..).zip(self.stride) {
            view = view.f_slice(axis, None, None, step as i64)?;
        }
        Ok(view)
    }
}

/// `left` times each sample of `right`.
fn products(left: &Tensor, right: &Tensor, shape: [i64; 5]) -> Result<Tensor, TrainerError> {
    let result = Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?;
    let (right, target) = (right.f_flatten(2, -1)?, result.f_flatten(2, -1)?);
    for sample in 0..shape[0] {
        let _ = left.f_mm_out(&target.f_get(sample)?, &right.f_get(sample)?)?;
    }
    Ok(result)
}
