//! Attempts on slots of several workers.

use cakes::spec::CheckedSearch;
use cakes_coordinator::core::lease::{Desired, Policy, Verdict};
use cakes_coordinator::core::retry::FailureClass;
use cakes_coordinator::core::worker::{Device, Schedule};
use cakes_coordinator::store::attempts::{
    Acquisition, Grant, acquire, expire_leases, fail, gang, reconcile, start,
};
use cakes_coordinator::store::read::attempts::worker_of;
use cakes_coordinator::store::workers::{Registration, judge_all, register, schedule};
use cakes_coordinator::store::{Error, PgPool};
use cakes_proto::ids::{JobId, LeaseToken};
use uuid::Uuid;

use crate::support::{
    Worker, acquire_together, count, cpu, finish, let_leases_run_out, report_of, save, search_of,
    small_search, state, submit, tell, worker,
};

/// Whose supernet trains on two devices, of two slots if it must.
pub fn spread_search() -> CheckedSearch {
    let mut spec = search_of(&[0.5], &[1]).spec().clone();
    (spec.supernet.training.devices, spec.supernet.training.spread) = (2, true);
    CheckedSearch::new(spec).unwrap()
}

/// One whose slot may train with others'.
pub async fn joining(pool: &PgPool, name: &str) -> Worker {
    joining_with(pool, name, vec![cpu()]).await
}

pub async fn joining_with(pool: &PgPool, name: &str, devices: Vec<Device>) -> Worker {
    let registration = Registration {
        worker: name.parse().unwrap(),
        request_id: Uuid::new_v4(),
        devices,
        labels: "".parse().unwrap(),
        joins_gangs: true,
        version: "1.0.0".into(),
    };
    let incarnation = register(pool, &registration).await.unwrap();
    Worker { id: registration.worker, incarnation }
}

pub async fn supernet(pool: &PgPool) -> JobId {
    JobId(sqlx::query_scalar("select id from job where kind = 'supernet'").fetch_one(pool).await.unwrap())
}

/// As a round of the planner writes it.
pub async fn keep(pool: &PgPool, job: JobId, workers: &[&Worker]) {
    for worker in workers {
        sqlx::query("update worker set kept = jsonb_build_object('cpu', $2::uuid) where id = $1")
            .bind(worker.id.as_str())
            .bind(job.0)
            .execute(pool)
            .await
            .unwrap();
    }
}

pub async fn ask(pool: &PgPool, wish: &Acquisition) -> Option<Grant> {
    acquire(pool, &Policy::default(), wish).await.unwrap()
}

/// Two workers with the parts of a job: the leader's grant, and the other's.
async fn gang_of_two(pool: &PgPool) -> (JobId, [Worker; 2], Grant, Grant) {
    submit(pool, &spread_search()).await;
    let job = supernet(pool).await;
    let workers = [joining(pool, "a").await, joining(pool, "b").await];
    keep(pool, job, &[&workers[0], &workers[1]]).await;
    assert!(ask(pool, &workers[0].wish()).await.is_none());
    let follower = ask(pool, &workers[1].wish()).await.expect("the last wish makes the gang");
    let leader = ask(pool, &workers[0].wish()).await.expect("the other part waits for its slot");
    (job, workers, leader, follower)
}

/// Both run.
pub async fn started(pool: &PgPool) -> (JobId, [Worker; 2], Grant, Grant) {
    let (job, workers, leader, follower) = gang_of_two(pool).await;
    start(pool, &Policy::default(), leader.token).await.unwrap();
    assert_eq!(gang::start(pool, &Policy::default(), follower.token).await.unwrap(), None);
    (job, workers, leader, follower)
}

async fn renew(pool: &PgPool, token: LeaseToken) -> Result<gang::Renewal, Error> {
    gang::renew(pool, &Policy::default(), token).await
}

fn is_lost<T: std::fmt::Debug>(answer: &Result<T, Error>) -> bool {
    matches!(answer, Err(Error::LeaseLost { .. }))
}

