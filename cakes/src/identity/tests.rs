use proptest::prelude::*;

use super::*;
use crate::architecture::LayerAllocation;
use crate::backbone::{
    Backbone, BlockKind, EncoderDecoder, MiddleLayer, ResnetDepth, VolumeResnet, VolumeStem,
};

fn encoder_decoder(block: BlockKind, topology: Vec<u32>) -> Backbone {
    Backbone::EncoderDecoder(EncoderDecoder {
        input_channels: 2,
        classes: 3,
        base_width: 3,
        levels: 2,
        block,
        topology,
    })
}

fn resnet(depth: ResnetDepth, middle: MiddleLayer) -> Backbone {
    Backbone::VolumeResnet(VolumeResnet {
        input_channels: 1,
        classes: 4,
        depth,
        base_width: 3,
        dropout_percent: 0,
        stem: VolumeStem::Compact,
        middle,
    })
}

/// Sums of one, two and three searchable layers, joins, bottlenecks, no sums.
fn backbones() -> Vec<Backbone> {
    vec![
        encoder_decoder(BlockKind::Residual, Vec::new()),
        encoder_decoder(BlockKind::Residual, vec![0, 0, 1, 1, 1, 0, 0]),
        encoder_decoder(BlockKind::Plain, Vec::new()),
        resnet(ResnetDepth::R18, MiddleLayer::Searchable),
        resnet(ResnetDepth::R50, MiddleLayer::Searchable),
    ]
}

