//! Trained networks for other tools.
//!
//! ```text
//! architecture ─► network ─┐
//!                          ├─► graph ─┬─► onnx          one .onnx file
//! checkpoint ──► weights ──┘ (norms   ├─► pytorch       model.py, weights.safetensors
//!                          folded or  └─► monai         a MONAI bundle
//!                          not)
//! ```
//!
//! [`graph`] reads the description of a network ([`cakes::network::Network`]) with its
//! weights once; the formats know nothing but its layers. Nothing here computes with a
//! network, so that no libtorch is needed, and nothing here talks to anybody.
//!
//! | module | does |
//! |---|---|
//! | [`trained`] | a checkpoint or a file of weights, checked |
//! | [`graph`], [`fold`] | layers with their weights, in the form that predicts |
//! | [`onnx`], [`pytorch`], [`monai`] | the formats |
//! | [`publish`] | files that are there whole or not at all |

mod error;
pub mod fold;
pub mod graph;
pub mod monai;
pub mod onnx;
pub mod publish;
pub mod pytorch;
mod text;
pub mod trained;

use std::path::Path;

pub use error::ExportError;
pub use publish::Written;
pub use trained::Trained;

use graph::Graph;

/// What an export is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One ONNX file.
    Onnx,
    /// A folder with a readable module and its weights.
    Pytorch,
    /// A folder in the layout of MONAI's bundles, for segmentation.
    MonaiBundle,
}

/// Choices that every format has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Multiplies norms into the convolutions before them: fewer layers, last bits differ.
    pub fold_norms: bool,
    /// Replaces what is there.
    pub force: bool,
}

/// Writes `trained` to `out`, which appears whole or not at all.
///
/// # Errors
/// The weights are not those of the architecture, the format cannot hold the network,
/// `out` exists, or the disk fails.
pub fn export(
    trained: &Trained,
    format: Format,
    options: Options,
    out: &Path,
) -> Result<Written, ExportError> {
    publish::refuse_existing(out, options.force)?;
    let mut graph = Graph::new(&trained.architecture, &trained.weights)?;
    if options.fold_norms {
        graph = fold::fold_norms(graph);
    }
    match format {
        Format::Onnx => {
            let model = onnx::encode(&graph, trained)?;
            publish::file(out, &model, options.force)
        }
        Format::Pytorch => publish::folder(out, &pytorch::files(&graph, trained)?, options.force),
        Format::MonaiBundle => publish::folder(out, &monai::files(&graph, trained)?, options.force),
    }
}
