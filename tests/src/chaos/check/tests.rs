//! Each kind of damage is found: rows as they should be, then broken one by one.

use std::time::{Duration, Instant};

use cakes_proto::v1::LeaseToken;

use super::*;
use crate::chaos::history::History;
use crate::chaos::machine::{first_postgres, open_folder};
use crate::fake::{Call, Fact, Recorder, Refusal, Told};

const JOB: &str = "0190f3a0-0000-7000-8000-000000000001";

/// Trained on slots of two workers, of which one was lost.
const GANG: &str = "0190f3a0-0000-7000-8000-000000000002";

const ROWS: &str = r#"
insert into architecture (digest, spec) values (repeat('a', 64), '{}');
insert into search (id, name, spec, state, request_id, request_hash, end_time)
    values ('0190f3a0-0000-7000-8000-00000000000a', 's', '{}', 'succeeded', 'search', decode(repeat('00', 32), 'hex'), now());
insert into job (id, task, kind, label, architecture_digest, seed, trainer_job, step_count, state, epoch, request_id,
    request_hash, end_time, checkpoint_epoch, checkpoint_step)
    values ('JOB', 'segmentation', 'retrain', 'j', repeat('a', 64), 1, '{}', 2, 'succeeded', 2, 'job', decode(repeat('00', 32), 'hex'), now(), 2, 2);
insert into worker (id, incarnation, devices, version, register_request_id) values ('fake-1', 1, '[]', '', gen_random_uuid());
insert into metric (job_id, epoch, seq, key, step, value, time) values
    ('JOB', 1, 1, 'train/loss', 1, 0.5, now()), ('JOB', 2, 1, 'train/loss', 2, 1 / 3.0::float8, now());
insert into attempt (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id, state, last_step, last_seq,
    end_reason, grant_time, start_time, end_time)
    values ('JOB', 1, decode(repeat('01', 16), 'hex'), 'fake-1', 1, 'cpu', gen_random_uuid(), 'ended', 1, 1,
        'lease expired', now() - interval '9 s', now(), now() - interval '5 s');
insert into checkpoint (job_id, epoch, step, key, manifest_sha256, bytes) values ('JOB', 1, 1, 'k1', repeat('a', 64), 1);
insert into attempt (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id, state, resume_epoch,
    resume_step, last_step, last_seq, end_reason, grant_time, start_time, end_time)
    values ('JOB', 2, decode(repeat('02', 16), 'hex'), 'fake-1', 1, 'cpu', gen_random_uuid(), 'ended', 1, 1, 2, 1,
        'succeeded', now() - interval '4 s', now(), now());
insert into checkpoint (job_id, epoch, step, key, manifest_sha256, bytes) values ('JOB', 2, 2, 'k2', repeat('a', 64), 1);
insert into result (job_id, epoch, last_seq, content_hash, checkpoint_epoch, checkpoint_step, mean_dice, dice_per_class,
    quality, quality_metric, param_count, mac_count, peak_memory_mib, train_duration_s, device)
    values ('JOB', 2, 1, decode(repeat('00', 32), 'hex'), 2, 2, 0.5, array[0.5], 0.5, 'mean_dice', 1, 1, 1, 1, 'cpu');
insert into event (kind, job_id, epoch) values ('job_leased', 'JOB', 1), ('job_requeued', 'JOB', 1),
    ('job_leased', 'JOB', 2), ('job_succeeded', 'JOB', 2);
insert into job (id, task, kind, label, architecture_digest, seed, trainer_job, step_count, state, epoch, request_id,
    request_hash, end_time, spreads)
    values ('GANG', 'segmentation', 'retrain', 'g', repeat('a', 64), 1, '{"training": {"devices": 2}}', 2, 'failed', 1,
        'gang', decode(repeat('00', 32), 'hex'), now(), true);
insert into worker (id, incarnation, devices, version, register_request_id) values
    ('fake-2', 1, '[]', '', gen_random_uuid()), ('fake-3', 1, '[]', '', gen_random_uuid());
insert into attempt (job_id, epoch, nonce, worker_id, incarnation, device, acquire_request_id, state, end_reason,
    failure_class, grant_time, start_time, end_time, member_count, ended_by)
    values ('GANG', 1, decode(repeat('03', 16), 'hex'), 'fake-2', 1, 'cpu', gen_random_uuid(), 'ended', 'lease expired',
        'lost', now() - interval '7 s', now(), now() - interval '3 s', 2, 1);
insert into attempt_member (job_id, epoch, member, worker_id, incarnation, device, device_count, first_rank, state,
    end_time) values
    ('GANG', 1, 0, 'fake-2', 1, 'cpu', 1, 0, 'ended', now() - interval '3 s'),
    ('GANG', 1, 1, 'fake-3', 1, 'cpu', 1, 1, 'ended', now() - interval '3 s');
