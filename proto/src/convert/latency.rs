//! Tables of measured times.

use std::collections::BTreeMap;

use cakes::backbone::Backbone;
use cakes::derive::{LatencyTable, LayerLatency};
use cakes::kernel::Kernel;
use cakes::spec::Violation;

use super::violation;
use crate::v1;

/// A table of the networks of `backbone`, measured on `device`.
pub fn latency_to_wire(table: &LatencyTable, backbone: &Backbone, device: String) -> v1::LatencyTable {
    let known = backbone.searchable_layers();
    let layer = |row: &LayerLatency| v1::LayerLatency {
        layer: row.layer.clone(),
        channel_count: known.iter().find(|layer| layer.name == row.layer).map_or(0, |layer| layer.channels),
        channel_ns: row.channel_ns.iter().map(|(kernel, ns)| (kernel.to_string(), *ns)).collect(),
    };
    v1::LatencyTable {
        device,
        fixed_ns: table.fixed_ns,
        reference_ns: table.reference_ns,
        layers: table.layers.iter().map(layer).collect(),
    }
}

/// The table in a message.
///
/// # Errors
/// A name is no kernel's.
pub fn latency_from_wire(wire: v1::LatencyTable) -> Result<LatencyTable, Violation> {
    let layer = |row: v1::LayerLatency| -> Result<LayerLatency, Violation> {
        let price = |(name, ns): (String, u64)| {
            let kernel: Kernel = name.parse().map_err(|error| violation("layers.channel_ns", error))?;
            Ok((kernel, ns))
        };
        let channel_ns: Result<BTreeMap<Kernel, u64>, Violation> =
            row.channel_ns.into_iter().map(price).collect();
        Ok(LayerLatency { layer: row.layer, channel_ns: channel_ns? })
    };
    let layers: Result<Vec<LayerLatency>, Violation> = wire.layers.into_iter().map(layer).collect();
    Ok(LatencyTable { fixed_ns: wire.fixed_ns, reference_ns: wire.reference_ns, layers: layers? })
}

#[cfg(test)]
mod tests {
    use cakes::backbone::EncoderDecoder;

    use super::*;

    #[test]
    fn a_table_survives_the_wire_and_a_wrong_kernel_is_named() {
        let config = EncoderDecoder { base_width: 4, levels: 2, ..EncoderDecoder::default() };
        let backbone = Backbone::EncoderDecoder(config);
        let layers = backbone.searchable_layers().into_iter().zip(1..).map(|(layer, number)| LayerLatency {
            layer: layer.name,
            channel_ns: [(Kernel::K333, 900 * number), (Kernel::K113, 300 + number)].into(),
        });
        let table = LatencyTable { fixed_ns: 5, reference_ns: 90_000, layers: layers.collect() };
        let mut wire = latency_to_wire(&table, &backbone, "a processor".into());
        assert_eq!((wire.device.as_str(), wire.layers[0].channel_count), ("a processor", 4));
        assert_eq!(latency_from_wire(wire.clone()), Ok(table));
        wire.layers[0].channel_ns.insert("3x3".into(), 1);
        let found = latency_from_wire(wire).unwrap_err();
        assert!(found.field == "layers.channel_ns" && found.problem.contains("3x3"), "{found}");
    }
}
