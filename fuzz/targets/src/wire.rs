//! Messages between programs, and what a worker keeps of them.

use std::path::Path;

use cakes_proto::ids::LeaseToken;
use cakes_proto::v1;
use cakes_worker::journal::Record;
use cakes_worker::wire::Granted;
use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::choice;
use crate::place::lies_below;

/// What JSON can say of a message is the message: commands and grpcurl read what they print.
fn comes_back<T: Message + Default + Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(message) = T::decode(bytes)
        // It cannot say values of enums that have no name, nor times of no calendar.
        && let Ok(json) = serde_json::to_vec(&message)
    {
        let again: T = serde_json::from_slice(&json).expect("what is printed is read");
        assert_eq!(
            serde_json::to_vec(&again).ok().as_deref(),
            Some(json.as_slice()),
            "{}",
            String::from_utf8_lossy(&json)
        );
    }
    if let Ok(message) = serde_json::from_slice::<T>(bytes) {
        let wire = message.encode_to_vec();
        let again = T::decode(wire.as_slice()).expect("what is sent is read");
        assert_eq!(again.encoded_len(), wire.len());
    }
}

macro_rules! messages {
    ($($name:ident),+ $(,)?) => {
        const MESSAGES: &[fn(&[u8])] = &[$(comes_back::<v1::$name>),+];
    };
}

// Requests of more than ids and texts, and what answers are made of. Seeds choose by place: new
// ones stand at the end.
messages! {
    SubmitSearchRequest, ListSearchesRequest, WatchSearchRequest, DeriveArchitecturesRequest,
    GetParetoFrontRequest, LabelSearchRequest, ImportSearchRequest, SubmitRetrainRequest,
    ListJobsRequest, StreamJobLogsRequest, PinCheckpointRequest, ListMetricsRequest,
    LabelJobRequest, AddJobNoteRequest, EstimateCostRequest, ListArchitecturesRequest,
    SetProjectRequest, AddWebhookRequest, ListDeliveriesRequest, RegisterRequest, AcquireRequest,
    ReportRequest, CommitCheckpointRequest, CompleteRequest, FailRequest, ReconcileRequest, Search,
    Job, Architecture, ParetoFront, Grant, LatencyTable, SetProjectMemberRequest,
    RemoveProjectMemberRequest, ResumeJobRequest,
}

/// A byte that chooses a kind of message, and the message: for the wire, or as JSON.
pub fn messages(bytes: &[u8]) {
    let Some((kind, message)) = choice(bytes) else { return };
    if let Some(check) = MESSAGES.get(usize::from(kind)) {
        check(message);
    }
}

/// What a worker is granted: its folders lie where the coordinator's and its own are.
pub fn grant(bytes: &[u8]) {
    let Ok(wire) = v1::Grant::decode(bytes) else { return };
    let Ok(granted) = Granted::try_from(wire) else { return };
    let root = Path::new("/store");
    let prefix: &str = granted.artifact_prefix.as_ref();
    lies_below(root, &root.join(prefix));
    let again = LeaseToken::try_from(Some(v1::LeaseToken::from(granted.token)));
    assert_eq!(again, Ok(granted.token));
}

/// The record that a worker keeps of an attempt: a call that is made again after a restart is
/// the same call.
pub fn journal(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
    let json = serde_json::to_vec(&record).expect("a record is JSON");
    let again: Record = serde_json::from_slice(&json).expect("what is kept is read");
    assert_eq!(again, record);
    let _ = LeaseToken::try_from(Some(record.token));
}
