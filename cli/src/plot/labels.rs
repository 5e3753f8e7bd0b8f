//! Places for labels of points: inside the picture, off other labels, points
//! and error bars, off the front's line where that is possible.

/// An upright rectangle, in pixels; y grows downwards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Frame {
    pub fn centred((x, y): (f64, f64), (width, height): (f64, f64)) -> Self {
        Frame {
            left: x - width / 2.0,
            top: y - height / 2.0,
            right: x + width / 2.0,
            bottom: y + height / 2.0,
        }
    }

    pub fn centre(&self) -> (f64, f64) {
        ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0)
    }

    /// Area that two frames share.
    pub fn overlap(&self, other: &Frame) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        if width > 0.0 && height > 0.0 { width * height } else { 0.0 }
    }

    fn outside(&self, bounds: &Frame) -> f64 {
        (bounds.left - self.left).max(0.0)
            + (self.right - bounds.right).max(0.0)
            + (bounds.top - self.top).max(0.0)
            + (self.bottom - bounds.bottom).max(0.0)
    }

    fn nearest_to(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (x.clamp(self.left, self.right), y.clamp(self.top, self.bottom))
    }
}

/// A point that wants a label.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub at: (f64, f64),
    /// Width and height of the label.
    pub size: (f64, f64),
}

/// Where a label goes, and from where to where a line leads if it is far away.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    pub frame: Frame,
    pub leader: Option<((f64, f64), (f64, f64))>,
}

/// Distances between point and label that are tried, in pixels.
const DISTANCES: [f64; 7] = [9.0, 14.0, 20.0, 28.0, 40.0, 56.0, 76.0];
/// From this distance on a line leads to the label.
const LEADER_FROM: f64 = 15.0;
/// How often every label is placed anew beside all others.
const SWEEPS: usize = 4;

/// Places all labels. `obstacles` are kept free like labels; `lines` are crossed
/// only if there is no better place.
pub fn place(wanted: &[Wanted], obstacles: &[Frame], lines: &[Frame], bounds: &Frame) -> Vec<Placed> {
    let mut frames: Vec<Option<Frame>> = vec![None; wanted.len()];
    for _ in 0..SWEEPS {
        for index in 0..wanted.len() {
            let others: Vec<Frame> = frames
                .iter()
                .enumerate()
                .filter_map(|(other, frame)| frame.filter(|_| other != index))
                .collect();
            let cost = |(frame, gap): &(Frame, f64)| {
                let hits: f64 = others.iter().chain(obstacles).map(|other| frame.overlap(other)).sum();
                let crossings: f64 = lines.iter().map(|line| frame.overlap(line)).sum();
                let at = wanted[index].at;
                let strikes = frames.iter().zip(wanted).enumerate().filter_map(|(other, (placed, want))| {
                    let placed = placed.as_ref().filter(|_| other != index)?;
                    Some(leader_hits(want.at, placed, std::slice::from_ref(frame)))
                });
                let struck = 50.0 * f64::from(leader_hits(at, frame, &others) + strikes.sum::<u32>());
                1e4 * frame.outside(bounds) + 1e3 * hits + struck + crossings + gap
            };
            frames[index] =
                candidates(&wanted[index]).min_by(|a, b| cost(a).total_cmp(&cost(b))).map(|(frame, _)| frame);
        }
    }
    wanted
        .iter()
        .zip(frames)
        .map(|(want, frame)| {
            let frame = frame.unwrap_or(Frame::centred(want.at, want.size));
            let far = distance(&frame, want.at) >= LEADER_FROM;
            Placed { frame, leader: far.then(|| (want.at, frame.nearest_to(want.at))) }
        })
        .collect()
}

