//! Searches and their results.

use std::mem::take;

use cakes::architecture::Architecture;
use cakes::spec::CheckedSearch;
use cakes_proto::convert::{latency_to_wire, measure_if_given, search_from_wire, search_to_wire};
use cakes_proto::ids::SearchId;
use cakes_proto::v1;
use cakes_proto::v1::search_service_server::SearchService;
use chrono::{DateTime, Utc};
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::paging::{Page, Position, SIZE_MAX, filter, order_by};
use super::status::{invalid_field, invalid_spec};
use super::stream::{Messages, News, Then, Watched};
use super::{Api, front, gate, labels, lookup, plan, resume, values, wire};
use crate::core::filter::SEARCH_FIELDS;
use crate::core::project::ProjectName;
use crate::core::rights::Caller;
use crate::core::search::{NOT_MEASURED, PredictedLatency, SearchState};
use crate::store::notes::Subject;
use crate::store::read::latency::{MeasuredLatency, latency};
use crate::store::read::{architectures, front as results, jobs, notes, searches};
use crate::store::searches::Terms;
use crate::store::{Error, PgPool, searches as writes};

/// What masks of searches choose from.
const SEARCH: &str = "cakes.v1.Search";
const REQUEST_ID_CHARS_MAX: usize = 128;
pub(super) const REASON_CHARS_MAX: usize = 1000;
const BUDGETS_MAX: usize = 64;

#[tonic::async_trait]
impl SearchService for Api {
    type ExportSearchStream = Messages<v1::ExportSearchResponse>;
    type ImportSearchStream = Messages<v1::ImportSearchResponse>;
    type WatchSearchStream = Messages<v1::Search>;

