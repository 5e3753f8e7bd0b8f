//! Who this daemon is to the coordinator: one registration per start, renewed
//! when the coordinator does not know it any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cakes::labels::Labels;
use cakes_proto::ids::{LeaseToken, WorkerId};
use cakes_proto::{WORKER_PROTOCOL, v1};
use tracing::{info, warn};

use crate::artifacts::{ArtifactError, Artifacts};
use crate::client::{Answer, CallError, Coordinator, jittered};
use crate::clock::since_boot;

/// What the coordinator said to a registration.
#[derive(Clone, Debug)]
pub struct Registration {
    pub incarnation: u64,
    pub artifacts: Artifacts,
    /// Name of the store that they are in.
    pub artifact_url: String,
    pub report_interval: Duration,
}

/// Why this daemon cannot work for the coordinator.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("the coordinator refuses this worker: {0}")]
    Refused(String),
    #[error(
        "the coordinator speaks protocol {theirs}, this worker {WORKER_PROTOCOL}; install the two of one version"
    )]
    Protocol { theirs: u32 },
    #[error(
        "another daemon uses the name {id}, and the two end each other's jobs; give each a name of its own with --id"
    )]
    Namesake { id: WorkerId },
    #[error(transparent)]
    Artifacts(#[from] ArtifactError),
}

/// What came of asking for a job.
#[derive(Debug)]
pub enum Acquired {
    Grant(Box<Offer>),
    Nothing { retry_after: Duration },
}

/// A job that waits for Start.
#[derive(Debug)]
pub struct Offer {
    pub grant: v1::Grant,
    /// When it was asked for; the offer's time counts from here.
    pub sent_at: Duration,
    /// Under which it was asked for.
    pub registration: Registration,
}

/// The daemon's standing with the coordinator.
#[derive(Debug)]
pub struct Session {
    coordinator: Coordinator,
    id: WorkerId,
    devices: Vec<v1::Device>,
    labels: Labels,
    joins_gangs: bool,
    standing: tokio::sync::Mutex<Standing>,
    /// Tokens of attempts that run now, by job, epoch and member.
    live: Mutex<BTreeMap<Key, v1::LeaseToken>>,
}

/// Job, epoch and member.
type Key = (String, u64, u32);

/// The current registration.
#[derive(Debug)]
struct Standing {
    registration: Registration,
    /// When it took the place of an earlier one of this daemon, since boot.
    renewed_at: Option<Duration>,
}

impl Session {
    /// Registers; waits as long as the coordinator is away.
    ///
    /// # Errors
    /// The coordinator will never take this worker, or its store cannot be used.
    pub async fn register(
        coordinator: Coordinator,
        id: WorkerId,
        devices: Vec<v1::Device>,
        labels: Labels,
        joins_gangs: bool,
    ) -> Result<Self, SessionError> {
        let registration = register(&coordinator, &id, &devices, &labels, joins_gangs).await?;
        Ok(Session {
            coordinator,
            id,
            devices,
            labels,
            joins_gangs,
            standing: tokio::sync::Mutex::new(Standing { registration, renewed_at: None }),
            live: Mutex::default(),
        })
    }

    pub fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    pub fn devices(&self) -> &[v1::Device] {
        &self.devices
    }

    /// The current registration.
    pub async fn registration(&self) -> Registration {
        self.standing.lock().await.registration.clone()
    }

    /// Asks for a job for `device`, rather for one on data that are at hand. The same request
    /// is repeated until there is an answer, so a grant whose answer was lost is not lost.
    ///
    /// # Errors
    /// The daemon had to register anew and was refused, or another one has its name.
    pub async fn acquire(
        &self,
        device: &v1::Device,
        data_at_hand: Vec<String>,
    ) -> Result<Acquired, SessionError> {
        let registration = self.registration().await;
        let request = v1::AcquireRequest {
            worker_id: self.id.to_string(),
            incarnation: registration.incarnation,
            request_id: uuid::Uuid::new_v4().to_string(),
            device: Some(device.clone()),
            data_at_hand,
        };
        let call = |mut client: crate::client::Client| {
            let request = request.clone();
            async move { client.acquire(request).await }
        };
        match self.coordinator.persist("Acquire", call).await {
            Ok(Answer { value: v1::AcquireResponse { grant: Some(grant), .. }, sent_at }) => {
                Ok(Acquired::Grant(Box::new(Offer { grant, sent_at, registration })))
            }
            Ok(answer) => {
                Ok(Acquired::Nothing { retry_after: Duration::from_millis(answer.value.retry_after_ms) })
            }
            Err(CallError::Stale(message)) => {
                warn!("the coordinator does not know this daemon ({message}); registering anew");
                self.register_anew(registration.incarnation).await?;
                Ok(Acquired::Nothing { retry_after: Duration::ZERO })
            }
            Err(error) => {
                warn!("the coordinator refuses Acquire: {error}");
                Ok(Acquired::Nothing { retry_after: REFUSED_PAUSE })
            }
        }
    }

