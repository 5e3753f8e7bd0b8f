//! Quality against cost: one panel each for MACs, parameters and latency.

use cakes::pareto::{self, Point};
use cakes_proto::v1;

use super::canvas::{
    Anchor, Area, NORMAL, Plane, SMALL, Spot, TITLE, bold, diamond, disc, font, line, path, picture,
    text_width, write,
};
use super::labels::{Frame, Wanted, place};
use super::scale::Scale;
use super::{Picture, palette};
use crate::error::CommandError;
use crate::{quality, tables};

const SIZE: (u32, u32) = (1200, 500);
/// Where the first panel begins.
const LEFT: f64 = 84.0;

/// One retrained architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultPoint {
    /// `0.5` for a budget, `c3d` for a baseline.
    pub label: String,
    pub is_baseline: bool,
    /// The figure that networks are compared by.
    pub quality: f64,
    /// Over seeds; 0 for one seed.
    pub deviation: f64,
    pub mac_count: f64,
    pub param_count: f64,
    /// Not finite where it was not measured.
    pub latency_ms: f64,
}

/// The entries of a front as points.
pub fn results(front: &v1::ParetoFront) -> Vec<ResultPoint> {
    front
        .entries
        .iter()
        .map(|entry| {
            let architecture = entry.architecture.clone().unwrap_or_default();
            let cost = architecture.cost.unwrap_or_default();
            let (label, is_baseline) = label(&architecture.origins);
            ResultPoint {
                label,
                is_baseline,
                quality: entry.quality,
                deviation: if entry.seed_count > 1 { entry.quality_deviation } else { 0.0 },
                mac_count: cost.mac_count as f64,
                param_count: cost.param_count as f64,
                latency_ms: if entry.latency_ms > 0.0 { entry.latency_ms } else { f64::NAN },
            }
        })
        .collect()
}

/// A short name from origins, and whether a baseline is among them.
fn label(origins: &[String]) -> (String, bool) {
    let short = |origin: &String| {
        let text = origin.replace("random like ", "random ").replace("budget ", "");
        text.trim_start_matches("baseline ").replace('_', " ")
    };
    let mut names: Vec<String> = origins.iter().map(short).collect();
    names.sort();
    (names.join(", "), origins.iter().any(|origin| tables::is_baseline(origin)))
}

/// What a panel shows along its horizontal axis.
struct CostAxis {
    title: &'static str,
    unit: &'static str,
    value: fn(&ResultPoint) -> f64,
}

const AXES: [CostAxis; 3] = [
    CostAxis { title: "multiply-accumulates per patch", unit: "", value: |point| point.mac_count },
    CostAxis { title: "parameters", unit: "", value: |point| point.param_count },
    CostAxis { title: "latency per patch", unit: "ms", value: |point| point.latency_ms },
];

/// What the points of a front are compared by, for the vertical axis.
pub fn quality_title(front: &v1::ParetoFront) -> String {
    let metrics = front.entries.iter().map(|entry| entry.quality_metric.as_str());
    quality::common_metric(metrics).map_or("quality".to_owned(), quality::title)
}

/// Draws the three panels.
///
/// # Errors
/// The library refuses something.
pub fn draw(points: &[ResultPoint], quality_title: &str) -> Result<Picture, CommandError> {
    let spread = points.iter().flat_map(|p| [p.quality - p.deviation, p.quality + p.deviation]);
    let quality = Scale::around(spread, 0.14, 6);
    // No ticks below 0, but room for a point that lies there.
    let quality = quality.at_least(-0.06 * quality.high).at_most(1.02);
    picture(SIZE, |area| {
        let title = "Quality of retrained networks against their cost";
        write(area, title, (LEFT, 26.0), Anchor::Start, &bold(TITLE, palette::TEXT))?;
        let (gap, width) = (52.0, 328.0);
        for (index, axis) in AXES.iter().enumerate() {
            let left = LEFT + index as f64 * (width + gap);
            let title = if index == 0 { quality_title } else { "" };
            panel(area, points, axis, quality, left, width, title)?;
        }
        legend(area, points, f64::from(SIZE.1) - 24.0)
    })
}

