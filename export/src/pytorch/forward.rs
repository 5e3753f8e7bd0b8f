//! The statements of `forward`.

use cakes::network::Pool;
use cakes::spec::TaskKind;

use super::syntax::{block, extent, identifier};
use crate::graph::{Graph, LayerOp};

/// The body of `forward`, block by block.
pub(super) fn body(graph: &Graph) -> Vec<String> {
    let mut writer = Writer::new(graph);
    for index in 1..graph.layers.len() {
        writer.layer(index);
    }
    let output = writer.variables.last().cloned().unwrap_or_default();
    match graph.task {
        TaskKind::Segmentation => writer.lines.push(format!("        return {output}")),
        TaskKind::Classification => writer.lines.push(format!("        return {output}.flatten(1)")),
    }
    writer.lines
}

struct Writer<'a> {
    graph: &'a Graph,
    /// Position of the layer that reads each layer's output last.
    last_reader: Vec<usize>,
    readers: Vec<usize>,
    /// Expression for the output of each layer; a variable's name, or a call that a
    /// later statement holds.
    variables: Vec<String>,
    lines: Vec<String>,
    block: String,
}

impl<'a> Writer<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut last_reader = vec![0; graph.layers.len()];
        for (index, layer) in graph.layers.iter().enumerate() {
            for input in &layer.inputs {
                last_reader[*input] = index;
            }
        }
        Writer {
            graph,
            last_reader,
            readers: graph.readers(),
            variables: vec!["x".to_owned()],
            lines: Vec::new(),
            block: String::new(),
        }
    }

    fn layer(&mut self, index: usize) {
        let layer = &self.graph.layers[index];
        let expression = self.expression(index);
        if self.is_read_by_next_call(index) {
            self.variables.push(expression);
            return;
        }
        let block = block(&layer.name);
        if block != self.block {
            self.block = block.to_owned();
            if !self.lines.is_empty() {
                self.lines.push(String::new());
            }
            self.lines.push(format!("        # {block}"));
        }
        let variable = self.variable(index);
        self.lines.push(format!("        {variable} = {expression}"));
        self.variables.push(variable);
    }

    fn expression(&self, index: usize) -> String {
        let layer = &self.graph.layers[index];
        let inputs: Vec<&str> = layer.inputs.iter().map(|input| self.variables[*input].as_str()).collect();
        let name = identifier(&layer.name);
        let x = inputs.first().copied().unwrap_or("x");
        match &layer.op {
            LayerOp::Input => "x".to_owned(),
            LayerOp::Conv { .. } | LayerOp::Norm(_) => format!("self.{name}({x})"),
            // Channels stand last while the map acts on them.
            LayerOp::Linear { .. } => format!("self.{name}({x}.movedim(1, -1)).movedim(-1, 1)"),
            LayerOp::Relu => format!("F.relu({x})"),
            LayerOp::Pool { kind, size, stride, padding } => {
                let function = match kind {
                    Pool::Max => "F.max_pool3d",
                    Pool::Average => "F.avg_pool3d",
                };
                let mut arguments = vec![x.to_owned(), extent(*size), format!("stride={}", extent(*stride))];
                if *padding != [0; 3] {
                    arguments.push(format!("padding={}", extent(*padding)));
                    if *kind == Pool::Average {
                        arguments.push("count_include_pad=False".to_owned());
                    }
                }
                format!("{function}({})", arguments.join(", "))
            }
            LayerOp::Resize { factor } => format!(
                "F.interpolate({x}, scale_factor={}, mode=\"trilinear\", align_corners=False)",
                extent(*factor)
            ),
            LayerOp::Concat => format!("torch.cat([{}], dim=1)", inputs.join(", ")),
            LayerOp::Add => inputs.join(" + "),
            LayerOp::Mean { axes } => {
                let axes: Vec<String> =
                    (0..3).filter(|axis| axes[*axis]).map(|axis| (axis + 2).to_string()).collect();
                let axes = match axes.as_slice() {
                    [one] => one.clone(),
                    several => format!("({})", several.join(", ")),
                };
                format!("{x}.mean(dim={axes}, keepdim=True)")
            }
        }
    }

    /// A norm and a ReLU stand in one statement with what they follow.
    fn is_read_by_next_call(&self, index: usize) -> bool {
        let next = self.graph.layers.get(index + 1);
        let Some(next) = next.filter(|next| next.inputs == [index] && self.readers[index] == 1) else {
            return false;
        };
        matches!(
            (&self.graph.layers[index].op, &next.op),
            (LayerOp::Conv { .. }, LayerOp::Norm(_) | LayerOp::Relu)
                | (LayerOp::Norm(_) | LayerOp::Add, LayerOp::Relu)
        )
    }

    /// What a later block joins is named after its own block; everything else takes the
    /// name of an input that nobody reads any more, or a new one.
    fn variable(&self, index: usize) -> String {
        let layers = &self.graph.layers;
        let is_joined_later = layers.iter().any(|reader| {
            matches!(reader.op, LayerOp::Concat)
                && reader.inputs.contains(&index)
                && block(&reader.name) != block(&layers[index].name)
        });
        if is_joined_later {
            return identifier(block(&layers[index].name));
        }
        let needed: Vec<&str> = (0..index)
            .filter(|earlier| self.last_reader[*earlier] > index)
            .map(|earlier| self.variables[earlier].as_str())
            .collect();
        let free = ["x", "y", "z", "u", "v", "w"].into_iter().find(|name| !needed.contains(name));
        free.map_or_else(|| identifier(&layers[index].name), str::to_owned)
    }
}
