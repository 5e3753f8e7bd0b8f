//! Labels and notes.

use std::collections::BTreeMap;

use cakes::labels::{LABELS_MAX, LabelChange, Labels};
use cakes_coordinator::core::note::NOTES_MAX;
use cakes_coordinator::store::notes::{NewNote, Subject, add};
use cakes_coordinator::store::read::{Order, jobs as read_jobs, notes, searches as read_searches};
use cakes_coordinator::store::{Error, PgPool, jobs, searches};
use cakes_proto::ids::{JobId, SearchId};

use crate::support::{count, small_search, submit};

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()).unwrap()
}

fn change(set: &[(&str, &str)], remove: &[&str]) -> LabelChange {
    LabelChange::new(labels(set), remove.iter().map(|key| (*key).to_owned())).unwrap()
}

async fn first_job(pool: &PgPool, search: SearchId) -> JobId {
    read_jobs::of_search(pool, search).await.unwrap()[0].id
}

#[sqlx::test(migrations = "../migrations")]
async fn labels_of_a_search_change_once_and_tell_whoever_watches(pool: PgPool) {
    let given = labels(&[("owner", "ada")]);
    let id = searches::submit(&pool, &small_search(), &given.clone().into(), None).await.unwrap();
    let before = read_searches::get(&pool, id).await.unwrap();
    assert_eq!(before.labels, given);
    let wanted = change(&[("paper", "miccai"), ("keep", "")], &["owner"]);
    searches::label(&pool, id.into(), &wanted).await.unwrap();
    let after = read_searches::get(&pool, id).await.unwrap();
    assert_eq!(after.labels, labels(&[("keep", ""), ("paper", "miccai")]));
    assert_eq!(after.revision, before.revision + 1);
    searches::label(&pool, id.into(), &wanted).await.unwrap();
    assert_eq!(read_searches::revision(&pool, id).await.unwrap(), after.revision);

    let unknown = searches::label(&pool, SearchId::generate().into(), &wanted).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { kind: "search", .. }));
    let many: BTreeMap<String, String> =
        (0..LABELS_MAX).map(|number| (format!("k{number}"), String::new())).collect();
    let many = LabelChange::new(Labels::new(many).unwrap(), []).unwrap();
    let refused = searches::label(&pool, id.into(), &many).await.unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { field: "set", .. }), "{refused:?}");
    assert_eq!(read_searches::get(&pool, id).await.unwrap().labels, after.labels);
}

#[sqlx::test(migrations = "../migrations")]
async fn labels_of_a_job_change_once_and_are_not_those_of_its_search(pool: PgPool) {
    let search =
        searches::submit(&pool, &small_search(), &labels(&[("owner", "ada")]).into(), None).await.unwrap();
    let job = first_job(&pool, search).await;
    let before = read_jobs::revision(&pool, job).await.unwrap();
    for _ in 0..2 {
        jobs::label(&pool, job.into(), &change(&[("keep", "")], &["owner"])).await.unwrap();
    }
    let labelled = read_jobs::get(&pool, job).await.unwrap();
    assert_eq!(labelled.labels, labels(&[("keep", "")]));
    assert_eq!(read_jobs::revision(&pool, job).await.unwrap(), before + 1);
    let unknown = jobs::label(&pool, JobId::generate().into(), &change(&[("a", "")], &[])).await.unwrap_err();
    assert!(matches!(unknown, Error::NotFound { kind: "job", .. }));
}

#[sqlx::test(migrations = "../migrations")]
async fn lists_hold_what_has_all_labels(pool: PgPool) {
    let mut ids = Vec::new();
    for given in [&[("owner", "ada")][..], &[("owner", "ada"), ("keep", "")], &[("owner", "eve")], &[]] {
        ids.push(searches::submit(&pool, &small_search(), &labels(given).into(), None).await.unwrap());
    }
    let found = async |wanted: &[(&str, &str)]| {
        let filter = read_searches::Filter { labels: labels(wanted), ..read_searches::Filter::default() };
        let page = read_searches::page(&pool, &filter, Order::NewestFirst, None, 10).await.unwrap();
        page.into_iter().map(|search| search.id).collect::<Vec<_>>()
    };
    assert_eq!(found(&[("owner", "ada")]).await, [ids[1], ids[0]]);
    assert_eq!(found(&[("owner", "ada"), ("keep", "")]).await, [ids[1]]);
    assert_eq!(found(&[]).await.len(), 4);

    let job = first_job(&pool, ids[2]).await;
    jobs::label(&pool, job.into(), &change(&[("keep", "")], &[])).await.unwrap();
    let filter = read_jobs::Filter { labels: labels(&[("keep", "")]), ..read_jobs::Filter::default() };
    let page = read_jobs::page(&pool, &filter, Order::NewestFirst, None, 10).await.unwrap();
    assert_eq!(page.iter().map(|job| job.id).collect::<Vec<_>>(), [job]);
}

