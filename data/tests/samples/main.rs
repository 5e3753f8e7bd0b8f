//! Samples with one class each, from arrays, folders of frames and files of video,
//! sound and broken, as a training sees them.

mod arrays;
mod cache;
mod check;
mod frames;
mod policies;
mod support;
mod video;
