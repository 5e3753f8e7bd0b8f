//! The optimizer step, over tensors that the checkpoint can hold.

use std::collections::BTreeMap;

use cakes::spec::OptimizerSpec;
use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::nets::{Draws, Gradients, LayerDraw, Net, Param, Rows};

/// SGD or AdamW with its state.
#[derive(Debug)]
pub struct Optimizer {
    spec: OptimizerSpec,
    /// Momentum, or the first moment of Adam, by parameter.
    first: BTreeMap<String, Tensor>,
    /// The second moment of Adam.
    second: BTreeMap<String, Tensor>,
    /// How many steps each row has taken part in, for Adam and parameters of
    /// which a step moves only some rows: `[rows, 1, ..]`.
    taken: BTreeMap<String, Tensor>,
}

/// What one step needs besides the gradients.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Steps done before, from 0.
    pub index: u64,
    pub learning_rate: f64,
    /// Largest global norm of the gradient; 0 for no limit.
    pub clip_norm: f64,
    /// L1 on γ per unit of learning rate.
    pub l1_strength: f64,
    pub draws: &'a Draws,
}

impl Optimizer {
    /// An optimizer with empty state.
    ///
    /// # Errors
    /// libtorch cannot make the state.
    pub fn new(spec: OptimizerSpec, net: &Net) -> Result<Self, TrainerError> {
        let zeros = || -> Result<BTreeMap<String, Tensor>, TrainerError> {
            let zero = |(name, param): (&String, &Param)| {
                Ok((name.clone(), param.tensor.f_detach()?.f_zeros_like()?))
            };
            net.params().iter().map(zero).collect()
        };
        let (mut second, mut taken) = (BTreeMap::new(), BTreeMap::new());
        if matches!(spec, OptimizerSpec::AdamW { .. }) {
            second = zeros()?;
            for (name, param) in net.params().iter().filter(|(_, param)| param.rows != Rows::All) {
                let zero = Tensor::f_zeros(per_row(param), (Kind::Float, param.tensor.device()))?;
                taken.insert(name.clone(), zero);
            }
        }
        Ok(Optimizer { first: zeros()?, second, taken, spec })
    }

    /// Its tensors by name, for the checkpoint.
    pub fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let first = self.first.iter().map(|(name, tensor)| (format!("first.{name}"), tensor));
        let second = self.second.iter().map(|(name, tensor)| (format!("second.{name}"), tensor));
        let taken = self.taken.iter().map(|(name, tensor)| (format!("taken.{name}"), tensor));
        first.chain(second).chain(taken)
    }

    /// Moves the parameters by their gradients. In a
    /// performance-priority supernet only what was drawn moves: neither momentum
    /// nor decay touches a candidate that took no part.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn step(&mut self, net: &mut Net, gradients: &Gradients, step: Step<'_>) -> Result<(), TrainerError> {
        tch::no_grad(|| {
            let factor = clip_factor(gradients, step.clip_norm)?;
            for (name, param) in net.params_mut() {
                let Some(gradient) = gradients.get(name) else { continue };
                let gradient = gradient.f_mul_scalar(factor)?;
                let mask = row_mask(param, step.draws)?;
                self.update(name, param, &gradient, mask.as_ref(), step)?;
                shrink(param, step)?;
            }
            Ok(())
        })
    }

    fn update(
        &mut self,
        name: &str,
        param: &mut Param,
        gradient: &Tensor,
        mask: Option<&Tensor>,
        step: Step<'_>,
    ) -> Result<(), TrainerError> {
        let state = |map: &BTreeMap<String, Tensor>| map.get(name).map(Tensor::shallow_clone);
        let missing = || TrainerError::Checkpoint(format!("the optimizer has no state for '{name}'"));
        let mut first = state(&self.first).ok_or_else(missing)?;
        let rate = step.learning_rate;
        let change = match self.spec {
            OptimizerSpec::Sgd { momentum, nesterov, weight_decay, .. } => {
                let gradient = if param.decays {
                    gradient + &param.tensor * weight_decay
                } else {
                    gradient.shallow_clone()
                };
                let velocity = &first * momentum + &gradient;
                let change =
                    if nesterov { gradient + &velocity * momentum } else { velocity.shallow_clone() };
                replace(&mut first, &velocity, mask)?;
                change * rate
            }
            OptimizerSpec::AdamW { beta1, beta2, epsilon, weight_decay, .. } => {
                let mut second = state(&self.second).ok_or_else(missing)?;
                let mean = &first * beta1 + gradient * (1.0 - beta1);
                let square = &second * beta2 + gradient * gradient * (1.0 - beta2);
                replace(&mut first, &mean, mask)?;
                replace(&mut second, &square, mask)?;
                let (mean, square) = match (self.taken.get(name), mask) {
                    (Some(taken), Some(mask)) => {
                        let taken = taken.shallow_clone().f_add_(mask)?;
                        let debias = |beta: f64| -> Result<Tensor, TrainerError> {
                            // One where nothing was taken: those rows do not move.
                            let remainder: Tensor = 1.0 - (&taken * beta.ln()).f_exp()?;
                            Ok(remainder.f_masked_fill(&taken.f_eq(0.0)?, 1.0)?)
                        };
                        (mean / debias(beta1)?, square / debias(beta2)?)
                    }
                    _ => {
                        let time = (step.index + 1) as f64;
                        (mean / (1.0 - beta1.powf(time)), square / (1.0 - beta2.powf(time)))
                    }
                };
                let change = mean / (square.f_sqrt()? + epsilon);
                let decay = if param.decays { weight_decay } else { 0.0 };
                (change + &param.tensor * decay) * rate
            }
        };
        let change = match mask {
            Some(mask) => change.f_mul(mask)?,
            None => change,
        };
        let _ = param.tensor.f_sub_(&change)?;
        Ok(())
    }
}

