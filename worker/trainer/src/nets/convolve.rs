//! The three passes of a convolution in host memory, each computed in the way
//! that is the fastest for its shape.

use std::cell::OnceCell;

use cakes::kernel::Kernel;
use cakes::network::{Conv, ConvKernels, SearchMode};
use tch::Tensor;

use super::direct::conv::{Branch, Convolution, Epilogue};
use super::direct::host;
use super::direct::product::Product;
use super::matrix::Pointwise;
use super::methods::{Method, Methods};
use super::torch_ops::shape_of;
use crate::TrainerError;

/// A convolution with all that its passes need.
pub(super) struct Layer<'a> {
    pub conv: &'a Conv,
    pub convolution: Convolution<'a>,
    pub x: &'a Tensor,
    /// Of the only branch, if it has all channels.
    pub weight: Option<&'a Tensor>,
    pub methods: &'a Methods,
}

impl Layer<'_> {
    /// `[N, C_out, D, H, W]`, with what is done to it behind.
    pub fn forward(&self, epilogue: Option<&Epilogue>) -> Result<Tensor, TrainerError> {
        let convolution = &self.convolution;
        let [d, h, w] = convolution.geometry.output.map(|size| size as i64);
        let shape = [convolution.samples as i64, convolution.outputs as i64, d, h, w];
        self.compute("forward", |method| match (method, self.pointwise()) {
            (Method::Matrix, Some(pointwise)) => finish(pointwise.forward(self.x)?, epilogue),
            (Method::Pieces, _) => {
                let (product, x) = (self.product()?, host::values(self.x)?);
                host::written(&shape, |out| product.forward(x, epilogue, out))
            }
            (Method::Blocked, _) => {
                let x = host::values(self.x)?;
                host::written(&shape, |out| convolution.forward_blocked(x, epilogue, out))
            }
            _ => {
                let x = host::values(self.x)?;
                host::written(&shape, |out| convolution.forward(x, epilogue, out))
            }
        })
    }

    /// The way back of `gradient`, which arrived at the output.
    pub fn back<'a>(&'a self, gradient: &'a Tensor) -> Back<'a> {
        Back { layer: self, gradient, bordered: OnceCell::new() }
    }

    /// With whether every row is in use.
    fn weight_shapes(&self) -> Vec<([i64; 5], bool)> {
        let shape = |branch: &Branch<'_>| {
            let [d, h, w] = branch.kernel.size().map(i64::from);
            let length = self.convolution.inputs * branch.kernel.taps() as usize;
            let rows = branch.weight.len() / length;
            ([rows as i64, self.convolution.inputs as i64, d, h, w], branch.rows.len() == rows)
        };
        self.convolution.branches.iter().map(shape).collect()
    }

    fn pointwise(&self) -> Option<Pointwise<'_>> {
        let [branch] = self.convolution.branches.as_slice() else { return None };
        let weight = self.weight.filter(|_| branch.kernel == Kernel::K111)?;
        Some(Pointwise { weight, stride: self.convolution.geometry.stride })
    }

    fn product(&self) -> Result<Product<'_>, TrainerError> {
        let none = || TrainerError::Report("a convolution of several taps is no product".into());
        self.convolution.product().ok_or_else(none)
    }

    fn compute<T>(
        &self,
        pass: &str,
        with: impl FnMut(Method) -> Result<T, TrainerError>,
    ) -> Result<T, TrainerError> {
        const ALL: [Method; 4] = [Method::Rows, Method::Blocked, Method::Matrix, Method::Pieces];
        let candidates = if self.pointwise().is_some() { &ALL[..] } else { &ALL[..2] };
        self.methods.compute(&self.what(pass), candidates, with)
    }

    /// What a choice is remembered for. The number of threads is left out: a
    /// result should not depend on it.
    fn what(&self, pass: &str) -> String {
        let Conv { channels, kernels, .. } = self.conv;
        let each = |kernel: Kernel| format!("{kernel}:{channels}");
        let kernels = match kernels {
            ConvKernels::Uniform(kernel) => each(*kernel),
            ConvKernels::Window([d, h, w]) => format!("{d}x{h}x{w}:{channels}"),
            ConvKernels::Mixed(allocation) => {
                let counts = allocation.iter().map(|(kernel, count)| format!("{kernel}:{count}"));
                counts.collect::<Vec<_>>().join("+")
            }
            ConvKernels::Candidates { kernels, mode: SearchMode::CostPriority } => {
                kernels.iter().map(each).collect::<Vec<_>>().join("+")
            }
            // Every step draws other counts; one choice serves them all.
            ConvKernels::Candidates { kernels, mode: SearchMode::PerformancePriority } => {
                let kernels: Vec<String> = kernels.iter().map(|kernel| kernel.to_string()).collect();
                format!("{}:{channels}", kernels.join("|"))
            }
        };
        let Convolution { geometry, samples, inputs, .. } = &self.convolution;
        let ([d, h, w], [sd, sh, sw]) = (geometry.input, geometry.stride);
        format!("cpu float32 {pass} {kernels} of {inputs}, {samples}x {d}x{h}x{w} /{sd}x{sh}x{sw}")
    }
}

