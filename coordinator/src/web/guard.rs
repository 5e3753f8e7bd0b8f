//! Which requests are answered at all, and the headers of every answer.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::answer::Failure;

/// Nothing is loaded from elsewhere, nothing inline runs, nobody frames the page.
const POLICY: &str =
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'";

const HEADERS: [(&str, &str); 6] = [
    ("content-security-policy", POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// Refuses requests under a foreign name and those that would change something, and
/// adds the headers.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let mut response = match refusal(&request) {
        Some(failure) => failure.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    response
}

fn refusal(request: &Request) -> Option<Failure> {
    if !is_own_name(host(request.headers())) {
        return Some(Failure::new(
            StatusCode::MISDIRECTED_REQUEST,
            "FOREIGN_NAME",
            "this page is served under localhost or an IP address only; open it with one of those".to_owned(),
        ));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some(Failure::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "READ_ONLY",
            "this page only reads; use the command `cakes` or the gRPC API to change something".to_owned(),
        ));
    }
    None
}

/// The host that the client thinks it talks to, without the port.
fn host(headers: &HeaderMap) -> &str {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return "" };
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

/// Whether nobody else can make the name mean this machine: `localhost` and
/// addresses are not looked up in a DNS that others write.
fn is_own_name(host: &str) -> bool {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4())
        || bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_localhost_and_addresses_are_own_names() {
        for (header, own) in [
            ("localhost:7551", true),
            ("LOCALHOST", true),
            ("127.0.0.1:7551", true),
            ("10.0.0.3", true),
            ("[::1]:7551", true),
            ("evil.example:7551", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example:80", false),
            ("[evil]:80", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(header));
            assert_eq!(is_own_name(host(&headers)), own, "{header}");
        }
        assert!(!is_own_name(host(&HeaderMap::new())));
    }
}
