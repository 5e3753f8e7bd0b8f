//! Searches as files: out of one database, into another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek, Write};

use cakes::architecture::ArchitectureDigest;
use cakes::cost::cost;
use cakes::job::TrainerJob;
use cakes::labels::{LabelChange, Labels};
use cakes::spec::CheckedSearch;
use cakes_coordinator::core::retention::Policy;
use cakes_coordinator::exchange::{Exporter, MANIFEST, Manifest, Member, Writer};
use cakes_coordinator::store::attempts::{
    Completion, DataContent, Entry, Environment, Grant, Outcome, Report, complete,
};
use cakes_coordinator::store::checkpoints::review;
use cakes_coordinator::store::exchange::{Imported, Sound, export, import};
use cakes_coordinator::store::notes::{NewNote, Subject, add};
use cakes_coordinator::store::read::{checkpoint, front, jobs, metrics, notes, searches};
use cakes_coordinator::store::{Error, MIGRATIONS, PgPool, jobs as writes, searches as search_writes};
use cakes_proto::ids::{JobId, SearchId};
use chrono::Utc;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgPoolOptions;
use zip::write::SimpleFileOptions;

use crate::support::{
    completion, count, picture, report_of, save, scores, search_of, search_state, submit, tell, worker,
};

/// A database of its own beside that of the test, for what comes in.
async fn elsewhere(pool: &PgPool) -> PgPool {
    let name = format!("elsewhere_{}", uuid::Uuid::new_v4().simple());
    for statement in [format!("drop database if exists \"{name}\""), format!("create database \"{name}\"")] {
        sqlx::query(AssertSqlSafe(statement)).execute(pool).await.unwrap();
    }
    let options = pool.connect_options().as_ref().clone().database(&name);
    let other = PgPoolOptions::new().max_connections(4).connect_with(options).await.unwrap();
    MIGRATIONS.run(&other).await.unwrap();
    other
}

async fn drop_elsewhere(pool: &PgPool, other: PgPool) {
    let name = other.connect_options().get_database().unwrap().to_owned();
    other.close().await;
    sqlx::query(AssertSqlSafe(format!("drop database \"{name}\""))).execute(pool).await.unwrap();
}

/// Reports, saves and completes a job as a trainer would, with the true size of its network.
async fn train(pool: &PgPool, grant: &Grant, search: &CheckedSearch) {
    let job: TrainerJob = serde_json::from_str(&grant.trainer_job_json).unwrap();
    let counted = cost(&job.task.network(), job.patch).unwrap();
    tell(pool, &report_of(grant.token, 1, 3, 4)).await.unwrap();
    let data = DataContent { sha256: "ab".repeat(32), file_count: 3, bytes: 12 };
    let told = Environment { libtorch: Some("2.9".into()), data: Some(data), ..Environment::default() };
    let report =
        Report { entries: vec![Entry::Environment(told)], progress: None, ..report_of(grant.token, 4, 1, 4) };
    tell(pool, &report).await.unwrap();
    let is_supernet = matches!(job.task, cakes::job::Task::Supernet { .. });
    let checkpoint = save(pool, grant, 10).await;
    let done = completion(checkpoint, is_supernet.then(|| scores(search)));
    let outcome = Outcome {
        param_count: counted.param_count as i64,
        mac_count: counted.mac_count as i64,
        // A number that is rounded on the way if anything reads it as text and writes it again.
        peak_memory_mib: 0.1 + 0.2,
        ..done.outcome
    };
    complete(pool, grant.token, &Completion { last_seq: 4, outcome, ..done }).await.unwrap();
}

/// A search of a supernet and its retrainings, all done.
async fn finished(pool: &PgPool) -> SearchId {
    let search = search_of(&[0.5], &[1, 2]);
    let id = submit(pool, &search).await;
    let worker = worker(pool, "gpu-a").await;
    train(pool, &worker.begin(pool).await, &search).await;
    search_writes::advance(pool, id).await.unwrap();
    while let Some(grant) = worker.acquire(pool).await {
        let policy = cakes_coordinator::core::lease::Policy::default();
        cakes_coordinator::store::attempts::start(pool, &policy, grant.token).await.unwrap();
        train(pool, &grant, &search).await;
    }
    search_writes::advance(pool, id).await.unwrap();
    assert_eq!(search_state(pool, id).await, "succeeded");
    id
}

