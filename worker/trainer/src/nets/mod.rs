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

mod conv;
mod draw;
mod net;
mod params;

pub use conv::ConvCount;
pub use draw::{Draws, LayerDraw};
pub use net::{Net, Use};
pub use params::{Param, Rows};
