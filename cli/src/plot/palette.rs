//! Colours. Those of kernels and of series stay apart for colour-blind people
//! (after Paul Tol's "muted" and Okabe and Ito's sets).

use cakes::kernel::Kernel;
use plotters::style::RGBColor;

pub const TEXT: RGBColor = RGBColor(0x22, 0x26, 0x2b);
pub const MUTED: RGBColor = RGBColor(0x5c, 0x63, 0x6b);
pub const AXIS: RGBColor = RGBColor(0x9a, 0xa1, 0xa9);
pub const GRID: RGBColor = RGBColor(0xe9, 0xeb, 0xee);
pub const EMPTY: RGBColor = RGBColor(0xf4, 0xf5, 0xf7);

/// Derived architectures.
pub const DERIVED: RGBColor = RGBColor(0x00, 0x72, 0xb2);
/// Baselines.
pub const BASELINE: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
/// The line of the front.
pub const FRONT: RGBColor = RGBColor(0x8c, 0x93, 0x9b);
/// The supernet.
pub const SUPERNET: RGBColor = RGBColor(0x22, 0x26, 0x2b);

/// Colour of a kernel: dark for three axes, cool for two, warm for one, grey
/// for none.
pub fn kernel(kernel: Kernel) -> RGBColor {
    match kernel {
        Kernel::K333 => RGBColor(0x33, 0x22, 0x88),
        Kernel::K133 => RGBColor(0x11, 0x77, 0x33),
        Kernel::K313 => RGBColor(0x44, 0xaa, 0x99),
        Kernel::K331 => RGBColor(0x88, 0xcc, 0xee),
        Kernel::K311 => RGBColor(0xdd, 0xcc, 0x77),
        Kernel::K131 => RGBColor(0xcc, 0x66, 0x77),
        Kernel::K113 => RGBColor(0x88, 0x22, 0x55),
        Kernel::K111 => RGBColor(0xbb, 0xbb, 0xbb),
    }
}

/// Whether white text is read better than dark text on `colour`.
pub fn is_dark(RGBColor(red, green, blue): RGBColor) -> bool {
    // Perceived lightness, ITU-R BT.601.
    299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue) < 140_000
}

/// A colour between violet (0) and yellow green (1) that gets lighter evenly,
/// after "viridis".
pub fn sequence(share: f64) -> RGBColor {
    const STOPS: [RGBColor; 5] = [
        RGBColor(0x44, 0x01, 0x54),
        RGBColor(0x3b, 0x52, 0x8b),
        RGBColor(0x21, 0x91, 0x8c),
        RGBColor(0x5e, 0xc9, 0x62),
        RGBColor(0xc8, 0xd8, 0x20),
    ];
    let position = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let index = (position as usize).min(STOPS.len() - 2);
    let part = position - index as f64;
    let mix = |from: u8, to: u8| (f64::from(from) + part * (f64::from(to) - f64::from(from))).round() as u8;
    let (RGBColor(r0, g0, b0), RGBColor(r1, g1, b1)) = (STOPS[index], STOPS[index + 1]);
    RGBColor(mix(r0, r1), mix(g0, g1), mix(b0, b1))
}

/// Colours of the baselines.
pub const BASELINES: [RGBColor; 3] =
    [RGBColor(0xd5, 0x5e, 0x00), RGBColor(0xcc, 0x79, 0xa7), RGBColor(0xe6, 0x9f, 0x00)];
