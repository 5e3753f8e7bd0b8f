//! The optimizer step, over tensors that the checkpoint can hold.
//!
//! | module | does |
//! |---|---|
//! | [`rule`] | what a step makes of one value |
//! | [`host`] | steps in host memory: one pass over every parameter |
//! | [`flat`] | steps on a device: all parameters are one vector |

mod flat;
mod host;
mod rule;

use std::collections::BTreeMap;

use cakes::spec::OptimizerSpec;
use tch::{Device, Kind, Tensor};

use crate::TrainerError;
use crate::nets::{Draws, Gradients, Net, Param, Rows};
use flat::Flat;

/// SGD or AdamW with its state.
#[derive(Debug)]
pub struct Optimizer {
    spec: OptimizerSpec,
    state: State,
    /// Where a device steps through all parameters at once.
    flat: Option<Flat>,
}

/// What an optimizer remembers, by parameter.
#[derive(Debug, Default)]
struct State {
    /// Momentum, or the first moment of Adam.
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
        if net.device() != Device::Cpu {
            return Self::flat(spec, net);
        }
        let zeros = || -> Result<BTreeMap<String, Tensor>, TrainerError> {
            let zero = |(name, param): (&String, &Param)| {
                Ok((name.clone(), param.tensor.f_detach()?.f_zeros_like()?))
            };
            net.params().iter().map(zero).collect()
        };
        let mut state = State { first: zeros()?, ..State::default() };
        if is_adam(&spec) {
            state.second = zeros()?;
            for (name, param) in net.params().iter().filter(|(_, param)| param.rows != Rows::All) {
                let zero = Tensor::f_zeros(per_row(param), (Kind::Float, Device::Cpu))?;
                state.taken.insert(name.clone(), zero);
            }
        }
        Ok(Optimizer { spec, state, flat: None })
    }

    /// As [`Optimizer::new`] on a GPU, on any device: parameters and state become
    /// parts of one vector each, so that a step takes as many operations for a
    /// thousand parameters as for one.
    ///
    /// # Errors
    /// libtorch cannot make the state.
    pub fn flat(spec: OptimizerSpec, net: &Net) -> Result<Self, TrainerError> {
        let (flat, state) = Flat::new(net, is_adam(&spec))?;
        Ok(Optimizer { spec, state, flat: Some(flat) })
    }

    /// Its tensors by name, for the checkpoint.
    pub fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        let State { first, second, taken } = &self.state;
        let first = first.iter().map(|(name, tensor)| (format!("first.{name}"), tensor));
        let second = second.iter().map(|(name, tensor)| (format!("second.{name}"), tensor));
        let taken = taken.iter().map(|(name, tensor)| (format!("taken.{name}"), tensor));
        first.chain(second).chain(taken)
    }

    /// Moves the parameters by their gradients, those that have one. In a
    /// performance-priority supernet only what was drawn moves: neither momentum
    /// nor decay touches a candidate that took no part.
    ///
    /// # Errors
    /// A gradient is not finite, or libtorch fails.
    pub fn step(&mut self, net: &mut Net, gradients: &Gradients, step: Step<'_>) -> Result<(), TrainerError> {
        let Optimizer { spec, state, flat } = self;
        tch::no_grad(|| match flat {
            Some(flat) => flat.step(spec, net, gradients, step),
            None => host::step(spec, state, net, gradients, step),
        })
    }
}

fn is_adam(spec: &OptimizerSpec) -> bool {
    matches!(spec, OptimizerSpec::AdamW { .. })
}

/// What gradients of this global norm are multiplied with so that it is at most
/// `limit`.
fn clip_factor(norm: f64, limit: f64) -> Result<f64, TrainerError> {
    if !norm.is_finite() {
        return Err(TrainerError::Numeric("a gradient is not finite; try a lower learning rate".into()));
    }
    Ok((limit / (norm + 1e-6)).min(1.0))
}

/// Rows of a parameter that take part in a step, in rising order; none if all do.
fn chosen_rows(param: &Param, draws: &Draws) -> Result<Option<Vec<usize>>, TrainerError> {
    Ok(match &param.rows {
        Rows::All => None,
        Rows::Branch { layer, kernel } => {
            let drawn = draws.layer(layer)?.kernel_of_channel.iter().enumerate();
            Some(drawn.filter(|(_, drawn)| *drawn == kernel).map(|(channel, _)| channel).collect())
        }
        Rows::Candidates { layer } => {
            let drawn = &draws.layer(layer)?.kernel_of_channel;
            let candidates = drawn.iter().enumerate();
            let candidates = candidates.map(|(channel, kernel)| kernel * drawn.len() + channel);
            let mut candidates: Vec<usize> = candidates.collect();
            candidates.sort_unstable();
            Some(candidates)
        }
    })
}

/// `[rows, 1, ..]`, with as many axes as the parameter.
fn per_row(param: &Param) -> Vec<i64> {
    let mut shape = vec![1; param.tensor.dim()];
    shape[0] = param.tensor.size()[0];
    shape
}

fn no_state(name: &str) -> TrainerError {
    TrainerError::Checkpoint(format!("the optimizer has no state for '{name}'"))
}
