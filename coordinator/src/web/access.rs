//! Who asks: a token in a header, or the session of a browser that was given one.

use std::collections::BTreeMap;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::answer::{Failure, json};
use super::guard::{comes_over_plain_http, is_loopback_name};
use super::listener::Peer;
use super::{Web, actions, guard};
use crate::audit::done;
use crate::core::access::{Action, Role, SecretHash, delay, least_role, permits, token_hash};
use crate::core::rights;
use crate::store::access::{self as stored, Asker, Found, Holder, Via};
use crate::store::projects::roles;

/// Longest time that a browser stays signed in.
const SESSION_HOURS: i32 = 12;

const SIGN_IN: &str = "sign_in";
const SIGN_OUT: &str = "sign_out";

/// Below `/api/v1`: whoever is not signed in yet must reach these.
const OPEN_PATHS: [&str; 3] = ["/session", "/sign-in", "/sign-out"];

/// Who asks, and from where.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub who: Option<Holder>,
    pub peer: String,
}

impl Caller {
    /// # Errors
    /// The caller's role does not permit it, or there is none.
    pub(super) fn may(&self, action: Action) -> Result<(), Failure> {
        let Some(who) = &self.who else {
            return Err(unauthorized(
                "sign in with a token first; `cakes-coordinator token issue` makes one",
            ));
        };
        if who.role.of_user().is_some_and(|role| permits(role, action)) {
            return Ok(());
        }
        let needed = least_role(action).map_or_else(String::new, |role| {
            format!("; it needs a token of role {role}, which `cakes-coordinator token issue` makes")
        });
        let message = format!("'{}' has the role {} and may not do this{needed}", who.name, who.role);
        Err(Failure::new(StatusCode::FORBIDDEN, "FORBIDDEN", message))
    }

    /// The same as the API knows them.
    pub(super) fn of_api(&self) -> rights::Caller {
        let Some(who) = &self.who else { return rights::Caller::Nobody };
        rights::Caller::Known(who.role.identity(&who.name))
    }

    fn asker(&self) -> Asker<'_> {
        let who = self.who.as_ref();
        Asker {
            name: who.map(|who| who.name.as_str()),
            role: who.map(|who| who.role.as_str()),
            peer: &self.peer,
            via: Via::Page,
        }
    }
}

fn unauthorized(message: &str) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message.to_owned())
}

