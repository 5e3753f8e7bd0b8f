//! Generates messages, services, their JSON mapping and the descriptor set.

use std::error::Error;
use std::path::PathBuf;

use prost::Message;

#[path = "build/methods.rs"]
mod methods;

const PROTOS: [&str; 8] = [
    "cakes/v1/spec.proto",
    "cakes/v1/note.proto",
    "cakes/v1/architecture_service.proto",
    "cakes/v1/job_service.proto",
    "cakes/v1/search_service.proto",
    "cakes/v1/fleet_service.proto",
    "cakes/v1/worker_service.proto",
    "cakes/v1/webhook_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=cakes");
    println!("cargo::rerun-if-changed=build");
    let descriptors = protox::compile(PROTOS, ["."])?;
    let encoded = descriptors.encode_to_vec();
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), &encoded)?;
    std::fs::write(out.join("methods.rs"), methods::generate(&descriptors)?)?;

    // In order, so that an architecture or a table is printed the same way every time.
    const SORTED: [&str; 14] = [
        ".cakes.v1.LayerAllocation.channels",
        ".cakes.v1.LayerLatency.channel_ns",
        ".cakes.v1.Search",
        ".cakes.v1.Job",
        ".cakes.v1.SubmitSearchRequest",
        ".cakes.v1.SubmitRetrainRequest",
        ".cakes.v1.ListSearchesRequest",
        ".cakes.v1.ListJobsRequest",
        ".cakes.v1.LabelSearchRequest",
        ".cakes.v1.LabelJobRequest",
        ".cakes.v1.Webhook",
        ".cakes.v1.AddWebhookRequest",
        ".cakes.v1.Worker",
        ".cakes.v1.RegisterRequest",
    ];
    let builder = SORTED.iter().fold(tonic_prost_build::configure(), |builder, path| builder.btree_map(path));
    builder
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        // They have none of it.
        .extern_path(".google.protobuf.FieldMask", "crate::field_mask::FieldMask")
        .compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .preserve_proto_field_names()
        .btree_map(SORTED)
        .build(&[".cakes.v1"])?;
    Ok(())
}
