//! Resizing of frames, bilinear; where a frame shrinks the filter grows with it
//! (as in Pillow), so that nothing is lost between samples.

use std::borrow::Cow;

use bytemuck::Pod;
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{F32, F32x3, U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

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
        match (size, channels) {
            (1, 1) => self.resize_pixels::<U8>(frame),
            (1, 3) => self.resize_pixels::<U8x3>(frame),
            (4, 1) => self.resize_pixels::<F32>(frame),
            (4, 3) => self.resize_pixels::<F32x3>(frame),
            _ => self.resize_planes(frame, size),
        }
    }

    /// Each channel by itself.
    fn resize_planes(&mut self, frame: &[u8], size: usize) -> Result<Vec<u8>, DataError> {
        let channels = self.frames.channels;
        let mut out = vec![0; self.height * self.width * channels * size];
        for channel in 0..channels {
            let values = frame.chunks_exact(size).skip(channel).step_by(channels);
            let plane: Vec<u8> = values.flatten().copied().collect();
            // Floats must lie where floats may lie.
            let aligned: Vec<f32> = if size == 4 { bytemuck::pod_collect_to_vec(&plane) } else { Vec::new() };
            let plane = if size == 4 { bytemuck::cast_slice(&aligned) } else { &plane };
            let resized =
                if size == 1 { self.resize_pixels::<U8>(plane) } else { self.resize_pixels::<F32>(plane) }?;
            let places = out.chunks_exact_mut(size).skip(channel).step_by(channels);
            for (place, value) in places.zip(resized.chunks_exact(size)) {
                place.copy_from_slice(value);
            }
        }
        Ok(out)
    }

    // Of a pixel's type: that of the library for any of them would compile all.
    fn resize_pixels<P: PixelTrait>(&mut self, pixels: &[u8]) -> Result<Vec<u8>, DataError>
    where
        P::Component: Pod,
    {
        let wrong =
            |error: &dyn std::fmt::Display| DataError::Program(format!("cannot resize a frame: {error}"));
        let Frames { height, width, .. } = self.frames;
        let source = TypedImageRef::<P>::from_buffer(*width as u32, *height as u32, pixels)
            .map_err(|error| wrong(&error))?;
        let mut target = TypedImage::<P>::new(self.width as u32, self.height as u32);
        let CropBox { top, left, height, width } = self.crop;
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .use_alpha(false)
            .crop(left, top, width, height);
        self.resizer.resize_typed(&source, &mut target, &options).map_err(|error| wrong(&error))?;
        Ok(bytemuck::cast_slice(P::components(target.pixels())).to_vec())
    }
}
