//! Learning curves: loss and validation Dice of all jobs of a search.

use plotters::style::RGBColor;

use super::canvas::{
    Anchor, Area, NORMAL, Plane, SMALL, Spot, TITLE, bold, disc, font, path, picture, text_width, write,
};
use super::scale::Scale;
use super::{Picture, palette};
use crate::error::CommandError;

/// Steps and values.
pub type Series = Vec<(f64, f64)>;

/// Curves of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobCurves {
    /// `supernet`, `budget 0.5 seed 0`, `baseline c3d seed 0`.
    pub label: String,
    pub loss: Series,
    pub dice: Series,
}

/// Jobs that differ in their seed alone share a name and a colour.
fn group(label: &str) -> String {
    let name = label.rsplit_once(" seed ").map_or(label, |(name, _)| name);
    name.trim_start_matches("baseline ").replace('_', " ")
}

/// Names of all groups with their colours: supernet, baselines, then derived
/// networks from dark to light by budget.
fn colours(jobs: &[JobCurves]) -> Vec<(String, RGBColor)> {
    let distinct = |wanted: &dyn Fn(&str) -> bool| {
        let mut names: Vec<String> =
            jobs.iter().filter(|job| wanted(&job.label)).map(|job| group(&job.label)).collect();
        names.sort_by(|left, right| budget_of(left).total_cmp(&budget_of(right)).then(left.cmp(right)));
        names.dedup();
        names
    };
    let is_baseline = |label: &str| label.starts_with("baseline ");
    let is_supernet = |label: &str| label.starts_with("supernet");
    let supernets = distinct(&is_supernet).into_iter().map(|name| (name, palette::SUPERNET));
    let baselines = distinct(&is_baseline)
        .into_iter()
        .enumerate()
        .map(|(index, name)| (name, palette::BASELINES[index % palette::BASELINES.len()]));
    let derived = distinct(&|label| !is_baseline(label) && !is_supernet(label));
    let last = derived.len().saturating_sub(1).max(1) as f64;
    let derived =
        derived.into_iter().enumerate().map(|(index, name)| (name, palette::sequence(index as f64 / last)));
    supernets.chain(derived).chain(baselines).collect()
}

fn budget_of(name: &str) -> f64 {
    name.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(f64::INFINITY)
}

/// Mean over a window of `2 · half + 1` points, shorter at the ends.
fn smooth(series: &[(f64, f64)], half: usize) -> Series {
    (0..series.len())
        .map(|index| {
            let window = &series[index.saturating_sub(half)..(index + half + 1).min(series.len())];
            let mean = window.iter().map(|(_, value)| value).sum::<f64>() / window.len() as f64;
            (series[index].0, mean)
        })
        .collect()
}

const WIDTH: f64 = 1200.0;
const PANEL_BOTTOM: f64 = 420.0;

/// Draws loss and Dice side by side.
///
/// # Errors
/// The library refuses something.
pub fn draw(jobs: &[JobCurves]) -> Result<Picture, CommandError> {
    let colours = colours(jobs);
    let rows = legend_rows(&colours);
    let height = PANEL_BOTTOM + 60.0 + rows.len() as f64 * 24.0 + 12.0;
    let losses: Vec<(String, Series)> =
        jobs.iter().map(|job| (group(&job.label), smooth(&job.loss, job.loss.len() / 60))).collect();
    let dices: Vec<(String, Series)> = jobs.iter().map(|job| (group(&job.label), job.dice.clone())).collect();
    let steps = jobs.iter().flat_map(|job| job.loss.iter().chain(&job.dice)).map(|(step, _)| *step);
    let x = Scale::between(0.0, steps.fold(1.0, f64::max), 5);
    picture((WIDTH as u32, height.ceil() as u32), |area| {
        write(area, "Learning curves", (76.0, 26.0), Anchor::Start, &bold(TITLE, palette::TEXT))?;
        panel(area, &losses, &colours, x, (76.0, 580.0), "training loss (moving mean)", false)?;
        panel(area, &dices, &colours, x, (666.0, 1170.0), "validation mean Dice", true)?;
        legend(area, &rows, PANEL_BOTTOM + 66.0)
    })
}

