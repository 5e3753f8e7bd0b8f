//! A result that tasks write side by side.

use std::marker::PhantomData;

/// Values that several tasks write, each to places of its own.
pub struct Shared<'a> {
    first: *mut f32,
    length: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

#[allow(unsafe_code)]
// SAFETY: whoever writes promises that nobody else writes there.
unsafe impl Sync for Shared<'_> {}

impl<'a> Shared<'a> {
    pub fn new(values: &'a mut [f32]) -> Self {
        Shared { first: values.as_mut_ptr(), length: values.len(), borrowed: PhantomData }
    }

    /// Writes `values` from `start` on.
    ///
    /// # Safety
    /// No other task may write there.
    ///
    /// # Panics
    /// They do not fit.
    #[allow(unsafe_code)]
    pub unsafe fn write(&self, start: usize, values: &[f32]) {
        assert!(start + values.len() <= self.length);
        // SAFETY: the same contract, and inside as checked.
        unsafe { self.first.add(start).copy_from_nonoverlapping(values.as_ptr(), values.len()) }
    }

    /// Writes each of `values` to its target behind `start`.
    ///
    /// # Safety
    /// No other task may write there.
    ///
    /// # Panics
    /// One does not fit.
    #[allow(unsafe_code)]
    #[inline(always)]
    pub unsafe fn scatter(&self, start: usize, targets: &[usize], values: &[f32]) {
        let room = self.length.saturating_sub(start);
        for (target, value) in targets.iter().zip(values) {
            assert!(*target < room);
            // SAFETY: the same contract, and inside as checked.
            unsafe { self.first.add(start + target).write(*value) }
        }
    }
}
