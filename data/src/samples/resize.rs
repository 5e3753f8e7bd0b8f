//! Resizing of frames, bilinear; where a frame shrinks the filter grows with it
//! (as in Pillow), so that nothing is lost between samples.

use std::borrow::Cow;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::{FrameValues, Frames};
use crate::DataError;

/// A part of a frame, in pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropBox {
    pub top: f64,
    pub left: f64,
    pub height: f64,
    pub width: f64,
}

/// Cuts `crop` out of every frame and brings it to `[height, width]`.
///
/// # Errors
/// The crop does not lie in the frame.
pub fn resize_frames(
    frames: &Frames<'_>,
    crop: CropBox,
    [height, width]: [usize; 2],
) -> Result<Frames<'static>, DataError> {
    let mut one = OneSize { frames, crop, height, width, resizer: Resizer::new() };
    let values = match &frames.values {
        FrameValues::U8(values) => {
            let resized = values.iter().map(|frame| Ok(Cow::Owned(one.resize(frame, 1)?)));
            FrameValues::U8(resized.collect::<Result<_, DataError>>()?)
        }
        FrameValues::F32(values) => {
            let resized = values.iter().map(|frame| {
                let bytes = one.resize(bytemuck::cast_slice(frame), 4)?;
                Ok(Cow::Owned(bytemuck::pod_collect_to_vec(&bytes)))
            });
            FrameValues::F32(resized.collect::<Result<_, DataError>>()?)
        }
    };
    Ok(Frames { height, width, channels: frames.channels, values })
}

/// Shrinks frames so that the shorter side has at most `most` pixels.
///
/// # Errors
/// Never for frames that are not empty.
pub fn shrink_to_short_side<'a>(frames: Frames<'a>, most: Option<usize>) -> Result<Frames<'a>, DataError> {
    let Frames { height, width, .. } = frames;
    let short = height.min(width);
    let Some(most) = most.filter(|most| *most < short) else { return Ok(frames) };
    let scaled = |side: usize| ((side * most) as f64 / short as f64).round().max(1.0) as usize;
    let whole = CropBox { top: 0.0, left: 0.0, height: height as f64, width: width as f64 };
    resize_frames(&frames, whole, [scaled(height), scaled(width)])
}

struct OneSize<'a> {
    frames: &'a Frames<'a>,
    crop: CropBox,
    height: usize,
    width: usize,
    resizer: Resizer,
}

impl OneSize<'_> {
    /// Resizes a frame `[H, W, C]` of values of `size` bytes.
    fn resize(&mut self, frame: &[u8], size: usize) -> Result<Vec<u8>, DataError> {
        let channels = self.frames.channels;
        let together = match (size, channels) {
            (1, 1) => PixelType::U8,
            (1, 3) => PixelType::U8x3,
            (4, 1) => PixelType::F32,
            (4, 3) => PixelType::F32x3,
            _ => return self.resize_planes(frame, size),
        };
        self.resize_pixels(frame, together)
    }

    /// Each channel by itself.
    fn resize_planes(&mut self, frame: &[u8], size: usize) -> Result<Vec<u8>, DataError> {
        let channels = self.frames.channels;
        let kind = if size == 1 { PixelType::U8 } else { PixelType::F32 };
        let mut out = vec![0; self.height * self.width * channels * size];
        for channel in 0..channels {
            let values = frame.chunks_exact(size).skip(channel).step_by(channels);
            let plane: Vec<u8> = values.flatten().copied().collect();
            // Floats must lie where floats may lie.
            let aligned: Vec<f32> = if size == 4 { bytemuck::pod_collect_to_vec(&plane) } else { Vec::new() };
            let plane = if size == 4 { bytemuck::cast_slice(&aligned) } else { &plane };
            let resized = self.resize_pixels(plane, kind)?;
            let places = out.chunks_exact_mut(size).skip(channel).step_by(channels);
            for (place, value) in places.zip(resized.chunks_exact(size)) {
                place.copy_from_slice(value);
            }
        }
        Ok(out)
    }

    fn resize_pixels(&mut self, pixels: &[u8], kind: PixelType) -> Result<Vec<u8>, DataError> {
        let wrong =
            |error: &dyn std::fmt::Display| DataError::Program(format!("cannot resize a frame: {error}"));
        let Frames { height, width, .. } = self.frames;
        let source =
            ImageRef::new(*width as u32, *height as u32, pixels, kind).map_err(|error| wrong(&error))?;
        let mut target = Image::new(self.width as u32, self.height as u32, kind);
        let CropBox { top, left, height, width } = self.crop;
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .use_alpha(false)
            .crop(left, top, width, height);
        self.resizer.resize(&source, &mut target, &options).map_err(|error| wrong(&error))?;
        Ok(target.into_vec())
    }
}
