//! The two inner loops. Positions are computed eight at a time.
//!
//! Both are written once over a vector of eight numbers and compiled for AVX2
//! with fused multiply-add and for any processor; [`Processor`] says which may run.

#![allow(clippy::needless_range_loop)] // equal loops over arrays of a known length unroll as one

/// Positions that are computed at a time.
pub const LANES: usize = 8;

/// Most output channels that share the loads of one inner loop.
pub const CHANNELS_MAX: usize = 4;

/// Vectors of sums at a time: enough for their additions to overlap, and few
/// enough for the sixteen registers to hold them with what is loaded.
const SUMS: usize = 12;

/// Values that [`Processor::gather`] may compute beyond the length asked for.
pub const OVERSHOOT: usize = SUMS * LANES;

/// Partial sums of [`Processor::dot`], `[channel][offset][lane]`, with room for
/// [`offsets_at_once`] offsets.
pub type Sums = [[f32; LANES]; SUMS];

/// Offsets that share the loads of [`Processor::dot`].
pub const fn offsets_at_once(channels: usize) -> usize {
    SUMS / channels
}

/// One row of sums over shifted sources, for up to [`CHANNELS_MAX`] channels.
#[derive(Clone, Copy, Debug)]
pub struct Gather<'a> {
    pub source: &'a [f32],
    pub offsets: &'a [usize],
    /// `[offset][channel]`
    pub weights: &'a [f32],
    pub length: usize,
    /// Distance between the rows of two channels in the result.
    pub pitch: usize,
    /// Whether the sums replace what the result holds, or are added to it.
    pub fresh: bool,
}

/// What the inner loops may use.
#[derive(Clone, Copy, Debug)]
pub enum Processor {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Any,
}