/// Gradients of a convolution.
pub(super) struct Back<'a> {
    layer: &'a Layer<'a>,
    /// `[N, C_out, D, H, W]`
    gradient: &'a Tensor,
    /// With a border, which both gradients read.
    bordered: OnceCell<Vec<f32>>,
}

impl Back<'_> {
    /// Of every branch's weight: `[rows, C_in, kD, kH, kW]`.
    pub fn weight_gradients(&self) -> Result<Vec<Tensor>, TrainerError> {
        let Back { layer, gradient, .. } = self;
        let convolution = &layer.convolution;
        layer.compute("weight gradient", |method| {
            if let (Method::Matrix, Some(pointwise)) = (method, layer.pointwise()) {
                return Ok(vec![pointwise.weight_gradient(layer.x, gradient)?]);
            }
            let (x, gradient) = (host::values(layer.x)?, host::values(gradient)?);
            if method == Method::Pieces {
                let (product, (shape, _)) = (layer.product()?, layer.weight_shapes()[0]);
                let weight = host::written(&shape, |out| product.weight_gradient(x, gradient, out))?;
                return Ok(vec![weight]);
            }
            host::written_all(&layer.weight_shapes(), |out| match method {
                Method::Blocked => convolution.weight_gradients_blocked(x, gradient, out),
                _ => convolution.weight_gradients(x, self.bordered(gradient), out),
            })
        })
    }

    /// Of the shape of the input.
    pub fn input_gradient(&self) -> Result<Tensor, TrainerError> {
        let Back { layer, gradient, .. } = self;
        let convolution = &layer.convolution;
        let shape = layer.x.size();
        layer.compute("input gradient", |method| match (method, layer.pointwise()) {
            (Method::Matrix, Some(pointwise)) => pointwise.input_gradient(layer.x, gradient),
            (Method::Pieces, _) => {
                let (product, gradient) = (layer.product()?, host::values(gradient)?);
                host::written(&shape, |out| product.input_gradient(gradient, out))
            }
            (Method::Blocked, _) => {
                let gradient = host::values(gradient)?;
                host::written(&shape, |out| convolution.input_gradient_blocked(gradient, out))
            }
            _ => {
                let gradient = self.bordered(host::values(gradient)?);
                if convolution.geometry.stride == [1; 3] {
                    return host::written(&shape, |out| convolution.input_gradient(gradient, out));
                }
                // Positions that no tap reaches are left as they are.
                host::filled(&shape, |out| convolution.input_gradient(gradient, out))
            }
        })
    }

    fn bordered(&self, gradient: &[f32]) -> &[f32] {
        self.bordered.get_or_init(|| self.layer.convolution.bordered(gradient))
    }
}

/// What is done behind a product that could not do it as it wrote.
fn finish(output: Tensor, epilogue: Option<&Epilogue>) -> Result<Tensor, TrainerError> {
    if let Some(epilogue) = epilogue {
        let [_, channels, d, h, w] = shape_of(&output)?;
        host::update(&output, |values| {
            for (index, values) in values.chunks_exact_mut((d * h * w) as usize).enumerate() {
                epilogue.apply(index % channels as usize, values);
            }
        })?;
    }
    Ok(output)
}
