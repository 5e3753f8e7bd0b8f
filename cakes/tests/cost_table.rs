//! The costs of the paper's video ResNet-50 (224 x 224, 174 classes), to every
//! digit that is known of them. The authors' modules give the same numbers.

use cakes::architecture::Architecture;
use cakes::backbone::{Backbone, Form, MiddleLayer, ResnetDepth, VideoResnet};
use cakes::cost::{Cost, cost};
use cakes::derive::reference_macs;
use cakes::kernel::{Kernel, KernelSet};
use cakes::network::SearchMode;
use cakes::published;

const PUBLISHED: &str = include_str!("../../deploy/examples/published.txt");

fn resnet50(middle: MiddleLayer) -> Backbone {
    Backbone::VideoResnet(VideoResnet {
        input_channels: 3,
        classes: 174,
        depth: ResnetDepth::R50,
        base_width: 64,
        dropout_percent: 30,
        middle,
    })
}

fn millions(count: u64) -> String {
    format!("{:.3}", count as f64 / 1e6)
}

fn billions(count: u64) -> String {
    format!("{:.3}", count as f64 / 1e9)
}

/// Parameters and MACs of the middle convolutions of all blocks.
fn middle(cost: &Cost) -> (u64, u64) {
    let is_middle = |name: &str| name.ends_with(".conv2") || name.ends_with(".conv2.spatial");
    let layers = cost.layers.iter().filter(|layer| is_middle(&layer.layer));
    layers.fold((0, 0), |(params, macs), layer| (params + layer.param_count, macs + layer.mac_count))
}

/// A row as it is printed: parameters in millions, GMAC of 8 and of 16 frames, and
/// both of the middle convolutions at 8 frames.
fn row(architecture: &Architecture) -> [String; 5] {
    let network = architecture.network();
    let of = |frames| cost(&network, [frames, 224, 224]).unwrap();
    let (short, long) = (of(8), of(16));
    assert_eq!(short.param_count, long.param_count);
    let (middle_params, middle_macs) = middle(&short);
    [
        millions(short.param_count),
        billions(short.mac_count),
        billions(long.mac_count),
        millions(middle_params),
        billions(middle_macs),
    ]
}

fn manual(kernels: &[Kernel]) -> Architecture {
    Architecture::manual(resnet50(MiddleLayer::Searchable), kernels).unwrap()
}

#[test]
fn hand_made_networks_cost_what_is_printed() {
    use Kernel::{K113, K131, K133, K311, K313, K331, K333};
    let p3d = Architecture::new(resnet50(MiddleLayer::P3d), []).unwrap();
    let rows = [
        ("C2D", manual(&[K133]), ["23.865", "32.700", "65.400", "11.317", "14.798"]),
        ("P3D", p3d, ["27.637", "37.632", "75.265", "15.090", "19.730"]),
        ("C3D", manual(&[K333]), ["46.499", "62.295", "124.590", "33.952", "44.393"]),
        ("temporal 1D only", manual(&[K311]), ["16.320", "22.835", "45.670", "3.772", "4.933"]),
        ("even {1,2}D", manual(&[K133, K311]), ["20.092", "27.767", "55.535", "7.545", "9.865"]),
        ("even {2,3}D", manual(&[K333, K133]), ["35.182", "47.497", "94.995", "22.634", "29.595"]),
        ("even {1,2,3}D", manual(&[K333, K133, K311]), ["28.976", "39.485", "78.969", "16.429", "21.582"]),
        ("three axes", manual(&[K311, K131, K113]), ["16.320", "22.835", "45.670", "3.772", "4.933"]),
        ("three planes", manual(&[K331, K313, K133]), ["23.865", "32.700", "65.400", "11.317", "14.798"]),
        ("all seven", manual(&Kernel::ALL[..7]), ["24.025", "33.086", "66.173", "11.477", "15.184"]),
    ];
    for (name, architecture, expected) in rows {
        assert_eq!(row(&architecture), expected, "{name}");
    }
}

