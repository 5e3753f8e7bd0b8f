//! What stands before every handler: which method is it, who calls, may they?
//!
//! ```text
//!  path ──► Method ──► who calls ──► core::rights ──► its turn ──► handler ──► answers
//!   └ UNIMPLEMENTED     │             └ PERMISSION_DENIED                       └ a stream ends with
//!                       │ certificate, token, or nobody                            the right to it
//!                       └ UNAUTHENTICATED
//! ```
//!
//! Nothing is read of a request before it may be made. What changes something is in the
//! record before it is done, and so is every refusal.

mod identify;
mod leases;
mod load;
mod readers;
mod record;
mod size;
mod turns;
mod watched;

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use cakes_proto::method::Method;
use tokio::runtime::Handle;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use tonic::{Code, Extensions, Status};
use tracing::Instrument;

pub(super) use leases::Leases;
pub(crate) use readers::Readers;

use super::PeerInfo;
use super::status;
use crate::audit::Audit;
use crate::core::rights::{Caller, NOBODY, changes, takes_turns};
use crate::core::throttle::Limits;
use crate::store::access::{Asker, Via};
use crate::store::{PgPool, Pools};
use identify::{Proof, Tokens};
use load::{Load, Place};
use size::Sizes;
use turns::Turns;

/// What the gate needs. Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate {
    tokens: Tokens,
    audit: Audit,
    load: Load,
    sizes: Sizes,
    turns: Turns,
    pool: PgPool,
    requires_identity: bool,
    tasks: TaskTracker,
    serving: Handle,
}

/// The role of nobody known, where nobody need be, in the record.
const TRUSTED: &str = "trusted";

/// Who calls, how that is known, and from where.
#[derive(Clone, Debug)]
struct Admitted {
    caller: Caller,
    proof: Proof,
    peer: String,
    /// Counts against what one caller may have under way.
    place: Arc<Place>,
}

impl Admitted {
    fn asker(&self) -> Asker<'_> {
        let (name, role) = match &self.caller {
            Caller::Known(identity) => (Some(identity.name()), Some(identity.role())),
            Caller::Trusted => (None, Some(TRUSTED)),
            Caller::Nobody => (None, None),
        };
        Asker { name, role, peer: &self.peer, via: Via::Api }
    }
}

/// The caller of a request that has passed the gate.
///
/// # Errors
/// It has not, which is a defect.
pub(super) fn caller(extensions: &Extensions) -> Result<&Caller, Status> {
    extensions.get().ok_or_else(|| status::internal(&"a request came past the gate"))
}

impl Gate {
    /// Handlers run where this is called.
    pub(super) fn new(pools: &Pools, requires_identity: bool, limits: Limits, tasks: TaskTracker) -> Self {
        let pool = pools.control.clone();
        Gate {
            tokens: Tokens::new(pools),
            audit: Audit::new(pool.clone()),
            pool,
            load: Load::new(limits),
            sizes: Sizes::default(),
            turns: Turns::new(pools.control.options().get_max_connections() as usize),
            requires_identity,
            tasks,
            serving: Handle::current(),
        }
    }

    /// Waits for a handler, which ends if nobody does.
    async fn handle(
        &self,
        gives_way: bool,
        handling: impl Future<Output = Response> + Send + 'static,
    ) -> Response {
        if !gives_way {
            return handling.await;
        }
        // Its connection to the database is one that others wait for.
        let task = AbortOnDropHandle::new(self.serving.spawn(handling.in_current_span()));
        task.await.unwrap_or_else(|error| answer(status::internal(&error)))
    }
}

/// Lets a request through or answers it.
pub(super) async fn guard(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let Some(method) = Method::from_path(request.uri().path()) else {
        return answer(status::no_such_method(request.uri().path()));
    };
    // A body is not shared between threads, so it is laid aside while something is waited for.
    let (mut parts, body) = request.into_parts();
    let Some(peer) = parts.extensions.get::<PeerInfo>().cloned() else {
        return answer(status::internal(&"a connection without an address"));
    };
    let address = peer.address.map_or_else(|| NOBODY.to_owned(), |address| address.ip().to_string());
    let identified = gate.identify(method, &peer, &parts.headers).await;
    let (caller, proof, wrong) = match identified {
        Ok((caller, proof)) => (caller, proof, None),
        Err(refused) => (Caller::Nobody, Proof::None, Some(refused)),
    };
    let admitted = match gate.load.take(&caller, &peer) {
        Ok(place) => Admitted { caller, proof, peer: address, place: Arc::new(place) },
        Err(refused) => return answer(refused),
    };
    if let Some(refused) = wrong {
        gate.refuse_proof(&admitted, method, &refused).await;
        return answer(refused);
    }
    if let Err(refusal) = admitted.caller.may(method) {
        let refused = status::not_permitted(&refusal);
        gate.refuse(&admitted, method, &refused).await;
        return answer(refused);
    }
    parts.extensions.insert(admitted.caller.clone());
    let body = match method.takes_stream() {
        true => body,
        false => gate.sizes.limited(body, method, admitted.place.who.clone()),
    };
    let request = Request::from_parts(parts, body);
    let is_one_message = takes_turns(method) || (changes(method) && !method.takes_stream());
    let (message, request) = match is_one_message {
        // Before its turn, and as a whole: whoever sends slowly keeps nobody waiting.
        true => match record::whole(method, request).await {
            Ok(read) => read,
            Err(refused) => return answer(refused),
        },
        false => (Bytes::new(), request),
    };
    let turn = match takes_turns(method) {
        true => Some(gate.turns.wait(&admitted.place.who).await),
        false => None,
    };
    match changes(method) {
        true => {
            let object = record::object(method, &message);
            gate.act(method, admitted, object, turn, request, next).await
        }
        false => {
            let response = gate.handle(peer.gives_way, next.run(request)).await;
            drop(turn);
            // A worker that speaks for another one is known as such by its handler.
            let refused = response.extensions().get::<Status>();
            if let Some(refused) = refused.filter(|status| status.code() == Code::PermissionDenied).cloned() {
                gate.refuse(&admitted, method, &refused).await;
            }
            gate.watch(method, &admitted, response, None)
        }
    }
}

fn answer(status: Status) -> Response {
    status.into_http::<Body>()
}
