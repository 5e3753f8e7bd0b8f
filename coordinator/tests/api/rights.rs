//! Every method by every kind of caller, compared with the table; and the table in the docs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use cakes_coordinator::core::access::{Role, TokenRole};
use cakes_coordinator::core::identity::Identity;
use cakes_coordinator::core::rights::{Caller, Needs, Own, changes, needs};
use cakes_coordinator::store::access::{issue, page as audit, revoke};
use cakes_coordinator::store::{MIGRATIONS, PgPool};
use cakes_proto::DESCRIPTORS;
use cakes_proto::bearer::METADATA;
use cakes_proto::method::Method;
use futures::future::join_all;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::harness::{PATIENCE, Service, reason};

/// Calls a method with one empty message; what its first answer is.
pub async fn call(channel: &Channel, path: &'static str, token: Option<&str>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let mut request = Request::new(futures::stream::iter([()]));
    if let Some(token) = token {
        request.metadata_mut().insert(METADATA, format!("Bearer {token}").parse().unwrap());
    }
    let codec = ProstCodec::<(), ()>::default();
    let mut answers = grpc.streaming(request, PathAndQuery::from_static(path), codec).await?.into_inner();
    tokio::time::timeout(PATIENCE, answers.message()).await.expect("an answer").map(drop)
}

/// What the gate did with a call: None where it reached the handler.
fn refusal(answer: Result<(), Status>) -> Option<(Code, String)> {
    let status = answer.err()?;
    let is_of_gate = matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied);
    (is_of_gate && reason(&status) != "NOT_OWN").then(|| (status.code(), reason(&status)))
}

/// What the table says of a call.
fn expected(caller: &Caller, method: Method) -> Option<(Code, String)> {
    let refused = caller.may(method).err()?;
    Some(match refused.is_of_nobody() {
        true => (Code::Unauthenticated, "IDENTITY_REQUIRED".to_owned()),
        false => (Code::PermissionDenied, "ROLE_REQUIRED".to_owned()),
    })
}

#[sqlx::test(migrator = "MIGRATIONS")]
async fn every_method_is_open_to_the_callers_of_its_line_and_to_nobody_else(pool: PgPool) {
    let open = Service::start(pool.clone()).await;
    let closed = Service::start_for_known(pool.clone()).await;
    let user = |role| Caller::Known(Identity::User { name: "u".to_owned(), role });
    let worker = Caller::Known(Identity::Worker { name: "w".to_owned() });
    let day = Some(Duration::from_secs(86_400));
    let token = async |name: &str, role: TokenRole| issue(&pool, name, role, day).await.unwrap();

    let mut callers = vec![
        ("nobody, where nobody need be known", &open, Caller::Trusted, None),
        ("nobody", &closed, Caller::Nobody, None),
    ];
    for role in Role::ALL.iter().copied() {
        let token = token(role.as_str(), role.into()).await;
        callers.push((role.as_str(), &closed, user(role), Some(token.clone())));
        callers.push((role.as_str(), &open, user(role), Some(token)));
    }
    let of_worker = token("gpu-01", TokenRole::Worker).await;
    callers.push(("worker", &closed, worker, Some(of_worker)));
    let (mut outcomes, mut refused) = (0, 0);
    for (name, service, caller, token) in &callers {
        let calls = Method::ALL.iter().map(|method| call(&service.channel, method.path(), token.as_deref()));
        for (method, answer) in Method::ALL.iter().zip(join_all(calls).await) {
            let wanted = expected(caller, *method);
            assert_eq!(refusal(answer), wanted, "{method:?} by {name}");
            outcomes += 1;
            refused += usize::from(wanted.is_some_and(|(code, _)| code == Code::PermissionDenied));
        }
    }

    // What does not hold is refused everywhere, also where nothing need be shown.
    let late = token("late", TokenRole::Operator).await;
    sqlx::query(
        "update access_token set expire_time = clock_timestamp() - interval '1 day' where name = 'late'",
    )
    .execute(&pool)
    .await
    .unwrap();
    let gone = token("gone", TokenRole::Operator).await;
    revoke(&pool, "gone").await.unwrap();
    let wrong = format!("cakes_{}", "ab".repeat(32));
    for (token, why) in [
        (late.as_str(), "TOKEN_EXPIRED"),
        (&gone, "TOKEN_REVOKED"),
        (&wrong, "TOKEN_UNKNOWN"),
        ("hunter2", "TOKEN_MALFORMED"),
    ] {
        let calls = Method::ALL.iter().map(|method| call(&open.channel, method.path(), Some(token)));
        for (method, answer) in Method::ALL.iter().zip(join_all(calls).await) {
            let wanted = Some((Code::Unauthenticated, why.to_owned()));
            assert_eq!(refusal(answer), wanted, "{method:?}");
            outcomes += 1;
        }
    }
    println!("{} methods, {outcomes} outcomes, all as in the table", Method::ALL.len());

    let rows = audit(&pool, None, 10_000).await.unwrap();
    let forbidden = rows.iter().filter(|row| row.answer == "FORBIDDEN").count();
    assert_eq!(forbidden, refused, "a refusal is not in the record");
    let shown = format!("{rows:?}");
    for token in [&late, &gone, &wrong] {
        assert!(!shown.contains(&token[6..30]), "a token is in the record");
    }
}