#[sqlx::test(migrations = "../migrations")]
async fn a_request_id_stands_for_the_labels_too(pool: PgPool) {
    let submit = async |given: &[(&str, &str)]| {
        searches::submit(&pool, &small_search(), &labels(given).into(), Some("once")).await
    };
    let first = submit(&[("owner", "ada")]).await.unwrap();
    searches::label(&pool, first.into(), &change(&[], &["owner"])).await.unwrap();
    assert_eq!(submit(&[("owner", "ada")]).await.unwrap(), first);
    for other in [&[("owner", "eve")][..], &[]] {
        assert!(matches!(submit(other).await, Err(Error::Conflict { .. })));
    }
}

fn note(subject: Subject, text: &str, request_id: Option<&str>) -> NewNote {
    NewNote {
        subject,
        author: "ada".to_owned(),
        text: text.to_owned(),
        request_id: request_id.map(str::to_owned),
    }
}

#[sqlx::test(migrations = "../migrations")]
async fn notes_are_added_once_to_whatever_they_are_about(pool: PgPool) {
    let search = submit(&pool, &small_search()).await;
    let job = first_job(&pool, search).await;
    let digest: String =
        sqlx::query_scalar("select digest from architecture").fetch_one(&pool).await.unwrap();
    let subjects =
        [Subject::Search(search), Subject::Job(job), Subject::Architecture(digest.parse().unwrap())];
    let revisions = async || {
        let of_search = count(&pool, "select revision from search").await;
        (of_search, count(&pool, "select revision from job order by position limit 1").await)
    };
    let before = revisions().await;
    for (number, subject) in subjects.into_iter().enumerate() {
        let request_id = format!("request {number}");
        let wish = note(subject, "first", Some(&request_id));
        let (one, two) = tokio::join!(add(&pool, &wish), add(&pool, &wish));
        one.unwrap();
        two.unwrap();
        let other = note(subject, "other", Some(&request_id));
        assert!(matches!(add(&pool, &other).await, Err(Error::Conflict { .. })));
        add(&pool, &note(subject, "second", None)).await.unwrap();
        let texts: Vec<String> =
            notes::of(&pool, subject).await.unwrap().into_iter().map(|note| note.text).collect();
        assert_eq!(texts, ["first", "second"], "{subject:?}");
    }
    assert_eq!(revisions().await, (before.0 + 2, before.1 + 2), "two notes each");
    let unknown = [
        Subject::Search(SearchId::generate()),
        Subject::Job(JobId::generate()),
        Subject::Architecture("0".repeat(64).parse().unwrap()),
    ];
    for subject in unknown {
        let error = add(&pool, &note(subject, "x", None)).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    }
    let changed = sqlx::query("update note set text = ''").execute(&pool).await.unwrap_err().to_string();
    assert!(changed.contains("never changed"), "{changed}");
}

#[sqlx::test(migrations = "../migrations")]
async fn a_thing_holds_so_many_notes_and_no_more(pool: PgPool) {
    let search = submit(&pool, &small_search()).await;
    sqlx::query("insert into note (search_id, author, text) select id, 'ada', 'x' from search, generate_series(2, $1)")
        .bind(NOTES_MAX)
        .execute(&pool)
        .await
        .unwrap();
    let subject = Subject::Search(search);
    add(&pool, &note(subject, "last", None)).await.unwrap();
    let refused = add(&pool, &note(subject, "one more", None)).await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("200 notes")), "{refused:?}");
    assert_eq!(notes::of(&pool, subject).await.unwrap().len(), 200);
}
