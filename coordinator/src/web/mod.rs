//! The page that people look at, the JSON behind it, and what holders of a token may do
//! there.
//!
//! ```text
//!  browser ── GET /searches/… ──► index.html, and below /assets/ what it loads
//!          ── GET /api/v1/… ────► store::read, or the methods of the gRPC API ──► JSON
//!          ◄─ GET /api/v1/changes (server-sent events): what to fetch again
//!          ── POST /api/v1/… ───► core::access (role × action) ──► the gRPC methods, audit
//! ```
//!
//! Everything that a browser loads is part of the program. Requests must name this
//! machine ([`guard`]), so that a page of somebody else's cannot read them through a
//! name that it resolves to here.

mod access;
mod actions;
mod answer;
mod assets;
mod changes;
mod fleet;
mod guard;
mod jobs;
mod listener;
mod searches;
mod views;
mod visitors;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tracing::Instrument;

use crate::accept::{Accepting, Arrivals};
use crate::audit::Audit;
use crate::core::throttle;
use crate::grpc::Api;
use crate::runtimes::Runtimes;
use crate::shutdown::Shutdown;
use crate::store::PgPool;
use actions::JobWish;
use answer::Failure;
use changes::Changes;
pub use listener::{CONNECTIONS_MAX, Peer};
use visitors::Visitors;

/// Questions to the database at a time: pages must not take the connections that
/// workers and commands need.
const QUESTIONS_MAX: usize = 4;

/// Time in which a question is answered, its wait included.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 64 << 10;

/// What an operator can set about the page.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names beside `localhost` and addresses under which the page is answered: those
    /// of a proxy before it.
    pub allowed_hosts: Vec<String>,
    /// Whether even reading needs a token.
    pub requires_token: bool,
    /// Whether browsers come with TLS.
    pub is_encrypted: bool,
    /// How often one address may ask: as often as one identity may call.
    pub callers: throttle::Limits,
}

/// What handlers need. Cheap to clone.
#[derive(Clone)]
struct Web {
    api: Api,
    pool: PgPool,
    allowed_hosts: Arc<[String]>,
    requires_token: bool,
    is_encrypted: bool,
    /// Of the listener; sessions of several coordinators on one machine are told apart
    /// by it, since cookies are not.
    port: u16,
    questions: Arc<Semaphore>,
    visitors: Visitors,
    changes: Changes,
    tasks: TaskTracker,
    audit: Audit,
}

impl Web {
    /// Answers a question to the database when it is its turn.
    async fn ask<T>(&self, question: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let asked = async {
            // The semaphore is never closed.
            let _permit = self.questions.acquire().await.map_err(|_| Failure::overloaded())?;
            question.await
        };
        tokio::time::timeout(QUESTION_TIMEOUT, asked).await.unwrap_or_else(|_| Err(Failure::overloaded()))
    }
}

/// Serves who is accepted until asked to stop.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    accepting: Accepting,
    api: Api,
    pool: PgPool,
    settings: Settings,
    runtimes: Runtimes,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let local = accepting.local_addr()?;
    let page = page(local.port(), api, pool, settings, &shutdown);
    let Arrivals { ordinary, crowded } = accepting.apart(&runtimes, &shutdown.tasks)?;
    let serving = |arriving, page: Router| {
        let service = page.into_make_service_with_connect_info::<Peer>();
        axum::serve(listener::Browsers { arriving, local }, service)
            .with_graceful_shutdown(shutdown.stop.clone().cancelled_owned())
            .into_future()
    };
    // Its questions use connections to the database that others wait for.
    let handed_over = page.clone().layer(from_fn_with_state(runtimes.serving.clone(), hand_over));
    let (serving, crowded) = (serving(ordinary, page), runtimes.crowded.spawn(serving(crowded, handed_over)));
    serving.await?;
    crowded.await?
}

/// Has a request handled by the threads that serve; it ends if nobody waits for it.
async fn hand_over(State(serving): State<Handle>, request: Request, next: Next) -> Response {
    let task = AbortOnDropHandle::new(serving.spawn(next.run(request).in_current_span()));
    task.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a request ended by a defect");
        StatusCode::INTERNAL_SERVER_ERROR.into_response()
    })
}

/// The page behind its guard, as it is served under this port, for requests that bring a
/// [`Peer`].
pub fn page(port: u16, api: Api, pool: PgPool, settings: Settings, shutdown: &Shutdown) -> Router {
    let changes = Changes::new(pool.clone(), shutdown);
    router(Web {
        audit: Audit::new(pool.clone()),
        api,
        pool,
        allowed_hosts: settings.allowed_hosts.into(),
        requires_token: settings.requires_token,
        is_encrypted: settings.is_encrypted,
        port,
        tasks: shutdown.tasks.clone(),
        questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        visitors: Visitors::new(settings.callers),
        changes,
    })
}

fn router(web: Web) -> Router {
    let wish = |wish: JobWish| move |web, caller, id, body| wish.handle(web, caller, id, body);
    let api = Router::new()
        .route("/changes", get(changes::stream))
        .route("/searches", get(searches::list))
        .route("/searches/{id}", get(searches::one))
        .route("/searches/{id}/front", get(searches::front))
        .route("/searches/{id}/architectures", get(searches::architectures))
        .route("/searches/{id}/composition", get(searches::composition))
        .route("/searches/{id}/scores", get(searches::scores))
        .route("/architectures/{digest}", get(searches::architecture))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::one))
        .route("/jobs/{id}/logs", get(jobs::logs))
        .route("/jobs/{id}/metrics", get(jobs::metrics))
        .route("/queue", get(fleet::queue))
        .route("/timeline", get(fleet::timeline))
        .route("/workers", get(fleet::workers))
        .route("/events", get(fleet::events))
        .route("/session", get(access::session))
        .route("/sign-in", post(access::sign_in))
        .route("/sign-out", post(access::sign_out))
        .route("/jobs/{id}/cancel", post(actions::cancel_job))
        .route("/jobs/{id}/pause", post(wish(JobWish::Pause)))
        .route("/jobs/{id}/resume", post(actions::resume_job))
        .route("/jobs/{id}/retry", post(wish(JobWish::Retry)))
        .route("/searches/{id}/cancel", post(actions::cancel_search))
        .route("/searches/{id}/derivations", post(actions::preview_derivation))
        .route("/searches/{id}/retrainings", post(actions::queue_retrainings))
        .fallback(answer::no_such_path)
        .method_not_allowed_fallback(answer::wrong_method)
        .layer(middleware::from_fn_with_state(web.clone(), access::identify))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX));
    Router::new()
        .nest("/api/v1", api)
        .route("/assets/{*path}", get(assets::asset))
        .fallback(assets::page)
        .method_not_allowed_fallback(answer::wrong_method)
        .layer(middleware::from_fn_with_state(web.clone(), guard::guard))
        .layer(middleware::from_fn_with_state(web.clone(), answer::count))
        .with_state(web)
}
