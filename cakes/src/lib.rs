//! CAKES as data.
//!
//! Channel-wise Automatic KErnel Shrinking (Yu et al., AAAI 2021) replaces a
//! `3x3x3` convolution, output channel by output channel, by cheaper kernels.
//! This crate says what that means, without running any of it:
//!
//! ```text
//!            C_in channels                    one searchable layer, C = 64
//!                 │
//!   ┌──────┬──────┼──────┬──────┐
//! 3x3x3  1x3x3  3x1x3  …     1x1x3            kernel: the axes that keep three taps
//!  22     18      9            4              channel allocation: counts that sum to C
//!   └──────┴──────┼──────┴──────┘
//!          concat, norm, ReLU
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`kernel`], [`allocation`] | the vocabulary of one layer |
//! | [`network`], [`backbone`] | a network as a graph of layers; the families that we know |
//! | [`architecture`] | one allocation per searchable layer, with its digest |
//! | [`cost`] | exact parameters and multiply-accumulates |
//! | [`sparse`] | which of many like events are shown |
//! | [`scores`], [`derive`] | what a supernet says of its channels, and the architectures read from it |
//! | [`identity`] | which of a supernet's channels a derived network has |
//! | [`published`] | the configurations that the paper's authors published |
//! | [`pareto`] | which results nobody beats |
//! | [`spec`] | a search and its training, checked |
//! | [`job`], [`frame`] | one job for a trainer, and what it answers |
//! | [`labels`] | what people find searches and jobs by |
//! | [`address`] | where machines are reached by others |
//! | [`input`] | what a trained network reads, for whoever takes it elsewhere |
//!
//! Invariant: nothing here touches a file, a socket, a clock, a global random
//! state or a tensor. Whatever it needs comes in as an argument.

pub mod address;
pub mod allocation;
pub mod architecture;
pub mod backbone;
pub mod cost;
pub mod derive;
pub mod frame;
pub mod identity;
pub mod input;
pub mod job;
pub mod kernel;
pub mod labels;
pub mod metric;
pub mod network;
pub mod pareto;
pub mod published;
pub mod scores;
pub mod sparse;
pub mod spec;

/// Depth (or time), height and width, in voxels.
pub type Extent = [u32; 3];
