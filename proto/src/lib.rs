//! The wire: messages and services of `cakes.v1`, typed ids, and the one place
//! where wire types become domain types.
//!
//! The `.proto` files under `cakes/v1` are the contract and are documented
//! field by field. Whatever comes in passes [`convert`] once; behind it only
//! domain types and the ids of [`ids`] travel.

pub mod bearer;
pub mod convert;
pub mod field_mask;
pub mod ids;

/// The methods that a coordinator serves, made from the descriptors.
pub mod method {
    include!(concat!(env!("OUT_DIR"), "/methods.rs"));
}

/// Messages and services of the package `cakes.v1`.
#[allow(clippy::all, clippy::pedantic, missing_docs, rustdoc::all)]
pub mod v1 {
    tonic::include_proto!("cakes.v1");
    include!(concat!(env!("OUT_DIR"), "/cakes.v1.serde.rs"));
}

/// Encoded `FileDescriptorSet` of the package, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Version of the protocol between coordinator and worker. Raised with every
/// change that an older peer would misunderstand; 0 is never valid.
pub const WORKER_PROTOCOL: u32 = 6;

/// Most data sets that a worker says it has at hand (`AcquireRequest.data_at_hand`).
pub const DATA_AT_HAND_MAX: usize = 64;
/// Longest path of one, in bytes.
pub const DATA_AT_HAND_BYTES_MAX: usize = 1024;
