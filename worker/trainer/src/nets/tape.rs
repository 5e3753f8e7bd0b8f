//! Loss and gradients of one batch.
//!
//! With [`Engine::Torch`] libtorch's autograd does it. With [`Engine::Direct`]
//! the nodes run one after the other, their outputs are kept, and the gradients
//! are handed back from the last node to the first.

use std::collections::BTreeMap;

use cakes::Extent;
use cakes::network::{Conv, ConvKernels, NodeId, Op, Pool};
use tch::Tensor;

use super::direct::host;
use super::direct::norm::{self, Moments, Sums};
use super::direct_ops::{kernel_of, up_sample_gradient};
use super::draw::Draws;
use super::dropout;
use super::net::{Engine, Net, Use, inputs_of};
use super::torch_ops::{ConvCount, convolve_window, shape_of};
use crate::TrainerError;

/// Gradients by the names of their parameters.
pub type Gradients = BTreeMap<String, Tensor>;

/// What a forward pass leaves for the way back.
#[derive(Default)]
struct Tape {
    outputs: Vec<Option<Tensor>>,
    /// Of the batch, by the position of the norm.
    moments: BTreeMap<usize, Moments>,
    /// Convolutions that libtorch computed, by their positions.
    windows: BTreeMap<usize, WindowPass>,
    /// Where each value of a pool of greatest values came from, by its position.
    places: BTreeMap<usize, Tensor>,
}

/// A convolution whose gradients libtorch knows.
struct WindowPass {
    x: Tensor,
    weight: Tensor,
    output: Tensor,
}

impl Net {
    /// Trains on a batch as far as the gradients: moves running statistics,
    /// not parameters. `loss` maps the network's output to a scalar. Where several
    /// processes train, it is this one's share of the loss, and the gradients are those
    /// of the sum of all shares.
    ///
    /// # Errors
    /// libtorch fails, or a draw is missing.
    pub fn gradients(
        &mut self,
        x: &Tensor,
        draws: &Draws,
        loss: impl FnOnce(&Tensor) -> Result<Tensor, TrainerError>,
    ) -> Result<(f64, Gradients), TrainerError> {
        if self.engine() == Engine::Torch {
            let value = loss(&self.forward(x, Use::Train(draws))?)?;
            let params: Vec<&Tensor> = self.params().values().map(|param| &param.tensor).collect();
            // They come as libtorch made them: neither copied nor added to zeros.
            let found = Tensor::f_run_backward(&[&value], &params, false, false)?;
            let named = self.params().keys().cloned().zip(found);
            let gradients = named.filter(|(_, gradient)| gradient.defined()).collect();
            return Ok((value.f_double_value(&[])?, self.of_all(gradients)?));
        }
        let mut tape = tch::no_grad(|| self.record(x, draws))?;
        let output = tape.outputs.last_mut().and_then(Option::take);
        let output = output.ok_or_else(|| TrainerError::User("the network is empty".into()))?;
        let output = output.f_set_requires_grad(true)?;
        let value = loss(&output)?;
        value.f_backward()?;
        let gradients = tch::no_grad(|| self.play_back(&mut tape, output.grad(), draws))?;
        Ok((value.f_double_value(&[])?, self.of_all(gradients)?))
    }

    /// The sum over all processes that train the network.
    fn of_all(&self, mut gradients: Gradients) -> Result<Gradients, TrainerError> {
        if let Some(ranks) = &self.ranks {
            ranks.sum_gradients(&mut gradients)?;
        }
        Ok(gradients)
    }

    fn record(&mut self, x: &Tensor, draws: &Draws) -> Result<Tape, TrainerError> {
        let purpose = Use::Train(draws);
        let mut count = ConvCount::default();
        let mut tape = Tape::default();
        for (index, node) in self.network.nodes.iter().enumerate() {
            let inputs = inputs_of(node, &tape.outputs)?;
            let output = match &node.op {
                Op::Input { .. } => x.f_contiguous()?,
                Op::Norm { .. } => {
                    let (output, moments) = self.direct_norm(index, inputs[0], purpose)?;
                    tape.moments.insert(index, moments);
                    output
                }
                Op::Conv(Conv { kernels: ConvKernels::Window(size), stride, .. })
                    if kernel_of(*size).is_none() =>
                {
                    let pass = self.window_pass(index, inputs[0], *size, *stride)?;
                    count.add(&pass.weight, &pass.output);
                    let output = self.window_epilogue(index, pass.output.f_detach()?, purpose)?;
                    tape.windows.insert(index, pass);
                    output
                }
                Op::Pool { kind: Pool::Max, size, stride, padding } => {
                    let [size, stride, padding] = [size, stride, padding].map(|values| values.map(i64::from));
                    let (output, places) =
                        inputs[0].f_max_pool3d_with_indices(size, stride, padding, [1; 3], false)?;
                    tape.places.insert(index, places);
                    output
                }
                _ => self.run_direct(index, &inputs, purpose, &mut count)?,
            };
            tape.outputs.push(Some(output));
        }
        self.set_count(count);
        Ok(tape)
    }

