//! Architectures that are known, and the cost of any other.

use cakes::architecture::ArchitectureDigest;
use cakes::cost::cost;
use cakes::derive::reference_macs;
use cakes::spec::Violation;
use cakes_proto::convert::{architecture_from_wire, cost_to_wire, extent_from_wire};
use cakes_proto::v1;
use cakes_proto::v1::architecture_service_server::ArchitectureService;
use tonic::{Request, Response, Status};

use super::paging::{Page, Position};
use super::status::invalid_field;
use super::{Api, lookup, wire};
use crate::store::PgPool;
use crate::store::notes::Subject;
use crate::store::read::{architectures, notes, searches};

/// An architecture takes kibibytes on the wire, and a page must stay below the
/// 4 MiB that clients accept.
const PAGE_SIZE_MAX: i32 = 200;

/// Voxels of the largest sample: costs beyond it would not fit into their integers.
const SAMPLE_VOXELS_MAX: u64 = 1 << 30;

#[tonic::async_trait]
impl ArchitectureService for Api {
    async fn get_architecture(
        &self,
        request: Request<v1::GetArchitectureRequest>,
    ) -> Result<Response<v1::Architecture>, Status> {
        let digest = lookup::architecture(self.reader(), "digest", &request.into_inner().digest).await?;
        Ok(Response::new(load(self.reader(), digest).await?))
    }

    async fn list_architectures(
        &self,
        request: Request<v1::ListArchitecturesRequest>,
    ) -> Result<Response<v1::ListArchitecturesResponse>, Status> {
        let v1::ListArchitecturesRequest { search_id, page_size, page_token } = request.into_inner();
        let search = lookup::search_if_given(self.reader(), "search_id", &search_id).await?;
        let page = Page::new(page_size, PAGE_SIZE_MAX, &page_token, &format!("architectures {search:?}"))?;
        if let Some(search) = search {
            searches::revision(self.reader(), search).await?;
        }
        let behind = page.after.as_ref().and_then(|at| Some((at.time()?, hex::encode(&at.key))));
        let mut found = architectures::page(self.reader(), search, behind, page.size + 1).await?;
        let next_page_token = page.cut(&mut found, |record| Position {
            order: record.create_time.timestamp_micros(),
            key: hex::decode(record.digest.to_string()).unwrap_or_default(),
        });
        let architectures = found.iter().map(wire::architecture).collect();
        Ok(Response::new(v1::ListArchitecturesResponse { architectures, next_page_token }))
    }

    async fn add_architecture_note(
        &self,
        request: Request<v1::AddArchitectureNoteRequest>,
    ) -> Result<Response<v1::Architecture>, Status> {
        let v1::AddArchitectureNoteRequest { digest, text, author, request_id } = request.into_inner();
        let digest = lookup::architecture(self.reader(), "digest", &digest).await?;
        self.add_note(Subject::Architecture(digest), text, author, request_id).await?;
        Ok(Response::new(load(self.reader(), digest).await?))
    }

    async fn estimate_cost(
        &self,
        request: Request<v1::EstimateCostRequest>,
    ) -> Result<Response<v1::Cost>, Status> {
        let v1::EstimateCostRequest { backbone, layers, extent } = request.into_inner();
        let violated = |Violation { field, problem }| invalid_field(field, problem);
        let extent = extent_from_wire(extent, "extent").map_err(violated)?;
        let voxels = extent.iter().fold(1_u64, |product, size| product.saturating_mul(u64::from(*size)));
        if voxels > SAMPLE_VOXELS_MAX {
            return Err(invalid_field(
                "extent",
                format!("{voxels} voxels are more than {SAMPLE_VOXELS_MAX}"),
            ));
        }
        let architecture = architecture_from_wire(backbone, layers).map_err(violated)?;
        architecture.backbone().check_extent(extent).map_err(|problem| invalid_field("extent", problem))?;
        let misfit = |error: &dyn std::fmt::Display| invalid_field("extent", error);
        let reference = reference_macs(architecture.backbone(), extent).map_err(|error| misfit(&error))?;
        let cost = cost(&architecture.network(), extent).map_err(|error| misfit(&error))?;
        Ok(Response::new(cost_to_wire(&cost, extent, reference)))
    }
}

/// The architecture with its notes.
async fn load(pool: &PgPool, digest: ArchitectureDigest) -> Result<v1::Architecture, Status> {
    let record = architectures::get(pool, digest).await?;
    let notes = wire::notes(notes::of(pool, Subject::Architecture(digest)).await?);
    Ok(v1::Architecture { notes, ..wire::architecture(&record) })
}