/// Nothing of an attempt lives.
async fn assert_ended(pool: &PgPool, leader: LeaseToken, follower: LeaseToken) {
    assert_eq!(count(pool, "select count(*) from attempt_lease").await, 0);
    assert_eq!(count(pool, "select count(*) from attempt_member where state <> 'ended'").await, 0);
    assert_eq!(count(pool, "select count(*) from live_slot").await, 0);
    assert!(is_lost(&tell(pool, &report_of(leader, 1, 1, 1)).await));
    assert!(is_lost(&renew(pool, follower).await));
    assert!(is_lost(&gang::start(pool, &Policy::default(), follower).await));
    assert!(is_lost(&gang::tell(pool, leader, "10.0.0.1:7000").await));
}

#[sqlx::test(migrations = "../migrations")]
async fn the_last_wish_makes_all_of_a_gang_and_nobody_has_half_of_one(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let job = supernet(&pool).await;
    let (a, b) = (joining(&pool, "a").await, joining(&pool, "b").await);
    keep(&pool, job, &[&a, &b]).await;
    let of_a = a.wish();
    assert!(ask(&pool, &of_a).await.is_none());
    assert_eq!(state(&pool, job).await, "queued");
    assert_eq!(count(&pool, "select count(*) from attempt").await, 0);
    let of_b = b.wish();
    let follower = ask(&pool, &of_b).await.unwrap();
    assert_eq!(state(&pool, job).await, "leased");
    let rows = "select (select count(*) from attempt) * 100 + (select count(*) from attempt_member) * 10
        + (select count(*) from attempt_lease)";
    assert_eq!(count(&pool, rows).await, 122, "an attempt of two members, each with a lease");
    assert_eq!(count(&pool, "select member_count::bigint from attempt").await, 2);
    // The other one asks again, as it always does, and again.
    let again = a.wish();
    let leader = ask(&pool, &again).await.unwrap();
    assert_eq!(ask(&pool, &again).await, Some(leader.clone()), "a repetition");
    assert_eq!(ask(&pool, &of_b).await, Some(follower.clone()), "a repetition");
    let other = ask(&pool, &a.wish()).await;
    assert!(other.is_none_or(|grant| grant.token.job != job), "its part is handed out once");
    assert_eq!(follower.token, LeaseToken { member: 1, ..leader.token });
    let seat = |grant: &Grant| {
        let seat = grant.seat.unwrap();
        (seat.member, seat.member_count, seat.first_rank, seat.device_count, seat.world_size)
    };
    assert_eq!((seat(&leader), seat(&follower)), ((0, 2, 0, 1, 2), (1, 2, 1, 1, 2)));
    assert_eq!(leader.artifact_prefix, follower.artifact_prefix);
    for (token, worker) in [(leader.token, &a), (follower.token, &b)] {
        assert_eq!(worker_of(&pool, token).await.unwrap().as_ref(), Some(&worker.id));
    }
    let third = LeaseToken { member: 2, ..leader.token };
    assert_eq!(worker_of(&pool, third).await.unwrap(), None);
}

#[sqlx::test(migrations = "../migrations")]
async fn wishes_of_one_transaction_make_a_gang_at_once(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let job = supernet(&pool).await;
    let (a, b) = (joining(&pool, "a").await, joining(&pool, "b").await);
    keep(&pool, job, &[&a, &b]).await;
    let answers = acquire_together(&pool, &[a.wish(), b.wish()]).await;
    let members: Vec<i16> = answers
        .into_iter()
        .map(|answer| answer.unwrap().unwrap().expect("a part each").token.member)
        .collect();
    assert_eq!(members, [0, 1]);
}

