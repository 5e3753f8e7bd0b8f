//! Workers and clients of the version before this coordinator's, and of the one after.
//!
//! What a later version adds to a message is a field that this one does not know; what an
//! earlier one lacks is a field that is left out. Messages are bytes here, so that both can be
//! sent whatever this version's types hold.

use std::marker::PhantomData;

use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::method::Method;
use cakes_proto::{WORKER_PROTOCOL, v1};
use prost::Message;
use prost::bytes::BufMut;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};
use uuid::Uuid;

use crate::harness::{Service, Worker, cpu, job_id, small_search, trainer_job};

/// Fields that no message of this version has.
#[derive(Clone, PartialEq, Message)]
struct Tomorrow {
    #[prost(string, tag = "900")]
    news: String,
    #[prost(message, optional, tag = "901")]
    more: Option<v1::Device>,
    #[prost(double, repeated, tag = "902")]
    figures: Vec<f64>,
}

/// A device as the version before wrote it.
#[derive(Clone, PartialEq, Message)]
struct DeviceOfYesterday {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    model: String,
    #[prost(uint64, tag = "3")]
    memory_mib: u64,
}

/// The bytes of a message of the version to come.
fn of_tomorrow(message: &impl Message) -> Vec<u8> {
    let tomorrow = Tomorrow { news: "yes".to_owned(), more: Some(cpu()), figures: vec![0.5, 1.5] };
    let mut bytes = message.encode_to_vec();
    // Two messages behind one another are one that has the fields of both.
    bytes.extend(tomorrow.encode_to_vec());
    bytes
}

/// Sends bytes, takes messages.
struct Bytes<T>(PhantomData<T>);

impl<T: Message + Default + 'static> Codec for Bytes<T> {
    type Encode = Vec<u8>;
    type Decode = T;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Bytes(PhantomData)
    }

    fn decoder(&mut self) -> Self {
        Bytes(PhantomData)
    }
}

