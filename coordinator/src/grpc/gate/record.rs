//! What is done and what is refused, in the record.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use cakes_proto::method::Method;
use cakes_proto::v1;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::Status;
use tracing::Instrument;

use super::size::{self, FRAME_BYTES};
use super::turns::Turn;
use super::{Admitted, Gate, answer, status};
use crate::audit::{self, Outcome};
use crate::core::access::delay;
use crate::core::size::message_bytes_max;
use crate::store::access::failures;

/// What a wrong token is called in the record, as on the page.
const WRONG_TOKEN: &str = "bearer";

/// What a call of nobody known is called: one name for all methods, so that all of them
/// together fill the record no further than one does.
const UNKNOWN_CALLER: &str = "call";

/// Longest object that is recorded, in bytes.
const OBJECT_BYTES_MAX: usize = 100;

/// What a message is about, and the limits that it sets.
pub(super) struct Object {
    name: String,
    limits: String,
}

impl Gate {
    /// Records a certificate or a token that does not hold, and lets whoever gave one of too
    /// many wait for the answer.
    pub(super) async fn refuse_proof(&self, nobody: &Admitted, method: Method, refused: &Status) {
        let turn = self.turns.wait(&nobody.place.who).await;
        let known = failures(&self.pool, &nobody.peer, WRONG_TOKEN).await;
        self.audit.end(nobody.asker(), WRONG_TOKEN, method.name(), outcome(refused), None).await;
        drop(turn);
        tokio::time::sleep(known.map(delay).unwrap_or_default()).await;
    }

    /// Records a call that is not permitted.
    pub(super) async fn refuse(&self, admitted: &Admitted, method: Method, refused: &Status) {
        let asker = admitted.asker();
        let (action, object) = match asker.role {
            Some(_) => (method.name(), ""),
            None => (UNKNOWN_CALLER, method.name()),
        };
        let _turn = self.turns.wait(&admitted.place.who).await;
        self.audit.end(asker, action, object, outcome(refused), None).await;
    }

    /// Does what changes something: it is recorded before, or not done, and carried to its
    /// end and recorded after, also where the caller has gone meanwhile.
    pub(super) async fn act(
        &self,
        method: Method,
        admitted: Admitted,
        object: Object,
        turn: Option<Turn>,
        request: Request,
        next: Next,
    ) -> Response {
        let gate = self.clone();
        let Object { name, limits } = object;
        let acting = async move {
            let _turn = turn;
            let begun = match gate.audit.begin(admitted.asker(), method.name(), &name, &limits).await {
                Ok(begun) => begun,
                Err(error) => return answer(status::not_recorded(error)),
            };
            let response = next.run(request).await;
            let refused = response.extensions().get::<Status>().cloned();
            if refused.is_none() && method.streams() {
                let act = super::watched::Act { method, object: name, begun };
                return gate.watch(method, &admitted, response, Some(act));
            }
            let outcome = refused.as_ref().map_or_else(|| audit::done(&limits), outcome);
            gate.audit.end(admitted.asker(), method.name(), &name, outcome, Some(begun)).await;
            gate.watch(method, &admitted, response, None)
        };
        let task = self.tasks.spawn_on(acting.instrument(tracing::Span::current()), &self.serving);
        task.await.unwrap_or_else(|error| answer(status::internal(&error)))
    }
}

/// A request with its body in memory, and its message.
///
/// # Errors
/// It is too long, did not come to its end, or is not one message of the method.
pub(super) async fn whole(method: Method, request: Request) -> Result<(Bytes, Request), Status> {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, message_bytes_max(method) + FRAME_BYTES).await;
    let bytes = bytes.map_err(|error| {
        size::refusal(&error).unwrap_or_else(|| Status::cancelled("the request did not come to its end"))
    })?;
    let message = framed(&bytes).map_err(|problem| status::unreadable(method, &problem))?;
    method.check(&message).map_err(|error| status::unreadable(method, &error))?;
    Ok((message, Request::from_parts(parts, Body::from(bytes))))
}

/// The message of a body that holds one and nothing else, and that as it is.
///
/// # Errors
/// What is wrong with it.
fn framed(body: &Bytes) -> Result<Bytes, &'static str> {
    let Some((head, _)) = body.split_first_chunk::<FRAME_BYTES>() else {
        return Err("it has no message");
    };
    let [compression, length @ ..] = *head;
    let message = body.slice(FRAME_BYTES..);
    if compression != 0 {
        return Err("its message is compressed");
    }
    if u32::from_be_bytes(length) as usize != message.len() {
        return Err("it is not one message, as long as it says");
    }
    Ok(message)
}