    async fn submit_search(
        &self,
        request: Request<v1::SubmitSearchRequest>,
    ) -> Result<Response<v1::SubmitSearchResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let (request, terms) = terms(request, gate::caller(&extensions)?)?;
        let v1::SubmitSearchRequest { request_id, search, validate_only, .. } = request;
        let terms = Terms { trace: extensions.get().cloned(), ..terms };
        let request_id = request_id_if_given(request_id)?;
        let checked = search_from_wire(search).map_err(|spec| invalid_spec("search", &spec))?;
        let plan = plan::plan(&checked).map_err(|spec| invalid_spec("search", &spec))?;
        self.refuse_outsider(&extensions, &terms.project).await?;
        let search = if validate_only {
            unrecorded(&checked, terms)
        } else {
            self.queue.add_search(self.reader()).await?;
            let id = self
                .write_then_plan(move |pool| async move {
                    writes::submit(&pool, &checked, &terms, request_id.as_deref()).await
                })
                .await?;
            load(self.reader(), id).await?
        };
        Ok(Response::new(v1::SubmitSearchResponse { search: Some(search), plan: Some(plan) }))
    }

    async fn get_search(
        &self,
        request: Request<v1::GetSearchRequest>,
    ) -> Result<Response<v1::Search>, Status> {
        let v1::GetSearchRequest { id, read_mask } = request.into_inner();
        let mask = values::read_mask(read_mask, SEARCH)?;
        let id = lookup::search(self.reader(), "id", &id).await?;
        Ok(Response::new(mask.apply(load(self.reader(), id).await?)))
    }

    async fn list_searches(
        &self,
        request: Request<v1::ListSearchesRequest>,
    ) -> Result<Response<v1::ListSearchesResponse>, Status> {
        let request = request.into_inner();
        let v1::ListSearchesRequest { page_size, page_token, labels, .. } = request;
        let (mask, order) = (values::read_mask(request.read_mask, SEARCH)?, order_by(&request.order_by)?);
        let filter = searches::Filter {
            labels: labels::checked("labels", labels)?,
            expression: filter(&request.filter, SEARCH_FIELDS)?,
        };
        let page = Page::new(page_size, SIZE_MAX, &page_token, &format!("searches {filter:?} {order:?}"))?;
        let behind = page.after.as_ref().map(position_from_page).transpose()?;
        let mut found = searches::page(self.reader(), &filter, order, behind, page.size + 1).await?;
        let next_page_token = page.cut(&mut found, |search| Position {
            order: search.create_time.timestamp_micros(),
            key: search.id.0.as_bytes().to_vec(),
        });
        let searches = found.into_iter().map(|search| mask.apply(wire::search(search, Vec::new()))).collect();
        Ok(Response::new(v1::ListSearchesResponse { searches, next_page_token }))
    }

    async fn watch_search(
        &self,
        request: Request<v1::WatchSearchRequest>,
    ) -> Result<Response<Self::WatchSearchStream>, Status> {
        let v1::WatchSearchRequest { id, resume_token } = request.into_inner();
        let id = lookup::search(self.reader(), "id", &id).await?;
        let sent_revision = resume::position(id.0, &resume_token)?.map(|[revision]| revision);
        // An unknown id fails the call instead of the stream.
        searches::revision(self.reader(), id).await?;
        let is_resumed = sent_revision.is_some();
        let watched = WatchedSearch { pool: self.reader().clone(), id, sent_revision, is_resumed };
        Ok(Response::new(self.streams.open(watched)?))
    }

    async fn cancel_search(
        &self,
        request: Request<v1::CancelSearchRequest>,
    ) -> Result<Response<v1::Search>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::CancelSearchRequest { id, reason, etag } = request;
        let reason = values::checked("reason", reason, REASON_CHARS_MAX)?;
        let id = lookup::search(self.reader(), "id", &id).await?;
        self.refuse_others_search(&extensions, id).await?;
        let seen = values::as_seen(id, &etag)?;
        self.write_then_plan(move |pool| async move { writes::cancel(&pool, seen, &reason).await }).await?;
        Ok(Response::new(load(self.reader(), id).await?))
    }

    async fn derive_architectures(
        &self,
        request: Request<v1::DeriveArchitecturesRequest>,
    ) -> Result<Response<v1::DeriveArchitecturesResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::DeriveArchitecturesRequest {
            id, budgets, unconstrained, count_multiple, validate_only, ..
        } = request;
        let measure =
            measure_if_given(request.measure).map_err(|found| invalid_field(found.field, found.problem))?;
        if budgets.is_empty() && !unconstrained {
            return Err(invalid_field("budgets", "give at least one, or set unconstrained"));
        }
        if budgets.len() > BUDGETS_MAX {
            let problem = format!("{} are more than {BUDGETS_MAX}; ask several times", budgets.len());
            return Err(invalid_field("budgets", problem));
        }
        let id = lookup::search(self.reader(), "id", &id).await?;
        let wish = writes::Wish { budgets, unconstrained, measure, count_multiple };
        if validate_only {
            let patch = searches::get(self.reader(), id).await?.spec.spec().patch;
            let found = writes::preview(self.reader(), id, &wish).await?;
            let architectures = found.iter().map(|derived| wire::unrecorded(derived, patch)).collect();
            let derivations = found.iter().map(wire::derivation).collect();
            return Ok(Response::new(v1::DeriveArchitecturesResponse { architectures, derivations }));
        }
        self.refuse_outsider_of_search(&extensions, id).await?;
        let found = self.write(move |pool| async move { writes::derive(&pool, id, &wish).await }).await?;
        let digests: Vec<_> = found.iter().map(|(digest, _)| *digest).collect();
        let records = architectures::by_digests(self.reader(), &digests, Some(id)).await?;
        let of = |digest| records.iter().find(|record| record.digest == digest).map(wire::architecture);
        let architectures = digests.into_iter().filter_map(of).collect();
        let derivations = found.iter().map(|(_, derived)| wire::derivation(derived)).collect();
        Ok(Response::new(v1::DeriveArchitecturesResponse { architectures, derivations }))
    }

    async fn get_pareto_front(
        &self,
        request: Request<v1::GetParetoFrontRequest>,
    ) -> Result<Response<v1::ParetoFront>, Status> {
        let pool = self.reader();
        let id = lookup::search(pool, "id", &request.into_inner().id).await?;
        let search = searches::get(pool, id).await?.spec;
        // In this order a retraining that ends between the two reads is counted
        // in both; in the other it would be missing from a front that looks complete.
        let pending = results::pending_count(pool, id).await?;
        let found = results::results(pool, id).await?;
        let mut digests: Vec<_> = found.iter().map(|result| result.architecture).collect();
        digests.sort_unstable();
        digests.dedup();
        let records = architectures::by_digests(pool, &digests, Some(id)).await?;
        let measured = latency(pool, id).await?;
        let predicted_ms = |architecture: &Architecture| {
            let table = &measured.as_ref()?.table;
            Some(PredictedLatency::of(&search, table, architecture)?.ms)
        };
        let entries = front::entries(&found, &records, predicted_ms);
        let is_predicted = entries.iter().any(|entry| entry.predicted_latency_ms.is_some());
        Ok(Response::new(v1::ParetoFront {
            entries,
            pending_count: u32::try_from(pending).unwrap_or(u32::MAX),
            predicted_latency_device: measured
                .filter(|_| is_predicted)
                .map_or_else(String::new, |measured| measured.device),
        }))
    }

    async fn get_latency_table(
        &self,
        request: Request<v1::GetLatencyTableRequest>,
    ) -> Result<Response<v1::LatencyTable>, Status> {
        let pool = self.reader();
        let id = lookup::search(pool, "id", &request.into_inner().id).await?;
        let search = searches::get(pool, id).await?;
        let Some(MeasuredLatency { table, device }) = latency(pool, id).await? else {
            let problem = if search.state == SearchState::Searching {
                format!("search {id} has no times yet; wait until its supernet has succeeded")
            } else {
                NOT_MEASURED.to_owned()
            };
            return Err(Error::Refused(problem).into());
        };
        Ok(Response::new(latency_to_wire(&table, &search.spec.spec().backbone, device)))
    }

    async fn export_search(
        &self,
        request: Request<v1::ExportSearchRequest>,
    ) -> Result<Response<Self::ExportSearchStream>, Status> {
        let id = lookup::search(self.reader(), "id", &request.into_inner().id).await?;
        // An unknown id fails the call instead of the stream.
        searches::revision(self.reader(), id).await?;
        Ok(Response::new(self.export_file(id)?))
    }

    async fn import_search(
        &self,
        request: Request<Streaming<v1::ImportSearchRequest>>,
    ) -> Result<Response<Self::ImportSearchStream>, Status> {
        Ok(Response::new(self.import_file(request.into_inner())?))
    }

    async fn label_search(
        &self,
        request: Request<v1::LabelSearchRequest>,
    ) -> Result<Response<v1::Search>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::LabelSearchRequest { id, set, remove, etag } = request;
        let change = labels::change(set, remove)?;
        let id = lookup::search(self.reader(), "id", &id).await?;
        self.refuse_others_search(&extensions, id).await?;
        let seen = values::as_seen(id, &etag)?;
        self.write(move |pool| async move { writes::label(&pool, seen, &change).await }).await?;
        Ok(Response::new(load(self.reader(), id).await?))
    }

    async fn add_search_note(
        &self,
        request: Request<v1::AddSearchNoteRequest>,
    ) -> Result<Response<v1::Search>, Status> {
        let (_, extensions, request) = request.into_parts();
        let v1::AddSearchNoteRequest { id, text, author, request_id } = request;
        let id = lookup::search(self.reader(), "id", &id).await?;
        self.refuse_outsider_of_search(&extensions, id).await?;
        self.add_note(Subject::Search(id), text, author, request_id).await?;
        Ok(Response::new(load(self.reader(), id).await?))
    }
}

