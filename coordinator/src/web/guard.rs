//! Which requests are answered at all, and the headers of every answer.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Web;
use super::access::Caller;
use super::answer::Failure;
use super::listener::Peer;

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

/// Whoever came with TLS once never comes without it, for a year.
const ENCRYPTED_ONLY: &str = "max-age=31536000";

/// Refuses requests under a foreign name and those that another page may have sent, and
/// adds the headers.
pub(super) async fn guard(State(web): State<Web>, request: Request, next: Next) -> Response {
    // It holds for all ports of a name, and other programs serve this machine's.
    let is_encrypted_only = web.is_encrypted && !is_loopback_name(host(request.headers()));
    let mut response = match foreign_name(&web, request.headers()) {
        Some(failure) => failure.into_response(),
        None if request.method().is_safe() => next.run(request).await,
        None => match may_change(request.headers()) {
            Ok(()) => next.run(request).await,
            Err(failure) => {
                let peer = request.extensions().get::<ConnectInfo<Peer>>();
                let peer = peer.map_or_else(String::new, |ConnectInfo(peer)| peer.address.ip().to_string());
                let path = request.uri().path().to_owned();
                // A body is not shared between threads, and the record is waited for.
                drop(request);
                web.record(&Caller { who: None, peer }, "cross_site", &path, Err(&failure)).await;
                failure.into_response()
            }
        },
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if is_encrypted_only {
        let lasting = HeaderValue::from_static(ENCRYPTED_ONLY);
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, lasting);
    }
    let caching = HeaderValue::from_static("private, no-cache");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(caching);
    response
}

fn foreign_name(web: &Web, headers: &HeaderMap) -> Option<Failure> {
    let own = host(headers);
    if is_own_name(own) || web.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(own)) {
        return None;
    }
    let message = "this page is served under localhost or an IP address only; open it with one of those, or start the \
        coordinator with --web-allow-host NAME";
    Some(Failure::new(StatusCode::MISDIRECTED_REQUEST, "FOREIGN_NAME", message.to_owned()))
}

/// Whether a request that changes something comes from this page, or from a program that
/// has a token of its own. Pages of others can neither send JSON here without being
/// asked nor choose what their browser says of their origin.
fn may_change(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let kind = text(header::CONTENT_TYPE).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        let message = "what changes something is sent as application/json".to_owned();
        return Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "NOT_JSON", message));
    }
    let site = headers.get("sec-fetch-site").map(|site| site.to_str().unwrap_or_default());
    let origin = text(header::ORIGIN).map(|origin| origin.split_once("://").map_or("", |(_, host)| host));
    let own = text(header::HOST).unwrap_or_default();
    let is_foreign = site.is_some_and(|site| site != "same-origin")
        || origin.is_some_and(|origin| !origin.eq_ignore_ascii_case(own));
    let is_program = headers.contains_key(header::AUTHORIZATION);
    if is_foreign || (origin.is_none() && !is_program) {
        let message = "this request does not come from this coordinator's own page; behind a proxy, have it send the \
            Host header as it came, with its port";
        return Err(Failure::new(StatusCode::FORBIDDEN, "FOREIGN_ORIGIN", message.to_owned()));
    }
    Ok(())
}

/// Whether a browser says that it reached another machine without encryption.
pub(super) fn comes_over_plain_http(headers: &HeaderMap) -> bool {
    let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    origin.is_some_and(|origin| origin.starts_with("http://")) && !is_loopback_name(host(headers))
}

/// The host that the client thinks it talks to, without the port.
pub(super) fn host(headers: &HeaderMap) -> &str {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return "" };
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

/// Whether the name is this machine's for itself.
pub(super) fn is_loopback_name(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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

    #[test]
    fn what_changes_something_comes_from_this_page_or_with_a_token() {
        let own = [("host", "lab:7551"), ("content-type", "application/json; charset=utf-8")];
        let with = |more: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in own.iter().chain(more) {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            may_change(&headers).map_err(|failure| failure.code())
        };
        assert_eq!(with(&[("origin", "http://lab:7551"), ("sec-fetch-site", "same-origin")]), Ok(()));
        assert_eq!(with(&[("authorization", "Bearer x")]), Ok(()));
        for (refused, code) in [
            (&[][..], "FOREIGN_ORIGIN"),
            (&[("origin", "null")], "FOREIGN_ORIGIN"),
            (&[("origin", "http://lab:80")], "FOREIGN_ORIGIN"),
            (&[("origin", "https://evil.example")], "FOREIGN_ORIGIN"),
            (&[("origin", "https://evil.example"), ("authorization", "Bearer x")], "FOREIGN_ORIGIN"),
            (&[("origin", "http://lab:7551"), ("sec-fetch-site", "cross-site")], "FOREIGN_ORIGIN"),
            (&[("origin", "http://lab:7551"), ("sec-fetch-site", "same-site")], "FOREIGN_ORIGIN"),
            (&[("origin", "http://lab:7551"), ("content-type", "text/plain")], "NOT_JSON"),
        ] {
            assert_eq!(with(refused), Err(code), "{refused:?}");
        }
    }

    #[test]
    fn only_loopback_is_safe_without_encryption() {
        for (host, origin, plain) in [
            ("127.0.0.1:7551", "http://127.0.0.1:7551", false),
            ("[::1]:7551", "http://[::1]:7551", false),
            ("10.0.0.3:7551", "http://10.0.0.3:7551", true),
            ("cakes.example", "https://cakes.example", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            assert_eq!(comes_over_plain_http(&headers), plain, "{host}");
        }
    }
}