#[test]
fn every_method_that_is_served_has_a_line() {
    let sets = [
        DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut served = BTreeSet::new();
    for set in sets {
        for file in FileDescriptorSet::decode(set).unwrap().file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let known = Method::from_path(&path);
                    let known = known.unwrap_or_else(|| panic!("{path} is not in the table"));
                    assert_eq!(known.streams(), method.server_streaming(), "{path}");
                    assert_eq!(known.takes_stream(), method.client_streaming(), "{path}");
                    served.insert(path);
                }
            }
        }
    }
    assert_eq!(served.len(), Method::ALL.len(), "the table has methods that are not served");
}

const BEGIN: &str = "<!-- The table is made from coordinator/src/core/rights.rs. -->\n";
const END: &str = "<!-- End of the table. -->";

/// Methods by what they need, one line for each need.
fn table() -> String {
    let mut lines = String::from("| who | may call | recorded |\n|---|---|---|\n");
    let rows = [
        ("everybody", Needs::Nothing),
        ("whoever is known", Needs::Identity),
        ("viewer", Needs::Role(Role::Viewer)),
        ("submitter: also", Needs::Role(Role::Submitter)),
        ("submitter, also in the project; operator", Needs::Member),
        (
            "submitter, of what they submitted; operator, also of the project alone, of everything",
            Needs::Owner,
        ),
        ("operator: also", Needs::Role(Role::Operator)),
        ("worker, under its own name", Needs::Worker(Own::Name)),
        ("worker, with a lease that was granted to it", Needs::Worker(Own::Lease)),
    ];
    let mut listed = 0;
    for (who, need) in rows {
        for is_recorded in [false, true] {
            let of_row = |method: &&Method| needs(**method) == need && changes(**method) == is_recorded;
            let methods: Vec<&str> = Method::ALL
                .iter()
                .filter(of_row)
                .map(|method| method.path().trim_start_matches('/').trim_start_matches("cakes.v1."))
                .collect();
            listed += methods.len();
            if !methods.is_empty() {
                let recorded = if is_recorded { "yes" } else { "refusals" };
                writeln!(lines, "| {who} | `{}` | {recorded} |", methods.join("`, `")).unwrap();
            }
        }
    }
    assert_eq!(listed, Method::ALL.len());
    lines
}

#[test]
fn the_table_in_the_docs_is_the_one_that_is_obeyed() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("a place for the table");
    let (shown, behind) = rest.split_once(END).expect("an end of the table");
    if std::env::var_os("RENEW_REFERENCE").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{}{END}{behind}", table())).unwrap();
        return;
    }
    assert_eq!(shown, table(), "RENEW_REFERENCE=1 cargo test --workspace --test api the_table_in_the_docs");
}
