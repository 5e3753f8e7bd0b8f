//! Checkpoints in a bucket: a real daemon against a server that speaks S3 (`moto_server`,
//! from the Python package `moto[server]`).

mod support;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cakes_proto::v1::FailureClass;
use serde_json::{Value, json};
use support::{Bench, Daemon};

/// A server with one bucket, ended with this value.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// None where the program is not installed, which is said.
    fn start() -> Option<Self> {
        // Free a moment ago; nothing else on this machine asks for this very one.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &address.port().to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = child else {
            eprintln!("left out: there is no moto_server; pip install 'moto[server]'");
            return None;
        };
        let server = Server { child, address };
        server.ask("PUT", "/cakes", b"");
        Some(server)
    }

    /// The body of the answer, which must be one of success. Asked again where none came: the server
    /// may just be starting, and under load it resets connections that it has taken.
    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let start = Instant::now();
        loop {
            match self.try_ask(method, path, body) {
                Ok(answer) => return answer,
                Err(error) => assert!(
                    start.elapsed() < Duration::from_secs(180),
                    "moto_server does not answer at {}: {error}",
                    self.address
                ),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn try_ask(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(self.address)?;
        let length = body.len();
        // Anybody's signature will do for this server, but none will not.
        let signature = "AWS4-HMAC-SHA256 Credential=tester/20260101/us-east-1/s3/aws4_request, \
                         SignedHeaders=host, Signature=0";
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {signature}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n",
            self.address
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let end = end.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        assert!(head.split(' ').nth(1).is_some_and(|code| code == "200"), "{method} {path}: {head}");
        Ok(answer.split_off(end + 4))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// What a process needs to use the bucket.
    fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", "worker".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }
}

fn daemon(bench: &Bench, server: &Server) -> Daemon {
    Daemon::start(bench.command(&[]).envs(server.variables()))
}

#[tokio::test]
async fn a_bucket_keeps_checkpoints_as_a_folder_does() {
    let Some(server) = Server::start() else { return };
    let bench = Bench::with_store("s3://cakes/some/prefix".to_owned()).await;
    let acts = json!([["ready"], ["train", 5], ["save"], ["complete"]]);
    let conflicting = bench.grant(&acts, None);
    let taken = format!("/cakes/some/prefix/{conflicting}/2-abababab/step-000000005/weights.safetensors");
    server.ask("PUT", &taken, b"of somebody else");
    let _daemon = daemon(&bench, &server);
    let failure = bench.coordinator.until_failed(&conflicting).await;
    assert!(failure.message.contains("nothing is overwritten"), "{}", failure.message);
    assert_eq!(server.ask("GET", &taken, b""), b"of somebody else");

    bench.grant(&acts, None);
    let first = bench.coordinator.until("completion", |seen| seen.completions.first().cloned()).await;
    let checkpoint = first.checkpoint.unwrap();
    let object = format!("/cakes/some/prefix/{}/weights.safetensors", checkpoint.key);
    assert_eq!(server.ask("GET", &object, b""), b"weights of step 5");

    let acts = json!([["ready"], ["train", 2], ["save"], ["complete"]]);
    let resumed = bench.grant(&acts, Some(checkpoint.clone()));
    bench.coordinator.until("completion", |seen| seen.completions.get(1).cloned()).await;
    let log = bench.coordinator.seen().log(&resumed);
    assert!(log.iter().any(|line| line.contains("resumed from step 5")), "{log:?}");

    // What the coordinator does with a checkpoint that it has given up.
    let second = bench.coordinator.seen().completions[1].checkpoint.clone().unwrap();
    let variables = server.variables().into_iter().map(|(name, value)| (name.to_owned(), value));
    let store = cakes_artifacts::Artifacts::open_with("s3://cakes/some/prefix", variables).unwrap();
    let job = second.key.split('/').next().unwrap();
    let keys = async || -> Vec<String> {
        store.folders(job).await.unwrap().into_iter().map(|folder| folder.key).collect()
    };
    assert!(keys().await.contains(&second.key));
    assert!(store.delete(&second.key).await.unwrap() > 1, "files and a manifest");
    assert!(!keys().await.contains(&second.key));
    assert_eq!(store.delete(&second.key).await.unwrap(), 0, "a second time there is nothing");
    assert!(store.jobs().await.unwrap().iter().any(|job| checkpoint.key.starts_with(job.as_str())));

    server.ask("PUT", &object, b"weights of step 6");
    let damaged = bench.grant(&acts, Some(checkpoint));
    let failure = bench.coordinator.until_failed(&damaged).await;
    assert_eq!(failure.failure_class(), FailureClass::Infrastructure);
    assert!(failure.message.contains("weights.safetensors"), "{}", failure.message);
}

/// What the doctor of a worker with these variables says of a bucket.
fn examined(variables: &[(&'static str, String)], bucket: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cakes-worker"));
    command.args(["doctor", "-o", "json", "--server", "http://127.0.0.1:1", "--trainer", "/bin/false"]);
    command.arg("--work-dir").arg(folder.path()).args(["--artifacts", bucket]);
    command.envs(variables.iter().map(|(name, value)| (*name, value))).stdin(Stdio::null());
    let output = command.output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut checks = report["checks"].as_array().unwrap().iter();
    let found = checks.find(|check| check["name"] == "artifact bucket");
    found.unwrap_or_else(|| panic!("{report:#}")).clone()
}

#[test]
fn the_doctor_tries_a_bucket_and_takes_away_what_it_wrote() {
    let Some(server) = Server::start() else { return };
    let mut variables = server.variables();
    let sound = examined(&variables, "s3://cakes/some/prefix");
    assert_eq!(sound["verdict"], "ok", "{sound:#}");
    for done in ["created in", "kept from being replaced in", "read in", "listed in", "deleted in"] {
        assert!(sound["found"].as_str().unwrap().contains(done), "{sound:#}");
    }
    let left = String::from_utf8(server.ask("GET", "/cakes?list-type=2", b"")).unwrap();
    assert!(left.contains("ListBucketResult") && !left.contains("<Key>"), "{left}");

    let refused = |variables: &[(&'static str, String)], bucket: &str, remedy: &str| {
        let check = examined(variables, bucket);
        assert_eq!(check["verdict"], "failed", "{check:#}");
        assert!(check["remedy"].as_str().unwrap().contains(remedy), "{check:#}");
    };
    refused(&variables, "s3://no-such-bucket/some/prefix", "the bucket's name");
    variables[0].1 = "http://127.0.0.1:1".to_owned();
    refused(&variables, "s3://cakes/some/prefix", "AWS_ENDPOINT");
}