async fn file_of(pool: &PgPool, id: SearchId) -> Vec<u8> {
    let (sender, mut pieces) = tokio::sync::mpsc::channel(1);
    let pool = pool.clone();
    let packing = tokio::spawn(async move { Box::pin(export(&pool, id, "here", &sender)).await });
    let mut file = Vec::new();
    while let Some(piece) = pieces.recv().await {
        file.extend(piece);
    }
    packing.await.unwrap().unwrap();
    file
}

async fn take_in(pool: &PgPool, file: &[u8]) -> Result<Imported, Error> {
    let mut spooled: File = tempfile::tempfile().unwrap();
    spooled.write_all(file).unwrap();
    spooled.rewind().unwrap();
    import(pool, Sound::of(spooled)?).await
}

/// All members by name.
fn unpacked(file: &[u8]) -> BTreeMap<String, String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(file)).unwrap();
    let names: Vec<String> = archive.file_names().map(|name| name.unwrap().into_owned()).collect();
    let read = |name: String| {
        let mut text = String::new();
        archive.by_name(&name).unwrap().read_to_string(&mut text).unwrap();
        (name, text)
    };
    names.into_iter().map(read).collect()
}

fn manifest(file: &[u8]) -> Manifest {
    serde_json::from_str(&unpacked(file)[MANIFEST]).unwrap()
}

/// The same file with a member changed, and a manifest that agrees with it.
fn with_changed(file: &[u8], member: Member, change: impl Fn(&str) -> String) -> Vec<u8> {
    let (members, facts) = (unpacked(file), manifest(file));
    let mut writer = Writer::default();
    for each in Member::ALL {
        let text = &members[each.name()];
        writer.begin(each).unwrap();
        let text = if each == member { change(text) } else { text.clone() };
        text.lines().for_each(|line| writer.line(line).unwrap());
    }
    let exporter =
        Exporter { cakes_version: "1".into(), source: "there".into(), export_time: facts.export_time };
    let mut file = writer.take();
    file.extend(writer.finish(facts.search_id, facts.is_snapshot, exporter).unwrap().0);
    file
}

