use proptest::prelude::*;

use super::*;
use crate::backbone::{EncoderDecoder, MiddleLayer, ResnetDepth, VideoResnet};
use crate::cost::cost;
use crate::kernel::Kernel;
use crate::scores::LayerScores;

const EXTENT: Extent = [8, 8, 8];

fn backbone() -> Backbone {
    Backbone::EncoderDecoder(EncoderDecoder {
        input_channels: 1,
        classes: 2,
        base_width: 3,
        levels: 2,
        ..EncoderDecoder::default()
    })
}

fn resnet50() -> Backbone {
    Backbone::VideoResnet(VideoResnet {
        input_channels: 3,
        classes: 174,
        depth: ResnetDepth::R50,
        base_width: 64,
        dropout_percent: 30,
        middle: MiddleLayer::Searchable,
    })
}

fn scores_of(backbone: Backbone, kernels: &KernelSet, mut next: impl FnMut(Kernel) -> f32) -> ChannelScores {
    let layers = backbone.searchable_layers().into_iter().map(|layer| LayerScores {
        layer: layer.name,
        scores: kernels.iter().map(|kernel| (0..layer.channels).map(|_| next(kernel)).collect()).collect(),
    });
    let layers = layers.collect();
    ChannelScores::new(backbone, kernels.clone(), layers).unwrap()
}

fn scores_from(mut next: impl FnMut() -> f32, kernels: &KernelSet) -> ChannelScores {
    scores_of(backbone(), kernels, |_| next())
}

fn macs() -> ChannelCosts {
    ChannelCosts::new(&backbone(), EXTENT, CostMeasure::Mac).unwrap()
}

/// Numbers that look random and are always the same.
fn noise(n: u64) -> f32 {
    let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 24) as f32
}

#[test]
fn equal_scores_keep_exactly_c_channels_and_prefer_light_kernels() {
    let scores = scores_from(|| 1.0, &KernelSet::volumetric());
    let architecture = derive_per_layer(&scores).unwrap();
    assert_eq!(architecture.composition(), [(Kernel::K311, 24)]);
}

#[test]
fn all_scores_zero_still_give_an_architecture() {
    let scores = scores_from(|| 0.0, &KernelSet::volumetric());
    assert!(derive_per_layer(&scores).is_ok());
    let found = derive_within(&scores, &macs(), 0.5, 1).unwrap();
    assert!(found.cost as f64 > 0.45 * macs().reference() as f64);
}

#[test]
fn impossible_budgets_are_refused_with_the_lightest_possible() {
    let scores = scores_from(|| 1.0, &KernelSet::volumetric());
    for budget in [0.0, -1.0, 1.5, f64::NAN] {
        assert!(matches!(derive_within(&scores, &macs(), budget, 1), Err(DeriveError::BudgetOutOfRange(_))));
    }
    let error = derive_within(&scores, &macs(), 0.01, 1).unwrap_err();
    assert!(error.to_string().contains("lightest"), "{error}");
}

