//! Networks built from their description.
//!
//! [`Net`] reads [`cakes::network::Network`] node by node: it makes the
//! parameters that the nodes need, under names that are a contract, and runs
//! the nodes in their order.
//!
//! | tensor | name | shape |
//! |---|---|---|
//! | uniform convolution | `{node}.weight`, `{node}.bias` | `[C_out, C_in, kD, kH, kW]`, `[C_out]` |
//! | branch of a mixed or supernet convolution | `{node}.{kernel}.weight` | `[n, C_in, kD, kH, kW]` |
//! | norm | `{node}.weight`, `.bias`, `.running_mean`, `.running_var` | `[features]` |
//! | linear | `{node}.weight`, `{node}.bias` | `[out, in]`, `[out]` |
//!
//! Two engines compute the same: libtorch on any device, and loops written for
//! the CPU, which is what a network in host memory runs on. A new layer needs an
//! arm in each of these:
//!
//! | module | does |
//! |---|---|
//! | `params` | makes what a layer learns and remembers |
//! | `torch_ops` | runs a layer through libtorch and its autograd |
//! | `direct_ops` | runs a layer in host memory, through [`direct`] |
//! | `convolve` | the passes of a convolution in host memory, the fastest way |
//! | `matrix` | a convolution of one tap as a matrix product |
//! | `methods` | remembers which way to compute a convolution is the fastest |
//! | `tape` | hands gradients back through the layers that ran in host memory |
//! | `draw` | draws kernels for a performance-priority supernet |
//! | `recalibrate` | statistics of the one child that validation runs |
//! | `dropout` | which values a step drops |

mod convolve;
pub mod direct;
mod direct_ops;
mod draw;
mod dropout;
mod matrix;
mod methods;
mod net;
mod params;
mod recalibrate;
mod tape;
mod torch_ops;

pub use draw::{Draws, LayerDraw};
pub use dropout::MaskSeed;
pub use methods::{Method, Methods, Table as MethodTable, remember_in, repeat_from, take_measured};
pub use net::{Engine, Net, Numbers, Use};
pub use params::{Param, Rows};
pub use recalibrate::Statistics;
pub use tape::Gradients;
pub use torch_ops::ConvCount;