impl<T> Encoder for Bytes<T> {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl<T: Message + Default> Decoder for Bytes<T> {
    type Item = T;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<T>, Status> {
        T::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

async fn call<T>(service: &Service, method: Method, bytes: Vec<u8>) -> Result<T, Status>
where
    T: Message + Default + Send + Sync + 'static,
{
    let mut grpc = tonic::client::Grpc::new(service.channel.clone());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(method.path());
    Ok(grpc.unary(Request::new(bytes), path, Bytes(PhantomData)).await?.into_inner())
}

/// A job from its registration to its result, and a client that submits and cancels.
#[sqlx::test(migrator = "MIGRATIONS")]
async fn what_a_later_version_says_beside_is_left_aside(pool: PgPool) {
    let service = Service::start(pool).await;
    let submitted: v1::SubmitSearchResponse =
        call(&service, Method::SubmitSearch, of_tomorrow(&small_search())).await.unwrap();
    let search = submitted.search.unwrap();
    let register = v1::RegisterRequest {
        protocol_version: WORKER_PROTOCOL,
        worker_id: "later".to_owned(),
        request_id: Uuid::new_v4().to_string(),
        devices: vec![cpu()],
        version: "99.0.0".to_owned(),
        ..Default::default()
    };
    let answer: v1::RegisterResponse =
        call(&service, Method::Register, of_tomorrow(&register)).await.unwrap();
    let acquire = v1::AcquireRequest {
        worker_id: "later".to_owned(),
        incarnation: answer.incarnation,
        request_id: Uuid::new_v4().to_string(),
        device: Some(cpu()),
        data_at_hand: Vec::new(),
    };
    let answer: v1::AcquireResponse = call(&service, Method::Acquire, of_tomorrow(&acquire)).await.unwrap();
    let grant = answer.grant.expect("a job");
    let token = grant.token.clone();
    let start = v1::StartRequest { token: token.clone() };
    let _: v1::StartResponse = call(&service, Method::Start, of_tomorrow(&start)).await.unwrap();
    let step = |step| v1::JobProgress {
        step,
        step_count: trainer_job(&grant).training.steps_total(),
        phase: "dreaming".to_owned(),
        ..v1::JobProgress::default()
    };
    let report = v1::ReportRequest {
        token: token.clone(),
        first_seq: 1,
        progress: Some(step(1)),
        ..Default::default()
    };
    let told: v1::ReportResponse = call(&service, Method::Report, of_tomorrow(&report)).await.unwrap();
    assert_eq!(told.desired(), v1::DesiredState::Run);
    let job = service.job(&job_id(&grant)).await;
    assert_eq!((job.state(), job.progress.unwrap().step), (v1::JobState::Running, 1));
    let cancel = v1::CancelSearchRequest { id: search.id.clone(), ..v1::CancelSearchRequest::default() };
    let cancelled: v1::Search = call(&service, Method::CancelSearch, of_tomorrow(&cancel)).await.unwrap();
    assert_eq!(cancelled.state(), v1::SearchState::Cancelled);
    let fail = v1::FailRequest {
        token,
        failure_class: v1::FailureClass::Cancelled.into(),
        message: "stopped".to_owned(),
    };
    let _: v1::FailResponse = call(&service, Method::Fail, of_tomorrow(&fail)).await.unwrap();
    assert_eq!(service.job(&job_id(&grant)).await.state(), v1::JobState::Cancelled);
}

/// What the baseline of the API lacks of a worker's messages, a whole job lacks here.
#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_worker_of_the_version_before_does_a_job(pool: PgPool) {
    let service = Service::start(pool).await;
    service.submit(small_search()).await;
    let v1::Device { name, model, memory_mib, .. } = cpu();
    let device = DeviceOfYesterday { name, model, memory_mib };
    // Behind what both versions have, the devices as the earlier one writes them: field 4 of both.
    let with_device = |mut bytes: Vec<u8>| {
        prost::encoding::message::encode(4, &device, &mut bytes);
        bytes
    };
    let register = v1::RegisterRequest {
        protocol_version: WORKER_PROTOCOL,
        worker_id: "earlier".to_owned(),
        request_id: Uuid::new_v4().to_string(),
        ..v1::RegisterRequest::default()
    };
    let answer: v1::RegisterResponse =
        call(&service, Method::Register, with_device(register.encode_to_vec())).await.unwrap();
    let incarnation = answer.incarnation;
    let acquire = v1::AcquireRequest {
        worker_id: "earlier".to_owned(),
        incarnation,
        request_id: Uuid::new_v4().to_string(),
        device: None,
        data_at_hand: Vec::new(),
    };
    let answer: v1::AcquireResponse =
        call(&service, Method::Acquire, with_device(acquire.encode_to_vec())).await.unwrap();
    let grant = answer.grant.expect("a job");
    let mut worker = Worker { client: service.workers(), id: "earlier".to_owned(), incarnation };
    worker.run(&grant, 0.5).await;
    assert_eq!(service.job(&job_id(&grant)).await.state(), v1::JobState::Succeeded);
}

/// What an earlier client takes of a later coordinator's answers.
#[test]
fn an_answer_of_a_later_version_is_read_by_this_one() {
    let job = v1::Job { id: "a".to_owned(), state: 99, ..v1::Job::default() };
    let read = v1::Job::decode(of_tomorrow(&job).as_slice()).unwrap();
    assert_eq!(read, job);
    assert_eq!(read.state(), v1::JobState::Unspecified, "a state that is not known");
    let told = v1::ReportResponse { ack_seq: 3, lease_ttl_ms: 1000, desired: 99, ..Default::default() };
    let read = v1::ReportResponse::decode(of_tomorrow(&told).as_slice()).unwrap();
    assert_eq!(read.desired(), v1::DesiredState::Unspecified, "which means to go on");
}