    /// Replaces the registration numbered `stale`, once for all slots, and says
    /// which attempts go on.
    async fn register_anew(&self, stale: u64) -> Result<(), SessionError> {
        let mut standing = self.standing.lock().await;
        if standing.registration.incarnation != stale {
            return Ok(());
        }
        self.renew(&mut standing).await?;
        let incarnation = standing.registration.incarnation;
        let live: Vec<v1::LeaseToken> = {
            let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
            live.values().cloned().collect()
        };
        // What is not wanted any more is told by the next report.
        if let Err(error) = reconcile(&self.coordinator, &self.id, incarnation, live).await {
            warn!("the coordinator refuses Reconcile: {error}");
        }
        Ok(())
    }

    /// Registers in place of what the coordinator does not know any more. That it does not
    /// know what it was told a moment ago either means that another daemon registers under
    /// the same name in turn: each registration ends the jobs of the other one.
    async fn renew(&self, standing: &mut Standing) -> Result<(), SessionError> {
        let since = standing.renewed_at.map(|renewed_at| since_boot().saturating_sub(renewed_at));
        if since.is_some_and(|since| since < RENEWED_AGAIN_WITHIN) {
            return Err(SessionError::Namesake { id: self.id.clone() });
        }
        standing.registration =
            register(&self.coordinator, &self.id, &self.devices, &self.labels, self.joins_gangs).await?;
        standing.renewed_at = Some(since_boot());
        Ok(())
    }

    /// What the coordinator wants done with attempts of earlier daemons, in order.
    ///
    /// A registration of an earlier start that reaches the coordinator late makes
    /// this start look like an old one. It registers anew then and asks again: a
    /// completion that stands in a journal must not be forgotten over it, nor over
    /// rights that this worker lacks for a while.
    ///
    /// # Errors
    /// The daemon had to register anew and was refused, or another one has its name.
    pub async fn reconcile(&self, tokens: Vec<v1::LeaseToken>) -> Result<Vec<v1::Verdict>, SessionError> {
        loop {
            let incarnation = self.registration().await.incarnation;
            match reconcile(&self.coordinator, &self.id, incarnation, tokens.clone()).await {
                Ok(verdicts) => return Ok(verdicts),
                Err(CallError::Stale(message)) => {
                    warn!("the coordinator does not know this daemon ({message}); registering anew");
                    let mut standing = self.standing.lock().await;
                    self.renew(&mut standing).await?;
                }
                Err(CallError::Unwelcome(message)) => {
                    warn!("the coordinator does not let this worker reconcile: {message}; asking again");
                    tokio::time::sleep(jittered(UNWELCOME_PAUSE)).await;
                }
                Err(error) => {
                    warn!("the coordinator refuses Reconcile: {error}");
                    return Ok(vec![v1::Verdict::Kill; tokens.len()]);
                }
            }
        }
    }

    /// Counts an attempt as running until the answer is dropped.
    pub fn live(self: &Arc<Self>, token: &LeaseToken) -> Live {
        let wire: v1::LeaseToken = (*token).into();
        let key = (wire.job_id.clone(), wire.epoch, wire.member);
        self.live.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), wire);
        Live { session: Arc::clone(self), key }
    }
}

const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// How long what earlier daemons left behind waits for other rights before it is told again.
pub(crate) const UNWELCOME_PAUSE: Duration = Duration::from_secs(2);
/// Longer than two daemons of one name that work take to notice each other in turn: a report
/// of each.
const RENEWED_AGAIN_WITHIN: Duration = Duration::from_secs(90);

/// An attempt that runs.
#[derive(Debug)]
pub struct Live {
    session: Arc<Session>,
    key: Key,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.session.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

async fn register(
    coordinator: &Coordinator,
    id: &WorkerId,
    devices: &[v1::Device],
    labels: &Labels,
    joins_gangs: bool,
) -> Result<Registration, SessionError> {
    let request = v1::RegisterRequest {
        protocol_version: WORKER_PROTOCOL,
        worker_id: id.to_string(),
        request_id: uuid::Uuid::new_v4().to_string(),
        devices: devices.to_vec(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: labels.clone().into(),
        joins_gangs,
    };
    let call = |mut client: crate::client::Client| {
        let request = request.clone();
        async move { client.register(request).await }
    };
    let answer = coordinator.persist("Register", call).await;
    let answer = answer.map_err(|error| SessionError::Refused(error.to_string()))?.value;
    if answer.protocol_version != WORKER_PROTOCOL {
        return Err(SessionError::Protocol { theirs: answer.protocol_version });
    }
    let artifacts = Artifacts::open(&answer.artifact_url)?;
    info!(worker = %id, incarnation = answer.incarnation, artifacts = answer.artifact_url, "registered");
    Ok(Registration {
        incarnation: answer.incarnation,
        artifacts,
        artifact_url: answer.artifact_url,
        report_interval: Duration::from_millis(answer.report_interval_ms.max(100)),
    })
}

async fn reconcile(
    coordinator: &Coordinator,
    id: &WorkerId,
    incarnation: u64,
    tokens: Vec<v1::LeaseToken>,
) -> Result<Vec<v1::Verdict>, CallError> {
    let count = tokens.len();
    let request = v1::ReconcileRequest { worker_id: id.to_string(), incarnation, tokens };
    let call = |mut client: crate::client::Client| {
        let request = request.clone();
        async move { client.reconcile(request).await }
    };
    let answer = coordinator.persist("Reconcile", call).await?;
    let mut verdicts: Vec<v1::Verdict> = answer.value.verdicts().collect();
    // What it does not speak of is not wanted.
    verdicts.resize(count, v1::Verdict::Kill);
    Ok(verdicts)
}
