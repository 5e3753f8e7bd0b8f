//! Draws sample pictures into a folder, for people who work on their looks.

use cakes::allocation::ChannelAllocation;
use cakes::architecture::{Architecture, LayerAllocation};
use cakes::backbone::{Backbone, EncoderDecoder};
use cakes::cost::cost;
use cakes::derive::{ChannelCosts, derive_front, reference_macs};
use cakes::kernel::{Kernel, KernelSet};
use cakes::scores::{ChannelScores, LayerScores};
use cakes::spec::CostMeasure;
use cakes_cli::plot::{composition, curves, front};
use cakes_proto::convert::{architecture_to_wire, cost_to_wire};
use cakes_proto::v1;

const PATCH: cakes::Extent = [32, 48, 32];

fn backbone() -> Backbone {
    Backbone::EncoderDecoder(EncoderDecoder {
        input_channels: 1,
        classes: 3,
        base_width: 16,
        levels: 3,
        ..EncoderDecoder::default()
    })
}

/// Numbers that look random and are always the same.
fn noise(n: u64) -> f64 {
    let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f64 / (1 << 24) as f64
}

fn scores() -> ChannelScores {
    let mut n = 0;
    let layers = backbone().searchable_layers().into_iter().map(|layer| {
        let of = |kernel: usize, n: &mut u64| {
            let list = (0..layer.channels).map(|_| {
                *n += 1;
                (0.2 + noise(*n) * (1.0 - 0.08 * kernel as f64)) as f32
            });
            list.collect::<Vec<f32>>()
        };
        LayerScores { layer: layer.name.clone(), scores: (0..7).map(|kernel| of(kernel, &mut n)).collect() }
    });
    let layers = layers.collect();
    ChannelScores::new(backbone(), KernelSet::volumetric(), layers).expect("scores")
}

fn entry(architecture: &Architecture, origin: &str, index: u64) -> v1::FrontEntry {
    let cost = cost(&architecture.network(), PATCH).expect("cost");
    let reference = reference_macs(&backbone(), PATCH).expect("reference");
    let share = cost.mac_count as f64 / reference as f64;
    let mut message = architecture_to_wire(architecture);
    message.cost = Some(cost_to_wire(&cost, PATCH, reference));
    message.origins = vec![origin.into()];
    let mean_dice = 0.86 + 0.02 * share.sqrt() + 0.006 * (noise(index * 7 + 3) - 0.5);
    v1::FrontEntry {
        architecture: Some(message),
        quality: mean_dice,
        quality_deviation: 0.001 + 0.002 * noise(index),
        quality_metric: "mean_dice".into(),
        dice_per_class: vec![mean_dice + 0.01, mean_dice - 0.01],
        latency_ms: 20.0 + 60.0 * share + 12.0 * noise(index * 3),
        seed_count: 3,
        ..Default::default()
    }
}

fn sample() -> v1::ParetoFront {
    let scores = scores();
    let budgets = [0.2, 0.3, 0.4, 0.5, 0.7];
    let costs = ChannelCosts::new(&backbone(), PATCH, CostMeasure::Mac).expect("costs");
    let derived = derive_front(&scores, &costs, &budgets, 1).expect("derive");
    let mut entries: Vec<v1::FrontEntry> = derived
        .iter()
        .zip(budgets)
        .enumerate()
        .map(|(index, (found, budget))| entry(&found.architecture, &format!("budget {budget}"), index as u64))
        .collect();
    let spaces: [(&str, Vec<Kernel>); 3] = [
        ("baseline c3d", vec![Kernel::K333]),
        ("baseline even_split", KernelSet::volumetric().iter().collect()),
        ("baseline planes", vec![Kernel::K133, Kernel::K313, Kernel::K331]),
    ];
    for (index, (origin, kernels)) in spaces.iter().enumerate() {
        let architecture = Architecture::even(backbone(), kernels).expect("even");
        entries.push(entry(&architecture, origin, 10 + index as u64));
    }
    let layers: Vec<LayerAllocation> = backbone()
        .searchable_layers()
        .into_iter()
        .map(|layer| LayerAllocation {
            layer: layer.name,
            channels: ChannelAllocation::even(&Kernel::ALL, layer.channels).expect("even"),
        })
        .collect();
    entries.push(entry(&Architecture::new(backbone(), layers).expect("new"), "paper rule", 20));
    v1::ParetoFront { entries, ..v1::ParetoFront::default() }
}

fn curves(front: &v1::ParetoFront) -> Vec<curves::JobCurves> {
    let labels = front.entries.iter().flat_map(|entry| {
        let origin = entry.architecture.as_ref().map(|it| it.origins[0].clone()).unwrap_or_default();
        (0..2).map(move |seed| format!("{origin} seed {seed}"))
    });
    let curve = |(index, label): (usize, String)| {
        let at = |step: u64| {
            let progress = step as f64 / 1000.0;
            1.4 * (-4.0 * progress).exp() + 0.2 + 0.12 * (noise(step * 31 + index as u64) - 0.5)
        };
        curves::JobCurves {
            label,
            loss: (1..=1000).map(|step| (step as f64, at(step))).collect(),
            validation_loss: Vec::new(),
            quality: (1..=10)
                .map(|n| {
                    (
                        f64::from(n) * 100.0,
                        0.88 * (1.0 - (-0.5 * f64::from(n)).exp())
                            + 0.01 * noise(index as u64 * 11 + n as u64),
                    )
                })
                .collect(),
        }
    };
    std::iter::once("supernet".to_owned()).chain(labels).enumerate().map(curve).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::path::PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "pictures".into()));
    std::fs::create_dir_all(&folder)?;
    let results = sample();
    let pictures = [
        ("front", front::draw(&front::results(&results), "mean Dice")?),
        ("composition", composition::draw(&composition::cards_of_front(&results)?)?),
        ("curves", curves::draw(&curves(&results), Some("mean_dice"))?),
    ];
    for (name, picture) in pictures {
        picture.write(&folder.join(name).with_extension("svg"))?;
        picture.write(&folder.join(name).with_extension("png"))?;
    }
    Ok(())
}
