use cakes_coordinator::core::lease::{Desired, Policy};
use cakes_coordinator::core::worker::Schedule;
use cakes_coordinator::store::attempts::{DataContent, Entry, Environment, Report, report_together};
use cakes_coordinator::store::{Error, Kept, PgPool, jobs, read, workers};
use cakes_proto::ids::{LeaseToken, Nonce};
use chrono::Utc;

use crate::support::{
    count, let_leases_run_out, picture, report_of, search_of, small_search, submit, tell, worker,
};

#[sqlx::test(migrations = "../migrations")]
async fn the_same_report_twice_is_stored_once_and_renews_both_times(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    for _ in 0..2 {
        let_leases_run_out(&pool).await;
        let receipt = tell(&pool, &report_of(token, 1, 3, 2)).await.unwrap();
        assert_eq!((receipt.ack_seq, receipt.desired), (3, Desired::Run));
        let alive = "select count(*) from attempt_lease where deadline > clock_timestamp() + interval '50 s'";
        assert_eq!(count(&pool, alive).await, 1, "renewed");
    }
    assert_eq!(count(&pool, "select count(*) from metric").await, 6, "two keys of three entries");
}

/// Versions come with the first report, the digest of the data later.
#[sqlx::test(migrations = "../migrations")]
async fn what_an_attempt_runs_with_is_put_together_from_its_reports(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    assert_eq!(read::jobs::get(&pool, token.job).await.unwrap().environment, None);
    let text = |text: &str| Some(text.to_owned());
    let told = |seq: i64, environment: Environment| Report {
        entries: vec![Entry::Environment(environment)],
        ..report_of(token, seq, 1, 1)
    };
    let versions =
        Environment { libtorch: text("2.9.0"), device: text("cpu"), worker_version: text("1"), data: None };
    tell(&pool, &told(1, versions.clone())).await.unwrap();
    let data = DataContent { sha256: "ab".repeat(32), file_count: 3, bytes: 12 };
    let digest = Environment { data: Some(data.clone()), ..Environment::default() };
    for _ in 0..2 {
        tell(&pool, &told(2, digest.clone())).await.unwrap();
    }
    let found = read::jobs::get(&pool, token.job).await.unwrap().environment;
    assert_eq!(found, Some(Environment { data: Some(data), ..versions }));
}

#[sqlx::test(migrations = "../migrations")]
async fn an_overlapping_report_adds_only_what_is_new(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    tell(&pool, &report_of(token, 1, 2, 1)).await.unwrap();
    let receipt = tell(&pool, &report_of(token, 2, 3, 1)).await.unwrap();
    assert_eq!(receipt.ack_seq, 4);
    let seqs: Vec<i64> = sqlx::query_scalar("select seq from metric where key = 'train/loss' order by seq")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(seqs, [1, 2, 3, 4]);
}