/// Overwrites `old` with `new`, in masked rows only where there is a mask.
fn replace(old: &mut Tensor, new: &Tensor, mask: Option<&Tensor>) -> Result<(), TrainerError> {
    let value = match mask {
        Some(mask) => new.f_where_self(&mask.f_to_kind(Kind::Bool)?, old)?,
        None => new.shallow_clone(),
    };
    old.f_copy_(&value)?;
    Ok(())
}

/// What gradients are multiplied with so that their global norm is at most
/// `limit`.
fn clip_factor(gradients: &Gradients, limit: f64) -> Result<f64, TrainerError> {
    if limit <= 0.0 || gradients.is_empty() {
        return Ok(1.0);
    }
    let norms = gradients.values().map(Tensor::f_norm).collect::<Result<Vec<_>, _>>()?;
    let norm = Tensor::f_stack(&norms, 0)?.f_norm()?.f_double_value(&[])?;
    if !norm.is_finite() {
        return Err(TrainerError::Numeric("a gradient is not finite; try a lower learning rate".into()));
    }
    Ok((limit / (norm + 1e-6)).min(1.0))
}

/// 1 for rows that take part in this step, 0 for others; none if all do.
fn row_mask(param: &Param, draws: &Draws) -> Result<Option<Tensor>, TrainerError> {
    let chosen = match &param.rows {
        Rows::All => return Ok(None),
        Rows::Branch { layer, kernel } => branch_rows(draws.layer(layer)?, *kernel),
        Rows::Candidates { layer } => Some(draws.layer(layer)?.candidates.shallow_clone()),
    };
    let mut mask = Tensor::f_zeros(per_row(param), (Kind::Float, param.tensor.device()))?;
    if let Some(chosen) = chosen {
        let _ = mask.f_index_fill_(0, &chosen, 1.0)?;
    }
    Ok(Some(mask))
}

/// `[rows, 1, ..]`, with as many axes as the parameter.
fn per_row(param: &Param) -> Vec<i64> {
    let mut shape = vec![1; param.tensor.dim()];
    shape[0] = param.tensor.size()[0];
    shape
}

fn branch_rows(draw: &LayerDraw, kernel: usize) -> Option<Tensor> {
    draw.channels_of_kernel.get(kernel)?.as_ref().map(Tensor::shallow_clone)
}

/// The proximal step of L1 on γ: shrinks towards zero and stops there. It comes
/// after the gradient step, so clipping does not rescale it, and it makes exact
/// zeros, which a sub-gradient never does.
fn shrink(param: &mut Param, step: Step<'_>) -> Result<(), TrainerError> {
    let Some(weights) = &param.l1_weights else { return Ok(()) };
    if step.l1_strength <= 0.0 {
        return Ok(());
    }
    let by = weights * (step.learning_rate * step.l1_strength);
    let size = (param.tensor.f_abs()? - by).f_clamp_min(0.0)?;
    let value = param.tensor.f_sign()? * size;
    param.tensor.f_copy_(&value)?;
    Ok(())
}
