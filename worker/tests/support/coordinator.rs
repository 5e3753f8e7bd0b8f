//! The daemon's peer: hands out jobs, stores what comes as the protocol says,
//! records every call, and misbehaves when told to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cakes_proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use cakes_proto::{WORKER_PROTOCOL, v1};
use prost::Message;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// What the peer knows and was told.
#[derive(Debug, Default)]
pub struct Seen {
    pub grants: VecDeque<v1::Grant>,
    granted: HashMap<String, v1::Grant>,
    pub incarnation: u64,
    pub registrations: Vec<v1::RegisterRequest>,
    pub acquires: Vec<v1::AcquireRequest>,
    pub starts: Vec<v1::StartRequest>,
    pub reports: Vec<v1::ReportRequest>,
    /// Stored entries of each job, in order.
    pub entries: BTreeMap<String, Vec<v1::ReportEntry>>,
    pub commits: Vec<v1::CommitCheckpointRequest>,
    pub completions: Vec<v1::CompleteRequest>,
    pub failures: Vec<v1::FailRequest>,
    pub reconciled: Vec<v1::ReconcileRequest>,
    /// So many answers of a call, by its name, get lost behind its effect.
    pub lost_answers: HashMap<&'static str, u32>,
    /// So many calls, by name, are refused as those of a revoked token.
    pub unauthenticated: HashMap<&'static str, u32>,
    /// Completions are longer than the peer takes.
    pub completion_is_too_long: bool,
    pub desired: v1::DesiredState,
    /// Where the ranks meet, in answers to whoever follows.
    pub rendezvous: String,
    pub lease_is_lost: bool,
    pub protocol: u32,
    /// Acquire is refused until the daemon registers again.
    pub forgets_daemon: bool,
    /// Behind the next registration an older one comes once more, too late.
    pub late_registration: bool,
}

impl Seen {
    /// Texts of the stored log of a job.
    pub fn log(&self, job: &str) -> Vec<String> {
        let lines = self.entries.get(job).into_iter().flatten().filter_map(|entry| match &entry.entry {
            Some(v1::report_entry::Entry::Log(line)) => Some(line.text.clone()),
            _ => None,
        });
        lines.collect()
    }

    /// Stored values of one metric of a job.
    pub fn metric(&self, job: &str, name: &str) -> Vec<f64> {
        let values = self.entries.get(job).into_iter().flatten().filter_map(|entry| match &entry.entry {
            Some(v1::report_entry::Entry::Metric(point)) => point.values.get(name).copied(),
            _ => None,
        });
        values.collect()
    }
}

/// A handle to the peer, which serves until the test's runtime ends.
#[derive(Clone, Debug)]
pub struct Coordinator {
    seen: Arc<Mutex<Seen>>,
    artifact_url: String,
    pub lease_ttl: Duration,
    pub address: std::net::SocketAddr,
}

impl Coordinator {
    pub async fn start(artifacts: &Path, lease_ttl: Duration) -> Self {
        Self::start_with_store(url::Url::from_directory_path(artifacts).unwrap().into(), lease_ttl).await
    }