/// As one who ends the attempt does for a moment.
#[sqlx::test(migrations = "../migrations")]
async fn a_part_that_somebody_is_at_is_left_to_a_call_of_its_own(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let job = supernet(&pool).await;
    let (a, b) = (joining(&pool, "a").await, joining(&pool, "b").await);
    keep(&pool, job, &[&a, &b]).await;
    assert!(ask(&pool, &a.wish()).await.is_none());
    assert!(ask(&pool, &b.wish()).await.is_some());
    let mut held = pool.begin().await.unwrap();
    sqlx::query("select from attempt_member where member = 0 for update").execute(&mut *held).await.unwrap();
    assert!(acquire_together(&pool, &[a.wish()]).await[0].is_none(), "nobody waits for it");
    held.rollback().await.unwrap();
    let answers = acquire_together(&pool, &[a.wish()]).await;
    assert!(matches!(answers[..], [Some(Ok(Some(_)))]), "{answers:?}");
}

#[sqlx::test(migrations = "../migrations")]
async fn no_gang_is_made_of_old_wishes_busy_slots_or_workers_that_do_not_join(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let job = supernet(&pool).await;
    let (a, b) = (joining(&pool, "a").await, joining(&pool, "b").await);
    keep(&pool, job, &[&a, &b]).await;
    let run = async |statement: &'static str| {
        sqlx::query(statement).execute(&pool).await.unwrap();
    };

    assert!(ask(&pool, &a.wish()).await.is_none());
    run("update gang_wish set wish_time = wish_time - interval '10 s'").await;
    assert!(ask(&pool, &b.wish()).await.is_none(), "nobody knows whether the other still asks");

    run("update worker set joins_gangs = false where id = 'a'").await;
    assert!(ask(&pool, &a.wish()).await.is_none());
    run("update worker set joins_gangs = true").await;

    schedule(&pool, &b.id, Schedule::Cordoned).await.unwrap();
    assert!(ask(&pool, &a.wish()).await.is_none());
    schedule(&pool, &b.id, Schedule::Ready).await.unwrap();

    // The planner has changed its mind; the slot takes another job, the baseline.
    run("update worker set kept = '{}' where id = 'b'").await;
    assert!(ask(&pool, &a.wish()).await.is_none());
    let other = ask(&pool, &b.wish()).await.expect("it is free for others");
    assert_ne!(other.token.job, job);
    keep(&pool, job, &[&b]).await;
    run("update gang_wish set wish_time = clock_timestamp()").await;
    assert!(ask(&pool, &a.wish()).await.is_none(), "the other slot has a job");
    assert_eq!(count(&pool, "select count(*) from attempt_member").await, 0);
    fail(&pool, &Policy::default(), other.token, FailureClass::Lost, "handed back").await.unwrap();
    assert!(ask(&pool, &a.wish()).await.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn all_devices_of_a_gang_count_against_the_quota(pool: PgPool) {
    submit(&pool, &spread_search()).await;
    let job = supernet(&pool).await;
    let (a, b) = (joining(&pool, "a").await, joining(&pool, "b").await);
    keep(&pool, job, &[&a, &b]).await;
    let quota = async |devices: i32| {
        let statement = "update project set device_quota = $1";
        sqlx::query(statement).bind(devices).execute(&pool).await.unwrap();
    };
    quota(1).await;
    for worker in [&a, &b] {
        assert!(ask(&pool, &worker.wish()).await.is_none());
    }
    quota(2).await;
    assert!(ask(&pool, &a.wish()).await.is_some());
}

#[sqlx::test(migrations = "../migrations")]
async fn members_start_and_renew_for_themselves_and_learn_where_the_ranks_meet(pool: PgPool) {
    let (job, _, leader, follower) = gang_of_two(&pool).await;
    let early = renew(&pool, follower.token).await;
    assert!(matches!(early, Err(Error::Refused(_))), "{early:?}");
    assert_eq!(gang::start(&pool, &Policy::default(), follower.token).await.unwrap(), None);
    assert_eq!(state(&pool, job).await, "leased", "it runs when its leader does");
    // Whoever starts renews the own lease alone.
    let long = "select count(*) from attempt_lease where deadline > clock_timestamp() + interval '50 s'";
    assert_eq!(count(&pool, long).await, 1);
    start(&pool, &Policy::default(), leader.token).await.unwrap();
    assert_eq!(state(&pool, job).await, "running");
    assert_eq!(count(&pool, long).await, 2);
    let running = "select count(*) from attempt_member where state = 'running'";
    assert_eq!(count(&pool, running).await, 2);

    let_leases_run_out(&pool).await;
    tell(&pool, &report_of(leader.token, 1, 1, 1)).await.unwrap();
    assert_eq!(count(&pool, long).await, 1, "a report is the leader's sign of life");
    let told = renew(&pool, follower.token).await.unwrap();
    assert_eq!(told, gang::Renewal { desired: Desired::Run, address: None });
    assert_eq!(count(&pool, long).await, 2);

    gang::tell(&pool, leader.token, "10.0.0.1:7000").await.unwrap();
    gang::tell(&pool, leader.token, "10.0.0.1:7000").await.unwrap();
    let address = Some("10.0.0.1:7000".to_owned());
    assert_eq!(renew(&pool, follower.token).await.unwrap().address, address);
    assert_eq!(gang::start(&pool, &Policy::default(), follower.token).await.unwrap(), address, "again");

    let forged = LeaseToken { nonce: cakes_proto::ids::Nonce([7; 16]), ..follower.token };
    assert!(is_lost(&renew(&pool, forged).await));
    assert!(is_lost(&gang::start(&pool, &Policy::default(), forged).await));
    assert!(is_lost(&renew(&pool, LeaseToken { member: 2, ..follower.token }).await));
}

#[sqlx::test(migrations = "../migrations")]
async fn a_result_of_the_leader_ends_all_members(pool: PgPool) {
    let (job, _, leader, follower) = started(&pool).await;
    finish(&pool, &leader, &spread_search()).await;
    assert_eq!(state(&pool, job).await, "succeeded");
    assert_ended(&pool, leader.token, follower.token).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn the_silence_of_any_member_ends_the_attempt_and_it_goes_on_from_the_checkpoint(pool: PgPool) {
    let (job, workers, leader, follower) = started(&pool).await;
    save(&pool, &leader, 4).await;
    tell(&pool, &report_of(leader.token, 1, 1, 4)).await.unwrap();
    follower_falls_silent(&pool).await;
    assert_eq!(expire_leases(&pool, &Policy::default()).await.unwrap(), 1);
    assert_eq!(state(&pool, job).await, "queued");
    let why: String = sqlx::query_scalar("select end_reason || ': ' || message from attempt")
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(why, "lease expired: member 1 (worker b): worker b was not heard of for too long");
    assert_ended(&pool, leader.token, follower.token).await;

    let at_once = "update job set run_after = null, avoid_worker_id = null, avoid_until = null";
    sqlx::query(at_once).execute(&pool).await.unwrap();
    let [a, b] = &workers;
    assert!(ask(&pool, &b.wish()).await.is_none());
    let leader = ask(&pool, &a.wish()).await.unwrap();
    let follower = ask(&pool, &b.wish()).await.unwrap();
    let steps = [&leader, &follower].map(|grant| grant.resume_from.as_ref().map(|saved| saved.step));
    assert_eq!(steps, [Some(4); 2], "all members load the same checkpoint");
    assert_eq!((leader.token.epoch, leader.token.member, follower.token.member), (2, 0, 1));
}

/// Its lease runs out, and that of nobody else.
pub async fn follower_falls_silent(pool: &PgPool) {
    let silent = "update attempt_lease set deadline = clock_timestamp() - interval '1 s' where member = 1";
    sqlx::query(silent).execute(pool).await.unwrap();
}

/// Only the leader has still to validate, save and complete.
#[sqlx::test(migrations = "../migrations")]
async fn a_member_that_is_lost_behind_the_last_step_does_not_end_the_attempt(pool: PgPool) {
    let (job, _, leader, follower) = started(&pool).await;
    tell(&pool, &report_of(leader.token, 1, 0, 10)).await.unwrap();
    follower_falls_silent(&pool).await;
    assert_eq!(expire_leases(&pool, &Policy::default()).await.unwrap(), 0);
    assert_eq!(state(&pool, job).await, "running");
    assert!(is_lost(&renew(&pool, follower.token).await));
    assert_eq!(count(&pool, "select count(*) from live_slot").await, 1, "its slot is free");
    // Its daemon comes back.
    let failed = async |class, message| fail(&pool, &Policy::default(), follower.token, class, message).await;
    failed(FailureClass::Lost, "the worker shuts down").await.unwrap();
    assert!(is_lost(&failed(FailureClass::Infrastructure, "its disk is full").await));
    finish(&pool, &leader, &spread_search()).await;
    assert_eq!(state(&pool, job).await, "succeeded");
    assert_ended(&pool, leader.token, follower.token).await;
}

/// Its ranks may not even have met.
#[sqlx::test(migrations = "../migrations")]
async fn an_attempt_that_begins_behind_the_last_step_needs_all_its_members(pool: PgPool) {
    let (job, [a, b], leader, _) = started(&pool).await;
    save(&pool, &leader, 10).await;
    tell(&pool, &report_of(leader.token, 1, 0, 10)).await.unwrap();
    fail(&pool, &Policy::default(), leader.token, FailureClass::Lost, "gone").await.unwrap();
    assert!(ask(&pool, &b.wish()).await.is_none());
    let leader = ask(&pool, &a.wish()).await.unwrap();
    let follower = ask(&pool, &b.wish()).await.unwrap();
    start(&pool, &Policy::default(), leader.token).await.unwrap();
    gang::start(&pool, &Policy::default(), follower.token).await.unwrap();
    follower_falls_silent(&pool).await;
    assert_eq!(expire_leases(&pool, &Policy::default()).await.unwrap(), 1);
    assert_eq!(state(&pool, job).await, "queued");
    assert_ended(&pool, leader.token, follower.token).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_member_that_never_starts_is_an_offer_that_ran_out(pool: PgPool) {
    let (job, _, leader, follower) = gang_of_two(&pool).await;
    start(&pool, &Policy::default(), leader.token).await.unwrap();
    let_leases_run_out(&pool).await;
    tell(&pool, &report_of(leader.token, 1, 1, 1)).await.unwrap();
    assert_eq!(expire_leases(&pool, &Policy::default()).await.unwrap(), 1);
    assert_eq!(state(&pool, job).await, "queued");
    let offers = "select count(*) from attempt where end_reason = 'offer expired'";
    assert_eq!(count(&pool, offers).await, 1);
    assert_ended(&pool, leader.token, follower.token).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn any_member_may_fail_for_all_and_is_named(pool: PgPool) {
    let (job, _, leader, follower) = started(&pool).await;
    let class = FailureClass::Infrastructure;
    let stranger = LeaseToken { member: 2, ..follower.token };
    assert!(is_lost(&fail(&pool, &Policy::default(), stranger, class, "no").await));
    for _ in 0..2 {
        fail(&pool, &Policy::default(), follower.token, class, "its disk is full").await.unwrap();
    }
    assert_eq!(state(&pool, job).await, "queued");
    let (message, avoided, by): (String, String, i16) = sqlx::query_as(
        "select attempt.message, job.avoid_worker_id, attempt.ended_by
         from attempt join job on job.id = attempt.job_id",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(message, "member 1 (worker b): its disk is full");
    assert_eq!((avoided.as_str(), by), ("b", 1), "it keeps away from the machine that failed");
    assert_ended(&pool, leader.token, follower.token).await;
}

/// Two members of whom one more fault of their machines makes a suspect, while another worker
/// gets on.
async fn on_probation(pool: &PgPool) -> (Grant, Grant) {
    let (_, _, leader, follower) = started(pool).await;
    sqlx::query("update worker set suspect_count = 1").execute(pool).await.unwrap();
    submit(pool, &small_search()).await;
    let other = worker(pool, "c").await.begin(pool).await;
    tell(pool, &report_of(other.token, 1, 1, 3)).await.unwrap();
    (leader, follower)
}

#[sqlx::test(migrations = "../migrations")]
async fn a_fault_of_a_member_is_held_against_its_own_machine_alone(pool: PgPool) {
    let (_, follower) = on_probation(&pool).await;
    let class = FailureClass::Infrastructure;
    fail(&pool, &Policy::default(), follower.token, class, "its disk is full").await.unwrap();
    assert_eq!(judge_all(&pool).await.unwrap(), 1);
    let suspects = "select count(*) from worker where suspect_until is not null and id = 'b'";
    assert_eq!(count(&pool, suspects).await, 1);
}

#[sqlx::test(migrations = "../migrations")]
async fn whoever_only_lost_the_others_is_no_suspect(pool: PgPool) {
    let (leader, _) = on_probation(&pool).await;
    let message = "training together: connection closed by peer";
    fail(&pool, &Policy::default(), leader.token, FailureClass::Lost, message).await.unwrap();
    assert_eq!(judge_all(&pool).await.unwrap(), 0);
}

#[sqlx::test(migrations = "../migrations")]
async fn whoever_drains_stops_all_and_it_counts_as_asked(pool: PgPool) {
    let (job, workers, leader, follower) = started(&pool).await;
    let of_leader =
        async |seq: i64| tell(&pool, &report_of(leader.token, seq, 1, seq)).await.unwrap().desired;
    assert_eq!(of_leader(1).await, Desired::Run);
    schedule(&pool, &workers[1].id, Schedule::Draining).await.unwrap();
    assert_eq!(renew(&pool, follower.token).await.unwrap().desired, Desired::Yield);
    assert_eq!(of_leader(2).await, Desired::Yield, "the leader saves");
    fail(&pool, &Policy::default(), leader.token, FailureClass::Lost, "handed back").await.unwrap();
    let handed_back = "select count(*) from attempt where end_reason = 'handed back'";
    assert_eq!(count(&pool, handed_back).await, 1);
    assert_eq!(state(&pool, job).await, "queued");
    assert_ended(&pool, leader.token, follower.token).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_restarted_daemon_keeps_its_part_or_ends_the_attempt(pool: PgPool) {
    let (job, _, leader, follower) = started(&pool).await;
    let restarted = joining(&pool, "b").await;
    let settle = async |tokens: &[LeaseToken]| {
        let (policy, id) = (Policy::default(), &restarted.id);
        reconcile(&pool, &policy, id, restarted.incarnation, tokens).await.unwrap()
    };
    // The leader's token is not its own.
    assert_eq!(settle(&[follower.token, leader.token]).await, [Verdict::Keep, Verdict::Kill]);
    assert!(renew(&pool, follower.token).await.is_ok());
    let again = joining(&pool, "b").await;
    let verdicts = reconcile(&pool, &Policy::default(), &again.id, again.incarnation, &[]).await.unwrap();
    assert!(verdicts.is_empty());
    assert_eq!(state(&pool, job).await, "queued");
    let why: String = sqlx::query_scalar("select message from attempt").fetch_one(&pool).await.unwrap();
    assert_eq!(why, "member 1 (worker b): worker b was restarted");
    assert_ended(&pool, leader.token, follower.token).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn an_attempt_of_one_slot_has_no_members(pool: PgPool) {
    submit(&pool, &search_of(&[0.5], &[1])).await;
    let worker = joining(&pool, "a").await;
    let grant = worker.begin(&pool).await;
    assert_eq!(grant.seat, None);
    assert_eq!(count(&pool, "select count(*) from attempt_member").await, 0);
    let stranger = LeaseToken { member: 1, ..grant.token };
    assert!(is_lost(&renew(&pool, stranger).await));
    assert!(is_lost(&gang::start(&pool, &Policy::default(), stranger).await));
    let class = FailureClass::Lost;
    assert!(is_lost(&fail(&pool, &Policy::default(), stranger, class, "no").await));
    assert_eq!(state(&pool, grant.token.job).await, "running");
}
