//! Each kind of damage is found: rows as they should be, then broken one by one.

use std::time::{Duration, Instant};

use cakes_proto::v1::LeaseToken;

use super::*;
use crate::chaos::history::History;
use crate::chaos::machine::{first_postgres, open_folder};
use crate::fake::{Call, Fact, Recorder, Told};

const JOB: &str = "0190f3a0-0000-7000-8000-000000000001";

const ROWS: &str = "
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
-- As a report or an end of an attempt, which comes behind all its rows.
update attempt set last_seq = last_seq;
";

/// What is broken, and a part of what must be said of it.
const DAMAGE: [(&str, &str); 10] = [
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
    ("update job set request_id = 'other'", "lost: job was acknowledged"),
    ("delete from result", "lost: a completion is not stored"),
    ("update attempt set last_seq = 0 where epoch = 2", "lost: entry 1 was acknowledged"),
    ("update job set state = 'queued', end_time = null", "stuck: a job that does not end"),
];

fn told(history: &History, epoch: u64, call: Call, fact: Fact) {
    let token =
        LeaseToken { job_id: JOB.to_owned(), epoch, nonce: format!("0{epoch}").repeat(16), member: 0 };
    let fact = match fact {
        Fact::Granted { .. } => Fact::Granted { token: Some(token.clone()) },
        fact => fact,
    };
    history.told(Told {
        worker: "fake-1".to_owned(),
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
    history.submitted("search", true, "0190f3a0-0000-7000-8000-00000000000a");
    for epoch in [1, 2] {
        told(&history, epoch, Call::Acquire { request_id: String::new() }, Fact::Granted { token: None });
        let stored = Fact::Stored {
            ack_seq: 1,
            lease_ttl: Duration::ZERO,
            desired: cakes_proto::v1::DesiredState::Run,
        };
        told(&history, epoch, Call::Report { first_seq: 1, entry_count: 1, step: epoch }, stored);
        told(&history, epoch, Call::Commit { key: format!("k{epoch}"), step: epoch }, Fact::Committed);
    }
    told(&history, 2, Call::Complete { last_seq: 1, step: 2 }, Fact::Completed);
    history
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
        let text = statements.replace("JOB", JOB);
        sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&pool).await.unwrap();
    };
    run(ROWS).await;
    let history = history();
    let findings = check(&pool, &history, folder.path(), 0).await.unwrap();
    assert_eq!(words(&findings), [""; 0]);
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
    pool.close().await;
    drop(cluster);
}
