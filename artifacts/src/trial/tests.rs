use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};

use super::*;

const BUCKET: &str = "s3://cakes/lab";
/// Of everything that is answered at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// A status and a body.
type Answer = (u16, String);

/// What a server that speaks S3 answers to each act.
struct Answers {
    create: Answer,
    create_again: Answer,
    read: Answer,
    list: Answer,
    delete: Answer,
}

impl Default for Answers {
    fn default() -> Self {
        let listed = "<ListBucketResult><Contents><Key>lab/cakes-doctor/trial</Key><Size>1</Size>\
                      <LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents></ListBucketResult>";
        let deleted = "<DeleteResult><Deleted><Key>lab/cakes-doctor/trial</Key></Deleted></DeleteResult>";
        Answers {
            create: (200, String::new()),
            create_again: refusal(412, "PreconditionFailed"),
            read: (200, String::from_utf8(CONTENT.to_vec()).unwrap()),
            list: (200, listed.to_owned()),
            delete: (200, deleted.to_owned()),
        }
    }
}

impl Answers {
    /// No object is taken.
    fn refusing(answer: Answer) -> Self {
        Answers { create: answer.clone(), create_again: answer, ..Answers::default() }
    }
}

fn refusal(status: u16, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\"?>\n<Error>\n<Code>{code}</Code>\n<Message>in other\nwords</Message>\n</Error>"
    );
    (status, body)
}

/// A server for as long as these tests run.
fn server(answers: Answers) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut puts = 0;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let Some((method, path)) = asked(&stream) else { continue };
            let (status, body) = match method.as_str() {
                "PUT" => {
                    puts += 1;
                    if puts == 1 { &answers.create } else { &answers.create_again }
                }
                "POST" => &answers.delete,
                _ if path.contains("list-type=2") => &answers.list,
                _ => &answers.read,
            };
            let head = format!(
                "HTTP/1.1 {status} Answer\r\nContent-Length: {}\r\nETag: \"0\"\r\n\
                 Last-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    address
}

/// Method and path of a request, which is read to its end.
fn asked(stream: &TcpStream) -> Option<(String, String)> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    reader.read_exact(&mut vec![0; length]).ok()?;
    let mut words = first.split(' ');
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

/// What is needed to use a bucket there.
fn variables(endpoint: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ENDPOINT", endpoint.to_owned()),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "worker".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ]
}

async fn with(variables: Vec<(&'static str, String)>, patience: Duration) -> Result<Trial, ArtifactError> {
    let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
    run_with(BUCKET, variables, "trial", patience).await
}

async fn against(answers: Answers) -> Vec<(Act, Option<Cause>)> {
    causes(&with(variables(&format!("http://{}", server(answers))), PATIENCE).await.unwrap())
}

fn causes(trial: &Trial) -> Vec<(Act, Option<Cause>)> {
    let steps = trial.steps.iter();
    steps.map(|step| (step.act, step.outcome.as_ref().err().map(Refusal::cause))).collect()
}

const SOUND: [(Act, Option<Cause>); 5] = [
    (Act::Create, None),
    (Act::CreateAgain, None),
    (Act::Read, None),
    (Act::List, None),
    (Act::Delete, None),
];

/// Of a trial in which one act alone is refused.
fn but(act: Act, cause: Cause) -> Vec<(Act, Option<Cause>)> {
    SOUND.map(|(other, _)| (other, (other == act).then_some(cause))).to_vec()
}

#[tokio::test]
async fn a_folder_is_tried_and_left_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let url = url::Url::from_directory_path(folder.path()).unwrap();
    let trial = run(url.as_str(), "trial", PATIENCE).await.unwrap();
    assert_eq!(causes(&trial), SOUND);
    assert_eq!(trial.key, "cakes-doctor/trial");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something is left");
    let error = run("file:///no/such/folder", "trial", PATIENCE).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
}