insert into event (kind, job_id, epoch, body) values ('job_leased', 'GANG', 1, '{"device": "cpu", "members": [
    {"worker": "fake-2", "device": "cpu"}, {"worker": "fake-3", "device": "cpu"}]}');
-- As a report or an end of an attempt, which comes behind all its rows.
update attempt set last_seq = last_seq;
"#;

/// What is broken, and a part of what must be said of it.
const DAMAGE: [(&str, &str); 18] = [
    (
        "update attempt set member_count = 3 where job_id = 'GANG'",
        "lost: a gang that was not granted as a whole",
    ),
    (
        "update attempt_member set device = 'cuda:0' where member = 1",
        "lost: a gang of other slots than were granted",
    ),
    (
        "update attempt_member set device = 'cpu', worker_id = 'fake-4' where member = 1",
        "lost: member 1 is stored for another",
    ),
    (
        "update attempt_member set worker_id = 'fake-1' where member = 1",
        "duplicated: a gang on a slot that another attempt had",
    ),
    (
        "update attempt_member set end_time = now() where member = 1",
        "zombie: a member that outlived its attempt",
    ),
    (
        "insert into attempt_lease (job_id, epoch, member, deadline) values ('GANG', 1, 1, now())",
        "zombie: a lease that outlived its attempt",
    ),
    ("update attempt_member set state = 'running' where member = 1", "stuck: a member that does not end"),
    ("update result set last_seq = last_seq", "zombie: a result stored behind its attempt's end"),
    ("delete from metric where epoch = 2", "lost: entries with gaps"),
    (
        "insert into metric (job_id, epoch, seq, key, step, value, time)
         values ('JOB', 2, 1, 'train/loss', 2, 7, now())",
        "zombie: an entry stored behind its attempt's end",
    ),
    ("update metric set value = 8 where epoch = 1", "lost: a fake's entry holds something else"),
    (
        "update attempt set resume_step = 0, resume_epoch = null where epoch = 2",
        "lost: an attempt that does not go on",
    ),
    (
        "insert into event (kind, job_id, epoch) values ('job_leased', 'JOB', 2)",
        "duplicated: a grant that was noted twice",
    ),
    (
        "update attempt set end_time = now() + interval '1 h' where epoch = 1",
        "zombie: an attempt that lived on",
    ),
    ("update job set request_id = 'other' where id = 'JOB'", "lost: job was acknowledged"),
    ("delete from result", "lost: a completion is not stored"),
    ("update attempt set last_seq = 0 where epoch = 2", "lost: entry 1 was acknowledged"),
    ("update job set state = 'queued', end_time = null", "stuck: a job that does not end"),
];

/// What must not be seen while it runs, one after the other behind what is broken above.
const SEEN: [(&str, &str); 3] = [
    ("update attempt_lease set deadline = now()", "a member, or its lease, behind the end of its attempt"),
    ("delete from attempt_lease", "a member without a lease, or the reverse"),
    (
        "update attempt set state = 'offered', end_time = null, end_reason = null where job_id = 'GANG'",
        "a part of a gang",
    ),
];

fn told(history: &History, epoch: u64, call: Call, fact: Fact) {
    let token =
        LeaseToken { job_id: JOB.to_owned(), epoch, nonce: format!("0{epoch}").repeat(16), member: 0 };
    told_of(history, "fake-1", token, call, fact);
}

/// Of a member of the gang.
fn part_told(history: &History, member: u32, call: Call, fact: Fact) {
    let token = LeaseToken { job_id: GANG.to_owned(), epoch: 1, nonce: "03".repeat(16), member };
    told_of(history, &format!("fake-{}", member + 2), token, call, fact);
}

fn told_of(history: &History, worker: &str, token: LeaseToken, call: Call, fact: Fact) {
    let fact = match fact {
        Fact::Granted { .. } => Fact::Granted { token: Some(token.clone()) },
        fact => fact,
    };
    history.told(Told {
        worker: worker.to_owned(),
        incarnation: 1,
        server: 0,
        token: Some(token),
        call,
        sent_at: Instant::now(),
        took: Duration::ZERO,
        answer: Ok(fact),
    });
}

fn history() -> History {
    let history = History::default();
    history.submitted("job", false, JOB);
    history.submitted("gang", false, GANG);
    history.submitted("search", true, "0190f3a0-0000-7000-8000-00000000000a");
    for epoch in [1, 2] {
        told(&history, epoch, acquire(), Fact::Granted { token: None });
        told(&history, epoch, Call::Report { first_seq: 1, entry_count: 1, step: epoch }, stored(1));
        told(&history, epoch, Call::Commit { key: format!("k{epoch}"), step: epoch }, Fact::Committed);
    }
    told(&history, 2, Call::Complete { last_seq: 1, step: 2 }, Fact::Completed);
    for member in [0, 1] {
        part_told(&history, member, acquire(), Fact::Granted { token: None });
        part_told(&history, member, Call::Start, Fact::Started { lease_ttl: Duration::ZERO });
    }
    part_told(&history, 1, NOTHING_NEW, stored(0));
    history
}

