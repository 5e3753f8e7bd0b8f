//! What must hold for whatever bytes come in, decoder by decoder.
//!
//! A target takes any bytes and panics if a promise is broken: that no input makes a decoder
//! panic, that what is taken comes back as it was when it is printed and read again, that a
//! name leads out of no folder. The programs of the workspace above this folder let libFuzzer
//! look for such bytes; `tests/seeds.rs` tries those that are known, with any compiler.
//!
//! Whatever a target calls is what daemons and commands call: nothing here parses by itself.

pub mod access;
pub mod api;
pub mod checkpoint;
pub mod config;
pub mod data;
pub mod exchange;
pub mod names;
pub mod networks;
pub mod page;
mod place;
mod served;
pub mod trainer;
pub mod wire;

/// A decoder, and what must hold for all that it may be given.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Also of its program and of the folder of its seeds.
    pub name: &'static str,
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($module:ident: $($name:ident),+;)+) => {
        /// All of them.
        pub const TARGETS: &[Target] =
            &[$($(Target { name: stringify!($name), run: $module::$name }),+),+];
    };
}

targets! {
    names: names, labels, spiffe, field_mask, list_filter;
    access: bearer, webhook, certificate, pem;
    networks: architecture, published, trainer_job, search_json, search_wire;
    wire: messages, grant, journal;
    trainer: trainer_frames, log_lines;
    checkpoint: manifest, weights;
    api: api_calls, api_gate;
    page: page;
    exchange: exchange_file, exchange_lines;
    config: coordinator_config, worker_config, scenario, command_files;
    data: npy, npz, nifti, decathlon, clip_lists, frames, video_stream, sample_cache;
}

/// The input as text, where it is some.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// A byte that chooses, and what it chooses for.
fn choice(bytes: &[u8]) -> Option<(u8, &[u8])> {
    bytes.split_first().map(|(choice, rest)| (*choice, rest))
}