/// Finds out who asks, and refuses whom nobody knows.
pub(super) async fn identify(
    State(web): State<Web>,
    ConnectInfo(Peer { address, .. }): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = address.ip().to_string();
    let caller = match web.caller(request.headers(), peer).await {
        Ok(caller) => caller,
        Err(failure) => return failure.into_response(),
    };
    let is_open = OPEN_PATHS.contains(&request.uri().path());
    let reads = request.method().is_safe();
    if web.requires_token
        && reads
        && !is_open
        && let Err(failure) = caller.may(Action::Read)
    {
        web.record(&caller, Action::Read.as_str(), request.uri().path(), Err(&failure)).await;
        return failure.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

impl Web {
    /// # Errors
    /// There is a token and it does not hold.
    async fn caller(&self, headers: &HeaderMap, peer: String) -> Result<Caller, Failure> {
        if let Some(given) = headers.get(header::AUTHORIZATION) {
            let token = given.to_str().ok().and_then(|given| given.strip_prefix("Bearer "));
            let found = self.token(token.unwrap_or_default()).await;
            return match found {
                Ok(who) => Ok(Caller { who: Some(who), peer }),
                Err(failure) => {
                    self.refuse_token(&Caller { who: None, peer }, "bearer", &failure).await;
                    Err(failure)
                }
            };
        }
        let who = match self.session_hash(headers) {
            Some(hash) => self.ask(async { Ok(stored::find_session(&self.pool, hash).await?) }).await?,
            None => None,
        };
        Ok(Caller { who, peer })
    }

    /// Records a wrong token, and lets whoever gave one of too many wait for the answer. One
    /// that is right is taken at any time: nobody can keep others from signing in.
    async fn refuse_token(&self, caller: &Caller, action: &str, failure: &Failure) {
        let failures = stored::failures(&self.pool, &caller.peer, action).await;
        self.record(caller, action, "", Err(failure)).await;
        tokio::time::sleep(failures.map(delay).unwrap_or_default()).await;
    }

    /// Whose token it is.
    async fn token(&self, token: &str) -> Result<Holder, Failure> {
        let Some(hash) = token_hash(token.trim()) else {
            return Err(unauthorized("this is no token: one begins with cakes_ and has 64 more characters"));
        };
        let remedy = "have a new one made with `cakes-coordinator token issue`";
        match self.ask(async { Ok(stored::find_token(&self.pool, hash).await?) }).await? {
            Found::Valid(who) => Ok(who),
            Found::Expired { name } => {
                Err(unauthorized(&format!("the token '{name}' has expired; {remedy}")))
            }
            Found::Revoked { name } => Err(unauthorized(&format!("the token '{name}' is revoked; {remedy}"))),
            Found::Unknown => {
                Err(unauthorized(&format!("this coordinator does not know this token; {remedy}")))
            }
        }
    }

    fn cookie_name(&self) -> String {
        format!("cakes_session_{}", self.port)
    }

    fn session_hash(&self, headers: &HeaderMap) -> Option<SecretHash> {
        let name = self.cookie_name();
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
        let mut pairs =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.find(|(known, _)| known.trim() == name)?;
        let secret = hex::decode(value.trim()).ok().filter(|secret| secret.len() == 32)?;
        Some(Sha256::digest(secret).into())
    }

    fn cookie(&self, headers: &HeaderMap, value: &str, max_age_s: i64) -> String {
        // A browser takes no secure cookie over plain HTTP, which loopback may be.
        let secure = if is_loopback_name(guard::host(headers)) { "" } else { "; Secure" };
        let name = self.cookie_name();
        format!("{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{secure}")
    }

    /// Adds a row that says what is about to be done, and what limits it sets.
    ///
    /// # Errors
    /// It cannot be recorded, and so must not be done.
    pub(super) async fn begin(
        &self,
        caller: &Caller,
        action: &str,
        object: &str,
        limits: &str,
    ) -> Result<i64, Failure> {
        self.audit.begin(caller.asker(), action, object, limits).await.map_err(|_| {
            let message =
                "nothing was done, since it cannot be recorded; the coordinator's log says why".to_owned();
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "NOT_RECORDED", message)
        })
    }

    /// Adds a row to the record of what nothing was begun for.
    pub(super) async fn record(
        &self,
        caller: &Caller,
        action: &str,
        object: &str,
        outcome: Result<(), &Failure>,
    ) {
        self.record_outcome(caller, action, object, outcome.map(|()| ""), None).await;
    }

    /// Adds a row to the record, with the limits that were set. Of callers that nobody knows
    /// only so many are kept, so that nobody fills the disk.
    pub(super) async fn record_outcome(
        &self,
        caller: &Caller,
        action: &str,
        object: &str,
        outcome: Result<&str, &Failure>,
        begun: Option<i64>,
    ) {
        let outcome = outcome.map_or_else(|failure| (failure.code(), failure.message()), done);
        self.audit.end(caller.asker(), action, object, outcome, begun).await;
    }
}

/// Whether a caller that could read still may.
pub(super) async fn may_still_read(web: &Web, headers: &HeaderMap) -> bool {
    if !web.requires_token {
        return true;
    }
    let caller = web.caller(headers, String::new()).await;
    caller.is_ok_and(|caller| caller.may(Action::Read).is_ok())
}

/// Whoever is signed in, what they may do, and their role in each project that has members.
async fn describe(web: &Web, who: Option<&Holder>) -> Result<serde_json::Value, Failure> {
    let may = |who: &Holder| -> Vec<&str> {
        Action::ALL
            .iter()
            .filter(|action| who.role.of_user().is_some_and(|role| permits(role, **action)))
            .map(|action| action.as_str())
            .collect()
    };
    let projects = match who {
        Some(who) => web.ask(async { Ok(roles(&web.pool, &who.name).await?) }).await?,
        None => BTreeMap::new(),
    };
    let in_projects: BTreeMap<_, _> =
        projects.iter().map(|(project, role)| (project, role.map(Role::as_str))).collect();
    Ok(json!({
        "signed_in": who.is_some(),
        "requires_token": web.requires_token,
        "name": who.map(|who| &who.name),
        "role": who.map(|who| who.role.as_str()),
        "expire_time": who.and_then(|who| who.expire_time),
        "may": who.map(may).unwrap_or_default(),
        "projects": in_projects,
    }))
}

/// Who is signed in, and what they may do.
pub(super) async fn session(
    State(web): State<Web>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    json(&headers, &describe(&web, caller.who.as_ref()).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    token: String,
}

pub(super) async fn sign_in(
    State(web): State<Web>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let anybody = Caller { who: None, ..caller };
    let known = async {
        if comes_over_plain_http(&headers) {
            let message = "this connection is not encrypted, and others could read the token; open the page through \
                `ssh -L`, or a proxy with TLS (docs/web.md)";
            return Err(Failure::new(StatusCode::FORBIDDEN, "NOT_ENCRYPTED", message.to_owned()));
        }
        let SignIn { token } = actions::read(&body)?;
        let who = web.token(&token).await?;
        match who.role.of_user() {
            Some(_) => Ok(who),
            None => Err(Failure::new(
                StatusCode::FORBIDDEN,
                "FORBIDDEN",
                format!("the token '{}' is that of a worker; the page is for people", who.name),
            )),
        }
    };
    let who = match known.await {
        Ok(who) => who,
        Err(failure) => {
            web.refuse_token(&anybody, SIGN_IN, &failure).await;
            return Err(failure);
        }
    };
    let caller = Caller { who: Some(who.clone()), ..anybody };
    let begun = web.begin(&caller, SIGN_IN, "", "").await?;
    let opened = open(&web, who).await;
    web.record_outcome(&caller, SIGN_IN, "", opened.as_ref().map(|_| ""), Some(begun)).await;
    let (who, secret) = opened?;
    let cookie = web.cookie(&headers, &secret, i64::from(SESSION_HOURS) * 3600);
    with_cookie(&describe(&web, Some(&who)).await?, &cookie)
}

/// Opens a session, and says until when it lasts and what the cookie holds.
async fn open(web: &Web, mut who: Holder) -> Result<(Holder, String), Failure> {
    let secret = stored::random_bytes()?;
    let opened = stored::open(&web.pool, Sha256::digest(secret).into(), who.token_id, SESSION_HOURS);
    who.expire_time = Some(web.ask(async { Ok(opened.await?) }).await?);
    Ok((who, hex::encode(secret)))
}

pub(super) async fn sign_out(
    State(web): State<Web>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    if let Some(hash) = web.session_hash(&headers) {
        let begun = match &caller.who {
            Some(_) => Some(web.begin(&caller, SIGN_OUT, "", "").await?),
            None => None,
        };
        let closed = web.ask(async { Ok(stored::close(&web.pool, hash).await?) }).await;
        if begun.is_some() {
            web.record_outcome(&caller, SIGN_OUT, "", closed.as_ref().map(|_| ""), begun).await;
        }
        closed?;
    }
    with_cookie(&describe(&web, None).await?, &web.cookie(&headers, "", 0))
}

fn with_cookie(body: &serde_json::Value, cookie: &str) -> Result<Response, Failure> {
    let mut response = json(&HeaderMap::new(), body)?;
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}
