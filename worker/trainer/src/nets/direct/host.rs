//! Tensors in host memory as slices.

use tch::{Device, Kind, Tensor};

use crate::TrainerError;

/// The values of a contiguous float tensor in host memory.
///
/// # Errors
/// The tensor is none.
pub fn values(tensor: &Tensor) -> Result<&[f32], TrainerError> {
    check(tensor)?;
    #[allow(unsafe_code)]
    // SAFETY: the tensor is contiguous, of this type and in host memory, and
    // it outlives the slice. Nothing here writes to a tensor that is borrowed.
    Ok(unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast::<f32>(), tensor.numel()) })
}

/// A new tensor of `shape`, to all of which `fill` adds or writes; it finds zeros.
///
/// # Errors
/// Memory is exhausted.
pub fn filled(shape: &[i64], fill: impl FnOnce(&mut [f32])) -> Result<Tensor, TrainerError> {
    fill_tensor(Tensor::f_zeros(shape, (Kind::Float, Device::Cpu))?, fill)
}

/// A new tensor of `shape`, every value of which `write` writes; it finds
/// anything.
///
/// # Errors
/// Memory is exhausted.
pub fn written(shape: &[i64], write: impl FnOnce(&mut [f32])) -> Result<Tensor, TrainerError> {
    fill_tensor(Tensor::f_empty(shape, (Kind::Float, Device::Cpu))?, write)
}

/// New tensors of these shapes, each with whether `write` writes every value of
/// it; of the others it finds zeros.
///
/// # Errors
/// Memory is exhausted.
pub fn written_all(
    shapes: &[([i64; 5], bool)],
    write: impl FnOnce(&mut [&mut [f32]]),
) -> Result<Vec<Tensor>, TrainerError> {
    let options = (Kind::Float, Device::Cpu);
    let new = |(shape, whole): &([i64; 5], bool)| match whole {
        true => Tensor::f_empty(shape, options),
        false => Tensor::f_zeros(shape, options),
    };
    let tensors = shapes.iter().map(new).collect::<Result<Vec<Tensor>, _>>()?;
    tensors.iter().try_for_each(check)?;
    let own = |tensor: &Tensor| {
        let (first, length) = (tensor.data_ptr().cast::<f32>(), tensor.numel());
        #[allow(unsafe_code)]
        // SAFETY: as above, nobody else knows the new tensors, and no two share values.
        unsafe {
            std::slice::from_raw_parts_mut(first, length)
        }
    };
    write(&mut tensors.iter().map(own).collect::<Vec<_>>());
    Ok(tensors)
}

fn fill_tensor(tensor: Tensor, fill: impl FnOnce(&mut [f32])) -> Result<Tensor, TrainerError> {
    check(&tensor)?;
    #[allow(unsafe_code)]
    // SAFETY: as above, and nobody else knows the new tensor.
    fill(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) });
    Ok(tensor)
}

/// Changes the values of a tensor in place.
///
/// # Errors
/// The tensor is not contiguous, of another type or elsewhere.
pub fn update(tensor: &Tensor, change: impl FnOnce(&mut [f32])) -> Result<(), TrainerError> {
    check(tensor)?;
    #[allow(unsafe_code)]
    // SAFETY: as in `values`; the slice does not outlive this call, and no other
    // slice of a running statistic is held across it.
    change(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast::<f32>(), tensor.numel()) });
    Ok(())
}

fn check(tensor: &Tensor) -> Result<(), TrainerError> {
    if tensor.device() == Device::Cpu
        && tensor.kind() == Kind::Float
        && tensor.is_contiguous()
        && tensor.numel() > 0
    {
        return Ok(());
    }
    Err(TrainerError::Report(format!("expected contiguous floats in host memory, got {tensor:?}")))
}
