//! The optimizer of the reference path: what one writes over tensors.

use std::collections::BTreeMap;

use tch::Tensor;

use crate::TrainerError;
use crate::nets::{Gradients, Net};

/// SGD with Nesterov momentum, weight decay, a limit on the norm and L1 on γ:
/// some operations for every tensor, as `torch.optim.SGD` and
/// `clip_grad_norm_` do it on a CPU.
#[derive(Debug, Default)]
pub struct PlainSgd(BTreeMap<String, Tensor>);

impl PlainSgd {
    pub const MOMENTUM: f64 = 0.9;
    pub const WEIGHT_DECAY: f64 = 1e-4;
    pub const CLIP_NORM: f64 = 1.0;
    pub const L1_STRENGTH: f64 = 1e-4;

    /// # Errors
    /// libtorch fails.
    pub fn step(
        &mut self,
        net: &mut Net,
        mut gradients: Gradients,
        learning_rate: f64,
    ) -> Result<(), TrainerError> {
        tch::no_grad(|| {
            let norms = gradients.values().map(|gradient| Ok(gradient.f_norm()?));
            let norms = norms.collect::<Result<Vec<Tensor>, TrainerError>>()?;
            let norm = Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?;
            let factor = (Self::CLIP_NORM / (norm + 1e-6)).min(1.0);
            // As factors of an `addcmul`, which needs no second pass.
            let [decay, momentum, l1, rate] =
                [Self::WEIGHT_DECAY, Self::MOMENTUM, Self::L1_STRENGTH, -learning_rate]
                    .map(|factor| Tensor::from(factor as f32));
            for (name, param) in net.params_mut() {
                let Some(mut gradient) = gradients.remove(name) else { continue };
                let _ = gradient.f_mul_scalar_(factor)?;
                if param.l1_weights.is_some() {
                    let _ = gradient.f_addcmul_(&param.tensor.f_sign()?, &l1)?;
                }
                let gradient = gradient.f_addcmul(&param.tensor, &decay)?;
                let buffer = match self.0.remove(name) {
                    Some(mut buffer) => buffer.f_mul_scalar_(Self::MOMENTUM)?.f_add_(&gradient)?,
                    None => gradient.f_detach_copy()?,
                };
                let gradient = gradient.f_addcmul(&buffer, &momentum)?;
                let _ = param.tensor.f_addcmul_(&gradient, &rate)?;
                self.0.insert(name.clone(), buffer);
            }
            Ok(())
        })
    }
}