/// Spots of a label's line that lie in other labels.
fn leader_hits(at: (f64, f64), frame: &Frame, labels: &[Frame]) -> u32 {
    const SPOTS: u32 = 16;
    if distance(frame, at) < LEADER_FROM {
        return 0;
    }
    let to = frame.nearest_to(at);
    let spot = |index: u32| {
        let share = f64::from(index) / f64::from(SPOTS);
        (at.0 + share * (to.0 - at.0), at.1 + share * (to.1 - at.1))
    };
    let is_in_label = |spot: (f64, f64)| labels.iter().any(|label| label.nearest_to(spot) == spot);
    (0..=SPOTS).filter(|index| is_in_label(spot(*index))).count() as u32
}

fn distance(frame: &Frame, at: (f64, f64)) -> f64 {
    let (x, y) = frame.nearest_to(at);
    (x - at.0).hypot(y - at.1)
}

/// Places around the point with their distance, nearest first: above, then round
/// in both senses.
fn candidates(want: &Wanted) -> impl Iterator<Item = (Frame, f64)> + '_ {
    const TURNS: [i32; 16] = [0, 4, -4, 8, 2, -2, 6, -6, 1, -1, 3, -3, 5, -5, 7, -7];
    let ((x, y), (width, height)) = (want.at, want.size);
    DISTANCES.into_iter().flat_map(move |gap| {
        TURNS.into_iter().map(move |turn| {
            let (right, up) = (f64::from(turn) * std::f64::consts::PI / 8.0).sin_cos();
            // The label's nearest edge or corner faces the point.
            let side = |direction: f64| (1.6 * direction).clamp(-1.0, 1.0) / 2.0;
            let across = right * gap + side(right) * width;
            let down = -up * gap - side(up) * height;
            (Frame::centred((x + across, y + down), (width, height)), gap)
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Frame = Frame { left: 0.0, top: 0.0, right: 340.0, bottom: 300.0 };

    #[test]
    fn a_lonely_label_stands_right_above_its_point() {
        let wanted = [Wanted { at: (100.0, 100.0), size: (30.0, 12.0) }];
        let placed = place(&wanted, &[], &[], &BOUNDS);
        assert_eq!(placed[0].frame, Frame::centred((100.0, 85.0), (30.0, 12.0)));
        assert_eq!(placed[0].leader, None);
    }

    #[test]
    fn labels_stay_inside_at_the_corner() {
        let wanted = [Wanted { at: (338.0, 2.0), size: (60.0, 12.0) }];
        assert_eq!(place(&wanted, &[], &[], &BOUNDS)[0].frame.outside(&BOUNDS), 0.0);
    }

    #[test]
    fn a_line_to_a_far_label_avoids_other_labels() {
        let label = Frame::centred((100.0, 70.0), (40.0, 12.0));
        let above = Frame::centred((100.0, 40.0), (30.0, 12.0));
        let beside = Frame::centred((160.0, 80.0), (30.0, 12.0));
        assert!(leader_hits((100.0, 100.0), &above, &[label]) > 0);
        assert_eq!(leader_hits((100.0, 100.0), &beside, &[label]), 0);
    }

    proptest! {
        /// As many points as a search has, anywhere, some of them together.
        #[test]
        fn labels_never_overlap_each_other_or_points(
            spots in proptest::collection::vec((10.0_f64..330.0, 10.0_f64..290.0), 1..9),
        ) {
            let wanted: Vec<Wanted> = spots.iter().map(|at| Wanted { at: *at, size: (34.0, 13.0) }).collect();
            let markers: Vec<Frame> = spots.iter().map(|at| Frame::centred(*at, (11.0, 11.0))).collect();
            let placed = place(&wanted, &markers, &[], &BOUNDS);
            for (index, label) in placed.iter().enumerate() {
                prop_assert_eq!(label.frame.outside(&BOUNDS), 0.0);
                prop_assert!(markers.iter().all(|marker| label.frame.overlap(marker) == 0.0));
                prop_assert!(placed[index + 1..].iter().all(|other| label.frame.overlap(&other.frame) == 0.0));
            }
        }
    }
}