/// An architecture and scores, both from `numbers` in turn.
fn case(backbone: &Backbone, kernels: &KernelSet, numbers: &[u8]) -> (Architecture, ChannelScores) {
    let mut numbers = numbers.iter().cycle().map(|number| usize::from(*number));
    let all: Vec<Kernel> = kernels.iter().collect();
    let mut next = || numbers.next().unwrap();
    let layers = backbone.searchable_layers();
    let allocations = layers.iter().map(|layer| {
        let counts: Vec<(Kernel, u32)> = (0..layer.channels).map(|_| (all[next() % all.len()], 1)).collect();
        let channels = ChannelAllocation::new(layer.channels, counts).unwrap();
        LayerAllocation { layer: layer.name.clone(), channels }
    });
    let architecture = Architecture::new(backbone.clone(), allocations.collect::<Vec<_>>()).unwrap();
    let scores = layers.iter().map(|layer| {
        let of_kernel = |_| (0..layer.channels).map(|_| next() as f32 / 10.0).collect();
        LayerScores { layer: layer.name.clone(), scores: all.iter().map(of_kernel).collect() }
    });
    let scores = scores.collect::<Vec<_>>();
    (architecture, ChannelScores::new(backbone.clone(), kernels.clone(), scores).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// What is added is the same channel of the supernet, whatever is mixed; what is
    /// joined keeps its place; and every channel is there once, except where a
    /// cost-priority supernet keeps candidates.
    #[test]
    fn sums_and_joins_keep_the_channels_of_the_supernet(
        backbone in 0_usize..5,
        costs in any::<bool>(),
        numbers in proptest::collection::vec(any::<u8>(), 251),
    ) {
        let backbone = backbones().remove(backbone);
        let kernels = KernelSet::volumetric();
        let (architecture, scores) = case(&backbone, &kernels, &numbers);
        let mode = if costs { SearchMode::CostPriority } else { SearchMode::PerformancePriority };
        let identity = ChannelIdentity::new(&architecture, &scores, mode).unwrap();
        let nodes = &identity.network().nodes;
        for (index, node) in nodes.iter().enumerate() {
            let own = identity.channels(NodeId(index));
            let inputs: Vec<&[u32]> = node.inputs.iter().map(|input| identity.channels(*input)).collect();
            match &node.op {
                Op::Add => prop_assert!(inputs.iter().all(|input| *input == own), "{}", node.name),
                Op::Concat => prop_assert_eq!(own, joined(inputs.into_iter()), "{}", node.name),
                Op::Norm { .. } | Op::Relu => prop_assert_eq!(own, inputs[0], "{}", node.name),
                Op::Conv(conv) => {
                    let mut sorted = own.to_vec();
                    sorted.sort_unstable();
                    let once = sorted == (0..conv.channels).collect::<Vec<_>>();
                    prop_assert!(once || costs && matches!(conv.kernels, ConvKernels::Mixed(_)), "{}", node.name);
                }
                _ => {}
            }
        }
        let last = identity.channels(NodeId(nodes.len() - 1));
        prop_assert_eq!(last, (0..backbone.classes()).collect::<Vec<_>>());
    }
}

/// A plain network of two channels, whose first layer has these scores.
fn first_layer(first: [[f32; 2]; 2], counts: [(Kernel, u32); 2], mode: SearchMode) -> Vec<u32> {
    let Backbone::EncoderDecoder(config) = encoder_decoder(BlockKind::Plain, Vec::new()) else { panic!() };
    let backbone = Backbone::EncoderDecoder(EncoderDecoder { base_width: 2, ..config });
    let kernels = KernelSet::new([Kernel::K333, Kernel::K133]).unwrap();
    let mut allocations: Vec<LayerAllocation> =
        Architecture::even(backbone.clone(), &[Kernel::K133]).unwrap().layers().collect();
    allocations[0].channels = ChannelAllocation::from_counts(counts).unwrap();
    let architecture = Architecture::new(backbone.clone(), allocations).unwrap();
    let layers = backbone.searchable_layers().into_iter().enumerate().map(|(index, layer)| {
        let even = vec![vec![1.0; layer.channels as usize]; 2];
        LayerScores {
            layer: layer.name,
            scores: if index == 0 { first.map(Vec::from).to_vec() } else { even },
        }
    });
    let scores = ChannelScores::new(backbone, kernels, layers.collect()).unwrap();
    let identity = ChannelIdentity::new(&architecture, &scores, mode).unwrap();
    let node = identity.network().nodes.iter().position(|node| node.name == "encoder.0.conv1").unwrap();
    identity.channels(NodeId(node)).to_vec()
}

#[test]
fn a_channel_has_the_kernel_that_scores_most_with_all_others() {
    let counts = [(Kernel::K333, 1), (Kernel::K133, 1)];
    let mode = SearchMode::PerformancePriority;
    assert_eq!(first_layer([[0.1, 0.5], [0.4, 0.1]], counts, mode), [1, 0]);
    // Channel 0 is the better one for both, but 1 has nothing else to offer.
    assert_eq!(first_layer([[0.9, 0.8], [0.5, 0.1]], counts, mode), [1, 0]);
}

#[test]
fn where_candidates_are_summed_a_channel_may_be_kept_twice() {
    let counts = [(Kernel::K333, 1), (Kernel::K133, 1)];
    let scores = [[0.9, 0.0], [0.5, 0.1]];
    assert_eq!(first_layer(scores, counts, SearchMode::CostPriority), [0, 0]);
    assert_eq!(first_layer(scores, counts, SearchMode::PerformancePriority), [0, 1]);
}

#[test]
fn another_backbone_and_kernels_that_were_not_searched_are_refused() {
    let backbone = resnet(ResnetDepth::R50, MiddleLayer::Searchable);
    let kernels = KernelSet::named("1_2d").unwrap();
    let (_, scores) = case(&backbone, &kernels, &[1, 2, 3]);
    let refusal = |architecture: &Architecture| {
        ChannelIdentity::new(architecture, &scores, SearchMode::CostPriority).unwrap_err()
    };
    let p3d = Architecture::new(resnet(ResnetDepth::R50, MiddleLayer::P3d), []).unwrap();
    assert_eq!(refusal(&p3d), IdentityError::Backbone);
    let c3d = refusal(&Architecture::even(backbone, &[Kernel::K333, Kernel::K133]).unwrap()).to_string();
    assert!(c3d.contains("no 3x3x3,") && c3d.contains("1x3x3, 3x1x1"), "{c3d}");
}
