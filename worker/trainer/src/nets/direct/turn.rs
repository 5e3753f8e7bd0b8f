//! Turning small matrices over, eight by eight: from channels apart to channels
//! side by side and back.

#![allow(clippy::needless_range_loop)] // equal loops over arrays of a known length unroll as one

use super::simd::{LANES, Processor, Vector};

impl Processor {
    /// `target[places[k] + r] = rows[r][k]` for eight `r`; rows that are not
    /// there count as zeros.
    ///
    /// # Panics
    /// A slice is too short for what is asked.
    pub fn interleave(self, rows: &[&[f32]], places: &[usize], target: &mut [f32]) {
        assert!(rows.len() <= LANES && rows.iter().all(|row| row.len() >= places.len()));
        assert!(places.iter().all(|place| place + LANES <= target.len()));
        #[allow(unsafe_code)]
        // SAFETY: lengths were checked above; AVX2 was detected.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Processor::Avx2 => interleave_avx2(rows, places, target),
                Processor::Any => interleave_any::<[f32; LANES]>(rows, places, target),
            }
        }
    }

    /// `out[targets[r] + k] = source[places[k] + r]`
    ///
    /// # Panics
    /// A slice is too short for what is asked.
    pub fn separate(self, source: &[f32], places: &[usize], targets: &[usize], out: &mut [f32]) {
        assert!(targets.len() <= LANES && places.iter().all(|place| place + LANES <= source.len()));
        assert!(targets.iter().all(|target| target + places.len() <= out.len()));
        #[allow(unsafe_code)]
        // SAFETY: lengths were checked above; AVX2 was detected.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Processor::Avx2 => separate_avx2(source, places, targets, out),
                Processor::Any => separate_any::<[f32; LANES]>(source, places, targets, out),
            }
        }
    }
}

/// Beginnings of blocks of eight that cover `count`, the last one over others
/// where eight does not divide it; none if there are not eight.
fn starts(count: usize) -> impl Iterator<Item = usize> {
    let whole = (0..count / LANES).map(|block| block * LANES);
    let last = (count > LANES && !count.is_multiple_of(LANES)).then(|| count - LANES);
    whole.chain(last)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
unsafe fn interleave_avx2(rows: &[&[f32]], places: &[usize], target: &mut [f32]) {
    // SAFETY: the same contract.
    unsafe { interleave_any::<std::arch::x86_64::__m256>(rows, places, target) }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn interleave_any<V: Vector>(rows: &[&[f32]], places: &[usize], target: &mut [f32]) {
    if places.len() < LANES {
        for (index, place) in places.iter().enumerate() {
            for lane in 0..LANES {
                target[place + lane] = rows.get(lane).map_or(0.0, |row| row[index]);
            }
        }
        return;
    }
    // SAFETY: `interleave` checked rows and places.
    unsafe {
        for start in starts(places.len()) {
            let mut block = [V::zero(); LANES];
            for (value, row) in block.iter_mut().zip(rows) {
                *value = V::load(row.as_ptr().add(start));
            }
            let turned = V::turn(block);
            for index in 0..LANES {
                turned[index].store(target.as_mut_ptr().add(places[start + index]));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
unsafe fn separate_avx2(source: &[f32], places: &[usize], targets: &[usize], out: &mut [f32]) {
    // SAFETY: the same contract.
    unsafe { separate_any::<std::arch::x86_64::__m256>(source, places, targets, out) }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn separate_any<V: Vector>(source: &[f32], places: &[usize], targets: &[usize], out: &mut [f32]) {
    if places.len() < LANES {
        for (index, place) in places.iter().enumerate() {
            for (lane, target) in targets.iter().enumerate() {
                out[target + index] = source[place + lane];
            }
        }
        return;
    }
    // SAFETY: `separate` checked places and targets.
    unsafe {
        for start in starts(places.len()) {
            let mut block = [V::zero(); LANES];
            for index in 0..LANES {
                block[index] = V::load(source.as_ptr().add(places[start + index]));
            }
            let turned = V::turn(block);
            for (row, target) in turned.iter().zip(targets) {
                row.store(out.as_mut_ptr().add(target + start));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_turns_matrices_of_any_size_there_and_back() {
        for processor in [Processor::detect(), Processor::Any] {
            for rows in 1..=LANES {
                for count in [1, 5, 8, 9, 27, 40] {
                    let values: Vec<f32> = (0..rows * count).map(|value| value as f32).collect();
                    let slices: Vec<&[f32]> = values.chunks(count).collect();
                    let places: Vec<usize> = (0..count).rev().map(|place| place * LANES).collect();
                    let mut target = vec![-1.0; count * LANES];
                    processor.interleave(&slices, &places, &mut target);
                    for (index, place) in places.iter().enumerate() {
                        for lane in 0..LANES {
                            let expected = if lane < rows { values[lane * count + index] } else { 0.0 };
                            assert_eq!(target[place + lane], expected, "{processor:?} {rows}x{count}");
                        }
                    }
                    let targets: Vec<usize> = (0..rows).map(|row| row * count).collect();
                    let mut back = vec![0.0; rows * count];
                    processor.separate(&target, &places, &targets, &mut back);
                    assert_eq!(back, values, "{processor:?} {rows}x{count}");
                }
            }
        }
    }
}