/// A search of the paper's size: many channels, ties among those that L1 set to
/// zero, budgets on both sides of the paper's rule.
#[test]
fn a_front_of_a_resnet50_is_optimal_or_within_its_bound() {
    for (space, levels) in [("1_2_3d", 0), ("1_2d", 1 << 6), ("volume", 0), ("volume_pointwise", 1 << 10)] {
        let mut n = 0;
        let kernels = KernelSet::named(space).unwrap();
        let scores = scores_of(resnet50(), &kernels, |kernel| {
            n += 1;
            let score = noise(n) + 0.1 * kernel.taps() as f32 / 27.0;
            // Coarse scores tie, and the lowest are what L1 leaves: exactly zero.
            if levels > 0 {
                ((score * levels as f32) as u32).saturating_sub(levels / 8) as f32
            } else {
                score
            }
        });
        for measure in [CostMeasure::Mac, CostMeasure::Param] {
            let costs = ChannelCosts::new(&resnet50(), [8, 224, 224], measure).unwrap();
            let lightest = costs.lightest(&kernels) as f64 / costs.reference() as f64 + 1e-6;
            let budgets: Vec<f64> =
                (0..50).map(|index| lightest + (1.0 - lightest) * f64::from(index) / 49.0).collect();
            for multiple in [1, 8] {
                let front = derive_front(&scores, &costs, &budgets, multiple).unwrap();
                // The path passes the budget between two blocks of one layer.
                let spread = |layer: usize| {
                    let of = |kernel| costs.channel(layer, kernel);
                    let range = kernels.iter().map(of).max().zip(kernels.iter().map(of).min());
                    range.map_or(0, |(most, least)| most - least)
                };
                let layers = 0..scores.layers().len();
                let step = layers.map(spread).max().unwrap() as f64 * f64::from(multiple);
                let optimal = front.iter().filter(|found| found.is_optimal).count();
                assert!(optimal >= 30, "{space} {measure:?} {multiple}: {optimal} of 50");
                for (found, budget) in front.iter().zip(&budgets) {
                    assert!(found.cost <= found.limit);
                    assert_eq!(found.cost, costs.of(&found.architecture));
                    let apart = found.upper_bound - found.score;
                    let most = if found.price.is_finite() { found.price.abs() * step } else { 0.0 };
                    assert!((0.0..most + 1e-6).contains(&apart), "{space} {budget}: {apart} of {most}");
                    assert!(is_at_multiples(&found.architecture, multiple));
                }
            }
        }
    }
}

fn is_at_multiples(architecture: &Architecture, multiple: u32) -> bool {
    architecture.layers().all(|layer| {
        let uneven = layer.channels.iter().filter(|(_, count)| count % multiple != 0);
        uneven.count() <= usize::from(layer.channels.width() % multiple != 0)
    })
}

/// All allocations of `width` channels at a multiple, with one remainder.
fn allocations(kernels: &[Kernel], width: u32, multiple: u32) -> Vec<Vec<(Kernel, u32)>> {
    fn split(kernels: &[Kernel], blocks: u32) -> Vec<Vec<u32>> {
        match kernels {
            [] => vec![],
            [_] => vec![vec![blocks]],
            [_, rest @ ..] => (0..=blocks)
                .flat_map(|own| {
                    split(rest, blocks - own).into_iter().map(move |tail| [vec![own], tail].concat())
                })
                .collect(),
        }
    }
    let (blocks, remainder) = (width / multiple, width % multiple);
    let holders = if remainder == 0 { 1 } else { kernels.len() };
    let mut all = Vec::new();
    for counts in split(kernels, blocks) {
        for holder in 0..holders {
            let extra = |index: usize| if index == holder { remainder } else { 0 };
            let counts = counts.iter().enumerate().map(|(index, count)| count * multiple + extra(index));
            all.push(kernels.iter().copied().zip(counts).collect());
        }
    }
    all
}

/// Total score of an architecture, as derivation counts it.
fn score_of(scores: &ChannelScores, architecture: &Architecture) -> f64 {
    let layer = |(layer, chosen): (&LayerScores, LayerAllocation)| {
        let all: Vec<f64> = layer.scores.iter().flatten().map(|score| f64::from(*score)).collect();
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let kept = scores.kernels().iter().zip(&layer.scores).map(|(kernel, list)| {
            let mut list: Vec<f64> = list.iter().map(|score| f64::from(*score)).collect();
            list.sort_by(|left, right| right.total_cmp(left));
            list.iter().take(chosen.channels.count(kernel) as usize).sum::<f64>()
        });
        kept.sum::<f64>() / mean
    };
    scores.layers().iter().zip(architecture.layers()).map(layer).sum()
}