/// A report without entries, as of a member that follows.
const NOTHING_NEW: Call = Call::Report { first_seq: 1, entry_count: 0, step: 0 };

fn acquire() -> Call {
    Call::Acquire { request_id: String::new() }
}

fn stored(ack_seq: u64) -> Fact {
    Fact::Stored { ack_seq, lease_ttl: Duration::ZERO, desired: cakes_proto::v1::DesiredState::Run }
}

fn words(findings: &Findings) -> Vec<String> {
    let kinds = [
        ("lost", &findings.lost),
        ("duplicated", &findings.duplicated),
        ("zombie", &findings.zombie_writes),
        ("stuck", &findings.stuck),
    ];
    let words =
        kinds.into_iter().flat_map(|(kind, list)| list.iter().map(move |text| format!("{kind}: {text}")));
    words.collect()
}

#[test]
fn a_member_that_does_not_lead_saves_and_reports_nothing() {
    let words = |call: Call, fact: Fact| {
        let history = history();
        part_told(&history, 1, call, fact);
        history.contradictions()
    };
    assert_eq!(words(NOTHING_NEW, stored(0)), [""; 0]);
    let report = Call::Report { first_seq: 1, entry_count: 1, step: 1 };
    let commit = Call::Commit { key: "k3".to_owned(), step: 1 };
    let complete = Call::Complete { last_seq: 1, step: 2 };
    for (call, fact) in [(report, stored(1)), (commit, Fact::Committed), (complete, Fact::Completed)] {
        assert_eq!(words(call.clone(), fact).len(), 1, "{call:?}");
    }
}

#[test]
fn a_member_that_was_refused_is_not_heard_again() {
    let history = history();
    let grant = (GANG.parse().unwrap(), 1);
    let zombies = || history.attempt(grant).map(|told| told.zombies()).unwrap_or_default();
    let token = LeaseToken { job_id: GANG.to_owned(), epoch: 1, nonce: "03".repeat(16), member: 1 };
    history.told(Told {
        worker: "fake-3".to_owned(),
        incarnation: 1,
        server: 0,
        token: Some(token),
        call: NOTHING_NEW,
        sent_at: Instant::now(),
        took: Duration::ZERO,
        answer: Err(Refusal::LeaseLost { current_epoch: Some(1) }),
    });
    assert_eq!(zombies(), [0; 0]);
    std::thread::sleep(Duration::from_millis(1));
    part_told(&history, 1, NOTHING_NEW, stored(0));
    assert_eq!(zombies(), [1]);
}

#[tokio::test]
async fn every_kind_of_damage_is_found() {
    let folder = open_folder(&std::env::temp_dir()).unwrap();
    let (cluster, pool) = first_postgres(folder.path()).await.unwrap();
    let mut migrations: Vec<_> =
        std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
    migrations.sort();
    for migration in migrations {
        let text = std::fs::read_to_string(migration).unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&pool).await.unwrap();
    }
    let run = async |statements: &str| {
        let text = statements.replace("JOB", JOB).replace("GANG", GANG);
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&pool).await.unwrap();
    };
    run(ROWS).await;
    let history = history();
    let findings = check(&pool, &history, folder.path(), 0).await.unwrap();
    assert_eq!(words(&findings), [""; 0]);
    let seen = async || {
        let (seen, mut findings) = (gangs::Seen::default(), Findings::default());
        seen.look(&pool).await.unwrap();
        seen.add_to(&mut findings);
        words(&findings)
    };
    assert_eq!(seen().await, [""; 0]);
    let count = gangs::count(&pool).await.unwrap();
    assert_eq!(count, gangs::Gangs { begun: 1, lost: 1, resumed: 0 });
    for table in ["metric", "result", "event"] {
        run(&format!("alter table {table} disable trigger append_only")).await;
    }
    for (damage, said) in DAMAGE {
        let before = words(&check(&pool, &history, folder.path(), 0).await.unwrap());
        run(damage).await;
        let found = words(&check(&pool, &history, folder.path(), 0).await.unwrap());
        let is_new = |text: &&String| text.starts_with(said) && !before.contains(text);
        assert!(found.iter().any(|text| is_new(&text)), "{damage} gave {found:#?}");
    }
    for (damage, said) in SEEN {
        run(damage).await;
        let found = seen().await;
        assert!(found.iter().any(|text| text.contains(said)), "{damage} gave {found:#?}");
    }
    pool.close().await;
    drop(cluster);
}
