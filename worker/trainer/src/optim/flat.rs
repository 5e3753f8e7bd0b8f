//! The step on a device. A kernel costs some microseconds to launch, whatever it
//! does: so the parameters are one vector, as are the moments, and a step is a score
//! of operations on vectors, however many parameters there are.

use std::collections::BTreeMap;

use cakes::spec::OptimizerSpec;
use tch::{Device, Kind, Tensor};

use super::rule::weight_decay;
use super::{State, Step, chosen_rows, clip_factor, no_state, per_row};
use crate::TrainerError;
use crate::nets::{Gradients, Net, Rows};

/// All parameters of a network, one behind the other in the order of their names,
/// row by row.
#[derive(Debug)]
pub(super) struct Flat {
    /// `[values]`; the network's parameters are views of it, as those of the state
    /// are of `first` and `second`.
    values: Tensor,
    first: Tensor,
    second: Option<Tensor>,
    /// For Adam, where steps move only some rows: how many steps each row has taken
    /// part in, `[rows]`.
    taken: Option<Tensor>,
    /// Bool `[rows]`: what takes part in every step.
    always: Tensor,
    /// 1 where weight decay acts, `[values]`.
    decays: Tensor,
    /// Weights of L1, `[values]`, if there are any.
    l1_weights: Option<Tensor>,
    /// The row of each value, int64 `[values]`.
    row_of: Tensor,
    spans: Vec<Span>,
    device: Device,
}

/// One parameter.
#[derive(Debug)]
struct Span {
    name: String,
    shape: Vec<i64>,
}

impl Span {
    fn rows(&self) -> i64 {
        self.shape.first().copied().unwrap_or(1)
    }

    fn values(&self) -> i64 {
        self.shape.iter().product()
    }
}

impl Flat {
    /// Moves the network's parameters into one vector; with the state of an optimizer.
    pub fn new(net: &Net, adam: bool) -> Result<(Self, State), TrainerError> {
        let device = net.device();
        let spans: Vec<Span> = net
            .params()
            .iter()
            .map(|(name, param)| Span { name: name.clone(), shape: param.tensor.size() })
            .collect();
        let (mut parts, mut decays, mut l1_weights) = (Vec::new(), Vec::new(), Vec::new());
        let (mut always, mut rows, mut lengths) = (Vec::new(), 0, Vec::new());
        for (span, param) in spans.iter().zip(net.params().values()) {
            parts.push(param.tensor.f_detach()?.f_reshape([-1])?);
            let constant = |value: f64| Tensor::f_full([span.values()], value, (Kind::Float, device));
            decays.push(constant(f64::from(u8::from(param.decays)))?);
            l1_weights.push(match &param.l1_weights {
                Some(weights) => weights.shallow_clone(),
                None => constant(0.0)?,
            });
            always.extend(vec![param.rows == Rows::All; span.rows() as usize]);
            lengths.extend(vec![span.values() / span.rows().max(1); span.rows() as usize]);
            rows += span.rows();
        }
        let values = Tensor::f_cat(&parts, 0)?;
        let count = values.size()[0];
        let lengths = Tensor::f_from_slice(&lengths)?.f_to(device)?;
        let row_of = Tensor::f_arange(rows, (Kind::Int64, device))?;
        let only_some = always.contains(&false);
        let has_l1 = net.params().values().any(|param| param.l1_weights.is_some());
        let flat = Flat {
            first: values.f_zeros_like()?,
            second: if adam { Some(values.f_zeros_like()?) } else { None },
            taken: match adam && only_some {
                true => Some(Tensor::f_zeros([rows], (Kind::Float, device))?),
                false => None,
            },
            always: Tensor::f_from_slice(&always)?.f_to(device)?,
            decays: Tensor::f_cat(&decays, 0)?,
            l1_weights: if has_l1 { Some(Tensor::f_cat(&l1_weights, 0)?) } else { None },
            row_of: row_of.f_repeat_interleave_self_tensor(&lengths, 0, count)?,
            values,
            spans,
            device,
        };
        for (name, view) in flat.views(&flat.values)? {
            let param = net.params().get(&name).ok_or_else(|| no_state(&name))?;
            param.tensor.shallow_clone().f_set_data(&view)?;
        }
        let state = flat.state(net)?;
        Ok((flat, state))
    }

    /// The parts of a vector of values, as the parameters that they belong to.
    fn views(&self, vector: &Tensor) -> Result<BTreeMap<String, Tensor>, TrainerError> {
        let mut first = 0;
        let views = self.spans.iter().map(|span| {
            let view = vector.f_narrow(0, first, span.values())?.f_view(span.shape.as_slice())?;
            first += span.values();
            Ok((span.name.clone(), view))
        });
        views.collect()
    }

    fn state(&self, net: &Net) -> Result<State, TrainerError> {
        let mut state = State { first: self.views(&self.first)?, ..State::default() };
        if let Some(second) = &self.second {
            state.second = self.views(second)?;
        }
        let Some(taken) = &self.taken else { return Ok(state) };
        let mut first = 0;
        for (span, param) in self.spans.iter().zip(net.params().values()) {
            if param.rows != Rows::All {
                let view = taken.f_narrow(0, first, span.rows())?.f_view(per_row(param).as_slice())?;
                state.taken.insert(span.name.clone(), view);
            }
            first += span.rows();
        }
        Ok(state)
    }