/// Cost and score of every architecture.
fn enumerate(scores: &ChannelScores, costs: &ChannelCosts, multiple: u32) -> Vec<(u64, f64)> {
    let kernels: Vec<Kernel> = scores.kernels().iter().collect();
    let mut all: Vec<Vec<LayerAllocation>> = vec![vec![]];
    for layer in scores.backbone().searchable_layers() {
        let own = allocations(&kernels, layer.channels, multiple);
        all = all
            .iter()
            .flat_map(|before| {
                own.iter().map(|counts| {
                    let channels = ChannelAllocation::new(layer.channels, counts.clone()).unwrap();
                    [before.clone(), vec![LayerAllocation { layer: layer.name.clone(), channels }]].concat()
                })
            })
            .collect();
    }
    let measure = |layers: Vec<LayerAllocation>| {
        let architecture = Architecture::new(scores.backbone().clone(), layers).unwrap();
        (costs.of(&architecture), score_of(scores, &architecture))
    };
    all.into_iter().map(measure).collect()
}

/// Two searchable layers of few channels: small enough to try everything.
fn tiny() -> Backbone {
    Backbone::EncoderDecoder(EncoderDecoder {
        input_channels: 1,
        classes: 2,
        base_width: 1,
        levels: 2,
        ..EncoderDecoder::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Of all architectures within a tight budget none scores more; of a loose
    /// one none uses the budget as well at so small a loss.
    #[test]
    fn nothing_within_the_budget_beats_what_is_derived(
        values in proptest::collection::vec(0_u8..40, 24),
        share in 0.0_f64..1.0,
        multiple in 1_u32..4,
        space in 0_usize..3,
        param in any::<bool>(),
    ) {
        let kernels = KernelSet::named(KernelSet::NAMES[space]).unwrap();
        let mut values = values.into_iter().cycle();
        let scores = scores_of(tiny(), &kernels, |_| f32::from(values.next().unwrap()) / 8.0 + 0.01);
        let measure = if param { CostMeasure::Param } else { CostMeasure::Mac };
        let costs = ChannelCosts::new(&tiny(), EXTENT, measure).unwrap();
        let lightest = costs.lightest(&kernels) as f64 / costs.reference() as f64 + 1e-9;
        let budget = (lightest + share * (1.0 - lightest)).min(1.0);
        let found = derive_within(&scores, &costs, budget, multiple).unwrap();

        prop_assert!(found.is_optimal);
        prop_assert!(is_at_multiples(&found.architecture, multiple));
        prop_assert!((score_of(&scores, &found.architecture) - found.score).abs() < 1e-6);
        prop_assert_eq!(costs.of(&found.architecture), found.cost);
        prop_assert!(found.cost <= found.limit);
        let all = enumerate(&scores, &costs, multiple);
        let within = all.iter().filter(|(cost, _)| *cost <= found.limit);
        if found.price >= 0.0 {
            let best = within.map(|(_, score)| *score).fold(0.0, f64::max);
            prop_assert!((best - found.score).abs() < 1e-6, "{best} against {}", found.score);
            prop_assert!(best <= found.upper_bound + 1e-6);
        } else {
            let worth = |cost: u64, score: f64| score + 2.0 * found.price.abs().min(1e6) * cost as f64;
            let best = within.map(|(cost, score)| worth(*cost, *score)).fold(0.0, f64::max);
            let own = worth(found.cost, found.score);
            prop_assert!((best - own).abs() < 1e-6 * best, "{best} against {own}");
            let dearer = all.iter().filter(|(cost, _)| *cost >= found.cost);
            let bound = dearer.map(|(_, score)| *score).fold(0.0, f64::max);
            prop_assert!(bound <= found.upper_bound + 1e-6);
        }
    }
}

proptest! {
    /// One exchange in the widest layer is the most that may stay unused.
    #[test]
    fn a_budget_is_kept_and_used_up_to_less_than_one_exchange(
        values in proptest::collection::vec(0.0_f32..1.0, 300),
        low in 0.35_f64..1.0,
        high in 0.35_f64..1.0,
    ) {
        let mut values = values.into_iter().cycle();
        let scores = scores_from(|| values.next().unwrap() + 0.01, &KernelSet::volumetric());
        let costs = macs();
        let exchange = |layer: usize| costs.channel(layer, Kernel::K333) - costs.channel(layer, Kernel::K113);
        let largest = (0..scores.layers().len()).map(exchange).max().unwrap() as f64;
        let reference = costs.reference() as f64;
        let mut used = Vec::new();
        for budget in [low.min(high), low.max(high)] {
            let found = derive_within(&scores, &costs, budget, 1).unwrap();
            let macs = cost(&found.architecture.network(), EXTENT).unwrap().mac_count as f64;
            prop_assert!(macs <= budget * reference);
            prop_assert!(macs >= budget * reference - largest, "{macs} of {}", budget * reference);
            prop_assert_eq!(derive_within(&scores, &costs, budget, 1).unwrap(), found);
            used.push(macs);
        }
        prop_assert!(used[0] <= used[1]);
    }

    /// A budget of exactly what the paper's rule costs gives the paper's rule.
    #[test]
    fn price_zero_is_the_papers_rule(values in proptest::collection::vec(0.0_f32..1.0, 300)) {
        let mut values = values.into_iter().cycle();
        let scores = scores_from(|| values.next().unwrap(), &KernelSet::volumetric());
        let rule = derive_per_layer(&scores).unwrap();
        let problem = Problem::new(&scores, Some(&macs()), 1);
        let found = bounded::solve(&problem, macs().of(&rule) - macs().fixed());
        prop_assert_eq!(architecture(&backbone(), &problem, &found.choice).unwrap(), rule);
        prop_assert_eq!(found.price, 0.0);
    }

    #[test]
    fn per_layer_derivation_keeps_the_c_best(values in proptest::collection::vec(0.0_f32..1.0, 300)) {
        let mut values = values.into_iter().cycle();
        let scores = scores_from(|| values.next().unwrap(), &KernelSet::volumetric());
        let architecture = derive_per_layer(&scores).unwrap();
        for (layer, chosen) in scores.layers().iter().zip(architecture.layers()) {
            let mut all: Vec<f32> = layer.scores.iter().flatten().copied().collect();
            all.sort_by(|left, right| right.total_cmp(left));
            let best: f32 = all.iter().take(chosen.channels.width() as usize).sum();
            let kept: f32 = scores.kernels().iter().zip(&layer.scores).map(|(kernel, values)| {
                let mut values = values.clone();
                values.sort_by(|left, right| right.total_cmp(left));
                values.iter().take(chosen.channels.count(kernel) as usize).sum::<f32>()
            }).sum();
            prop_assert!((best - kept).abs() < 1e-4);
        }
    }
}

/// Prices that no two kernels share and that follow no taps, as a clock gives them:
/// a front is found as by counted costs, within its bound, twice the same.
#[test]
fn a_front_by_measured_times_is_within_its_bound() {
    let kernels = KernelSet::named("volume").unwrap();
    let mut n = 0;
    let mut next = || {
        n += 1;
        noise(n)
    };
    let scores = scores_of(resnet50(), &kernels, |_| next());
    let layers = resnet50().searchable_layers().into_iter().map(|layer| {
        let mut time = |kernel: Kernel| {
            (kernel, (1e4 * (0.4 + f64::from(kernel.taps()) / 27.0) * f64::from(1.0 + 0.2 * next())) as u64)
        };
        LayerLatency { layer: layer.name, channel_ns: kernels.iter().map(&mut time).collect() }
    });
    let table = LatencyTable { fixed_ns: 9_000_000, reference_ns: 60_000_000, layers: layers.collect() };
    let costs = ChannelCosts::measured(&resnet50(), &kernels, &table).unwrap();
    let lightest = costs.lightest(&kernels) as f64 / costs.reference() as f64 + 1e-6;
    let budgets: Vec<f64> =
        (0..20).map(|index| lightest + (1.0 - lightest) * f64::from(index) / 19.0).collect();
    let front = derive_front(&scores, &costs, &budgets, 1).unwrap();
    for (found, budget) in front.iter().zip(&budgets) {
        assert!(found.cost <= found.limit && found.limit as f64 <= budget * 60e6);
        assert_eq!(table.predicted_ns(&resnet50(), &found.architecture), Some(found.cost));
        assert!(found.score <= found.upper_bound && found.upper_bound - found.score < 1e-3 * found.score);
    }
    assert_eq!(derive_front(&scores, &costs, &budgets, 1).unwrap(), front);
}