/// The client's name for a request, if it chose one.
pub(super) fn request_id_if_given(request_id: String) -> Result<Option<String>, Status> {
    let request_id = values::checked("request_id", request_id, REQUEST_ID_CHARS_MAX)?;
    Ok(Some(request_id).filter(|id| !id.is_empty()))
}

/// The search with its jobs and notes.
pub(super) async fn load(pool: &PgPool, id: SearchId) -> Result<v1::Search, Status> {
    // The revision is read before the jobs: they may be newer than it says, and
    // are then sent once more, but never older.
    let record = searches::get(pool, id).await?;
    let jobs = jobs::of_search(pool, id).await?;
    let notes = wire::notes(notes::of(pool, Subject::Search(id)).await?);
    Ok(v1::Search { notes, ..wire::search(record, jobs) })
}

/// What a search would be, had it been recorded.
fn unrecorded(search: &CheckedSearch, terms: Terms) -> v1::Search {
    let spec = Some(search_to_wire(search.spec()));
    let Terms { labels, project, priority, worker_labels, deadline, cost_limit_device_s, .. } = terms;
    v1::Search {
        spec,
        labels: labels.into(),
        project: project.as_str().to_owned(),
        priority,
        worker_labels: worker_labels.into(),
        deadline: deadline.and_then(wire::time),
        cost_limit_device_hours: cost_limit_device_s.map(wire::hours),
        ..v1::Search::default()
    }
}

