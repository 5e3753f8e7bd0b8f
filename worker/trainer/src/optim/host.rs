//! The step in host memory: every parameter, its gradient and its state are read and
//! written once. All is cut into parts of a fixed size, which threads share as they
//! like: what comes out does not depend on their number.

use cakes::spec::OptimizerSpec;
use rayon::prelude::*;
use tch::Tensor;

use super::rule::{Part, Rule, debias, weight_decay};
use super::{State, Step, chosen_rows, clip_factor, no_state};
use crate::TrainerError;
use crate::nets::direct::host;
use crate::nets::{Gradients, Net, Param};

/// Values of a part at most: four streams of them fit a core's cache.
const PART: usize = 16_384;

pub(super) fn step(
    spec: &OptimizerSpec,
    state: &mut State,
    net: &mut Net,
    gradients: &Gradients,
    step: Step<'_>,
) -> Result<(), TrainerError> {
    let gradients = contiguous(gradients)?;
    let clip = if step.clip_norm > 0.0 { clip_factor(norm(&gradients)?, step.clip_norm)? } else { 1.0 };
    let rule = Rule::new(spec, step, clip);
    let State { first, second, taken } = state;
    let mut parts = Vec::new();
    let (mut first, mut second) = (first.iter_mut(), second.iter_mut());
    // Parameters and state have the same names in the same order.
    for (name, param) in net.params_mut() {
        let first = first.next().filter(|(own, _)| *own == name).ok_or_else(|| no_state(name))?.1;
        let second = second.next().map(|(_, tensor)| tensor);
        let Some(gradient) = gradients.get(name) else { continue };
        let rows = chosen_rows(param, step.draws)?;
        let length = param.tensor.numel() / param.tensor.size()[0].max(1) as usize;
        let all = part(spec, param, gradient, first, second, step)?;
        match (rows, taken.get_mut(name)) {
            (None, _) => cut(all, &mut parts),
            (Some(rows), None) => {
                let runs = runs(rows.iter().map(|row| (*row, 0.0)));
                pick(all, length, runs.into_iter().map(|run| (run.0, run.1, None)), &mut parts);
            }
            (Some(rows), Some(taken)) => {
                let taken = values_mut(taken)?;
                rows.iter().for_each(|row| taken[*row] += 1.0);
                let runs = runs(rows.iter().map(|row| (*row, taken[*row])));
                let runs = runs
                    .into_iter()
                    .map(|(first, count, taken)| (first, count, Some(debias(spec, f64::from(taken)))));
                pick(all, length, runs, &mut parts);
            }
        }
    }
    parts.par_iter_mut().for_each(|part| rule.apply(part));
    Ok(())
}

/// A whole parameter.
fn part<'a>(
    spec: &OptimizerSpec,
    param: &'a mut Param,
    gradient: &'a Tensor,
    first: &'a mut Tensor,
    second: Option<&'a mut Tensor>,
    step: Step<'_>,
) -> Result<Part<'a>, TrainerError> {
    let decay = if param.decays { weight_decay(spec) as f32 } else { 0.0 };
    let l1_weights = param.l1_weights.as_ref().map(host::values).transpose()?.unwrap_or_default();
    Ok(Part {
        values: values_mut(&mut param.tensor)?,
        gradient: host::values(gradient)?,
        first: values_mut(first)?,
        second: second.map(values_mut).transpose()?.unwrap_or_default(),
        l1_weights,
        decay,
        debias: debias(spec, (step.index + 1) as f64),
    })
}

impl<'a> Part<'a> {
    /// Its first `count` values; the others remain.
    fn take(&mut self, count: usize) -> Part<'a> {
        Part {
            values: head_mut(&mut self.values, count),
            gradient: head(&mut self.gradient, count),
            first: head_mut(&mut self.first, count),
            second: head_mut(&mut self.second, count),
            l1_weights: head(&mut self.l1_weights, count),
            ..*self
        }
    }
}

fn head<'a>(values: &mut &'a [f32], count: usize) -> &'a [f32] {
    values.split_off(..count.min(values.len())).unwrap_or_default()
}

fn head_mut<'a>(values: &mut &'a mut [f32], count: usize) -> &'a mut [f32] {
    values.split_off_mut(..count.min(values.len())).unwrap_or_default()
}

fn cut<'a>(mut all: Part<'a>, parts: &mut Vec<Part<'a>>) {
    while !all.values.is_empty() {
        parts.push(all.take(PART));
    }
}

/// Rows that follow each other and have taken part as often: first row, their number,
/// how often.
fn runs(rows: impl Iterator<Item = (usize, f32)>) -> Vec<(usize, usize, f32)> {
    let mut runs: Vec<(usize, usize, f32)> = Vec::new();
    for (row, taken) in rows {
        match runs.last_mut() {
            Some((first, count, same)) if *first + *count == row && *same == taken => *count += 1,
            _ => runs.push((row, 1, taken)),
        }
    }
    runs
}

/// The chosen rows, of `length` values each.
fn pick<'a>(
    mut all: Part<'a>,
    length: usize,
    runs: impl Iterator<Item = (usize, usize, Option<[f32; 2]>)>,
    parts: &mut Vec<Part<'a>>,
) {
    let mut next = 0;
    for (first, count, debias) in runs {
        all.take((first - next) * length);
        let run = all.take(count * length);
        next = first + count;
        let debias = debias.unwrap_or(run.debias);
        cut(Part { debias, ..run }, parts);
    }
}

fn contiguous(gradients: &Gradients) -> Result<Gradients, TrainerError> {
    let each = gradients.iter().map(|(name, gradient)| Ok((name.clone(), gradient.f_contiguous()?)));
    each.collect()
}

/// The length of all gradients together, the same with any number of threads.
fn norm(gradients: &Gradients) -> Result<f64, TrainerError> {
    let mut parts = Vec::new();
    for gradient in gradients.values() {
        parts.extend(host::values(gradient)?.chunks(PART));
    }
    let squares: Vec<f64> = parts.into_par_iter().map(sum_of_squares).collect();
    Ok(squares.into_iter().sum::<f64>().sqrt())
}

fn sum_of_squares(values: &[f32]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0_f64; LANES];
    for values in values.chunks(LANES) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += f64::from(*value) * f64::from(*value);
        }
    }
    sums.iter().sum()
}

/// The values of a contiguous float tensor in host memory, to be changed.
fn values_mut(tensor: &mut Tensor) -> Result<&mut [f32], TrainerError> {
    let length = host::values(tensor)?.len();
    #[allow(unsafe_code)]
    // SAFETY: the tensor was just found to be contiguous, of this type and in host
    // memory, it outlives the slice and is borrowed as long. Other handles to its
    // storage (a network's own clones) are not read while a step runs.
    Ok(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), length) })
}