/// The same file with another manifest.
fn with_manifest(file: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, text) in unpacked(file) {
        archive.start_file(&name, SimpleFileOptions::default()).unwrap();
        let text = if name == MANIFEST {
            let mut manifest: Value = serde_json::from_str(&text).unwrap();
            change(&mut manifest);
            manifest.to_string()
        } else {
            text
        };
        archive.write_all(text.as_bytes()).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Changes a field of the first line.
fn field(name: &'static str, value: Value) -> impl Fn(&str) -> String {
    move |text| {
        let (first, rest) = text.split_once('\n').unwrap();
        let mut line: Value = serde_json::from_str(first).unwrap();
        line[name] = value.clone();
        format!("{line}\n{rest}")
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn what_comes_in_is_what_went_out_byte_for_byte(pool: PgPool) {
    let (id, other) = (finished(&pool).await, elsewhere(&pool).await);
    let first = file_of(&pool, id).await;
    assert_eq!(take_in(&other, &first).await.unwrap(), Imported { id, is_new: true });
    let again = file_of(&other, id).await;
    let (mut before, mut after) = (unpacked(&first), unpacked(&again));
    assert_eq!(manifest(&first).content_sha256, manifest(&again).content_sha256);
    before.remove(MANIFEST);
    after.remove(MANIFEST);
    assert_eq!(before, after);
    // Their objects are elsewhere, or somebody else's.
    let nothing = Policy { newest: 0, is_pressed: true };
    sqlx::query("update checkpoint set settled = false").execute(&other).await.unwrap();
    assert_eq!(review(&other, nothing, None).await.unwrap().condemned, 0);
    assert!(count(&other, "select count(*) from checkpoint").await > 0);
    assert!(before["metrics.jsonl"].contains("\"NaN\""));
    assert!(
        before["jobs.jsonl"].contains(&"ab".repeat(32))
            && before["jobs.jsonl"].contains("0.30000000000000004")
    );

    let picture_before = picture(&other).await;
    for file in [&first, &again] {
        assert_eq!(take_in(&other, file).await.unwrap(), Imported { id, is_new: false });
        assert_eq!(take_in(&pool, file).await.unwrap(), Imported { id, is_new: false }, "where it was made");
    }
    assert_eq!(picture(&other).await, picture_before);

    let (here, there) = (searches::get(&pool, id).await.unwrap(), searches::get(&other, id).await.unwrap());
    assert_eq!((here.revision, here.end_time, here.imported), (there.revision, there.end_time, None));
    assert_eq!(there.imported.unwrap().source, "here");
    let (here, there) =
        (jobs::of_search(&pool, id).await.unwrap(), jobs::of_search(&other, id).await.unwrap());
    assert_eq!(here.len(), 5);
    for (here, there) in here.iter().zip(&there) {
        assert_eq!(
            format!("{:?}", (here.id, &here.progress, &here.result, &here.environment)),
            format!("{:?}", (there.id, &there.progress, &there.result, &there.environment))
        );
        let curves = |pool: PgPool| async move { metrics::curves(&pool, here.id, &[], 100).await.unwrap() };
        assert_eq!(format!("{:?}", curves(pool.clone()).await), format!("{:?}", curves(other.clone()).await));
    }
    let (here, there) = (front::results(&pool, id).await.unwrap(), front::results(&other, id).await.unwrap());
    assert_eq!((format!("{here:?}"), here.len()), (format!("{there:?}"), 4));
    drop_elsewhere(&pool, other).await;
}

/// Remarks of a search, of its last job and of an architecture.
async fn remark(pool: &PgPool, id: SearchId) -> (JobId, ArchitectureDigest) {
    let job = jobs::of_search(pool, id).await.unwrap().pop().unwrap();
    let labels = |key: &str| Labels::new([(key.to_owned(), "x".to_owned())].into()).unwrap();
    let change = |key| LabelChange::new(labels(key), []).unwrap();
    search_writes::label(pool, id.into(), &change("owner")).await.unwrap();
    writes::label(pool, job.id.into(), &change("keep")).await.unwrap();
    let digest = job.architecture.unwrap();
    let subjects = [Subject::Search(id), Subject::Job(job.id), Subject::Architecture(digest)];
    for (subject, text) in subjects.into_iter().flat_map(|subject| [(subject, "first"), (subject, "second")])
    {
        let (author, text) = ("ada".to_owned(), format!("{text} \u{1F4C8}"));
        add(pool, &NewNote { subject, author, text, request_id: None }).await.unwrap();
    }
    (job.id, digest)
}

#[sqlx::test(migrations = "../migrations")]
async fn labels_and_notes_travel_along(pool: PgPool) {
    let id = finished(&pool).await;
    let plain = file_of(&pool, id).await;
    assert_eq!(manifest(&plain).format_version, 1, "older readers can read it");
    assert!(!unpacked(&plain).values().any(|text| text.contains("\"notes\"") || text.contains("\"labels\"")));

    let (job, digest) = remark(&pool, id).await;
    let other = elsewhere(&pool).await;
    let file = file_of(&pool, id).await;
    assert_eq!(manifest(&file).format_version, 2);
    take_in(&other, &file).await.unwrap();
    let again = file_of(&other, id).await;
    assert_eq!(manifest(&again).content_sha256, manifest(&file).content_sha256);
    assert_eq!(take_in(&pool, &again).await.unwrap(), Imported { id, is_new: false });
    for subject in [Subject::Search(id), Subject::Job(job), Subject::Architecture(digest)] {
        let known = notes::of(&pool, subject).await.unwrap();
        assert_eq!((known.len(), &known), (2, &notes::of(&other, subject).await.unwrap()));
    }
    assert_eq!(searches::get(&other, id).await.unwrap().labels.iter().next(), Some(("owner", "x")));
    assert_eq!(jobs::get(&other, job).await.unwrap().labels.iter().next(), Some(("keep", "x")));
    drop_elsewhere(&pool, other).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn notes_of_an_architecture_join_those_that_are_there(pool: PgPool) {
    let id = finished(&pool).await;
    let (_, digest) = remark(&pool, id).await;
    let (file, other) = (file_of(&pool, id).await, elsewhere(&pool).await);
    // The architecture is known there, with one of the two notes and one of its own.
    sqlx::query("insert into architecture (digest, spec) values ($1, '{}')")
        .bind(digest.to_string())
        .execute(&other)
        .await
        .unwrap();
    let known = notes::of(&pool, Subject::Architecture(digest)).await.unwrap();
    for (text, time) in [(&known[0].text, known[0].create_time), (&"own".to_owned(), Utc::now())] {
        sqlx::query(
            "insert into note (architecture_digest, author, text, create_time) values ($1, 'ada', $2, $3)",
        )
        .bind(digest.to_string())
        .bind(text)
        .bind(time)
        .execute(&other)
        .await
        .unwrap();
    }
    take_in(&other, &file).await.unwrap();
    let found = notes::of(&other, Subject::Architecture(digest)).await.unwrap();
    let texts: Vec<&str> = found.iter().map(|note| note.text.as_str()).collect();
    assert_eq!(texts, [&known[0].text, &known[1].text, "own"]);
    drop_elsewhere(&pool, other).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_spoilt_file_is_refused_by_its_place_and_nothing_is_written(pool: PgPool) {
    let (id, other) = (finished(&pool).await, elsewhere(&pool).await);
    let file = file_of(&pool, id).await;
    let nothing = picture(&other).await;
    let first_line_twice = |text: &str| format!("{}\n{text}", text.lines().next().unwrap());
    let bomb = |text: &str| format!("{text}{}\n", " ".repeat(8 << 20));
    let digest = |value: char| json!(value.to_string().repeat(64));
    let foreign = "00000000-0000-4000-8000-000000000000";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("not a zip", b"PK nonsense".to_vec(), "no whole zip archive"),
        ("cut off", file[..file.len() / 2].to_vec(), "no whole zip archive"),
        (
            "another version",
            with_manifest(&file, |manifest| manifest["format_version"] = 3.into()),
            "format_version is 3, this version of cakes reads 1 to 2",
        ),
        (
            "another format",
            with_manifest(&file, |manifest| manifest["format"] = "tar".into()),
            "format is \"tar\"",
        ),
        (
            "a wrong hash",
            with_manifest(&file, |manifest| manifest["members"][3]["sha256"] = digest('a')),
            "jobs.jsonl: its SHA-256 is",
        ),
        (
            "a wrong content hash",
            with_manifest(&file, |manifest| manifest["content_sha256"] = digest('a')),
            "manifest.json: content_sha256 is not",
        ),
        (
            "fewer bytes than said",
            with_manifest(&file, |manifest| manifest["members"][6]["bytes"] = 3.into()),
            "metrics.jsonl: unpacks to more than the 3 bytes",
        ),
        (
            "more bytes than may be",
            with_manifest(&file, |manifest| manifest["members"][6]["bytes"] = (1_u64 << 60).into()),
            "metrics.jsonl: is larger than",
        ),
        ("a bomb", with_changed(&file, Member::Events, bomb), "events.jsonl: "),
        (
            "another search",
            with_changed(&file, Member::Search, field("id", json!(foreign))),
            "search.json line 1: id is not",
        ),
        (
            "an unknown field",
            with_changed(&file, Member::Search, field("owner", json!("me"))),
            "search.json line 1: unknown field `owner`",
        ),
        (
            "a wrong digest",
            with_changed(&file, Member::Architectures, field("digest", digest('b'))),
            "architectures.jsonl line 1: digest is not",
        ),
        (
            "a wrong number of parameters",
            with_changed(&file, Member::Architectures, field("param_count", json!(7))),
            "architectures.jsonl line 1: costs",
        ),
        (
            "a result of another network",
            with_changed(&file, Member::Jobs, |text| text.replacen("\"mac_count\": ", "\"mac_count\": 9", 1)),
            "jobs.jsonl line 1: its network has",
        ),
        (
            "a job that never ended",
            with_changed(&file, Member::Jobs, field("state", json!("running"))),
            "jobs.jsonl line 1: is running, which end_time contradicts",
        ),
        (
            "a job twice",
            with_changed(&file, Member::Jobs, first_line_twice),
            "jobs.jsonl line 2: another job trains the same",
        ),
        (
            "scores of no supernet",
            with_changed(&file, Member::Scores, field("job_id", json!(foreign))),
            "scores.jsonl line 1: job 00000000",
        ),
        (
            "an event of another job",
            with_changed(&file, Member::Events, field("job_id", json!(foreign))),
            "events.jsonl line 1: job 00000000",
        ),
        (
            "labels that are none",
            with_changed(&file, Member::Search, field("labels", json!({ "a b": "" }))),
            "search.json line 1: labels: the key 'a b' must have",
        ),
        (
            "a note of nobody",
            with_changed(
                &file,
                Member::Jobs,
                field("notes", json!([{ "author": "", "text": "x", "create_time": "2026-05-03T00:00:00Z" }])),
            ),
            "jobs.jsonl line 1: notes[0] needs an author",
        ),
        (
            "a point twice",
            with_changed(&file, Member::Metrics, first_line_twice),
            "metrics.jsonl line 2: stands twice",
        ),
        (
            "a point of no attempt",
            with_changed(&file, Member::Metrics, field("epoch", json!(5))),
            "metrics.jsonl line 1: job",
        ),
        (
            "a character that no text may hold",
            with_changed(&file, Member::Events, |text| text.replacen("small", "sm\\u0000all", 1)),
            "holds the character NUL",
        ),
        (
            "what only the database refuses",
            with_changed(&file, Member::Jobs, |text| {
                text.replacen("\"succeeded\"", "\"won\"", 1)
                    .replacen("\"end_reason\": \"succeeded\"", "\"end_reason\": \"won\"", 1)
                    .replacen("\"won\"", "\"succeeded\"", 1)
            }),
            "the database refuses a row of it",
        ),
    ];
    for (what, spoilt, expected) in cases {
        let error = take_in(&other, &spoilt).await.expect_err(what);
        assert!(matches!(error, Error::InvalidArgument { field: "file", .. }), "{what}: {error:?}");
        assert!(error.to_string().contains(expected), "{what}: {error}");
        assert_eq!(picture(&other).await, nothing, "{what}");
        assert_eq!(count(&other, "select count(*) from search").await, 0, "{what}");
    }
    drop_elsewhere(&pool, other).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn what_came_in_is_read_and_never_run(pool: PgPool) {
    let (id, other) = (finished(&pool).await, elsewhere(&pool).await);
    let file = file_of(&pool, id).await;
    take_in(&other, &file).await.unwrap();
    let job = jobs::of_search(&other, id).await.unwrap()[1].clone();
    let before = picture(&other).await;
    let retrain = writes::Retrain {
        request_id: None,
        digest: job.architecture.unwrap(),
        search: id,
        training: None,
        initial_weights: None,
        seed: 9,
        labels: cakes::labels::Labels::default(),
        owner: None,
        trace: None,
    };
    let wish = search_writes::Wish { budgets: vec![0.3], ..search_writes::Wish::default() };
    let refusals = [
        writes::retry(&other, job.id.into()).await.unwrap_err(),
        writes::cancel(&other, job.id.into(), "").await.unwrap_err(),
        writes::pause(&other, job.id.into()).await.unwrap_err(),
        writes::resume(&other, job.id.into(), None).await.unwrap_err(),
        writes::submit_retrain(&other, &retrain).await.unwrap_err(),
        search_writes::cancel(&other, id.into(), "").await.unwrap_err(),
        search_writes::derive(&other, id, &wish).await.unwrap_err(),
        checkpoint::of_job(&other, job.id).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert!(matches!(&refusal, Error::Refused(text) if text.contains("imported")), "{refusal:?}");
    }
    assert_eq!(picture(&other).await, before);
    search_writes::advance(&other, id).await.unwrap();
    assert_eq!(picture(&other).await, before, "nothing is planned");

    let reopened = sqlx::query("update job set state = 'queued', end_time = null").execute(&other).await;
    assert!(reopened.unwrap_err().to_string().contains("job_imported"));
    let open = sqlx::query("update search set state = 'searching', end_time = null").execute(&other).await;
    assert!(open.unwrap_err().to_string().contains("search_imported"));
    assert_eq!(
        count(&other, "select count(*) from worker").await,
        0,
        "no worker of elsewhere is one of here"
    );
    assert_eq!(count(&other, "select count(*) from dashboard.gpu_time").await, 0);
    assert_eq!(count(&other, "select count(*) from dashboard.imports").await, 1);
    drop_elsewhere(&pool, other).await;
}

#[sqlx::test(migrations = "../migrations")]
async fn a_search_that_runs_comes_in_as_a_snapshot_that_has_ended(pool: PgPool) {
    let id = submit(&pool, &search_of(&[0.5], &[1])).await;
    let token = worker(&pool, "gpu-a").await.begin(&pool).await.token;
    tell(&pool, &report_of(token, 1, 3, 2)).await.unwrap();
    let other = elsewhere(&pool).await;
    let file = file_of(&pool, id).await;
    assert!(manifest(&file).is_snapshot);
    take_in(&other, &file).await.unwrap();
    let found = searches::get(&other, id).await.unwrap();
    assert_eq!(search_state(&other, id).await, "cancelled");
    assert!(found.end_time.is_some() && found.imported.unwrap().is_snapshot);
    assert!(found.state_reason.contains("snapshot of a search that was searching"), "{}", found.state_reason);
    let states = "select count(*) from job where state = 'cancelled' and state_reason like 'was running%'";
    assert_eq!(count(&other, states).await, 1);
    assert!(worker(&other, "b").await.acquire(&other).await.is_none(), "nobody is offered its job");
    assert_eq!(count(&other, "select count(*) from metric").await, 6);

    tell(&pool, &report_of(token, 4, 1, 3)).await.unwrap();
    let later = file_of(&pool, id).await;
    let error = take_in(&other, &later).await.unwrap_err();
    assert!(matches!(&error, Error::Refused(text) if text.contains("other content")), "{error:?}");
    assert!(Utc::now() > manifest(&later).export_time);
    drop_elsewhere(&pool, other).await;
}
