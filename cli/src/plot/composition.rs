//! Channels of every layer by kernel: one card of stacked bars for each
//! architecture.

use cakes::allocation::ChannelAllocation;
use cakes::architecture::Architecture;
use cakes::kernel::Kernel;
use cakes_proto::convert::architecture_from_wire;
use cakes_proto::v1;

use super::canvas::{Anchor, Area, NORMAL, SMALL, TITLE, bold, fill_rect, font, picture, text_width, write};
use super::{Picture, palette};
use crate::error::CommandError;
use crate::quality::Quality;
use crate::{format, tables};

/// One architecture as it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    pub title: String,
    pub subtitle: String,
    pub layers: Vec<(String, ChannelAllocation)>,
}

impl Card {
    pub fn new(title: String, architecture: &Architecture) -> Self {
        let layers = architecture.layers().map(|layer| (layer.layer, layer.channels)).collect();
        let digest = architecture.digest().to_string();
        Card { title, subtitle: format::short_digest(&digest).to_owned(), layers }
    }

    /// A card with origin, cost and, if it is known, quality.
    ///
    /// # Errors
    /// The message is no architecture.
    pub fn of_message(message: &v1::Architecture, quality: Option<Quality>) -> Result<Self, CommandError> {
        let architecture = architecture_from_wire(message.backbone.clone(), message.layers.clone()).map_err(
            |violation| CommandError::Failed(format!("the coordinator sent no architecture: {violation}")),
        )?;
        let mut facts: Vec<String> = quality.map(|quality| quality.text()).into_iter().collect();
        if let Some(cost) = &message.cost {
            let share = format!("{:.0} %", cost.mac_fraction * 100.0);
            facts.push(format!("{} ({share})", format::macs(cost.mac_count)));
            facts.push(format!("{} params", format::si(cost.param_count, "")));
        }
        let title = tables::origins(message).replace('_', " ");
        Ok(Card { subtitle: facts.join("  ·  "), ..Card::new(title, &architecture) })
    }
}

/// Cards of all entries of a front, by rising MACs.
///
/// # Errors
/// A message is no architecture.
pub fn cards_of_front(front: &v1::ParetoFront) -> Result<Vec<Card>, CommandError> {
    let known = front
        .entries
        .iter()
        .filter_map(|entry| Some((entry.architecture.as_ref()?, Quality::of_entry(entry))));
    let mut known: Vec<(&v1::Architecture, Quality)> = known.collect();
    known.sort_by_key(|(architecture, _)| architecture.cost.as_ref().map_or(0, |cost| cost.mac_count));
    known.into_iter().map(|(architecture, quality)| Card::of_message(architecture, Some(quality))).collect()
}

const WIDTH: f64 = 1200.0;
const MARGIN: f64 = 28.0;
const ROW: f64 = 19.0;
const BAR: f64 = 14.0;
const HEAD: f64 = 54.0;
const CARD_GAP: f64 = 26.0;

/// Where things lie; all in nominal pixels.
#[derive(Clone, Debug, PartialEq)]
struct Layout {
    columns: usize,
    /// Space for names of layers left of the first column.
    names: f64,
    card_width: f64,
    card_height: f64,
    height: f64,
}

fn layout(cards: &[Card], names: f64) -> Layout {
    let columns = match cards.len() {
        0..=1 => 1,
        2..=4 => 2,
        5..=9 => 3,
        _ => 4,
    };
    let rows = cards.len().div_ceil(columns);
    // A card without layers has a line that says so.
    let layers = cards.iter().map(|card| card.layers.len()).max().unwrap_or(0).max(1);
    let gaps = (columns - 1) as f64 * CARD_GAP;
    let card_width = (WIDTH - 2.0 * MARGIN - names - gaps) / columns as f64;
    let card_height = HEAD + layers as f64 * ROW + 16.0;
    Layout { columns, names, card_width, card_height, height: 48.0 + rows as f64 * card_height + 46.0 }
}

/// Draws all cards with one legend.
///
/// # Errors
/// The library refuses something.
pub fn draw(cards: &[Card]) -> Result<Picture, CommandError> {
    let longest = cards.iter().flat_map(|card| &card.layers).map(|(name, _)| text_width(name, SMALL));
    let layout = layout(cards, longest.fold(0.0, f64::max) + 12.0);
    picture((WIDTH as u32, layout.height.ceil() as u32), |area| {
        let title = "Channels of every searched layer by kernel";
        write(area, title, (MARGIN, 26.0), Anchor::Start, &bold(TITLE, palette::TEXT))?;
        for (index, card) in cards.iter().enumerate() {
            let (column, row) = (index % layout.columns, index / layout.columns);
            let left = MARGIN + layout.names + column as f64 * (layout.card_width + CARD_GAP);
            let top = 48.0 + row as f64 * layout.card_height;
            draw_card(area, card, left, top, layout.card_width, column == 0)?;
        }
        legend(area, cards, layout.height - 26.0)
    })
}

fn draw_card(
    area: &Area<'_>,
    card: &Card,
    left: f64,
    top: f64,
    width: f64,
    has_names: bool,
) -> Result<(), CommandError> {
    write(area, &card.title, (left, top + 14.0), Anchor::Start, &bold(NORMAL, palette::TEXT))?;
    write(area, &card.subtitle, (left, top + 34.0), Anchor::Start, &font(SMALL, palette::MUTED))?;
    let label = font(SMALL, palette::MUTED);
    let bar_width = width - 30.0;
    if card.layers.is_empty() {
        let none = "no layer whose kernels could be chosen";
        return write(area, none, (left, top + HEAD + BAR / 2.0), Anchor::Start, &label);
    }
    for (index, (name, channels)) in card.layers.iter().enumerate() {
        let y = top + HEAD + index as f64 * ROW;
        let middle = y + BAR / 2.0;
        if has_names {
            write(area, name, (left - 10.0, middle), Anchor::End, &label)?;
        }
        draw_bar(area, channels, left, y, bar_width)?;
        write(area, &channels.width().to_string(), (left + width, middle), Anchor::End, &label)?;
    }
    Ok(())
}

