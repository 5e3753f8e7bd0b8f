//! Layers as nodes of ONNX.

use cakes::Extent;
use cakes::network::Pool;
use cakes::spec::TaskKind;

use super::messages::{
    AttributeProto, DimensionProto, FLOAT, GraphProto, NodeProto, TensorProto, TensorShapeProto,
    TensorTypeProto, TypeProto, ValueInfoProto, attribute_type,
};
use super::{INPUT, OUTPUT};
use crate::graph::{Branch, Graph, Layer, LayerOp, NORM_EPSILON, Norm};

/// Nodes and weights so far.
pub(super) struct Builder<'a> {
    graph: &'a Graph,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        Builder { graph, nodes: Vec::new(), initializers: Vec::new() }
    }

    pub(super) fn build(mut self, name: &str) -> GraphProto {
        let graph = self.graph;
        for layer in &graph.layers {
            self.layer(layer);
        }
        let last = graph.layers.last().map_or(INPUT.to_owned(), value);
        let spatial = ["depth", "height", "width"];
        let mut output = vec![named("batch"), sized(graph.classes)];
        match graph.task {
            // Every axis behind the classes is 1 here.
            TaskKind::Classification => self.node("Flatten", OUTPUT, vec![last], vec![int("axis", 1)]),
            TaskKind::Segmentation => {
                output.extend(spatial.map(named));
                self.node("Identity", OUTPUT, vec![last], vec![]);
            }
        }
        let mut input = vec![named("batch"), sized(graph.input_channels)];
        input.extend(spatial.map(named));
        GraphProto {
            node: self.nodes,
            name: name.to_owned(),
            initializer: self.initializers,
            input: vec![value_info(
                INPUT,
                input,
                "[batch, channels, depth or time, height, width], normalised",
            )],
            output: vec![value_info(OUTPUT, output, "scores before softmax, by class")],
        }
    }

    fn layer(&mut self, layer: &Layer) {
        let name = value(layer);
        let inputs: Vec<String> =
            layer.inputs.iter().map(|input| value(&self.graph.layers[*input])).collect();
        match &layer.op {
            LayerOp::Input => {}
            LayerOp::Conv { branches, stride } => self.conv(&name, &inputs, branches, *stride),
            LayerOp::Norm(norm) => self.norm(&name, inputs, norm),
            LayerOp::Relu => self.node("Relu", &name, inputs, vec![]),
            LayerOp::Pool { kind, size, stride, padding } => {
                let mut attributes = vec![
                    ints("kernel_shape", &size.map(i64::from)),
                    ints("strides", &stride.map(i64::from)),
                    ints("pads", &both_ends(*padding)),
                ];
                let op = match kind {
                    Pool::Max => "MaxPool",
                    Pool::Average => {
                        attributes.push(int("count_include_pad", 0));
                        "AveragePool"
                    }
                };
                self.node(op, &name, inputs, attributes);
            }
            LayerOp::Resize { factor } => {
                let scales = [1, 1, factor[0], factor[1], factor[2]].map(|factor| factor as f32);
                let scales = self.tensor(format!("{name}.scales"), &[5], &scales);
                // Between them stands the region of interest, which this mode has not.
                let inputs = inputs.into_iter().chain([String::new(), scales]).collect();
                let mode = text("coordinate_transformation_mode", "half_pixel");
                self.node("Resize", &name, inputs, vec![text("mode", "linear"), mode]);
            }
            LayerOp::Concat => self.node("Concat", &name, inputs, vec![int("axis", 1)]),
            LayerOp::Add => self.sum(&name, inputs),
            LayerOp::Mean { axes } => {
                let axes: Vec<i64> =
                    (0..3_i64).filter(|axis| axes[*axis as usize]).map(|axis| axis + 2).collect();
                self.node("ReduceMean", &name, inputs, vec![ints("axes", &axes), int("keepdims", 1)]);
            }
            LayerOp::Linear { weight, bias } => {
                // Position by position is what a convolution of one tap does.
                let shape = [weight.shape[0], weight.shape[1], 1, 1, 1];
                let weight = self.tensor(format!("{name}.weight"), &shape, &weight.values);
                let mut inputs: Vec<String> = inputs.into_iter().chain([weight]).collect();
                if let Some(bias) = bias {
                    inputs.push(self.tensor(format!("{name}.bias"), &[bias.len()], bias));
                }
                self.node("Conv", &name, inputs, vec![ints("kernel_shape", &[1; 3])]);
            }
        }
    }

    /// One convolution for each kernel, joined.
    fn conv(&mut self, name: &str, inputs: &[String], branches: &[Branch], stride: Extent) {
        let outputs: Vec<String> = branches
            .iter()
            .map(|branch| {
                let output = match (&branch.kernel, branches) {
                    (Some(kernel), [_, _, ..]) => format!("{name}.{kernel}"),
                    _ => name.to_owned(),
                };
                self.branch(&output, inputs, branch, stride);
                output
            })
            .collect();
        if outputs.len() > 1 {
            self.node("Concat", name, outputs, vec![int("axis", 1)]);
        }
    }

    fn branch(&mut self, output: &str, inputs: &[String], branch: &Branch, stride: Extent) {
        let weight = &branch.weight;
        let weight = self.tensor(format!("{output}.weight"), &weight.shape, &weight.values);
        let mut inputs: Vec<String> = inputs.iter().cloned().chain([weight]).collect();
        if let Some(bias) = &branch.bias {
            inputs.push(self.tensor(format!("{output}.bias"), &[bias.len()], bias));
        }
        let attributes = vec![
            ints("kernel_shape", &branch.size.map(i64::from)),
            ints("strides", &stride.map(i64::from)),
            ints("pads", &both_ends(branch.padding())),
        ];
        self.node("Conv", output, inputs, attributes);
    }

    fn norm(&mut self, name: &str, mut inputs: Vec<String>, norm: &Norm) {
        let parts = [
            ("weight", &norm.scale),
            ("bias", &norm.shift),
            ("running_mean", &norm.mean),
            ("running_var", &norm.variance),
        ];
        for (part, values) in parts {
            inputs.push(self.tensor(format!("{name}.{part}"), &[values.len()], values));
        }
        self.node("BatchNormalization", name, inputs, vec![float("epsilon", NORM_EPSILON)]);
    }

    fn sum(&mut self, name: &str, inputs: Vec<String>) {
        let op = if inputs.len() == 2 { "Add" } else { "Sum" };
        self.node(op, name, inputs, vec![]);
    }

    fn node(&mut self, op: &str, output: &str, input: Vec<String>, attribute: Vec<AttributeProto>) {
        self.nodes.push(NodeProto {
            input,
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: op.to_owned(),
            attribute,
        });
    }

    fn tensor(&mut self, name: String, shape: &[usize], values: &[f32]) -> String {
        self.initializers.push(TensorProto {
            dims: shape.iter().map(|size| *size as i64).collect(),
            data_type: FLOAT,
            name: name.clone(),
            raw_data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        });
        name
    }
}