    pub async fn start_with_store(artifact_url: String, lease_ttl: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let coordinator = Coordinator {
            seen: Arc::new(Mutex::new(Seen { protocol: WORKER_PROTOCOL, ..Seen::default() })),
            artifact_url,
            lease_ttl,
            address: listener.local_addr().unwrap(),
        };
        let service = WorkerServiceServer::new(coordinator.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        coordinator
    }

    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// Waits until `probe` gives a value.
    pub async fn until<T>(&self, what: &str, mut probe: impl FnMut(&Seen) -> Option<T>) -> T {
        // Generous: a bucket's server may be slow on a busy machine.
        for _ in 0..6000 {
            if let Some(value) = probe(&self.seen()) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let seen = self.seen();
        panic!("did not happen: {what}\nfailures: {:#?}\nentries: {:#?}", seen.failures, seen.entries);
    }

    /// Waits for the end of a job: its completion or its failure.
    pub async fn until_failed(&self, job: &str) -> v1::FailRequest {
        let of_job = |token: &Option<v1::LeaseToken>| token.as_ref().is_some_and(|token| token.job_id == job);
        self.until("the attempt fails", |seen| {
            seen.failures.iter().find(|failure| of_job(&failure.token)).cloned()
        })
        .await
    }

    fn identity(&self, call: &'static str) -> Result<(), Status> {
        if let Some(count) = self.seen().unauthenticated.get_mut(call).filter(|count| **count > 0) {
            *count -= 1;
            return Err(Status::unauthenticated("the token is unknown or was revoked"));
        }
        Ok(())
    }

    fn lease(&self, call: &'static str) -> Result<(), Status> {
        self.identity(call)?;
        if self.seen().lease_is_lost {
            return Err(Status::failed_precondition("the lease is lost"));
        }
        Ok(())
    }

    /// The answer, unless it gets lost.
    fn answer<T>(&self, call: &'static str, response: T) -> Result<Response<T>, Status> {
        if let Some(count) = self.seen().lost_answers.get_mut(call).filter(|count| **count > 0) {
            *count -= 1;
            return Err(Status::unavailable("the answer is lost"));
        }
        Ok(Response::new(response))
    }
}

#[tonic::async_trait]
impl WorkerService for Coordinator {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        self.identity("Register")?;
        let response = {
            let mut seen = self.seen();
            let request = request.into_inner();
            if seen.registrations.last().is_none_or(|last| last.request_id != request.request_id) {
                seen.incarnation += 1;
            }
            seen.forgets_daemon = false;
            seen.registrations.push(request);
            let incarnation = seen.incarnation;
            seen.incarnation += u64::from(std::mem::take(&mut seen.late_registration));
            v1::RegisterResponse {
                incarnation,
                protocol_version: seen.protocol,
                artifact_url: self.artifact_url.clone(),
                report_interval_ms: 100,
            }
        };
        self.answer("Register", response)
    }

    async fn acquire(
        &self,
        request: Request<v1::AcquireRequest>,
    ) -> Result<Response<v1::AcquireResponse>, Status> {
        let request = request.into_inner();
        let grant = {
            let mut seen = self.seen();
            seen.acquires.push(request.clone());
            if seen.forgets_daemon || request.incarnation != seen.incarnation {
                return Err(Status::failed_precondition("this start of the worker is not the current one"));
            }
            let grant = match seen.granted.get(&request.request_id) {
                Some(earlier) => Some(earlier.clone()),
                None => seen.grants.pop_front(),
            };
            if let Some(grant) = &grant {
                seen.granted.insert(request.request_id, grant.clone());
            }
            grant
        };
        self.answer("Acquire", v1::AcquireResponse { grant, retry_after_ms: 50 })
    }

    async fn start(&self, request: Request<v1::StartRequest>) -> Result<Response<v1::StartResponse>, Status> {
        self.seen().starts.push(request.into_inner());
        self.lease("Start")?;
        let rendezvous_address = self.seen().rendezvous.clone();
        self.answer(
            "Start",
            v1::StartResponse { lease_ttl_ms: self.lease_ttl.as_millis() as u64, rendezvous_address },
        )
    }

    async fn report(
        &self,
        request: Request<v1::ReportRequest>,
    ) -> Result<Response<v1::ReportResponse>, Status> {
        let request = request.into_inner();
        self.seen().reports.push(request.clone());
        self.lease("Report")?;
        let response = {
            let mut seen = self.seen();
            let desired = seen.desired;
            let rendezvous_address = seen.rendezvous.clone();
            let job = request.token.map(|token| token.job_id).unwrap_or_default();
            let stored = seen.entries.entry(job).or_default();
            for (seq, entry) in (request.first_seq..).zip(request.entries) {
                match stored.get(seq as usize - 1) {
                    Some(known) if *known == entry => {}
                    Some(_) => return Err(Status::invalid_argument("an entry changed")),
                    None if seq == stored.len() as u64 + 1 => stored.push(entry),
                    None => return Err(Status::out_of_range("entries are missing")),
                }
            }
            v1::ReportResponse {
                ack_seq: stored.len() as u64,
                lease_ttl_ms: self.lease_ttl.as_millis() as u64,
                desired: desired.into(),
                rendezvous_address,
            }
        };
        self.answer("Report", response)
    }

    async fn commit_checkpoint(
        &self,
        request: Request<v1::CommitCheckpointRequest>,
    ) -> Result<Response<v1::CommitCheckpointResponse>, Status> {
        self.lease("CommitCheckpoint")?;
        self.seen().commits.push(request.into_inner());
        self.answer("CommitCheckpoint", v1::CommitCheckpointResponse {})
    }

    async fn complete(
        &self,
        request: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::CompleteResponse>, Status> {
        self.lease("Complete")?;
        if self.seen().completion_is_too_long {
            return Err(Status::out_of_range("decoded message length too large"));
        }
        self.seen().completions.push(request.into_inner());
        self.answer("Complete", v1::CompleteResponse {})
    }

    async fn fail(&self, request: Request<v1::FailRequest>) -> Result<Response<v1::FailResponse>, Status> {
        self.lease("Fail")?;
        self.seen().failures.push(request.into_inner());
        self.answer("Fail", v1::FailResponse {})
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> Result<Response<v1::ReconcileResponse>, Status> {
        self.identity("Reconcile")?;
        let request = request.into_inner();
        if request.incarnation != self.seen().incarnation {
            return Err(Status::failed_precondition("this start of the worker is not the current one"));
        }
        let verdicts = vec![v1::Verdict::Keep.into(); request.tokens.len()];
        self.seen().reconciled.push(request);
        self.answer("Reconcile", v1::ReconcileResponse { verdicts })
    }
}

/// Whether all are the same, byte for byte where order is defined.
pub fn all_equal<T: Message + PartialEq>(messages: &[T]) -> bool {
    messages.windows(2).all(|pair| pair[0] == pair[1])
}
