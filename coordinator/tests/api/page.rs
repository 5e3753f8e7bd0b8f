//! The JSON behind the web page, and what its server refuses.

use std::time::Duration;

use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::v1;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Service, Worker, job_id, small_search};

/// What the server answered.
pub struct Answer {
    pub status: u16,
    headers: String,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.headers.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// One request as it stands on the wire.
pub async fn send(service: &Service, request: &str) -> Answer {
    let mut stream = TcpStream::connect(service.page).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (headers, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, headers: headers.to_owned(), body: body.to_owned() }
}

async fn get(service: &Service, path: &str) -> Answer {
    send(service, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
}

/// The JSON of a path that must be there.
pub async fn ask(service: &Service, path: &str) -> Value {
    let answer = get(service, &format!("/api/v1{path}")).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    answer.json()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("no list '{name}' in {value}"))
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn every_answer_has_its_headers_and_foreign_names_get_none(pool: PgPool) {
    let service = Service::start(pool).await;
    for path in ["/", "/searches/abc", "/assets/app.js", "/api/v1/searches", "/api/v1/nothing"] {
        let answer = get(&service, path).await;
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'self';") && policy.contains("frame-ancestors 'none'"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
    }
    let foreign = "GET /api/v1/searches HTTP/1.1\r\nHost: evil.example:7551\r\nConnection: close\r\n\r\n";
    let refused = send(&service, foreign).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (421, Some("FOREIGN_NAME")));
    for (method, more, status, code) in [
        ("POST", "", 415, "NOT_JSON"),
        ("DELETE", "Content-Type: application/json\r\n", 403, "FOREIGN_ORIGIN"),
        ("POST", "Content-Type: application/json\r\nOrigin: http://localhost\r\n", 405, "WRONG_METHOD"),
    ] {
        let writing = format!(
            "{method} /api/v1/searches HTTP/1.1\r\nHost: localhost\r\n{more}Content-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        let refused = send(&service, &writing).await;
        let found = refused.json();
        assert_eq!((refused.status, found["error"]["code"].as_str()), (status, Some(code)));
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn what_does_not_exist_is_said_to_be_unknown(pool: PgPool) {
    let service = Service::start(pool).await;
    let id = uuid::Uuid::new_v4();
    for path in [
        format!("/searches/{id}"),
        format!("/searches/{id}/front"),
        format!("/searches/{id}/scores"),
        format!("/searches/{id}/composition"),
        format!("/jobs/{id}"),
        format!("/jobs/{id}/logs"),
        format!("/jobs/{id}/metrics"),
        format!("/architectures/{}", "ab".repeat(32)),
        "/no/such/path".to_owned(),
    ] {
        let answer = get(&service, &format!("/api/v1{path}")).await;
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["code"].as_str()), (404, Some("NOT_FOUND")), "{path}: {error}");
        assert!(error["message"].as_str().unwrap().contains("there is no"), "{error}");
    }
    for (path, parameter) in [
        ("/jobs?limit=0", "limit"),
        ("/jobs?state=sleeping", "state"),
        ("/jobs/xyz", "id"),
        ("/searches?after=1", "after"),
        ("/searches?label=owner", "label"),
        ("/jobs?label=a%20b%3D", "label"),
        ("/queue?offset=-1", "offset"),
        ("/jobs?offset=-1", "offset"),
        ("/timeline?hours=0", "hours"),
    ] {
        let answer = get(&service, &format!("/api/v1{path}")).await;
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(answer.status == 400 && message.starts_with(parameter), "{path}: {message}");
    }
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn lists_come_in_pages_without_gaps_or_repeats(pool: PgPool) {
    let service = Service::start(pool).await;
    for name in ["one", "two", "three", "four", "five"] {
        let mut request = small_search();
        request.search.as_mut().unwrap().name = name.to_owned();
        service.submit(request).await;
    }
    let mut seen = Vec::new();
    let mut path = "/searches?limit=2".to_owned();
    loop {
        let page = ask(&service, &path).await;
        assert!(list(&page, "searches").len() <= 2);
        seen.extend(list(&page, "searches").iter().map(|search| search["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/searches?limit=2&after={next}");
    }
    assert_eq!(seen, ["five", "four", "three", "two", "one"]);
    let found = ask(&service, "/searches?text=THRE&state=searching").await;
    assert_eq!(list(&found, "searches").len(), 1);

    let labels = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap();
        [(key.to_owned(), value.to_owned())].into()
    };
    for (name, label) in [("one", "owner=ada"), ("two", "owner=bob"), ("three", "keep=")] {
        let found = ask(&service, &format!("/searches?text={name}")).await;
        let id = found["searches"][0]["id"].as_str().unwrap().to_owned();
        let request = v1::LabelSearchRequest {
            id,
            set: labels(label),
            remove: Vec::new(),
            ..v1::LabelSearchRequest::default()
        };
        service.searches().label_search(request).await.unwrap();
    }
    let found = ask(&service, "/searches?label=owner%3Dada").await;
    assert_eq!(
        (list(&found, "searches").len(), &found["searches"][0]["labels"]["owner"]),
        (1, &"ada".into())
    );
    assert_eq!(list(&ask(&service, "/searches?label=keep%3D").await, "searches").len(), 1);
    assert!(list(&ask(&service, "/searches?label=keep%3D,owner%3Dada").await, "searches").is_empty());

    let all = ask(&service, "/jobs?limit=500").await;
    let id = all["jobs"][0]["id"].as_str().unwrap().to_owned();
    let request = v1::LabelJobRequest {
        id: id.clone(),
        set: labels("keep="),
        remove: Vec::new(),
        ..v1::LabelJobRequest::default()
    };
    service.jobs().label_job(request).await.unwrap();
    let request = v1::AddJobNoteRequest {
        id: id.clone(),
        text: "look here".to_owned(),
        author: "ada".to_owned(),
        request_id: String::new(),
    };
    service.jobs().add_job_note(request).await.unwrap();
    let found = ask(&service, "/jobs?label=keep%3D").await;
    assert_eq!((list(&found, "jobs").len(), found["jobs"][0]["id"].as_str()), (1, Some(id.as_str())));
    assert_eq!(found["counts"], serde_json::json!({ "queued": 1 }));
    assert_eq!(ask(&service, &format!("/jobs/{id}")).await["notes"][0]["text"], "look here");
    let all: Vec<&str> = list(&all, "jobs").iter().map(|job| job["id"].as_str().unwrap()).collect();
    let (mut paged, mut path) = (Vec::new(), "/jobs?limit=4".to_owned());
    loop {
        let page = ask(&service, &path).await;
        paged.extend(list(&page, "jobs").iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_i64() else { break };
        path = format!("/jobs?limit=4&after={next}");
    }
    assert_eq!(paged, all);
    let end = all.len() - 2;
    let last = ask(&service, &format!("/jobs?limit=4&offset={end}")).await;
    let ids: Vec<_> = list(&last, "jobs").iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!((ids, &last["next"]), (all[end..].to_vec(), &Value::Null));
    let queue = ask(&service, "/queue?limit=3&offset=1").await;
    assert_eq!(queue["length"].as_u64(), Some(all.len() as u64));
    let positions: Vec<_> = list(&queue, "jobs").iter().map(|entry| entry["position"].as_i64()).collect();
    assert_eq!(positions, [Some(2), Some(3), Some(4)]);
    let reason = queue["jobs"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("No worker has registered"), "{reason}");
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_search_is_shown_from_its_first_step_to_its_front(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    let path = format!("/searches/{}", search.id);
    assert_eq!(ask(&service, &format!("{path}/scores")).await, Value::Null, "no scores yet");
    assert!(ask(&service, &format!("{path}/front")).await["entries"].as_array().is_none_or(Vec::is_empty));

    let mut worker = Worker::register(&service, "a").await;
    let mut run = Vec::new();
    for _ in 0..9 {
        let grant = worker.acquire().await;
        worker.run(&grant, 0.5 + 0.01 * run.len() as f64).await;
        run.push(job_id(&grant));
    }
    // The search is closed by whoever plans, a moment after its last job.
    let closed = async {
        loop {
            let shown = ask(&service, &path).await;
            if shown["search"]["state"] == "succeeded" {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let shown = tokio::time::timeout(crate::harness::PATIENCE, closed).await.expect("the search succeeds");
    assert_eq!(shown["search"]["step_share"], 1.0);
    assert_eq!(shown["job_counts"]["succeeded"], 9);
    let front = ask(&service, &format!("{path}/front")).await;
    let best = shown["search"]["best_quality"].as_f64().unwrap();
    assert!((best - 0.58).abs() < 1e-9, "{best}");
    assert_eq!(list(&front, "entries").len(), 4);

    let digest = front["entries"][0]["architecture"]["digest"].as_str().unwrap().to_owned();
    let architecture = ask(&service, &format!("/architectures/{digest}")).await;
    assert!(!list(&architecture["cost"], "layers").is_empty());
    let layer = architecture["layers"][0]["layer"].as_str().unwrap().to_owned();
    let scores = ask(&service, &format!("{path}/scores?layer={layer}&architecture={digest}")).await;
    let kept: i64 = list(&scores["histogram"], "kernels")
        .iter()
        .map(|kernel| kernel["kept_count"].as_i64().unwrap())
        .sum();
    let width: i64 = architecture["layers"][0]["channels"]
        .as_object()
        .unwrap()
        .values()
        .map(|count| count.as_i64().unwrap())
        .sum();
    assert_eq!(kept, width, "as many candidates are kept as the layer has channels");
    assert_eq!(get(&service, &format!("/api/v1{path}/scores?layer=none")).await.status, 400);

    let job = ask(&service, &format!("/jobs/{}", run[3])).await;
    assert_eq!((job["job"]["state"].as_str(), list(&job, "attempts").len()), (Some("succeeded"), 1));
    let kept = &list(&job, "checkpoints")[0]["kept_because"];
    assert!(kept.as_array().unwrap().contains(&"result".into()), "{kept}");
    let log = ask(&service, &format!("/jobs/{}/logs", run[3])).await;
    assert_eq!(log["lines"][0]["text"], "first step");
    let next = log["next"].as_str().unwrap();
    assert!(list(&ask(&service, &format!("/jobs/{}/logs?after={next}", run[3])).await, "lines").is_empty());
    let curves = ask(&service, &format!("/jobs/{}/metrics?keys=train/loss", run[3])).await;
    assert_eq!(curves["curves"][0]["steps"].as_array().unwrap().len(), 2);
    let spans = ask(&service, "/timeline?hours=1").await;
    assert_eq!(list(&spans, "spans").len(), 9);
    assert_eq!(list(&ask(&service, "/workers").await, "workers").len(), 1);
    let events = ask(&service, &format!("/events?job={}", run[3])).await;
    let kinds: Vec<&str> =
        list(&events, "events").iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds.last(), Some(&"job_queued"), "{kinds:?}");
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn compositions_of_a_supernet_come_by_epoch(pool: PgPool) {
    let service = Service::start(pool).await;
    let search = service.submit(small_search()).await;
    let mut worker = Worker::register(&service, "a").await;
    let grant = worker.acquire().await;
    worker.start(&grant).await;
    let shown = ask(&service, &format!("/searches/{}", search.id)).await;
    let layers = list(&shown, "layers").clone();
    let mut entries = Vec::new();
    for step in [5, 10] {
        for layer in &layers {
            let (name, width) = (layer["name"].as_str().unwrap(), layer["channels"].as_f64().unwrap());
            let first = if step == 5 { width } else { width - 1.0 };
            let counts = [("3x3x3", first), ("1x3x3", width - first)];
            let values = counts.iter().filter(|(_, count)| *count > 0.0);
            let values =
                values.map(|(kernel, count)| (format!("composition/{name}/{kernel}"), *count)).collect();
            let metric = v1::MetricPoint { step, values, time: crate::harness::now() };
            entries.push(v1::ReportEntry { entry: Some(v1::report_entry::Entry::Metric(metric)) });
        }
    }
    let request = v1::ReportRequest {
        token: grant.token.clone(),
        first_seq: 1,
        entries,
        progress: Some(v1::JobProgress::default()),
        ..v1::ReportRequest::default()
    };
    worker.client.report(request).await.unwrap();
    let found = ask(&service, &format!("/searches/{}/composition", search.id)).await;
    let evaluations = list(&found, "evaluations");
    let epochs: Vec<_> = evaluations.iter().map(|known| known["epoch"].as_i64()).collect();
    assert_eq!(epochs, [Some(1), Some(2)]);
    assert_eq!(list(&evaluations[1], "layers").len(), layers.len());
    assert_eq!(evaluations[1]["layers"][0]["channels"]["1x3x3"], 1);
    let curves = ask(&service, &format!("/jobs/{}/metrics", job_id(&grant))).await;
    assert_eq!(curves["curves"], serde_json::json!([]), "counts are no learning curves");
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn a_known_answer_is_not_sent_again_and_changes_are_told(pool: PgPool) {
    let service = Service::start(pool).await;
    let first = get(&service, "/api/v1/searches").await;
    let tag = first.header("etag").unwrap();
    let again = format!(
        "GET /api/v1/searches HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: {tag}\r\nConnection: close\r\n\r\n"
    );
    let known = send(&service, &again).await;
    assert_eq!((known.status, known.body.as_str()), (304, ""));

    let mut stream = TcpStream::connect(service.page).await.unwrap();
    let request = "GET /api/v1/changes HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    read_until(&mut stream, &mut said, "\"more\":true").await;
    // The first look after somebody listens only finds where to begin, so that what
    // happens before it is told by the first message.
    let telling = async {
        loop {
            let search = service.submit(small_search()).await;
            if tokio::time::timeout(Duration::from_secs(3), read_until(&mut stream, &mut said, &search.id))
                .await
                .is_ok()
            {
                return;
            }
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, telling).await.expect("a change is told");
    assert_eq!(send(&service, &again).await.status, 200, "the list is another one now");
    service.shutdown.stop.cancel();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(crate::harness::PATIENCE, stream.read_to_end(&mut rest)).await;
    ended.expect("a stop ends the stream").unwrap();
}

async fn read_until(stream: &mut TcpStream, said: &mut String, wanted: &str) {
    let mut buffer = [0; 4096];
    while !said.contains(wanted) {
        let length = stream.read(&mut buffer).await.unwrap();
        assert!(length > 0, "the stream ended: {said}");
        said.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}