#[test]
fn published_configurations_cost_what_is_printed() {
    let expected = [
        ("CAKES12D_P", ["20.885", "28.830", "57.659", "8.337", "10.927"]),
        ("CAKES12D_C", ["20.498", "29.096", "58.191", "7.951", "11.193"]),
        ("CAKES23D_P", ["37.478", "50.453", "100.905", "24.930", "32.550"]),
        ("CAKES23D_C", ["35.696", "41.193", "82.387", "23.148", "23.291"]),
        ("CAKES123D_P", ["33.508", "43.616", "87.232", "20.961", "25.714"]),
        ("CAKES123D_C", ["35.029", "38.499", "76.999", "22.482", "20.597"]),
    ];
    let configurations = published::parse(PUBLISHED).unwrap();
    assert_eq!(configurations.len(), expected.len());
    for (name, expected) in expected {
        let found = published::find(&configurations, Some(name)).unwrap();
        let architecture = found.architecture(&resnet50(MiddleLayer::Searchable)).unwrap();
        assert_eq!(row(&architecture), expected, "{name}");
    }
}

#[test]
fn a_published_configuration_of_another_network_is_refused_with_the_line() {
    let configurations = published::parse(PUBLISHED).unwrap();
    let narrow = Backbone::VideoResnet(VideoResnet {
        input_channels: 3,
        classes: 174,
        depth: ResnetDepth::R50,
        base_width: 32,
        dropout_percent: 30,
        middle: MiddleLayer::Searchable,
    });
    let error = configurations[0].architecture(&narrow).unwrap_err().to_string();
    assert!(error.starts_with("line 13, layer 0 of 'CAKES12D_P' (stage1.0.conv2): "), "{error}");
    assert!(error.contains("sums to 64, but the layer has 32 channels"), "{error}");
    let Backbone::VideoResnet(config) = narrow else { unreachable!() };
    let deep = Backbone::VideoResnet(VideoResnet { depth: ResnetDepth::R101, ..config });
    let error = configurations[0].architecture(&deep).unwrap_err().to_string();
    assert!(error.contains("has 16 layers, the network has 33 searchable ones: stage1.0.conv2"), "{error}");
}

/// A performance-priority supernet stores what the published one stores. A
/// cost-priority one is smaller by design: the published code widens the layer
/// behind the candidates K times, here they are summed before it. What that saves
/// is exactly the (K - 1) copies of that layer.
#[test]
fn supernets_store_what_the_published_ones_do_without_the_widened_layers() {
    let backbone = resnet50(MiddleLayer::Searchable);
    let expected = [
        ("1_2d", 2, "27.645", "32.674", "44.2"),
        ("2_3d", 2, "57.824", "62.854", "83.7"),
        ("1_2_3d", 3, "61.604", "71.664", "95.2"),
    ];
    for (name, kinds, performance, widened, widened_gmac) in expected {
        let kernels = KernelSet::named(name).unwrap();
        let of = |mode| {
            let network = backbone.network(Form::Supernet { mode, kernels: &kernels });
            cost(&network, [8, 224, 224]).unwrap()
        };
        let (drawn, all) = (of(SearchMode::PerformancePriority), of(SearchMode::CostPriority));
        assert_eq!(millions(drawn.param_count), performance, "{name}");
        assert_eq!(drawn.param_count, all.param_count);
        let behind = all.layers.iter().filter(|layer| layer.layer.ends_with(".conv3"));
        let (params, macs) =
            behind.fold((0, 0), |(params, macs), layer| (params + layer.param_count, macs + layer.mac_count));
        assert_eq!(millions(all.param_count + (kinds - 1) * params), widened, "{name}");
        let gmac = (all.mac_count + (kinds - 1) * macs) as f64 / 1e9;
        assert_eq!(format!("{gmac:.1}"), widened_gmac, "{name}");
    }
}

/// Fractions of a factorised network are those of the network that it factorises.
#[test]
fn p3d_is_measured_against_c3d() {
    let (p3d, searchable) = (resnet50(MiddleLayer::P3d), resnet50(MiddleLayer::Searchable));
    let reference = reference_macs(&p3d, [8, 224, 224]).unwrap();
    assert_eq!(reference, reference_macs(&searchable, [8, 224, 224]).unwrap());
    assert_eq!(billions(reference), "62.295");
}

/// 2D weights for 1000 classes are torchvision's; a frame takes 4.089 GMAC there.
#[test]
fn one_frame_of_c2d_is_torchvisions_resnet50() {
    let Backbone::VideoResnet(config) = resnet50(MiddleLayer::Searchable) else { unreachable!() };
    let backbone = Backbone::VideoResnet(VideoResnet { classes: 1000, ..config });
    let network = Architecture::even(backbone, &[Kernel::K133]).unwrap().network();
    let frame = cost(&network, [1, 224, 224]).unwrap();
    assert_eq!((frame.param_count, billions(frame.mac_count).as_str()), (25_557_032, "4.089"));
}
