//! The two inner loops of [`super::blocked`]. Channels are computed eight at a
//! time.

#![allow(clippy::needless_range_loop)] // equal loops over arrays of a known length unroll as one

use super::simd::{LANES, Processor, Vector};

/// Most vectors of channels of a tile.
pub const VECTORS_MAX: usize = 2;

/// Most rows of [`Processor::outer`].
pub const ROWS_MAX: usize = 6;

/// Products that lie side by side at every position.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// From the source's beginning to the first value at place 0.
    pub shift: usize,
    /// Values from one place to the next.
    pub pitch: usize,
    /// Values that are read at a place.
    pub length: usize,
}

/// Sums of some vectors of channels.
#[derive(Clone, Copy, Debug)]
pub struct Tile<'a> {
    pub source: &'a [f32],
    pub segments: &'a [Segment],
    /// `[product][lane]`, products in the order of the segments.
    pub weights: &'a [f32],
    pub vectors: usize,
    /// Whether the sums replace what the result holds, or are added to it.
    pub fresh: bool,
}

impl Processor {
    /// `sums[p][lane] = Σ_s Σ_i source[shift_s + places[p] · pitch_s + i] · weights[..][lane]`
    /// for every place.
    ///
    /// # Panics
    /// A slice is too short for what is asked.
    pub fn tiles(self, tile: &Tile<'_>, places: &[usize], sums: &mut [f32]) {
        let Tile { source, segments, weights, vectors, .. } = *tile;
        let products: usize = segments.iter().map(|segment| segment.length).sum();
        let farthest = places.iter().max().map_or(0, |place| *place);
        assert!((1..=VECTORS_MAX).contains(&vectors) && weights.len() == products * vectors * LANES);
        assert!(sums.len() >= places.len() * vectors * LANES);
        assert!(
            segments
                .iter()
                .all(|segment| { segment.shift + farthest * segment.pitch + segment.length <= source.len() })
        );
        #[allow(unsafe_code)]
        // SAFETY: every read of the source ends before what was checked above,
        // every place has its sums; AVX2 was detected.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Processor::Avx2 => tiles_avx2(tile, places, sums),
                Processor::Any => tiles_any::<[f32; LANES]>(tile, places, sums),
            }
        }
    }

    /// `sums[row][lane] += Σ_p left[p][row] · right[places[p] · pitch + lane]`, with
    /// one or two vectors of lanes, as many as `pitch` has.
    ///
    /// # Panics
    /// A slice is too short for what is asked.
    pub fn outer(
        self,
        right: &[f32],
        places: &[usize],
        pitch: usize,
        left: &[f32],
        rows: usize,
        sums: &mut [f32],
    ) {
        let farthest = places.iter().max().map_or(0, |place| *place);
        assert!((1..=ROWS_MAX).contains(&rows) && (pitch == LANES || pitch == 2 * LANES));
        assert!(left.len() >= places.len() * rows && sums.len() == rows * pitch);
        assert!((farthest + 1) * pitch <= right.len());
        #[allow(unsafe_code)]
        // SAFETY: lengths were checked above; AVX2 was detected.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Processor::Avx2 => outer_avx2(right, places, pitch, left, rows, sums),
                Processor::Any => outer_any::<[f32; LANES]>(right, places, pitch, left, rows, sums),
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
unsafe fn tiles_avx2(tile: &Tile<'_>, places: &[usize], sums: &mut [f32]) {
    // SAFETY: the same contract.
    unsafe { tiles_any::<std::arch::x86_64::__m256>(tile, places, sums) }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn tiles_any<V: Vector>(tile: &Tile<'_>, places: &[usize], sums: &mut [f32]) {
    // SAFETY: the same contract. There are as many sums at a time as the sixteen
    // registers hold beside what is loaded.
    unsafe {
        match tile.vectors {
            1 => all_tiles::<V, 8, 1>(tile, places, sums),
            _ => all_tiles::<V, 6, 2>(tile, places, sums),
        }
    }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn all_tiles<V: Vector, const PLACES: usize, const VECTORS: usize>(
    tile: &Tile<'_>,
    places: &[usize],
    sums: &mut [f32],
) {
    // SAFETY: the same contract; single places have the sums that they need.
    unsafe {
        let (whole, rest) = places.as_chunks::<PLACES>();
        let mut target = sums.as_mut_ptr();
        for places in whole {
            one_tile::<V, PLACES, VECTORS>(tile, places, target);
            target = target.add(PLACES * VECTORS * LANES);
        }
        for place in rest {
            one_tile::<V, 1, VECTORS>(tile, &[*place], target);
            target = target.add(VECTORS * LANES);
        }
    }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn one_tile<V: Vector, const PLACES: usize, const VECTORS: usize>(
    tile: &Tile<'_>,
    places: &[usize; PLACES],
    target: *mut f32,
) {
    // SAFETY: `tiles` checked what is read and written; the caller has chosen a
    // vector that this processor knows.
    unsafe {
        let mut sums = [[V::zero(); VECTORS]; PLACES];
        if !tile.fresh {
            for place in 0..PLACES {
                for vector in 0..VECTORS {
                    sums[place][vector] = V::load(target.add((place * VECTORS + vector) * LANES));
                }
            }
        }
        let mut weights = tile.weights.as_ptr();
        for segment in tile.segments {
            let start = tile.source.as_ptr().add(segment.shift);
            let mut sources = [start; PLACES];
            for place in 0..PLACES {
                sources[place] = start.add(places[place] * segment.pitch);
            }
            for index in 0..segment.length {
                let mut factors = [V::zero(); VECTORS];
                for vector in 0..VECTORS {
                    factors[vector] = V::load(weights.add(vector * LANES));
                }
                for place in 0..PLACES {
                    let value = V::splat(*sources[place].add(index));
                    for vector in 0..VECTORS {
                        sums[place][vector] = sums[place][vector].plus_product(value, factors[vector]);
                    }
                }
                weights = weights.add(VECTORS * LANES);
            }
        }
        for place in 0..PLACES {
            for vector in 0..VECTORS {
                sums[place][vector].store(target.add((place * VECTORS + vector) * LANES));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
#[allow(unsafe_code)]
unsafe fn outer_avx2(
    right: &[f32],
    places: &[usize],
    pitch: usize,
    left: &[f32],
    rows: usize,
    sums: &mut [f32],
) {
    // SAFETY: the same contract.
    unsafe { outer_any::<std::arch::x86_64::__m256>(right, places, pitch, left, rows, sums) }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn outer_any<V: Vector>(
    right: &[f32],
    places: &[usize],
    pitch: usize,
    left: &[f32],
    rows: usize,
    sums: &mut [f32],
) {
    // SAFETY: the same contract.
    unsafe {
        match (rows, pitch / LANES) {
            (1, 1) => outer_block::<V, 1, 1>(right, places, left, sums),
            (2, 1) => outer_block::<V, 2, 1>(right, places, left, sums),
            (3, 1) => outer_block::<V, 3, 1>(right, places, left, sums),
            (4, 1) => outer_block::<V, 4, 1>(right, places, left, sums),
            (5, 1) => outer_block::<V, 5, 1>(right, places, left, sums),
            (_, 1) => outer_block::<V, 6, 1>(right, places, left, sums),
            (1, _) => outer_block::<V, 1, 2>(right, places, left, sums),
            (2, _) => outer_block::<V, 2, 2>(right, places, left, sums),
            (3, _) => outer_block::<V, 3, 2>(right, places, left, sums),
            (4, _) => outer_block::<V, 4, 2>(right, places, left, sums),
            (5, _) => outer_block::<V, 5, 2>(right, places, left, sums),
            _ => outer_block::<V, 6, 2>(right, places, left, sums),
        }
    }
}

#[inline(always)]
#[allow(unsafe_code)]
unsafe fn outer_block<V: Vector, const ROWS: usize, const VECTORS: usize>(
    right: &[f32],
    places: &[usize],
    left: &[f32],
    sums: &mut [f32],
) {
    // SAFETY: `outer` checked every length; the caller has chosen a vector that
    // this processor knows.
    unsafe {
        let mut block = [[V::zero(); VECTORS]; ROWS];
        let mut left = left.as_ptr();
        for place in places {
            let source = right.as_ptr().add(place * VECTORS * LANES);
            let mut values = [V::zero(); VECTORS];
            for vector in 0..VECTORS {
                values[vector] = V::load(source.add(vector * LANES));
            }
            for row in 0..ROWS {
                let factor = V::splat(*left.add(row));
                for vector in 0..VECTORS {
                    block[row][vector] = block[row][vector].plus_product(factor, values[vector]);
                }
            }
            left = left.add(ROWS);
        }
        for row in 0..ROWS {
            for vector in 0..VECTORS {
                let place = sums.as_mut_ptr().add((row * VECTORS + vector) * LANES);
                V::load(place).plus(block[row][vector]).store(place);
            }
        }
    }
}
