//! Pictures of results: the front, channels by kernel, learning curves.
//!
//! Drawn once, as SVG, by the plotting library; the PNG is that SVG rendered.
//! Text is measured and rendered with a font that comes with the program
//! (DejaVu Sans), so a picture is the same on every machine.

mod canvas;
pub mod composition;
pub mod curves;
pub mod front;
mod labels;
mod palette;
mod scale;

use std::path::Path;
use std::sync::Arc;

use resvg::{tiny_skia, usvg};

use crate::error::CommandError;

/// A finished picture.
pub struct Picture {
    svg: String,
}

impl Picture {
    pub fn svg(&self) -> &str {
        &self.svg
    }

    /// Renders the picture at twice its nominal size.
    ///
    /// # Errors
    /// The renderer refuses the picture.
    pub fn png(&self) -> Result<Vec<u8>, CommandError> {
        let mut fonts = usvg::fontdb::Database::new();
        fonts.load_font_data(dejavu::sans::regular().to_vec());
        fonts.load_font_data(dejavu::sans::bold().to_vec());
        fonts.set_sans_serif_family("DejaVu Sans");
        let options = usvg::Options { fontdb: Arc::new(fonts), ..usvg::Options::default() };
        let tree = usvg::Tree::from_str(&self.svg, &options).map_err(failed)?;
        let scale = canvas::SCALE as f32;
        let size = tree.size().to_int_size();
        let (width, height) = (size.width() * canvas::SCALE as u32, size.height() * canvas::SCALE as u32);
        let mut pixels =
            tiny_skia::Pixmap::new(width, height).ok_or_else(|| failed("the picture is empty"))?;
        resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixels.as_mut());
        pixels.encode_png().map_err(failed)
    }

    /// Writes the picture as the ending of `path` says.
    ///
    /// # Errors
    /// The ending is neither `.svg` nor `.png`, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), CommandError> {
        check_ending(path)?;
        let bytes = if path.extension().is_some_and(|it| it == "png") {
            self.png()?
        } else {
            self.svg.clone().into()
        };
        std::fs::write(path, bytes).map_err(|error| CommandError::file(path, error))
    }
}

/// Makes sure that a picture can be written there.
///
/// # Errors
/// The ending is neither `.svg` nor `.png`.
pub fn check_ending(path: &Path) -> Result<(), CommandError> {
    let known = path.extension().is_some_and(|ending| ending == "svg" || ending == "png");
    if known {
        return Ok(());
    }
    Err(CommandError::invalid(format!("{}: the file's name must end in .svg or .png", path.display())))
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Failed(format!("cannot draw: {error}"))
}