/// Also one that is not stored in the kind of table that it is told of.
#[sqlx::test(migrations = "../migrations")]
async fn an_entry_that_comes_again_with_other_content_is_refused_and_changes_nothing(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    let log = |text: &str| Entry::Log { time: Utc::now(), text: text.to_owned() };
    let versions = Environment { device: Some("cpu".to_owned()), ..Environment::default() };
    let told = |edit: &dyn Fn(&mut Vec<Entry>)| {
        let mut report = report_of(token, 1, 2, 1);
        report.entries.extend([log("a line"), Entry::Environment(versions.clone())]);
        edit(&mut report.entries);
        report
    };
    tell(&pool, &told(&|_| ())).await.unwrap();
    let before = picture(&pool).await;
    let other = |place: usize, with: Entry| told(&move |entries| entries[place] = with.clone());
    let metric = |step: i64, key: &str, value: f64| Entry::Metric {
        step,
        values: vec![(key.to_owned(), value)],
        time: Utc::now(),
    };
    let others = [
        (1, metric(1, "train/loss", 1.5)),
        (2, metric(2, "train/loss", 2.0)),
        (2, metric(1, "val/loss", 2.0)),
        (2, log("a line")),
        (3, log("another line")),
        (3, Entry::Environment(versions.clone())),
        (4, metric(1, "train/loss", 4.0)),
    ];
    for (seq, entry) in others {
        let message = other(seq - 1, entry);
        let error = tell(&pool, &message).await.unwrap_err();
        let Error::InvalidArgument { field: "entries", problem } = error else { panic!("{error}") };
        assert!(problem.contains(&format!("number {seq} ")), "{problem}");
        let together =
            report_together(&Kept::new(pool.clone()), &Policy::default(), &[message]).await.unwrap();
        assert!(together[0].is_none(), "it is left to be made alone");
    }
    assert_eq!(picture(&pool).await, before);
    assert_eq!(tell(&pool, &told(&|entries| entries.push(log("new")))).await.unwrap().ack_seq, 5);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_gap_is_refused_and_says_where_to_go_on(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    tell(&pool, &report_of(token, 1, 2, 1)).await.unwrap();
    let before = picture(&pool).await;
    let error = tell(&pool, &report_of(token, 4, 1, 2)).await.unwrap_err();
    assert!(matches!(error, Error::OutOfRange { ack_seq: 2 }));
    assert_eq!(picture(&pool).await, before);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_token_that_is_not_current_changes_nothing(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    let before = picture(&pool).await;
    let forged = [
        LeaseToken { nonce: Nonce([7; 16]), ..token },
        LeaseToken { epoch: token.epoch + 1, ..token },
        LeaseToken { epoch: 0, ..token },
    ];
    for forged in forged {
        let error = tell(&pool, &report_of(forged, 1, 1, 1)).await.unwrap_err();
        assert!(matches!(error, Error::LeaseLost { current_epoch: 1 }), "{error}");
    }
    assert_eq!(picture(&pool).await, before);
}

#[sqlx::test(migrations = "../migrations")]
async fn logs_and_metrics_share_their_numbers_and_odd_bytes_are_no_obstacle(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    let log = |text: &str| Entry::Log { time: Utc::now(), text: text.to_owned() };
    let mut message = report_of(token, 1, 1, 1);
    message.entries.extend([log("first"), log("a\0b")]);
    assert_eq!(tell(&pool, &message).await.unwrap().ack_seq, 3);
    let lines: Vec<(i64, String)> =
        sqlx::query_as("select seq, text from log_line order by seq").fetch_all(&pool).await.unwrap();
    assert_eq!(lines, [(2, "first".to_owned()), (3, "a\u{fffd}b".to_owned())]);

    let empty_key = Entry::Metric { step: 1, values: vec![(String::new(), 0.0)], time: Utc::now() };
    let bad = Report { token, first_seq: 4, entries: vec![empty_key], progress: None };
    assert!(matches!(tell(&pool, &bad).await, Err(Error::InvalidArgument { .. })));
}

#[sqlx::test(migrations = "../migrations")]
async fn the_answer_says_what_people_want(pool: PgPool) {
    submit(&pool, &small_search()).await;
    let worker = worker(&pool, "a").await;
    let token = worker.begin(&pool).await.token;
    let renew = Report { token, first_seq: 1, entries: Vec::new(), progress: None };
    let told = async || tell(&pool, &renew).await.unwrap().desired;
    assert_eq!(told().await, Desired::Run);
    workers::schedule(&pool, &worker.id, Schedule::Draining).await.unwrap();
    assert_eq!(told().await, Desired::Yield);
    workers::schedule(&pool, &worker.id, Schedule::Ready).await.unwrap();
    jobs::pause(&pool, token.job.into()).await.unwrap();
    assert_eq!(told().await, Desired::Yield);
    jobs::cancel(&pool, token.job.into(), "").await.unwrap();
    assert_eq!(told().await, Desired::Cancel);
}

#[sqlx::test(migrations = "../migrations")]
async fn watchers_see_progress_in_the_revision(pool: PgPool) {
    let search = submit(&pool, &small_search()).await;
    let token = worker(&pool, "a").await.begin(&pool).await.token;
    let statement = "select revision from search_revision where search_id = $1";
    let revision =
        async || -> i64 { sqlx::query_scalar(statement).bind(search.0).fetch_one(&pool).await.unwrap() };
    let mut last = revision().await;
    for step in 1..4 {
        tell(&pool, &report_of(token, step, 1, step)).await.unwrap();
        let now = revision().await;
        assert!(now > last, "{now} after {last}");
        last = now;
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn reports_that_share_a_transaction_do_not_wait_for_a_row_that_somebody_holds(pool: PgPool) {
    submit(&pool, &search_of(&[0.5], &[1, 2])).await;
    let mut tokens = Vec::new();
    for name in ["a", "b", "c"] {
        tokens.push(worker(&pool, name).await.begin(&pool).await.token);
    }
    let gone = LeaseToken { nonce: Nonce([7; 16]), ..tokens[2] };
    let mut holder = pool.begin().await.unwrap();
    sqlx::query("select from attempt where job_id = $1 for update")
        .bind(tokens[0].job.0)
        .execute(&mut *holder)
        .await
        .unwrap();
    let reports: Vec<Report> = tokens
        .iter()
        .chain([&gone])
        .map(|token| report_of(*token, 1, 2, 1))
        .chain([report_of(tokens[1], 3, 1, 2)])
        .collect();
    let answers = report_together(&Kept::new(pool.clone()), &Policy::default(), &reports).await.unwrap();
    let stored = |place: usize| match &answers[place] {
        Some(Ok(receipt)) => Some(receipt.ack_seq),
        None => None,
        other => panic!("report {place}: {other:?}"),
    };
    assert_eq!([0, 1, 2, 3, 4].map(stored), [None, Some(2), Some(2), None, None]);
    assert_eq!(count(&pool, "select count(*) from metric").await, 2 * 2 * 2, "two keys of two entries each");
    drop(holder);
    assert_eq!(tell(&pool, &reports[0]).await.unwrap().ack_seq, 2);
    assert!(matches!(tell(&pool, &reports[3]).await, Err(Error::LeaseLost { current_epoch: 1 })));
    assert_eq!(tell(&pool, &reports[4]).await.unwrap().ack_seq, 3);
}