#[tokio::test]
async fn a_bucket_is_tried_act_by_act() {
    assert_eq!(against(Answers::default()).await, SOUND);
    let replaces = Answers { create_again: (200, String::new()), ..Answers::default() };
    assert_eq!(against(replaces).await, but(Act::CreateAgain, Cause::Replaces));
    let changes = Answers { read: (200, "of somebody else".to_owned()), ..Answers::default() };
    assert_eq!(against(changes).await, but(Act::Read, Cause::Inconsistent));
    let forgets = Answers { read: refusal(404, "NoSuchKey"), ..Answers::default() };
    assert_eq!(against(forgets).await, but(Act::Read, Cause::Inconsistent));
    let hides = Answers { list: (200, "<ListBucketResult/>".to_owned()), ..Answers::default() };
    assert_eq!(against(hides).await, but(Act::List, Cause::Inconsistent));
    // The rights of a worker, who needs neither.
    let lists_nothing = Answers { list: refusal(403, "AccessDenied"), ..Answers::default() };
    assert_eq!(against(lists_nothing).await, but(Act::List, Cause::Right));
    let denied = "<DeleteResult><Error><Key>lab/cakes-doctor/trial</Key><Code>AccessDenied</Code>\
                  <Message>no</Message></Error></DeleteResult>";
    for delete in [(200, denied.to_owned()), refusal(403, "AccessDenied")] {
        let deletes_nothing = Answers { delete, ..Answers::default() };
        assert_eq!(against(deletes_nothing).await, but(Act::Delete, Cause::Right));
    }
}

#[tokio::test]
async fn what_a_store_that_takes_no_object_says_is_told_by_its_cause() {
    for (status, code, cause) in [
        (403, "InvalidAccessKeyId", Cause::KeyId),
        (403, "SignatureDoesNotMatch", Cause::SecretKey),
        (400, "ExpiredToken", Cause::SessionToken),
        (403, "RequestTimeTooSkewed", Cause::Clock),
        (400, "AuthorizationHeaderMalformed", Cause::Region),
        (404, "NoSuchBucket", Cause::Bucket),
        (403, "AccessDenied", Cause::Right),
        (501, "NotImplemented", Cause::Replaces),
        (400, "EntityTooLarge", Cause::Other),
    ] {
        let endpoint = format!("http://{}", server(Answers::refusing(refusal(status, code))));
        let trial = with(variables(&endpoint), PATIENCE).await.unwrap();
        assert_eq!(causes(&trial), [(Act::Create, Some(cause))], "{code}");
        let told = trial.steps[0].outcome.as_ref().unwrap_err().to_string();
        assert_eq!(told, format!("{code}: in other words"));
    }
    // Not every server says more than a status.
    for (status, cause) in
        [(401, Cause::KeyId), (403, Cause::Right), (404, Cause::Bucket), (301, Cause::Region)]
    {
        let answers = Answers::refusing((status, String::new()));
        assert_eq!(against(answers).await, [(Act::Create, Some(cause))], "{status}");
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_is_told_by_what_is_in_the_way() {
    let create = |cause| [(Act::Create, Some(cause))];
    let nobody = with(variables("http://127.0.0.1:1"), PATIENCE).await.unwrap();
    assert_eq!(causes(&nobody), create(Cause::Unreachable));
    let told = nobody.steps[0].outcome.as_ref().unwrap_err().to_string();
    assert!(told.contains("http://127.0.0.1:1/cakes/lab") && told.contains("refused"), "{told}");

    let sound = format!("http://{}", server(Answers::default()));
    let without = |left_out: &[&str]| {
        let mut variables = variables(&sound);
        variables.retain(|(name, _)| !left_out.contains(name));
        variables
    };
    let plain = with(without(&["AWS_ALLOW_HTTP"]), PATIENCE).await.unwrap();
    assert_eq!(causes(&plain), create(Cause::PlainHttp));

    let ArtifactError::Store(half) = with(without(&["AWS_SECRET_ACCESS_KEY"]), PATIENCE).await.unwrap_err()
    else {
        panic!("of another kind");
    };
    assert_eq!(Cause::of(&half), Cause::NoKeys);
    // A machine that has none to give.
    let machine = format!("http://{}", server(Answers::refusing((404, String::new()))));
    let mut keyless = without(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
    keyless.push(("AWS_METADATA_ENDPOINT", machine));
    assert_eq!(causes(&with(keyless, PATIENCE).await.unwrap()), create(Cause::NoKeys));

    // Connections are made, but nobody takes them.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mute = format!("http://{}", listener.local_addr().unwrap());
    let silent = with(variables(&mute), Duration::from_millis(100)).await.unwrap();
    let silence = Some(Cause::Silence);
    assert_eq!(causes(&silent), [(Act::Create, silence), (Act::Delete, silence)]);
}