/// Name of a layer's output.
fn value(layer: &Layer) -> String {
    layer.name.clone()
}

fn both_ends(padding: Extent) -> [i64; 6] {
    let [d, h, w] = padding.map(i64::from);
    [d, h, w, d, h, w]
}

fn named(name: &str) -> DimensionProto {
    DimensionProto { dim_value: None, dim_param: Some(name.to_owned()) }
}

fn sized(size: usize) -> DimensionProto {
    DimensionProto { dim_value: Some(size as i64), dim_param: None }
}

fn value_info(name: &str, dim: Vec<DimensionProto>, doc: &str) -> ValueInfoProto {
    let tensor_type = TensorTypeProto { elem_type: FLOAT, shape: Some(TensorShapeProto { dim }) };
    let r#type = Some(TypeProto { tensor_type: Some(tensor_type) });
    ValueInfoProto { name: name.to_owned(), r#type, doc_string: doc.to_owned() }
}

fn attribute(name: &str, r#type: i32) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type, ..AttributeProto::default() }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { i: Some(value), ..attribute(name, attribute_type::INT) }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, attribute_type::INTS) }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { f: Some(value), ..attribute(name, attribute_type::FLOAT) }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.as_bytes().to_vec()), ..attribute(name, attribute_type::STRING) }
}
