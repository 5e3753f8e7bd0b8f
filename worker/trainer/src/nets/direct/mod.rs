//! The layers that take the time, written out for the CPU.
//!
//! libtorch computes eight or sixteen channels at a time, so a branch of two
//! channels takes as long as one of eight, and a layer split among seven
//! kernels longer than a `3x3x3` over all of it. Here positions are computed
//! side by side instead: the time follows the multiply-accumulates, however few
//! channels a kernel has.
//!
//! ```text
//! x ── pad ──► planes with a border ──┬─► gather: y  = Σ w · x(shifted)
//!                                     ├─► gather: ∂x = Σ w · ∂y(shifted)
//!                                     └─► dot:    ∂w = Σ ∂y · x(shifted)
//! ```
//!
//! A volume with a border of zeros is one long row: a tap is an offset into it,
//! and an output is computed at every place of the row, border included, whose
//! values are then dropped. So there are no edges to care for, and one inner
//! loop serves every kernel and stride.
//!
//! | module | does |
//! |---|---|
//! | [`geometry`] | where a tap lies in a bordered volume |
//! | [`simd`] | the two inner loops, positions side by side |
//! | `blocked` | the same passes with channels side by side, for wide layers on small volumes |
//! | `tiles`, `turn` | their inner loops, and matrices turned over |
//! | [`conv`] | the three passes of a convolution |
//! | [`product`] | the passes of one whose kernel has a single tap |
//! | [`norm`] | batch normalisation, with its ReLU |
//! | [`resize`] | trilinear up-sampling |
//! | [`host`], `shared` | tensors as slices, and slices that tasks write side by side |

mod blocked;
pub mod conv;
pub mod geometry;
pub mod host;
pub mod norm;
pub mod product;
pub mod resize;
mod shared;
mod simd;
mod tiles;
mod turn;
