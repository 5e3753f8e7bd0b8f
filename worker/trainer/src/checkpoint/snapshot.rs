//! A copy of everything that a checkpoint holds, in host memory: what the training
//! waits for. The rest is done elsewhere, see [`super::saver`].

use std::borrow::Cow;

use safetensors::Dtype;
use safetensors::tensor::View;
use tch::{Kind, Tensor};

use super::Progress;
use crate::nets::{MethodTable, Net};
use crate::optim::Optimizer;
use crate::{TrainerError, device};

/// Network and optimizer as they were behind one step.
#[derive(Debug)]
pub struct Snapshot {
    pub(super) progress: Progress,
    /// Parameters and running statistics.
    pub(super) weights: Vec<(String, Values)>,
    pub(super) optimizer: Vec<(String, Values)>,
    pub(super) methods: MethodTable,
    pub(super) device: String,
}

impl Snapshot {
    /// Copies what `net` and `optimizer` hold, into the memory of a snapshot that
    /// nobody needs any more if there is one: fresh pages take longer than the copy.
    ///
    /// # Errors
    /// Memory is exhausted, or the device fails.
    pub fn take(
        progress: Progress,
        net: &Net,
        optimizer: &Optimizer,
        old: Option<Snapshot>,
    ) -> Result<Self, TrainerError> {
        let (weights, state) = old.map(|old| (old.weights, old.optimizer)).unwrap_or_default();
        Ok(Snapshot {
            progress,
            weights: copies(net.state().map(|(name, tensor)| (name.clone(), tensor)), weights)?,
            optimizer: copies(optimizer.state(), state)?,
            methods: net.methods().table(),
            device: device::name(net.device()),
        })
    }

    /// Optimizer steps done.
    pub fn step(&self) -> u64 {
        self.progress.step
    }

    /// # Errors
    /// A weight is not finite.
    pub(super) fn check_finite(&self) -> Result<(), TrainerError> {
        match self.weights.iter().find(|(_, values)| !values.are_finite()) {
            None => Ok(()),
            Some((name, _)) => Err(TrainerError::Numeric(format!(
                "'{name}' holds values that are not finite; try a lower learning rate"
            ))),
        }
    }
}

/// Copies of `tensors`, in the memory of `old` ones.
fn copies<'a>(
    tensors: impl Iterator<Item = (String, &'a Tensor)>,
    old: Vec<(String, Values)>,
) -> Result<Vec<(String, Values)>, TrainerError> {
    let mut old = old.into_iter().map(|(_, values)| values.bytes);
    tensors.map(|(name, tensor)| Ok((name, Values::of(tensor, old.next().unwrap_or_default())?))).collect()
}

/// A tensor in host memory, as safetensors wants it.
#[derive(Debug)]
pub(super) struct Values {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Values {
    /// Copies `tensor` into `bytes`.
    fn of(tensor: &Tensor, mut bytes: Vec<u8>) -> Result<Self, TrainerError> {
        let tensor =
            tensor.f_detach()?.f_to_device(tch::Device::Cpu)?.f_to_kind(Kind::Float)?.f_contiguous()?;
        bytes.resize(tensor.numel() * size_of::<f32>(), 0);
        tensor.f_copy_data_u8(&mut bytes, tensor.numel())?;
        Ok(Values { shape: tensor.size().into_iter().map(|size| size as usize).collect(), bytes })
    }

    fn are_finite(&self) -> bool {
        // Without an early end, so that many are looked at at once.
        let (values, _) = self.bytes.as_chunks::<4>();
        values.iter().fold(true, |finite, value| finite & f32::from_le_bytes(*value).is_finite())
    }
}

impl View for &Values {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}