fn panel(
    area: &Area<'_>,
    points: &[ResultPoint],
    axis: &CostAxis,
    y: Scale,
    left: f64,
    width: f64,
    quality_title: &str,
) -> Result<(), CommandError> {
    let shown: Vec<&ResultPoint> = points.iter().filter(|point| (axis.value)(point).is_finite()).collect();
    let x = Scale::around(shown.iter().map(|point| (axis.value)(point)), 0.12, 5).at_least(0.0);
    let (x, prefix) = if axis.unit.is_empty() { x.with_si_unit() } else { (x, axis.unit) };
    let plane = Plane { left, right: left + width, top: 52.0, bottom: f64::from(SIZE.1) - 98.0, x, y };
    let unit = if prefix.is_empty() { String::new() } else { format!(" ({prefix})") };
    plane.draw_axes(area, &format!("{}{unit}", axis.title), quality_title)?;
    if shown.is_empty() {
        let middle = ((plane.left + plane.right) / 2.0, (plane.top + plane.bottom) / 2.0);
        return write(area, "not measured", middle, Anchor::Middle, &font(NORMAL, palette::MUTED));
    }
    let stairs = staircase(&shown, axis.value, x.high);
    let stairs: Vec<Spot> = stairs.into_iter().map(|(cost, quality)| plane.place(cost, quality)).collect();
    path(area, &stairs, &palette::FRONT, 1.5)?;
    for point in &shown {
        draw_point(area, &plane, point, (axis.value)(point))?;
    }
    draw_labels(area, &plane, &shown, axis.value, &stairs)
}

/// The best quality that is to be had for at most a given cost.
fn staircase(points: &[&ResultPoint], cost: fn(&ResultPoint) -> f64, end: f64) -> Vec<(f64, f64)> {
    let candidates: Vec<Point> =
        points.iter().map(|point| Point { quality: point.quality, costs: vec![cost(point)] }).collect();
    let mut best: Vec<(f64, f64)> = pareto::front(&candidates)
        .into_iter()
        .map(|i| (candidates[i].costs[0], candidates[i].quality))
        .collect();
    best.sort_by(|left, right| left.0.total_cmp(&right.0));
    let mut stairs: Vec<(f64, f64)> = Vec::new();
    for (cost, quality) in best {
        if let Some((_, before)) = stairs.last().copied() {
            stairs.push((cost, before));
        }
        stairs.push((cost, quality));
    }
    if let Some((_, quality)) = stairs.last().copied() {
        stairs.push((end, quality));
    }
    stairs
}

fn draw_point(area: &Area<'_>, plane: &Plane, point: &ResultPoint, cost: f64) -> Result<(), CommandError> {
    let at = plane.place(cost, point.quality);
    let colour = if point.is_baseline { palette::BASELINE } else { palette::DERIVED };
    if point.deviation > 0.0 {
        let (x, low) = plane.place(cost, point.quality - point.deviation);
        let (_, high) = plane.place(cost, point.quality + point.deviation);
        line(area, (x, low), (x, high), &colour, 1.5)?;
        for y in [low, high] {
            line(area, (x - 4.0, y), (x + 4.0, y), &colour, 1.5)?;
        }
    }
    marker(area, at, point.is_baseline)
}

/// A disc for a derived network, a diamond for a baseline, rimmed in white.
fn marker(area: &Area<'_>, at: Spot, is_baseline: bool) -> Result<(), CommandError> {
    if is_baseline {
        diamond(area, at, 8.5, &plotters::style::WHITE)?;
        diamond(area, at, 7.0, &palette::BASELINE)
    } else {
        disc(area, at, 6.5, &plotters::style::WHITE)?;
        disc(area, at, 5.0, &palette::DERIVED)
    }
}

