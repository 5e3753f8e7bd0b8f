//! A drawing area in nominal pixels, fonts and the parts that pictures share.

use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, register_font};

use super::{Picture, failed, palette};
use crate::error::CommandError;

/// Device units per nominal pixel; the library rounds to whole device units.
pub const SCALE: i32 = 2;

/// Where everything is drawn.
pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A point in nominal pixels.
pub type Spot = (f64, f64);

/// Sizes of text, in nominal pixels.
pub const SMALL: f64 = 12.0;
pub const NORMAL: f64 = 13.5;
pub const TITLE: f64 = 16.5;

/// Nominal pixels in device units.
pub fn px(nominal: f64) -> i32 {
    (nominal * f64::from(SCALE)).round() as i32
}

pub fn spot((x, y): Spot) -> (i32, i32) {
    (px(x), px(y))
}

/// Draws a picture of `width` by `height` nominal pixels on a white ground.
///
/// # Errors
/// The library refuses something.
pub fn picture(
    (width, height): (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Result<(), CommandError>,
) -> Result<Picture, CommandError> {
    static FONTS: Once = Once::new();
    FONTS.call_once(|| {
        // Fonts that come with the program can be read.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
        let _ = register_font("sans-serif", FontStyle::Bold, dejavu::sans::bold());
    });
    let device = (width * SCALE as u32, height * SCALE as u32);
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, device).into_drawing_area();
        area.fill(&WHITE).map_err(failed)?;
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    let drawn = format!("width=\"{}\" height=\"{}\"", device.0, device.1);
    let nominal = format!("width=\"{width}\" height=\"{height}\"");
    Ok(Picture { svg: svg.replacen(&drawn, &nominal, 1) })
}

/// How a text stands to its spot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// A style of text; plotters' sizes are 1.24 times those of the font.
pub fn font(size: f64, colour: RGBColor) -> TextStyle<'static> {
    ("sans-serif", size * 1.24 * f64::from(SCALE)).into_font().color(&colour)
}

pub fn bold(size: f64, colour: RGBColor) -> TextStyle<'static> {
    let family = ("sans-serif", size * 1.24 * f64::from(SCALE), FontStyle::Bold);
    family.into_font().color(&colour)
}

/// Writes `text`, vertically centred on its spot.
pub fn write(
    area: &Area<'_>,
    text: &str,
    at: Spot,
    anchor: Anchor,
    style: &TextStyle<'_>,
) -> Result<(), CommandError> {
    let horizontal = match anchor {
        Anchor::Start => HPos::Left,
        Anchor::Middle => HPos::Center,
        Anchor::End => HPos::Right,
    };
    let style = style.pos(Pos::new(horizontal, VPos::Center));
    area.draw(&Text::new(text.to_owned(), spot(at), style)).map_err(failed)
}

/// Writes `text` upwards, centred on its spot.
pub fn write_upwards(
    area: &Area<'_>,
    text: &str,
    at: Spot,
    style: &TextStyle<'_>,
) -> Result<(), CommandError> {
    let style = style.transform(FontTransform::Rotate270).pos(Pos::new(HPos::Center, VPos::Center));
    area.draw(&Text::new(text.to_owned(), spot(at), style)).map_err(failed)
}

/// Width of `text` in nominal pixels.
pub fn text_width(text: &str, size: f64) -> f64 {
    let font = ("sans-serif", size * 1.24 * f64::from(SCALE)).into_font();
    // A guess serves where the font lacks a glyph.
    font.box_size(text)
        .map_or(text.chars().count() as f64 * size * 0.6, |(width, _)| f64::from(width) / f64::from(SCALE))
}

pub fn line(
    area: &Area<'_>,
    from: Spot,
    to: Spot,
    colour: &impl Color,
    width: f64,
) -> Result<(), CommandError> {
    let style = ShapeStyle { color: colour.to_rgba(), filled: false, stroke_width: px(width) as u32 };
    area.draw(&PathElement::new(vec![spot(from), spot(to)], style)).map_err(failed)
}

pub fn path(area: &Area<'_>, points: &[Spot], colour: &impl Color, width: f64) -> Result<(), CommandError> {
    let style = ShapeStyle { color: colour.to_rgba(), filled: false, stroke_width: px(width) as u32 };
    let points: Vec<(i32, i32)> = points.iter().copied().map(spot).collect();
    area.draw(&PathElement::new(points, style)).map_err(failed)
}

pub fn fill_rect(area: &Area<'_>, from: Spot, to: Spot, colour: &impl Color) -> Result<(), CommandError> {
    area.draw(&Rectangle::new([spot(from), spot(to)], colour.filled())).map_err(failed)
}

pub fn disc(area: &Area<'_>, at: Spot, radius: f64, colour: &impl Color) -> Result<(), CommandError> {
    area.draw(&Circle::new(spot(at), px(radius), colour.filled())).map_err(failed)
}

/// A square that stands on its corner.
pub fn diamond(area: &Area<'_>, (x, y): Spot, radius: f64, colour: &impl Color) -> Result<(), CommandError> {
    let corners = [(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)];
    let corners: Vec<(i32, i32)> = corners.into_iter().map(spot).collect();
    area.draw(&Polygon::new(corners, colour.filled())).map_err(failed)
}

/// A rectangle of data inside the picture, with its two scales.
#[derive(Clone, Copy, Debug)]
pub struct Plane {
    /// Left, top, right, bottom in nominal pixels.
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
    pub x: super::scale::Scale,
    pub y: super::scale::Scale,
}

impl Plane {
    /// Where a value lies in the picture.
    pub fn place(&self, x: f64, y: f64) -> Spot {
        let across = self.x.share(x) * (self.right - self.left);
        let up = self.y.share(y) * (self.bottom - self.top);
        (self.left + across, self.bottom - up)
    }

    /// Grid, ticks and their labels, and the titles of both axes.
    pub fn draw_axes(&self, area: &Area<'_>, x_title: &str, y_title: &str) -> Result<(), CommandError> {
        let label = font(SMALL, palette::MUTED);
        for (value, text) in self.x.ticks() {
            let (x, _) = self.place(value, self.y.low);
            line(area, (x, self.top), (x, self.bottom), &palette::GRID, 1.0)?;
            write(area, &text, (x, self.bottom + 13.0), Anchor::Middle, &label)?;
        }
        let mut widest = 0.0_f64;
        for (value, text) in self.y.ticks() {
            widest = widest.max(text_width(&text, SMALL));
            let (_, y) = self.place(self.x.low, value);
            line(area, (self.left, y), (self.right, y), &palette::GRID, 1.0)?;
            write(area, &text, (self.left - 8.0, y), Anchor::End, &label)?;
        }
        line(area, (self.left, self.top), (self.left, self.bottom), &palette::AXIS, 1.0)?;
        line(area, (self.left, self.bottom), (self.right, self.bottom), &palette::AXIS, 1.0)?;
        let title = font(NORMAL, palette::TEXT);
        let middle = ((self.left + self.right) / 2.0, self.bottom + 35.0);
        write(area, x_title, middle, Anchor::Middle, &title)?;
        if y_title.is_empty() {
            return Ok(());
        }
        let beside = (self.left - widest - 22.0, (self.top + self.bottom) / 2.0);
        write_upwards(area, y_title, beside, &title)
    }
}