fn draw_bar(
    area: &Area<'_>,
    channels: &ChannelAllocation,
    left: f64,
    top: f64,
    width: f64,
) -> Result<(), CommandError> {
    fill_rect(area, (left, top), (left + width, top + BAR), &palette::EMPTY)?;
    for (kernel, count, from, to) in segments(channels, left, width) {
        let colour = palette::kernel(kernel);
        fill_rect(area, (from, top), (to, top + BAR), &colour)?;
        let text = count.to_string();
        if text_width(&text, 10.0) + 5.0 < to - from {
            let ink = if palette::is_dark(colour) { plotters::style::WHITE } else { palette::TEXT };
            write(area, &text, ((from + to) / 2.0, top + BAR / 2.0), Anchor::Middle, &font(10.0, ink))?;
        }
    }
    Ok(())
}

/// Kernel, channels, left and right edge of each part of a bar. Parts touch and
/// fill the bar.
fn segments(channels: &ChannelAllocation, left: f64, width: f64) -> Vec<(Kernel, u32, f64, f64)> {
    let total = f64::from(channels.width());
    let mut before = 0_u32;
    let mut parts = Vec::new();
    for (kernel, count) in channels.iter() {
        let edge = |channel: u32| left + width * f64::from(channel) / total;
        parts.push((kernel, count, edge(before), edge(before + count)));
        before += count;
    }
    parts
}

fn legend(area: &Area<'_>, cards: &[Card], y: f64) -> Result<(), CommandError> {
    let is_used = |kernel: &Kernel| {
        cards.iter().flat_map(|card| &card.layers).any(|(_, channels)| channels.count(*kernel) > 0)
    };
    let style = font(NORMAL, palette::TEXT);
    let mut x = MARGIN;
    for kernel in Kernel::ALL.into_iter().filter(is_used) {
        fill_rect(area, (x, y - 7.0), (x + 14.0, y + 7.0), &palette::kernel(kernel))?;
        let name = kernel.to_string();
        write(area, &name, (x + 20.0, y), Anchor::Start, &style)?;
        x += 20.0 + text_width(&name, NORMAL) + 22.0;
    }
    write(area, "kernel along D, H, W", (x + 6.0, y), Anchor::Start, &font(SMALL, palette::MUTED))
}

#[cfg(test)]
pub(crate) mod tests {
    use cakes::backbone::{Backbone, EncoderDecoder, MiddleLayer, ResnetDepth, VolumeResnet, VolumeStem};

    use super::*;

    pub(crate) fn backbone() -> Backbone {
        Backbone::EncoderDecoder(EncoderDecoder {
            input_channels: 1,
            classes: 3,
            base_width: 16,
            levels: 3,
            ..EncoderDecoder::default()
        })
    }

    #[test]
    fn parts_of_a_bar_fill_it_without_gaps_in_canonical_order() {
        let channels =
            ChannelAllocation::from_counts([(Kernel::K113, 5), (Kernel::K333, 3), (Kernel::K133, 8)])
                .unwrap();
        let parts = segments(&channels, 100.0, 160.0);
        assert_eq!(parts[0], (Kernel::K333, 3, 100.0, 130.0));
        assert_eq!(parts[1], (Kernel::K133, 8, 130.0, 210.0));
        assert_eq!(parts[2], (Kernel::K113, 5, 210.0, 260.0));
    }

    #[test]
    fn cards_fill_the_width_and_grow_downwards() {
        let architecture = Architecture::even(backbone(), &[Kernel::K333, Kernel::K113]).unwrap();
        let card = Card::new("a".into(), &architecture);
        let seven = layout(&vec![card.clone(); 7], 100.0);
        assert_eq!(seven.columns, 3);
        let right = MARGIN + seven.names + 3.0 * seven.card_width + 2.0 * CARD_GAP;
        assert!((right - (WIDTH - MARGIN)).abs() < 1e-9);
        assert!(seven.height > layout(&[card], 100.0).height);
    }

    #[test]
    fn the_legend_lists_the_kernels_that_occur() {
        let architecture = Architecture::even(backbone(), &[Kernel::K333, Kernel::K113]).unwrap();
        let picture = draw(&[Card::new("net.json".into(), &architecture)]).unwrap();
        assert!(picture.svg().contains("3x3x3") && picture.svg().contains("1x1x3"));
        assert!(!picture.svg().contains("3x1x1"));
        assert!(picture.svg().contains("encoder.0.conv1"));
    }

    #[test]
    fn a_network_without_searched_layers_is_a_card_that_says_so() {
        let config = VolumeResnet {
            input_channels: 1,
            classes: 2,
            depth: ResnetDepth::R18,
            base_width: 8,
            dropout_percent: 0,
            stem: VolumeStem::Compact,
            middle: MiddleLayer::P3d,
        };
        let p3d = Architecture::new(Backbone::VolumeResnet(config), []).unwrap();
        let picture = draw(&[Card::new("p3d".into(), &p3d)]).unwrap();
        assert!(picture.svg().contains("no layer whose kernels"));
    }
}