    fn window_pass(
        &self,
        index: usize,
        x: &Tensor,
        window: Extent,
        stride: Extent,
    ) -> Result<WindowPass, TrainerError> {
        let NodeId(input) = self.network.nodes[index].inputs[0];
        // Nobody asks for the gradient of the images.
        let x = x.f_detach()?.f_set_requires_grad(input > 0)?;
        let weight = self.param(&format!("{}.weight", self.network.nodes[index].name))?;
        let weight = weight.f_detach()?.f_set_requires_grad(true)?;
        let output = tch::with_grad(|| convolve_window(&x, &weight, window, stride))?;
        Ok(WindowPass { x, weight, output })
    }

    fn play_back(&self, tape: &mut Tape, last: Tensor, draws: &Draws) -> Result<Gradients, TrainerError> {
        let nodes = &self.network.nodes;
        let mut gradients = Gradients::new();
        let mut arrived: Vec<Option<Tensor>> = nodes.iter().map(|_| None).collect();
        if let Some(slot) = arrived.last_mut() {
            *slot = Some(last);
        }
        for index in (1..nodes.len()).rev() {
            let Some(gradient) = arrived[index].take() else { continue };
            let gradient = gradient.f_contiguous()?;
            let inputs = self.hand_back(index, &gradient, tape, draws, &mut gradients)?;
            for (NodeId(input), gradient) in nodes[index].inputs.iter().zip(inputs) {
                // Nobody asks for the gradient of the images.
                if *input > 0 {
                    let sum = match arrived[*input].take() {
                        Some(other) => other.f_add(&gradient)?,
                        None => gradient,
                    };
                    arrived[*input] = Some(sum);
                }
            }
            tape.outputs[index] = None;
        }
        Ok(gradients)
    }

    /// The gradients of a node's inputs; those of its parameters go to `gradients`.
    fn hand_back(
        &self,
        index: usize,
        gradient: &Tensor,
        tape: &Tape,
        draws: &Draws,
        gradients: &mut Gradients,
    ) -> Result<Vec<Tensor>, TrainerError> {
        let node = &self.network.nodes[index];
        let inputs = inputs_of(node, &tape.outputs)?;
        let x = inputs[0];
        Ok(match &node.op {
            Op::Input { .. } => Vec::new(),
            Op::Conv(conv) => vec![match tape.windows.get(&index) {
                Some(pass) => self.window_gradients(&node.name, conv, pass, gradient, gradients)?,
                None => self.conv_gradients(index, x, gradient, draws, gradients)?,
            }],
            Op::Norm { .. } => vec![self.norm_gradients(index, x, gradient, tape, draws, gradients)?],
            // Where the norm before it does its work, it also does this.
            Op::Relu if self.relu_behind(node.inputs[0].0) == Some(index) => vec![gradient.shallow_clone()],
            Op::Relu => vec![x.f_threshold_backward(gradient, 0.0)?],
            Op::Pool { kind, size, stride, padding } => {
                let [size, stride, padding] = [size, stride, padding].map(|values| values.map(i64::from));
                vec![match (kind, tape.places.get(&index)) {
                    (Pool::Max, Some(places)) => x.f_max_pool3d_with_indices_backward(
                        gradient, size, stride, padding, [1; 3], false, places,
                    )?,
                    (Pool::Max, None) => {
                        return Err(TrainerError::Report(format!("pool '{}' was not recorded", node.name)));
                    }
                    (Pool::Average, _) => {
                        x.f_avg_pool3d_backward(gradient, size, stride, padding, false, false, None)?
                    }
                }]
            }
            Op::Mean { axes } => {
                let (from, to) = (shape_of(gradient)?, shape_of(x)?);
                let count: i64 = (0..3).filter(|axis| axes[*axis]).map(|axis| to[axis + 2]).product();
                debug_assert!(from[..2] == to[..2]);
                vec![(gradient / count as f64).f_expand(to, false)?]
            }
            Op::Dropout { percent } => {
                let mask = dropout::mask(index, *percent, &x.size(), self.device(), Use::Train(draws))?;
                vec![match mask {
                    Some(mask) => gradient.f_mul(&mask)?,
                    None => gradient.shallow_clone(),
                }]
            }
            Op::Resize { factor } => {
                vec![up_sample_gradient(x, factor.map(|factor| factor as usize), gradient)?]
            }
            Op::Concat => {
                let mut first = 0;
                let mut parts = Vec::with_capacity(inputs.len());
                for input in inputs {
                    let channels = input.size()[1];
                    parts.push(gradient.f_narrow(1, first, channels)?);
                    first += channels;
                }
                parts
            }
            Op::Add => inputs.iter().map(|_| gradient.shallow_clone()).collect(),
            Op::Fold { .. } if self.folded_by(index).is_some() => vec![gradient.shallow_clone()],
            Op::Fold { groups } => {
                let repeats = [1, i64::from(*groups), 1, 1, 1];
                vec![gradient.f_repeat(repeats)?]
            }
            Op::Linear { .. } => vec![self.linear_gradients(&node.name, x, gradient, gradients)?],
        })
    }

