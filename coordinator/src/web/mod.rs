//! The page that people look at, and the JSON behind it. Nothing here changes anything.
//!
//! ```text
//!  browser ── GET /searches/… ──► index.html, and below /assets/ what it loads
//!          ── GET /api/v1/… ────► store::read, or the methods of the gRPC API ──► JSON
//!          ◄─ GET /api/v1/changes (server-sent events): what to fetch again
//! ```
//!
//! Everything that a browser loads is part of the program. Requests must name this
//! machine ([`guard`]), so that a page of somebody else's cannot read them through a
//! name that it resolves to here.

mod answer;
mod assets;
mod changes;
mod fleet;
mod guard;
mod jobs;
mod listener;
mod searches;
mod views;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::grpc::Api;
use crate::shutdown::Shutdown;
use crate::store::PgPool;
use answer::Failure;
use changes::Changes;

/// Questions to the database at a time: pages must not take the connections that
/// workers and commands need.
const QUESTIONS_MAX: usize = 4;

/// Time in which a question is answered, its wait included.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);

/// What handlers need. Cheap to clone.
#[derive(Clone)]
struct Web {
    api: Api,
    pool: PgPool,
    lease_ttl: LeaseTtl,
    questions: Arc<Semaphore>,
    changes: Changes,
}

/// Silence after which a worker counts as lost.
#[derive(Clone, Copy, Debug)]
struct LeaseTtl(Duration);

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

/// Serves on `listener` until asked to stop.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    api: Api,
    pool: PgPool,
    lease_ttl: Duration,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let changes = Changes::new(pool.clone(), &shutdown);
    let web = Web {
        api,
        pool,
        lease_ttl: LeaseTtl(lease_ttl),
        questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
        changes,
    };
    axum::serve(listener::Limited::new(listener), router(web))
        .with_graceful_shutdown(shutdown.stop.cancelled_owned())
        .await
}

fn router(web: Web) -> Router {
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
        .fallback(answer::no_such_path);
    Router::new()
        .nest("/api/v1", api)
        .route("/assets/{*path}", get(assets::asset))
        .fallback(assets::page)
        .layer(axum::middleware::from_fn(guard::guard))
        .with_state(web)
}
