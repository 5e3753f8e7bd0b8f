//! Members of a gang on the wire.

use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::v1;
use tonic::Code;

use crate::harness::{Service, Worker, fields, now, refused, small_search};

async fn report(worker: &mut Worker, request: v1::ReportRequest) -> Result<v1::ReportResponse, Code> {
    let answer = worker.client.report(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| status.code())
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn members_speak_for_themselves_and_the_leader_for_all(pool: PgPool) {
    let service = Service::start(pool.clone()).await;
    let mut search = small_search();
    let supernet = search.search.as_mut().and_then(|search| search.supernet.as_mut()).unwrap();
    let training = supernet.training.as_mut().unwrap();
    (training.devices, training.batch_size, training.spread) = (Some(2), Some(2), true);
    service.submit(search).await;
    let (mut a, mut b) =
        (Worker::register_joining(&service, "a").await, Worker::register_joining(&service, "b").await);
    let keep = "update worker set kept =
        jsonb_build_object('cpu', (select id from job where kind = 'supernet'))";
    sqlx::query(keep).execute(&pool).await.unwrap();

    assert_eq!(a.ask().await, None);
    let follows = b.ask().await.unwrap();
    let leads = a.ask().await.unwrap();
    let seat = v1::GangSeat { member_count: 2, first_rank: 1, rank_count: 1, world_size: 2 };
    assert_eq!((follows.gang, leads.gang.map(|seat| seat.first_rank)), (Some(seat), Some(0)));
    assert_eq!(follows.token.as_ref().map(|token| token.member), Some(1));
    let of_b = v1::ReportRequest { token: follows.token.clone(), ..Default::default() };
    let of_a = v1::ReportRequest { token: leads.token.clone(), ..Default::default() };

    // What is the leader's alone.
    let line = v1::LogLine { time: now(), text: "no".to_owned(), ..Default::default() };
    let entry = v1::ReportEntry { entry: Some(v1::report_entry::Entry::Log(line)) };
    let (progress, address) = (Some(v1::JobProgress::default()), "10.0.0.2:7000".to_owned());
    for (field, wrong) in [
        ("entries", v1::ReportRequest { first_seq: 1, entries: vec![entry], ..of_b.clone() }),
        ("progress", v1::ReportRequest { progress, ..of_b.clone() }),
        ("rendezvous_address", v1::ReportRequest { rendezvous_address: address, ..of_b.clone() }),
    ] {
        assert_eq!(fields(&refused(b.client.report(wrong).await, Code::InvalidArgument)), [field]);
    }
    let checkpoint = v1::CheckpointReference {
        key: format!("{}/step-000000001", follows.artifact_prefix),
        step: 1,
        manifest_sha256: "ab".repeat(32),
    };
    let commit = v1::CommitCheckpointRequest {
        token: follows.token.clone(),
        checkpoint: Some(checkpoint.clone()),
        bytes: 1,
    };
    let status = refused(b.client.commit_checkpoint(commit).await, Code::InvalidArgument);
    assert_eq!(fields(&status), ["token.member"]);
    let complete = v1::CompleteRequest {
        token: follows.token.clone(),
        checkpoint: Some(checkpoint),
        ..Default::default()
    };
    let status = refused(b.client.complete(complete).await, Code::InvalidArgument);
    assert_eq!(fields(&status), ["token.member"]);

    a.client.start(v1::StartRequest { token: leads.token.clone() }).await.unwrap();
    for wrong in ["nowhere", "10.0.0.1:", "10.0.0.1:0", ":7000", "--out:7000", "a b:7000", "http://a:7000"] {
        let told = v1::ReportRequest { rendezvous_address: wrong.to_owned(), ..of_a.clone() };
        assert_eq!(report(&mut a, told).await.unwrap_err(), Code::InvalidArgument, "{wrong}");
    }
    let told = v1::ReportRequest { rendezvous_address: "10.0.0.1:7000".to_owned(), ..of_a.clone() };
    assert_eq!(report(&mut a, told).await.unwrap().rendezvous_address, "", "it knows");
    let start = v1::StartRequest { token: follows.token.clone() };
    assert_eq!(b.client.start(start).await.unwrap().into_inner().rendezvous_address, "10.0.0.1:7000");
    let answer = report(&mut b, of_b.clone()).await.unwrap();
    assert_eq!(
        (answer.rendezvous_address.as_str(), answer.desired()),
        ("10.0.0.1:7000", v1::DesiredState::Run)
    );

    let fail = v1::FailRequest {
        token: follows.token,
        failure_class: v1::FailureClass::Infrastructure.into(),
        message: "its disk is full".to_owned(),
    };
    b.client.fail(fail).await.unwrap();
    assert_eq!(report(&mut a, of_a).await.unwrap_err(), Code::FailedPrecondition);
    assert_eq!(report(&mut b, of_b).await.unwrap_err(), Code::FailedPrecondition);
}