fn draw_labels(
    area: &Area<'_>,
    plane: &Plane,
    points: &[&ResultPoint],
    cost: fn(&ResultPoint) -> f64,
    stairs: &[Spot],
) -> Result<(), CommandError> {
    let spots: Vec<Spot> = points.iter().map(|point| plane.place(cost(point), point.quality)).collect();
    let wanted: Vec<Wanted> = points
        .iter()
        .zip(&spots)
        .map(|(point, at)| Wanted { at: *at, size: (text_width(&point.label, SMALL) + 4.0, SMALL + 3.0) })
        .collect();
    let markers = spots.iter().map(|at| Frame::centred(*at, (13.0, 13.0)));
    let bars = points.iter().zip(&spots).map(|(point, (x, y))| {
        let half = plane.place(0.0, point.quality).1 - plane.place(0.0, point.quality + point.deviation).1;
        Frame::centred((*x, *y), (10.0, 2.0 * half + 4.0))
    });
    let obstacles: Vec<Frame> = markers.chain(bars).collect();
    let lines: Vec<Frame> = stairs
        .windows(2)
        .map(|pair| Frame {
            left: pair[0].0.min(pair[1].0) - 1.0,
            right: pair[0].0.max(pair[1].0) + 1.0,
            top: pair[0].1.min(pair[1].1) - 1.0,
            bottom: pair[0].1.max(pair[1].1) + 1.0,
        })
        .collect();
    let bounds =
        Frame { left: plane.left + 2.0, top: plane.top, right: plane.right, bottom: plane.bottom - 2.0 };
    for (point, placed) in points.iter().zip(place(&wanted, &obstacles, &lines, &bounds)) {
        if let Some((from, to)) = placed.leader {
            line(area, from, to, &palette::MUTED, 0.5)?;
        }
        write(area, &point.label, placed.frame.centre(), Anchor::Middle, &font(SMALL, palette::TEXT))?;
    }
    // Leaders end under the points.
    for (point, at) in points.iter().zip(spots) {
        marker(area, at, point.is_baseline)?;
    }
    Ok(())
}

fn legend(area: &Area<'_>, points: &[ResultPoint], y: f64) -> Result<(), CommandError> {
    let style = font(NORMAL, palette::TEXT);
    let mut entries: Vec<(&str, Option<bool>)> = vec![
        ("derived (label: budget, a fraction of the all-3x3x3 network)", Some(false)),
        ("baseline", Some(true)),
        ("front", None),
    ];
    if points.iter().any(|point| point.deviation > 0.0) {
        entries[2].0 = "front; bars: ± 1 standard deviation over seeds";
    }
    let mut x = LEFT;
    for (text, is_baseline) in entries {
        match is_baseline {
            Some(is_baseline) => marker(area, (x + 7.0, y), is_baseline)?,
            None => {
                let steps = [(x - 6.0, y + 4.0), (x + 7.0, y + 4.0), (x + 7.0, y - 4.0), (x + 20.0, y - 4.0)];
                path(area, &steps, &palette::FRONT, 1.5)?;
                x += 10.0;
            }
        }
        write(area, text, (x + 20.0, y), Anchor::Start, &style)?;
        x += 20.0 + text_width(text, NORMAL) + 34.0;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn point(label: &str, is_baseline: bool, quality: f64, mac_count: f64) -> ResultPoint {
        ResultPoint {
            label: label.into(),
            is_baseline,
            quality,
            deviation: 0.004,
            mac_count,
            param_count: mac_count / 900.0,
            latency_ms: mac_count / 4e7,
        }
    }

    #[test]
    fn the_staircase_goes_right_then_up_and_on_to_the_edge() {
        let points =
            [point("a", false, 0.8, 10.0), point("b", true, 0.7, 20.0), point("c", false, 0.9, 30.0)];
        let shown: Vec<&ResultPoint> = points.iter().collect();
        assert_eq!(
            staircase(&shown, |point| point.mac_count, 40.0),
            [(10.0, 0.8), (30.0, 0.8), (30.0, 0.9), (40.0, 0.9)]
        );
    }

    #[test]
    fn labels_are_short_and_a_baseline_that_was_also_derived_is_a_baseline() {
        assert_eq!(label(&["budget 0.5".into()]), ("0.5".into(), false));
        assert_eq!(label(&["paper rule".into()]), ("paper rule".into(), false));
        assert_eq!(label(&["budget 1".into(), "baseline even_split".into()]), ("1, even split".into(), true));
        assert_eq!(label(&["random like budget 0.3".into()]), ("random 0.3".into(), true));
    }

    #[test]
    fn a_front_without_latencies_says_so_and_still_draws() {
        let mut points = vec![point("0.5", false, 0.86, 4e8), point("c3d", true, 0.87, 9e8)];
        for point in &mut points {
            point.latency_ms = f64::NAN;
        }
        let picture = draw(&points, "top-1 accuracy").unwrap();
        assert!(picture.svg().contains("top-1 accuracy") && !picture.svg().contains("Dice"));
        assert!(picture.svg().contains("not measured"));
        assert!(picture.svg().contains("multiply-accumulates per patch (millions)"));
    }
}