/// What a request says beside its description. Without a project, that of the one that is
/// always there.
fn terms(
    mut request: v1::SubmitSearchRequest,
    caller: &Caller,
) -> Result<(v1::SubmitSearchRequest, Terms), Status> {
    let project = match request.project.as_str() {
        "" => ProjectName::default(),
        name => name.parse().map_err(|problem| invalid_field("project", problem))?,
    };
    let deadline = request.deadline.map(|time| values::time("deadline", Some(time))).transpose()?;
    let terms = Terms {
        labels: labels::checked("labels", take(&mut request.labels))?,
        project,
        priority: request.priority,
        worker_labels: labels::checked("worker_labels", take(&mut request.worker_labels))?,
        deadline,
        cost_limit_device_s: values::cost_limit(
            "cost_limit_device_hours",
            request.cost_limit_device_hours,
            "for no limit",
        )?,
        owner: caller.owner().map(str::to_owned),
        trace: None,
    };
    Ok((request, terms))
}

fn position_from_page(position: &Position) -> Result<(DateTime<Utc>, SearchId), Status> {
    let (time, key) = (position.time(), Uuid::from_slice(&position.key));
    match (time, key) {
        (Some(time), Ok(key)) => Ok((time, SearchId(key))),
        _ => Err(invalid_field("page_token", "is not one that this server gave")),
    }
}

struct WatchedSearch {
    pool: PgPool,
    id: SearchId,
    sent_revision: Option<i64>,
    /// Nothing was sent yet, and what went before may have been the end.
    is_resumed: bool,
}

impl Watched for WatchedSearch {
    type Message = v1::Search;

    async fn look(&mut self) -> Result<News<v1::Search>, Status> {
        let revision = searches::revision(&self.pool, self.id).await?;
        if self.sent_revision == Some(revision) {
            // Later a revision tells of the end.
            let asks = std::mem::take(&mut self.is_resumed);
            let has_ended = asks && searches::get(&self.pool, self.id).await?.end_time.is_some();
            let then = if has_ended { Then::End } else { Then::Wait };
            return Ok(News { messages: Vec::new(), then });
        }
        let mut search = load(&self.pool, self.id).await?;
        self.sent_revision = i64::try_from(search.revision).ok();
        self.is_resumed = false;
        search.resume_token =
            self.sent_revision.map(|revision| resume::token(self.id.0, [revision])).unwrap_or_default();
        // A cancelled search has its end when its last job has stopped.
        let then = if search.end_time.is_some() { Then::End } else { Then::Wait };
        Ok(News { messages: vec![search], then })
    }
}
