//! Answering scrapes: one request per connection, few connections at a time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Scrapes at a time; more wait in the system's backlog.
pub const CONNECTIONS_MAX: usize = 16;

/// Time for a whole connection, and for the head of its request.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(20);
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Memory for the head of a request.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Pause after a failed `accept`.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Why somebody gets no metrics: a status and what it says.
pub type Refusal = (StatusCode, String);

/// Serves one connection. `answer` has the headers of the request and gives the text.
pub async fn connection<S, F>(stream: S, answer: impl Fn(HeaderMap) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<String, Refusal>>,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answering = is_wanted(&request).map(|()| answer(request.headers().clone()));
        async move {
            let answered = match answering {
                Ok(answering) => answering.await,
                Err(refusal) => Err(refusal),
            };
            Ok::<_, Infallible>(response(answered))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a scrape came to nothing"),
        Err(_) => tracing::debug!("a scrape took too long"),
    }
}

/// Serves everybody who connects, in plain text, until asked to stop.
pub async fn plain<F>(
    listener: TcpListener,
    stop: CancellationToken,
    answer: impl Fn() -> F + Clone + Send + Sync + 'static,
) where
    F: Future<Output = String> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            (Ok(permit), Ok((stream, _))) => {
                let answer = answer.clone();
                tokio::spawn(async move {
                    connection(stream, |_| async { Ok(answer().await) }).await;
                    drop(permit);
                });
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "no scrape can be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
            // Never: the semaphore is not closed.
            (Err(_), _) => return,
        }
    }
}

fn is_wanted(request: &Request<Incoming>) -> Result<(), Refusal> {
    if request.uri().path() != "/metrics" {
        return Err((StatusCode::NOT_FOUND, "metrics are at /metrics".to_owned()));
    }
    match *request.method() {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err((StatusCode::METHOD_NOT_ALLOWED, "metrics are read with GET".to_owned())),
    }
}

fn response(answered: Result<String, Refusal>) -> Response<Full<Bytes>> {
    let (status, kind, text) = match answered {
        Ok(text) => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
        Err((status, problem)) => (status, "text/plain; charset=utf-8", format!("{problem}\n")),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert("cache-control", HeaderValue::from_static("no-store"));
    match status {
        StatusCode::METHOD_NOT_ALLOWED => drop(headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"))),
        StatusCode::UNAUTHORIZED => {
            drop(headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
        }
        _ => {}
    }
    response
}