    pub fn step(
        &mut self,
        spec: &OptimizerSpec,
        net: &Net,
        gradients: &Gradients,
        step: Step<'_>,
    ) -> Result<(), TrainerError> {
        let gradient = self.joined(gradients)?;
        let clip = match step.clip_norm > 0.0 {
            true => clip_factor(gradient.f_norm()?.f_double_value(&[])?, step.clip_norm)?,
            false => 1.0,
        };
        let gradient = gradient.f_mul_scalar(clip)?;
        let rows = self.chosen(net, gradients, step)?;
        let mask = rows.as_ref().map(|rows| rows.f_index_select(0, &self.row_of)).transpose()?;
        let decay = (&self.decays * weight_decay(spec)).f_mul(&self.values)?;
        let change = match *spec {
            OptimizerSpec::Sgd { momentum, nesterov, .. } => {
                let gradient = gradient + decay;
                let velocity = &self.first * momentum + &gradient;
                replace(&mut self.first, &velocity, mask.as_ref())?;
                if nesterov { gradient + velocity * momentum } else { velocity }
            }
            OptimizerSpec::AdamW { beta1, beta2, epsilon, .. } => {
                let second = self.second.as_mut().ok_or_else(|| no_state("second"))?;
                let mean = &self.first * beta1 + &gradient * (1.0 - beta1);
                let square = &*second * beta2 + &gradient * &gradient * (1.0 - beta2);
                replace(&mut self.first, &mean, mask.as_ref())?;
                replace(second, &square, mask.as_ref())?;
                let mean = self.debiased(mean, beta1, rows.as_ref(), step)?;
                let square = self.debiased(square, beta2, rows.as_ref(), step)?;
                mean / (square.f_sqrt()? + epsilon) + decay
            }
        };
        let change = change * step.learning_rate;
        let change = mask.as_ref().map_or_else(|| Ok(change.shallow_clone()), |mask| change.f_mul(mask))?;
        let _ = self.values.f_sub_(&change)?;
        if let (Some(taken), Some(rows)) = (&mut self.taken, &rows) {
            let _ = taken.f_add_(&rows.f_masked_fill(&self.always, 0.0)?)?;
        }
        self.shrink(step)
    }

    /// All gradients one behind the other, zeros where there is none.
    fn joined(&self, gradients: &Gradients) -> Result<Tensor, TrainerError> {
        let parts = self.spans.iter().map(|span| match gradients.get(&span.name) {
            Some(gradient) => gradient.f_reshape([-1]),
            None => Tensor::f_zeros([span.values()], (Kind::Float, self.device)),
        });
        Ok(Tensor::f_cat(&parts.collect::<Result<Vec<_>, _>>()?, 0)?)
    }

    /// 1 for rows that take part in this step, 0 for others, `[rows]`; none if all do.
    fn chosen(
        &self,
        net: &Net,
        gradients: &Gradients,
        step: Step<'_>,
    ) -> Result<Option<Tensor>, TrainerError> {
        let mut all: Vec<f32> = Vec::new();
        for (span, param) in self.spans.iter().zip(net.params().values()) {
            let count = span.rows() as usize;
            let mut own = vec![0.0; count];
            match (gradients.contains_key(&span.name), chosen_rows(param, step.draws)?) {
                (false, _) => {}
                (true, None) => own.fill(1.0),
                (true, Some(rows)) => rows.into_iter().for_each(|row| own[row] = 1.0),
            }
            all.extend(own);
        }
        if self.taken.is_none() && all.iter().all(|row| *row == 1.0) {
            return Ok(None);
        }
        Ok(Some(Tensor::f_from_slice(&all)?.f_to(self.device)?))
    }

    /// An average over what would be missing to 1 in its weights, this step included.
    fn debiased(
        &self,
        average: Tensor,
        beta: f64,
        rows: Option<&Tensor>,
        step: Step<'_>,
    ) -> Result<Tensor, TrainerError> {
        let time = (step.index + 1) as f64;
        let (Some(taken), Some(rows)) = (&self.taken, rows) else {
            return Ok(average / (1.0 - beta.powf(time)));
        };
        let counts = (taken + rows).f_masked_fill(&self.always, time)?;
        // One where nothing was taken: those rows do not move.
        let missing = (&counts * beta.ln()).f_expm1()?.f_neg()?;
        let missing = missing.f_masked_fill(&counts.f_eq(0.0)?, 1.0)?;
        Ok(average.f_div(&missing.f_index_select(0, &self.row_of)?)?)
    }

    /// The proximal step of L1 on γ, as in host memory.
    fn shrink(&mut self, step: Step<'_>) -> Result<(), TrainerError> {
        let strength = step.learning_rate * step.l1_strength;
        let Some(weights) = self.l1_weights.as_ref().filter(|_| strength > 0.0) else { return Ok(()) };
        let size = (self.values.f_abs()? - weights * strength).f_clamp_min(0.0)?;
        let shrunk = self.values.f_sign()? * size;
        self.values.f_copy_(&shrunk)?;
        Ok(())
    }
}

/// Overwrites `old` with `new`, only where the mask is not 0 if there is one.
fn replace(old: &mut Tensor, new: &Tensor, mask: Option<&Tensor>) -> Result<(), TrainerError> {
    let value = match mask {
        Some(mask) => new.f_where_self(&mask.f_to_kind(Kind::Bool)?, old)?,
        None => new.shallow_clone(),
    };
    old.f_copy_(&value)?;
    Ok(())
}
