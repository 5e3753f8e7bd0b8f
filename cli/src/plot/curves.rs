//! Learning curves of all jobs of a search: training loss, the loss of
//! validations where there is one, and the figure that networks are compared by.

use plotters::style::RGBColor;

use super::canvas::{
    Anchor, Area, NORMAL, Plane, SMALL, Spot, TITLE, bold, disc, font, path, picture, text_width, write,
};
use super::scale::Scale;
use super::{Picture, palette};
use crate::error::CommandError;
use crate::{quality, tables};

/// Steps and values.
pub type Series = Vec<(f64, f64)>;

/// Curves of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobCurves {
    /// `supernet`, `budget 0.5 seed 0`, `baseline c3d seed 0`.
    pub label: String,
    pub loss: Series,
    /// Empty for segmentation.
    pub validation_loss: Series,
    /// The compared figure of validations.
    pub quality: Series,
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
    let is_baseline = tables::is_baseline;
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
const LEFT: f64 = 76.0;
const RIGHT: f64 = 1170.0;
const PANEL_GAP: f64 = 86.0;

/// Draws losses and quality side by side. Without a metric nothing has been
/// validated yet.
///
/// # Errors
/// The library refuses something.
pub fn draw(jobs: &[JobCurves], metric: Option<&str>) -> Result<Picture, CommandError> {
    let colours = colours(jobs);
    let rows = legend_rows(&colours);
    let height = PANEL_BOTTOM + 60.0 + rows.len() as f64 * 24.0 + 12.0;
    let losses: Vec<(String, Series)> =
        jobs.iter().map(|job| (group(&job.label), smooth(&job.loss, job.loss.len() / 60))).collect();
    let of = |series: fn(&JobCurves) -> &Series| -> Vec<(String, Series)> {
        jobs.iter().map(|job| (group(&job.label), series(job).clone())).collect()
    };
    let mut panels =
        vec![Panel { title: "training loss (moving mean)".to_owned(), series: losses, has_points: false }];
    if jobs.iter().any(|job| !job.validation_loss.is_empty()) {
        let title = "validation loss".to_owned();
        panels.push(Panel { title, series: of(|job| &job.validation_loss), has_points: true });
    }
    let title =
        metric.map_or("validation".to_owned(), |metric| format!("validation {}", quality::title(metric)));
    panels.push(Panel { title, series: of(|job| &job.quality), has_points: true });
    let steps = jobs.iter().flat_map(|job| job.loss.iter().chain(&job.quality)).map(|(step, _)| *step);
    let x = Scale::between(0.0, steps.fold(1.0, f64::max), 5);
    picture((WIDTH as u32, height.ceil() as u32), |area| {
        write(area, "Learning curves", (76.0, 26.0), Anchor::Start, &bold(TITLE, palette::TEXT))?;
        let pitch = (RIGHT + PANEL_GAP - LEFT) / panels.len() as f64;
        for (index, panel) in panels.iter().enumerate() {
            let left = LEFT + index as f64 * pitch;
            draw_panel(area, panel, &colours, x, (left, left + pitch - PANEL_GAP))?;
        }
        legend(area, &rows, PANEL_BOTTOM + 66.0)
    })
}

/// One value of all jobs over steps.
struct Panel {
    title: String,
    series: Vec<(String, Series)>,
    has_points: bool,
}

fn draw_panel(
    area: &Area<'_>,
    Panel { title, series, has_points }: &Panel,
    colours: &[(String, RGBColor)],
    x: Scale,
    (left, right): (f64, f64),
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
        if *has_points || spots.len() == 1 {
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
        JobCurves {
            label: label.into(),
            loss: vec![(1.0, 2.0), (2.0, 1.0)],
            validation_loss: Vec::new(),
            quality: vec![(2.0, 0.5)],
        }
    }

    #[test]
    fn seeds_share_a_colour_and_budgets_are_ordered() {
        let jobs = [
            "budget 0.7 seed 0",
            "supernet",
            "budget 0.3 seed 0",
            "budget 0.3 seed 1",
            "baseline c3d seed 0",
            "random like budget 0.3 seed 0",
        ]
        .map(job);
        let names: Vec<String> = colours(&jobs).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["supernet", "budget 0.3", "budget 0.7", "random like budget 0.3", "c3d"]);
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
        assert!(draw(&jobs, Some("mean_dice")).unwrap().svg().contains("budget 0.29"));
    }

    #[test]
    fn a_loss_of_validations_has_a_panel_and_the_metric_its_name() {
        let text = |jobs: &[JobCurves], metric| draw(jobs, Some(metric)).unwrap().svg().to_owned();
        let segmentation = text(&[job("supernet")], "mean_dice");
        assert!(segmentation.contains("validation mean Dice") && !segmentation.contains("validation loss"));
        let with_loss = JobCurves { validation_loss: vec![(2.0, 0.7)], ..job("supernet") };
        let classification = text(&[with_loss], "top1");
        assert!(
            classification.contains("validation top-1 accuracy")
                && classification.contains("validation loss")
        );
    }
}