impl Processor {
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
            return Processor::Avx2;
        }
        Processor::Any
    }

    /// Runs loops compiled for what this processor knows: what `work` inlines.
    #[inline]
    pub fn run<T>(self, work: impl FnOnce() -> T) -> T {
        match self {
            #[cfg(target_arch = "x86_64")]
            #[allow(unsafe_code)]
            // SAFETY: AVX2 was detected.
            Processor::Avx2 => unsafe { run_avx2(work) },
            Processor::Any => work(),
        }
    }

    /// `out[c · pitch + i] = Σ_r weights[r][c] · source[offsets[r] + i]` for `i`
    /// below `length`; up to [`OVERSHOOT`] values behind it are overwritten.
    ///
    /// # Panics
    /// A slice is too short for what is asked.
    pub fn gather(self, gather: &Gather<'_>, out: &mut [f32]) {
        let Gather { source, offsets, weights, length, pitch, .. } = *gather;
        let channels = weights.len() / offsets.len().max(1);
        let reach = offsets.iter().max().map_or(0, |offset| *offset);
        assert!(reach + length + OVERSHOOT <= source.len() && length + OVERSHOOT <= pitch);
        assert!((1..=CHANNELS_MAX).contains(&channels) && channels * pitch <= out.len());
        assert_eq!(channels * offsets.len(), weights.len());
        #[allow(unsafe_code)]
        // SAFETY: reads end before `reach + length + OVERSHOOT` and writes
        // before `channels · pitch`, both checked above; AVX2 was detected.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Processor::Avx2 => gather_avx2(gather, channels, out),
                Processor::Any => gather_any::<[f32; LANES]>(gather, channels, out),
            }
        }
    }

    /// Adds `Σ_i left[c][i] · right[offsets[r] + i]` to the sums of channel `c` and
    /// offset `r`, for `i` below `length` rounded up to eight. Sums of offsets that
    /// are not there hold anything.
    ///
    /// # Panics
    /// A slice is too short for what is asked, or there is none.
    pub fn dot(self, left: &[&[f32]], right: &[f32], offsets: &[usize], length: usize, sums: &mut Sums) {
        let read = length.next_multiple_of(LANES);
        assert!((1..=CHANNELS_MAX).contains(&left.len()));
        assert!((1..=offsets_at_once(left.len())).contains(&offsets.len()));
        assert!(left.iter().all(|values| read <= values.len()));
        assert!(offsets.iter().all(|offset| *offset + read <= right.len()));
        // Always as many: the last few are summed again where there are fewer.
        let mut places = [offsets[0]; SUMS];
        places[..offsets.len()].copy_from_slice(offsets);
        #[allow(unsafe_code)]
        // SAFETY: no read passes `read` values, checked above; AVX2 was detected.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Processor::Avx2 => dot_avx2(left, right, &places, length, sums),
                Processor::Any => dot_any::<[f32; LANES]>(left, right, &places, length, sums),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
unsafe fn run_avx2<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
unsafe fn gather_avx2(gather: &Gather<'_>, channels: usize, out: &mut [f32]) {
    // SAFETY: the same contract.
    unsafe { gather_any::<std::arch::x86_64::__m256>(gather, channels, out) }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn gather_any<V: Vector>(gather: &Gather<'_>, channels: usize, out: &mut [f32]) {
    // SAFETY: the same contract. Twelve sums at a time are more than the compiler
    // keeps in registers for four channels.
    unsafe {
        match channels {
            1 => gather_row::<V, 1, 12>(gather, out),
            2 => gather_row::<V, 2, 6>(gather, out),
            3 => gather_row::<V, 3, 4>(gather, out),
            _ => gather_row::<V, 4, 2>(gather, out),
        }
    }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn gather_row<V: Vector, const CHANNELS: usize, const VECTORS: usize>(
    gather: &Gather<'_>,
    out: &mut [f32],
) {
    let Gather { source, offsets, weights, length, pitch, fresh } = *gather;
    // SAFETY: `gather` checked that every offset reaches so far, and the length
    // of `out`; the caller has chosen a vector that this processor knows.
    unsafe {
        for start in (0..length).step_by(VECTORS * LANES) {
            let mut sums = [[V::zero(); VECTORS]; CHANNELS];
            if !fresh {
                for channel in 0..CHANNELS {
                    let place = out.as_ptr().add(channel * pitch + start);
                    for vector in 0..VECTORS {
                        sums[channel][vector] = V::load(place.add(vector * LANES));
                    }
                }
            }
            for (offset, weights) in offsets.iter().zip(weights.as_chunks::<CHANNELS>().0) {
                let place = source.as_ptr().add(*offset + start);
                // What is fewer waits in registers, what is more is loaded as it is used.
                if CHANNELS < VECTORS {
                    let mut factors = [V::zero(); CHANNELS];
                    for channel in 0..CHANNELS {
                        factors[channel] = V::splat(weights[channel]);
                    }
                    for vector in 0..VECTORS {
                        let value = V::load(place.add(vector * LANES));
                        for channel in 0..CHANNELS {
                            sums[channel][vector] =
                                sums[channel][vector].plus_product(factors[channel], value);
                        }
                    }
                } else {
                    let mut values = [V::zero(); VECTORS];
                    for vector in 0..VECTORS {
                        values[vector] = V::load(place.add(vector * LANES));
                    }
                    for channel in 0..CHANNELS {
                        let weight = V::splat(weights[channel]);
                        for vector in 0..VECTORS {
                            sums[channel][vector] =
                                sums[channel][vector].plus_product(weight, values[vector]);
                        }
                    }
                }
            }
            for channel in 0..CHANNELS {
                let place = out.as_mut_ptr().add(channel * pitch + start);
                for vector in 0..VECTORS {
                    sums[channel][vector].store(place.add(vector * LANES));
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
unsafe fn dot_avx2(left: &[&[f32]], right: &[f32], offsets: &[usize; SUMS], length: usize, sums: &mut Sums) {
    // SAFETY: the same contract.
    unsafe { dot_any::<std::arch::x86_64::__m256>(left, right, offsets, length, sums) }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn dot_any<V: Vector>(
    left: &[&[f32]],
    right: &[f32],
    offsets: &[usize; SUMS],
    length: usize,
    sums: &mut Sums,
) {
    // SAFETY: the same contract.
    unsafe {
        match left.len() {
            1 => dot_block::<V, 1, { offsets_at_once(1) }>(left, right, offsets, length, sums),
            2 => dot_block::<V, 2, { offsets_at_once(2) }>(left, right, offsets, length, sums),
            3 => dot_block::<V, 3, { offsets_at_once(3) }>(left, right, offsets, length, sums),
            _ => dot_block::<V, 4, { offsets_at_once(4) }>(left, right, offsets, length, sums),
        }
    }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn dot_block<V: Vector, const CHANNELS: usize, const OFFSETS: usize>(
    left: &[&[f32]],
    right: &[f32],
    offsets: &[usize; SUMS],
    length: usize,
    sums: &mut Sums,
) {
    let left: [*const f32; CHANNELS] = std::array::from_fn(|channel| left[channel].as_ptr());
    // SAFETY: `dot` checked that every offset lies inside and that `length`
    // rounded up can be read everywhere; the caller has chosen a vector that
    // this processor knows.
    unsafe {
        let mut places = [right.as_ptr(); OFFSETS];
        let mut block = [[V::zero(); OFFSETS]; CHANNELS];
        for index in 0..OFFSETS {
            places[index] = places[index].add(offsets[index]);
            for channel in 0..CHANNELS {
                block[channel][index] = V::load(sums[channel * OFFSETS + index].as_ptr());
            }
        }
        for start in (0..length).step_by(LANES) {
            // What is fewer waits in registers, what is more is loaded as it is used.
            if CHANNELS < OFFSETS {
                let mut factors = [V::zero(); CHANNELS];
                for channel in 0..CHANNELS {
                    factors[channel] = V::load(left[channel].add(start));
                }
                for index in 0..OFFSETS {
                    let value = V::load(places[index].add(start));
                    for channel in 0..CHANNELS {
                        block[channel][index] = block[channel][index].plus_product(factors[channel], value);
                    }
                }
            } else {
                let mut values = [V::zero(); OFFSETS];
                for index in 0..OFFSETS {
                    values[index] = V::load(places[index].add(start));
                }
                for channel in 0..CHANNELS {
                    let factor = V::load(left[channel].add(start));
                    for index in 0..OFFSETS {
                        block[channel][index] = block[channel][index].plus_product(factor, values[index]);
                    }
                }
            }
        }
        for channel in 0..CHANNELS {
            for index in 0..OFFSETS {
                block[channel][index].store(sums[channel * OFFSETS + index].as_mut_ptr());
            }
        }
    }
}

/// Eight numbers. Everything is inlined into functions that have the features
/// which the implementation needs.
#[allow(unsafe_code)]
pub trait Vector: Copy {
    /// # Safety
    /// Here and below, the processor must know the implementation's instructions.
    unsafe fn zero() -> Self;
    unsafe fn splat(value: f32) -> Self;
    /// # Safety
    /// Eight values must be readable at `source`.
    unsafe fn load(source: *const f32) -> Self;
    /// # Safety
    /// Eight values must be writable at `target`.
    unsafe fn store(self, target: *mut f32);
    unsafe fn plus(self, other: Self) -> Self;
    /// `self + left · right`
    unsafe fn plus_product(self, left: Self, right: Self) -> Self;
    /// Rows as columns.
    unsafe fn turn(rows: [Self; LANES]) -> [Self; LANES];
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
// SAFETY (of every block): the trait's contract is that of the instruction.
impl Vector for std::arch::x86_64::__m256 {
    #[inline(always)]
    unsafe fn zero() -> Self {
        unsafe { std::arch::x86_64::_mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        unsafe { std::arch::x86_64::_mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        unsafe { std::arch::x86_64::_mm256_loadu_ps(source) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        unsafe { std::arch::x86_64::_mm256_storeu_ps(target, self) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        unsafe { std::arch::x86_64::_mm256_add_ps(self, other) }
    }

    #[inline(always)]
    unsafe fn plus_product(self, left: Self, right: Self) -> Self {
        unsafe { std::arch::x86_64::_mm256_fmadd_ps(left, right, self) }
    }

    #[inline(always)]
    unsafe fn turn(rows: [Self; LANES]) -> [Self; LANES] {
        use std::arch::x86_64::{
            _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
        };
        // Pairs of rows, then fours, then both halves.
        unsafe {
            let low = |index: usize| _mm256_unpacklo_ps(rows[2 * index], rows[2 * index + 1]);
            let high = |index: usize| _mm256_unpackhi_ps(rows[2 * index], rows[2 * index + 1]);
            let four = |half: usize| {
                let (low, next_low) = (low(2 * half), low(2 * half + 1));
                let (high, next_high) = (high(2 * half), high(2 * half + 1));
                [
                    _mm256_shuffle_ps::<0x44>(low, next_low),
                    _mm256_shuffle_ps::<0xee>(low, next_low),
                    _mm256_shuffle_ps::<0x44>(high, next_high),
                    _mm256_shuffle_ps::<0xee>(high, next_high),
                ]
            };
            let (upper, lower) = (four(0), four(1));
            std::array::from_fn(|column| {
                let (upper, lower) = (upper[column % 4], lower[column % 4]);
                if column < 4 {
                    _mm256_permute2f128_ps::<0x20>(upper, lower)
                } else {
                    _mm256_permute2f128_ps::<0x31>(upper, lower)
                }
            })
        }
    }
}

#[allow(unsafe_code)]
// SAFETY (of every block): the trait's contract; accesses need no alignment.
impl Vector for [f32; LANES] {
    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; LANES]
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        unsafe { source.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        unsafe { target.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + other[lane])
    }

    #[inline(always)]
    unsafe fn plus_product(self, left: Self, right: Self) -> Self {
        std::array::from_fn(|lane| self[lane] + left[lane] * right[lane])
    }

    #[inline(always)]
    unsafe fn turn(rows: [Self; LANES]) -> [Self; LANES] {
        std::array::from_fn(|column| std::array::from_fn(|row| rows[row][column]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * step) % 17) as f32 - 8.0).collect()
    }

    /// Whole numbers, so that sums are exact in any order.
    #[test]
    fn every_processor_computes_the_same_sums_for_any_number_of_channels() {
        let source = values(400, 5);
        let offsets = [0, 3, 40, 7];
        for processor in [Processor::detect(), Processor::Any] {
            for channels in 1..=CHANNELS_MAX {
                let weights = values(offsets.len() * channels, 3);
                let (length, pitch) = (100, 100 + OVERSHOOT);
                let mut out = vec![1.0; channels * pitch];
                for fresh in [true, false] {
                    let gather = Gather {
                        source: &source,
                        offsets: &offsets,
                        weights: &weights,
                        length,
                        pitch,
                        fresh,
                    };
                    processor.gather(&gather, &mut out);
                }
                for (channel, row) in out.chunks(pitch).enumerate() {
                    for (index, sum) in row[..length].iter().enumerate() {
                        let products = offsets
                            .iter()
                            .enumerate()
                            .map(|(tap, offset)| weights[tap * channels + channel] * source[offset + index]);
                        assert_eq!(*sum, 2.0 * products.sum::<f32>(), "{processor:?} {channels} {index}");
                    }
                }
            }
        }
    }

    #[test]
    fn every_processor_computes_the_same_products_for_any_block() {
        let (right, length) = (values(300, 5), 37);
        let mut rows: Vec<Vec<f32>> = (1..=CHANNELS_MAX).map(|step| values(40, step)).collect();
        // What rounds the length up to eight is zero, as it is in a border.
        rows.iter_mut().for_each(|row| row[length..].fill(0.0));
        let left: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let offsets = [0, 11, 200, 3, 150, 1, 0, 77, 90, 199, 34, 5];
        for processor in [Processor::detect(), Processor::Any] {
            for channels in 1..=CHANNELS_MAX {
                let at_once = offsets_at_once(channels);
                for count in 1..=at_once {
                    let mut sums = Sums::default();
                    processor.dot(&left[..channels], &right, &offsets[..count], length, &mut sums);
                    for channel in 0..channels {
                        for index in 0..count {
                            let products =
                                (0..length).map(|place| left[channel][place] * right[offsets[index] + place]);
                            let sum: f32 = sums[channel * at_once + index].iter().sum();
                            assert_eq!(sum, products.sum::<f32>(), "{processor:?} {channels}x{count}");
                        }
                    }
                }
            }
        }
    }
}
