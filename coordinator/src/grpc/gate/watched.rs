//! Answers: each counts against its caller until it is taken. Streams end with the right to
//! them, and what they do is recorded when they end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::response::Response;
use cakes_proto::method::Method;
use http_body::Frame;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::identify::Proof;
use super::record::outcome;
use super::{Admitted, Gate};
use crate::audit::DONE;

/// Time between two looks whether whoever listens still may.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Something begun whose outcome a stream says.
pub(super) struct Act {
    pub method: Method,
    pub object: String,
    pub begun: i64,
}

impl Gate {
    /// The same answer; a stream ends when the caller is known no longer.
    pub(super) fn watch(
        &self,
        method: Method,
        admitted: &Admitted,
        response: Response,
        act: Option<Act>,
    ) -> Response {
        let (parts, inner) = response.into_parts();
        let lost = (method.streams() && admitted.proof != Proof::None).then(|| {
            let (gate, proof, caller) = (self.clone(), admitted.proof, admitted.caller.clone());
            Box::pin(async move {
                loop {
                    tokio::time::sleep(LOOK_INTERVAL).await;
                    if let Err(refused) = gate.still_known(proof, &caller).await {
                        return refused;
                    }
                }
            }) as Lost
        });
        let report = act.map(|act| Report { gate: self.clone(), admitted: admitted.clone(), act });
        Response::from_parts(
            parts,
            Body::new(Watched { inner, lost, report, is_over: false, _admitted: admitted.clone() }),
        )
    }
}

/// Ends when whoever listens may no longer.
type Lost = Pin<Box<dyn Future<Output = Status> + Send>>;

struct Watched {
    inner: Body,
    lost: Option<Lost>,
    report: Option<Report>,
    is_over: bool,
    /// Holds the caller's place.
    _admitted: Admitted,
}

struct Report {
    gate: Gate,
    admitted: Admitted,
    act: Act,
}

impl Watched {
    /// Nothing comes behind this.
    fn end(&mut self, ended: Result<(), Status>) {
        self.is_over = true;
        self.lost = None;
        let Some(Report { gate, admitted, act }) = self.report.take() else { return };
        let tasks: TaskTracker = gate.tasks.clone();
        tasks.spawn(async move {
            let outcome = ended.as_ref().map_or_else(outcome, |()| DONE);
            let Act { method, object, begun } = act;
            gate.audit.end(admitted.asker(), method.name(), &object, outcome, Some(begun)).await;
        });
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        if let Some(lost) = &mut self.lost
            && let Poll::Ready(refused) = lost.as_mut().poll(context)
        {
            let mut trailers = HeaderMap::new();
            let told = refused.add_header(&mut trailers);
            self.inner = Body::empty();
            self.end(Err(refused));
            return Poll::Ready(told.is_ok().then(|| Ok(Frame::trailers(trailers))));
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    let ended =
                        Status::from_header_map(trailers).filter(|status| status.code() != tonic::Code::Ok);
                    self.end(ended.map_or(Ok(()), Err));
                }
            }
            Some(Err(error)) => {
                let broken = Status::cancelled(error.to_string());
                self.end(Err(broken));
            }
            None => self.end(Ok(())),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || (self.report.is_none() && self.inner.is_end_stream())
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.is_over {
            self.end(Err(Status::cancelled("the caller went away before the answer")));
        }
    }
}