fn panel(
    area: &Area<'_>,
    series: &[(String, Series)],
    colours: &[(String, RGBColor)],
    x: Scale,
    (left, right): (f64, f64),
    title: &str,
    has_points: bool,
) -> Result<(), CommandError> {
    let values = series.iter().flat_map(|(_, points)| points).map(|(_, value)| *value);
    let y = Scale::around(values, 0.05, 6).at_least(0.0);
    let plane = Plane { left, right, top: 52.0, bottom: PANEL_BOTTOM, x, y };
    plane.draw_axes(area, "optimizer steps", title)?;
    if series.iter().all(|(_, points)| points.is_empty()) {
        let middle = ((left + right) / 2.0, (plane.top + plane.bottom) / 2.0);
        return write(area, "nothing reported yet", middle, Anchor::Middle, &font(NORMAL, palette::MUTED));
    }
    for (name, points) in series {
        let colour = colours.iter().find(|(known, _)| known == name).map_or(palette::MUTED, |(_, it)| *it);
        let spots: Vec<Spot> = points.iter().map(|(step, value)| plane.place(*step, *value)).collect();
        if spots.len() > 1 {
            path(area, &spots, &colour, 1.5)?;
        }
        if has_points || spots.len() == 1 {
            for at in spots {
                disc(area, at, 3.0, &colour)?;
            }
        }
    }
    Ok(())
}

type LegendRow = Vec<(f64, String, RGBColor)>;

/// Entries from left to right, in as many rows as they need.
fn legend_rows(colours: &[(String, RGBColor)]) -> Vec<LegendRow> {
    let mut rows: Vec<LegendRow> = vec![Vec::new()];
    let mut x = 76.0;
    for (name, colour) in colours {
        let width = 30.0 + text_width(name, SMALL) + 24.0;
        if x + width > WIDTH - 20.0 {
            rows.push(Vec::new());
            x = 76.0;
        }
        if let Some(row) = rows.last_mut() {
            row.push((x, name.clone(), *colour));
        }
        x += width;
    }
    rows
}

fn legend(area: &Area<'_>, rows: &[LegendRow], top: f64) -> Result<(), CommandError> {
    let style = font(SMALL, palette::TEXT);
    for (index, row) in rows.iter().enumerate() {
        let y = top + index as f64 * 24.0;
        for (x, name, colour) in row {
            path(area, &[(*x, y), (*x + 22.0, y)], colour, 2.5)?;
            write(area, name, (*x + 29.0, y), Anchor::Start, &style)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(label: &str) -> JobCurves {
        JobCurves { label: label.into(), loss: vec![(1.0, 2.0), (2.0, 1.0)], dice: vec![(2.0, 0.5)] }
    }

    #[test]
    fn seeds_share_a_colour_and_budgets_are_ordered() {
        let jobs = [
            "budget 0.7 seed 0",
            "supernet",
            "budget 0.3 seed 0",
            "budget 0.3 seed 1",
            "baseline c3d seed 0",
        ]
        .map(job);
        let names: Vec<String> = colours(&jobs).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["supernet", "budget 0.3", "budget 0.7", "c3d"]);
    }

    #[test]
    fn smoothing_keeps_steps_and_the_mean_of_a_constant() {
        let series: Series = (0..50).map(|step| (f64::from(step), 3.0)).collect();
        assert_eq!(smooth(&series, 4), series);
        let spike = [(0.0, 0.0), (1.0, 3.0), (2.0, 0.0)];
        assert_eq!(smooth(&spike, 1), [(0.0, 1.5), (1.0, 1.0), (2.0, 1.5)]);
    }

    #[test]
    fn many_names_take_several_rows_inside_the_picture() {
        let jobs: Vec<JobCurves> = (1..30).map(|n| job(&format!("budget 0.{n:02} seed 0"))).collect();
        let rows = legend_rows(&colours(&jobs));
        assert!(rows.len() > 1);
        for (x, name, _) in rows.iter().flatten() {
            assert!(x + 29.0 + text_width(name, SMALL) < WIDTH);
        }
        assert!(draw(&jobs).unwrap().svg().contains("budget 0.29"));
    }
}