/// How a refusal is called in the record.
pub(super) fn outcome(refused: &Status) -> Outcome<'_> {
    (status::audited(refused.code()), refused.message())
}

/// What a message is about, as it says, and the limits that it sets.
pub(super) fn object(method: Method, message: &[u8]) -> Object {
    Object { name: name(method, message), limits: limits(method, message) }
}

fn limits(method: Method, message: &[u8]) -> String {
    let limits = match method {
        Method::ResumeJob => v1::ResumeJobRequest::decode(message).map(|read| audit::limits_of_job(&read)),
        Method::SetProject => {
            v1::SetProjectRequest::decode(message).map(|read| audit::limits_of_project(&read))
        }
        _ => return String::new(),
    };
    // What is broken the handler refuses.
    limits.unwrap_or_default()
}

fn name(method: Method, message: &[u8]) -> String {
    let named = method.object_fields().iter().filter_map(|field| text_field(message, *field));
    named.collect::<Vec<_>>().join(" ")
}

/// A field of a message that holds text; of several the last counts, as for whoever reads the
/// whole. None where there is none or the message is broken.
fn text_field(mut message: &[u8], field: u32) -> Option<String> {
    let mut text = None;
    while !message.is_empty() {
        let (tag, kind) = decode_key(&mut message).ok()?;
        if tag == field && kind == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(&mut message).ok()?).ok()?;
            let (value, rest) = message.split_at_checked(length)?;
            message = rest;
            let shown = &value[..value.len().min(OBJECT_BYTES_MAX)];
            text = Some(String::from_utf8_lossy(shown).into_owned());
        } else {
            skip_field(kind, tag, &mut message, DecodeContext::default()).ok()?;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    async fn read(body: &[u8]) -> Result<Bytes, Status> {
        whole(Method::CancelJob, Request::new(Body::from(body.to_vec()))).await.map(|(message, _)| message)
    }

    #[tokio::test]
    async fn a_body_that_is_not_one_message_is_refused_before_anything_is_recorded() {
        assert_eq!(read(&[0, 0, 0, 0, 0]).await.unwrap(), Bytes::new());
        assert_eq!(read(&[0, 0, 0, 0, 3, 10, 1, b'7']).await.unwrap(), Bytes::from_static(&[10, 1, b'7']));
        let (cut_off, two, compressed) = ([0, 0, 0, 0, 3, 10, 1], [0; 10], [1, 0, 0, 0, 0]);
        let all: [&[u8]; 5] = [&[], &[0, 0, 0, 0], &cut_off, &two, &compressed];
        for broken in all {
            let refused = read(broken).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{broken:?}");
            assert!(refused.message().contains("no request of cancel_job"), "{refused:?}");
        }
    }

    #[test]
    fn what_a_request_is_about_is_found_in_it() {
        let request = v1::CancelJobRequest {
            id: "0198f3".to_owned(),
            reason: "enough".to_owned(),
            ..v1::CancelJobRequest::default()
        };
        let bytes = request.encode_to_vec();
        assert_eq!(name(Method::CancelJob, &bytes), "0198f3");
        let request = v1::SubmitRetrainRequest {
            request_id: "r".to_owned(),
            architecture_digest: "abc".to_owned(),
            seed: 7,
            ..v1::SubmitRetrainRequest::default()
        };
        assert_eq!(name(Method::SubmitRetrain, &request.encode_to_vec()), "abc");
        let request = v1::RemoveProjectMemberRequest { name: "lung".to_owned(), member: "ben".to_owned() };
        assert_eq!(name(Method::RemoveProjectMember, &request.encode_to_vec()), "lung ben");
        let limited = v1::ResumeJobRequest {
            id: "0198f3".to_owned(),
            cost_limit_device_hours: Some(2.5),
            ..v1::ResumeJobRequest::default()
        };
        let limited = limited.encode_to_vec();
        assert_eq!(limits(Method::ResumeJob, &limited), "cost_limit_device_hours=2.5");
        assert_eq!(limits(Method::CancelJob, &bytes), "");
        // What is broken is no reason to fail: the handler says so.
        for length in 0..bytes.len() {
            let _ = text_field(&bytes[..length], 1);
        }
        for length in 0..limited.len() {
            let _ = limits(Method::ResumeJob, &limited[..length]);
        }
        assert_eq!(text_field(&[0xff; 40], 1), None);
        assert_eq!(text_field(&[], 1), None);
        let long = v1::CancelJobRequest {
            id: "ä".repeat(1000),
            reason: String::new(),
            ..v1::CancelJobRequest::default()
        };
        assert!(text_field(&long.encode_to_vec(), 1).unwrap().len() <= OBJECT_BYTES_MAX + 3);
    }
}