    fn conv_gradients(
        &self,
        index: usize,
        x: &Tensor,
        gradient: &Tensor,
        draws: &Draws,
        gradients: &mut Gradients,
    ) -> Result<Tensor, TrainerError> {
        let node = &self.network.nodes[index];
        let Op::Conv(conv) = &node.op else { return Ok(x.shallow_clone()) };
        let layer = self.layer(&node.name, conv, x, Use::Train(draws))?;
        let back = layer.back(gradient);
        let weights = back.weight_gradients()?;
        for (branch, weight) in layer.convolution.branches.iter().zip(weights) {
            let name = match &conv.kernels {
                ConvKernels::Uniform(_) | ConvKernels::Window(_) => format!("{}.weight", node.name),
                _ => format!("{}.{}.weight", node.name, branch.kernel),
            };
            gradients.insert(name, weight);
        }
        bias_gradient(&node.name, conv, gradient, gradients)?;
        if node.inputs[0].0 == 0 {
            return Ok(x.shallow_clone());
        }
        back.input_gradient()
    }

    fn window_gradients(
        &self,
        name: &str,
        conv: &Conv,
        pass: &WindowPass,
        gradient: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor, TrainerError> {
        // A scalar with the gradient of the output for its own.
        tch::with_grad(|| pass.output.f_mul(gradient)?.f_sum(None))?.f_backward()?;
        gradients.insert(format!("{name}.weight"), pass.weight.grad());
        bias_gradient(name, conv, gradient, gradients)?;
        let of_input = pass.x.grad();
        Ok(if of_input.defined() { of_input } else { pass.x.shallow_clone() })
    }

    fn norm_gradients(
        &self,
        index: usize,
        x: &Tensor,
        gradient: &Tensor,
        tape: &Tape,
        draws: &Draws,
        gradients: &mut Gradients,
    ) -> Result<Tensor, TrainerError> {
        let name = &self.network.nodes[index].name;
        let features = self.features(index, Use::Train(draws))?;
        let missing = || TrainerError::Report(format!("norm '{name}' was not recorded"));
        let moments = tape.moments.get(&index).ok_or_else(missing)?;
        let [_, _, d, h, w] = shape_of(x)?;
        let (values, arrived) = (host::values(x)?, host::values(gradient)?);
        let volume = (d * h * w) as usize;
        let (affine, behind) = (features.affine(), self.behind(index));
        let own = norm::sums(values, arrived, volume, moments, affine, behind);
        let all = match self.synchronised() {
            None => own.clone(),
            Some(ranks) => Sums::from_numbers(&ranks.sum_of(&own.numbers())?),
        };
        let out = host::written(&x.size(), |out| {
            norm::backward(values, arrived, volume, moments, affine, behind, &all, out);
        })?;
        // Those of the others come with their gradients.
        let own = own.affine_gradient(moments, affine);
        for (parameter, values) in [("weight", own.scale), ("bias", own.shift)] {
            let parameter = format!("{name}.{parameter}");
            let full = host::filled(&self.param(&parameter)?.size(), |full| {
                for (feature, value) in features.chosen.iter().zip(values) {
                    full[*feature] = value;
                }
            })?;
            gradients.insert(parameter, full);
        }
        Ok(out)
    }

    fn linear_gradients(
        &self,
        name: &str,
        x: &Tensor,
        gradient: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor, TrainerError> {
        let [samples, channels, d, h, w] = shape_of(x)?;
        let rows = |values: &Tensor| -> Result<Tensor, TrainerError> {
            let last = values.f_movedim([1_i64].as_slice(), [-1_i64].as_slice())?;
            Ok(last.f_reshape([samples * d * h * w, -1])?)
        };
        let (x, gradient) = (rows(x)?, rows(gradient)?);
        gradients.insert(format!("{name}.weight"), gradient.f_tr()?.f_matmul(&x)?);
        let bias = format!("{name}.bias");
        if self.params().contains_key(&bias) {
            gradients.insert(bias, gradient.f_sum_dim_intlist(0, false, None)?);
        }
        let back = gradient.f_matmul(self.param(&format!("{name}.weight"))?)?;
        let back = back.f_view([samples, d, h, w, channels])?;
        Ok(back.f_movedim([-1_i64].as_slice(), [1_i64].as_slice())?)
    }
}

fn bias_gradient(
    name: &str,
    conv: &Conv,
    gradient: &Tensor,
    gradients: &mut Gradients,
) -> Result<(), TrainerError> {
    if conv.bias {
        let sum = gradient.f_sum_dim_intlist([0_i64, 2, 3, 4].as_slice(), false, None)?;
        // All candidates of a channel share its bias.
        let per_channel = sum.f_view([-1, i64::from(conv.channels)])?.f_sum_dim_intlist(0, false, None)?;
        gradients.insert(format!("{name}.bias"), per_channel);
    }
    Ok(())
}
