//! Norms multiplied into the convolutions that they follow.

use crate::graph::{Branch, Graph, Layer, LayerOp, NORM_EPSILON, Norm};

/// The same network without the norms whose input is a convolution that nobody else
/// reads; the convolutions get a bias.
pub fn fold_norms(graph: Graph) -> Graph {
    let readers = graph.readers();
    let mut layers: Vec<Layer> = Vec::with_capacity(graph.layers.len());
    // Where each layer of the old graph is in the new one.
    let mut place: Vec<usize> = Vec::with_capacity(graph.layers.len());
    for layer in graph.layers {
        let inputs: Vec<usize> = layer.inputs.iter().map(|input| place[*input]).collect();
        if let (LayerOp::Norm(norm), [input], [before]) = (&layer.op, &inputs[..], &layer.inputs[..])
            && readers[*before] == 1
            && let LayerOp::Conv { branches, .. } = &mut layers[*input].op
        {
            fold(norm, branches);
            place.push(*input);
            continue;
        }
        place.push(layers.len());
        layers.push(Layer { inputs, ..layer });
    }
    Graph { layers, ..graph }
}

fn fold(norm: &Norm, branches: &mut [Branch]) {
    let mut feature = 0;
    for branch in branches {
        let per_channel = branch.weight.values.len() / branch.channels();
        let mut biases = Vec::with_capacity(branch.channels());
        for (channel, weights) in branch.weight.values.chunks_exact_mut(per_channel).enumerate() {
            let variance = f64::from(norm.variance[feature]) + f64::from(NORM_EPSILON);
            let factor = f64::from(norm.scale[feature]) / variance.sqrt();
            for weight in weights {
                *weight = (f64::from(*weight) * factor) as f32;
            }
            let bias = branch.bias.as_ref().map_or(0.0, |bias| f64::from(bias[channel]));
            let shifted = (bias - f64::from(norm.mean[feature])) * factor + f64::from(norm.shift[feature]);
            biases.push(shifted as f32);
            feature += 1;
        }
        branch.bias = Some(biases);
    }
}
