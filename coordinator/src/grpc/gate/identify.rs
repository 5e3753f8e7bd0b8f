//! Who calls: what a certificate or a token says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use cakes_proto::bearer::SCHEME;
use cakes_proto::method::Method;
use tonic::Status;

use super::{Gate, PeerInfo, status};
use crate::core::access::{SecretHash, token_hash};
use crate::core::identity::{Certified, Identity};
use crate::core::rights::{Caller, Needs, needs};
use crate::store::access::{Found, find_token};
use crate::store::{self, PgPool, Pools, limited};

/// How long an answer about a token is believed, so that a call costs no question to the
/// database. A token that is revoked holds no longer than this.
const BELIEVED_FOR: Duration = Duration::from_secs(5);

/// Tokens that are remembered; the many wrong ones of somebody who tries must not fill memory.
const REMEMBERED_MAX: usize = 4096;

/// How it is known who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    None,
    Token(SecretHash),
    /// A certificate, which ends then.
    Certificate(SystemTime),
}

impl Gate {
    /// # Errors
    /// What the caller shows does not hold, also where nothing would have to be shown.
    pub(super) async fn identify(
        &self,
        method: Method,
        peer: &PeerInfo,
        headers: &HeaderMap,
    ) -> Result<(Caller, Proof), Status> {
        let certified = peer.certified.as_ref();
        if let Some(certified) = certified {
            still_holds(certified.expires_at)?;
        }
        let token = match bearer(headers)? {
            Some(hash) => {
                let for_worker = matches!(needs(method), Needs::Worker(_));
                Some((self.tokens.identity(hash, for_worker).await?, Proof::Token(hash)))
            }
            None => None,
        };
        let (identity, proof) = match (certified, token) {
            // A token says more of a person than the machine's certificate does; a daemon is
            // what its certificate says.
            (Some(Certified { identity: Identity::User { .. }, .. }) | None, Some(token)) => token,
            (Some(certified), _) => (certified.identity.clone(), Proof::Certificate(certified.expires_at)),
            (None, None) if self.requires_identity => return Ok((Caller::Nobody, Proof::None)),
            (None, None) => return Ok((Caller::Trusted, Proof::None)),
        };
        Ok((Caller::Known(identity), proof))
    }

    /// Whether who was known still is.
    ///
    /// # Errors
    /// Why not. A database that does not answer is no reason.
    pub(super) async fn still_known(&self, proof: Proof, caller: &Caller) -> Result<(), Status> {
        match proof {
            Proof::None => Ok(()),
            Proof::Certificate(expires_at) => still_holds(expires_at),
            Proof::Token(hash) => match self.tokens.find(hash, false).await {
                Ok(found) => match identity_of(found)? {
                    identity if *caller == Caller::Known(identity.clone()) => Ok(()),
                    _ => Err(status::unauthenticated("TOKEN_UNKNOWN", "the token is another's now")),
                },
                Err(_) => Ok(()),
            },
        }
    }
}

fn still_holds(expires_at: SystemTime) -> Result<(), Status> {
    if SystemTime::now() < expires_at {
        return Ok(());
    }
    let message = "the certificate has expired; connect again with a renewed one";
    Err(status::unauthenticated("CERTIFICATE_EXPIRED", message))
}

/// The hash of the token that a call brings, if it brings one.
fn bearer(headers: &HeaderMap) -> Result<Option<SecretHash>, Status> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let Some(first) = given.next() else { return Ok(None) };
    let token = first.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_at_checked(SCHEME.len())?;
        scheme.eq_ignore_ascii_case(SCHEME).then_some(token.trim())
    });
    match token.and_then(token_hash).filter(|_| given.next().is_none()) {
        Some(hash) => Ok(Some(hash)),
        None => {
            let message = "what stands under 'authorization' is no token: write 'Bearer cakes_…' with all 70 \
                characters of it, once";
            Err(status::unauthenticated("TOKEN_MALFORMED", message))
        }
    }
}

fn identity_of(found: Found) -> Result<Identity, Status> {
    let remedy = "have a new one made with `cakes-coordinator token issue`";
    match found {
        Found::Valid(holder) => Ok(holder.role.identity(&holder.name)),
        Found::Expired { name } => {
            let message = format!("the token '{name}' has expired; {remedy}");
            Err(status::unauthenticated("TOKEN_EXPIRED", &message))
        }
        Found::Revoked { name } => {
            let message = format!("the token '{name}' is revoked; {remedy}");
            Err(status::unauthenticated("TOKEN_REVOKED", &message))
        }
        Found::Unknown => {
            let message = format!("this coordinator does not know this token; {remedy}");
            Err(status::unauthenticated("TOKEN_UNKNOWN", &message))
        }
    }
}

/// Answers about tokens, remembered for a moment.
#[derive(Clone)]
pub(super) struct Tokens {
    pool: PgPool,
    /// That of the calls that renew leases: what slows lists down must not lose jobs.
    worker_pool: PgPool,
    known: Arc<Mutex<HashMap<SecretHash, (Instant, Found)>>>,
}

impl Tokens {
    pub(super) fn new(pools: &Pools) -> Self {
        let (pool, worker_pool) = (pools.control.clone(), pools.renewals.clone());
        Tokens { pool, worker_pool, known: Arc::default() }
    }

    async fn identity(&self, hash: SecretHash, for_worker: bool) -> Result<Identity, Status> {
        identity_of(self.find(hash, for_worker).await?)
    }

    async fn find(&self, hash: SecretHash, for_worker: bool) -> Result<Found, store::Error> {
        if let Some(found) = self.remembered(&hash) {
            return Ok(found);
        }
        let asked_at = Instant::now();
        let pool = if for_worker { &self.worker_pool } else { &self.pool };
        let found = limited(find_token(pool, hash)).await?;
        self.remember(hash, asked_at, found.clone());
        Ok(found)
    }

    fn remembered(&self, hash: &SecretHash) -> Option<Found> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (asked_at, found) = known.get(hash)?;
        (asked_at.elapsed() < BELIEVED_FOR).then(|| found.clone())
    }

    fn remember(&self, hash: SecretHash, asked_at: Instant, found: Found) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, (asked_at, _)| asked_at.elapsed() < BELIEVED_FOR);
        }
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(hash, (asked_at, found));
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use tokio_util::task::TaskTracker;
    use tonic::Code;

    use super::*;
    use crate::accept::activity::Activity;
    use crate::core::access::{Role, TokenRole, token_of};
    use crate::core::throttle::Limits;
    use crate::store::access::Holder;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_call_brings_one_token_or_none() {
        let token = token_of([7; 32]);
        let hash = token_hash(&token);
        assert_eq!(bearer(&headers(&[])).unwrap(), None);
        for given in [format!("Bearer {token}"), format!("bearer {token}"), format!("BEARER  {token} ")] {
            assert_eq!(bearer(&headers(&[&given])).unwrap(), hash, "{given}");
        }
        let right = format!("Bearer {token}");
        for wrong in [
            vec![token.as_str()],
            vec!["Bearer "],
            vec![""],
            vec!["Basic Y2FrZXM6"],
            vec!["Bearer cakes_00"],
            vec![&right, &right],
        ] {
            let refused = bearer(&headers(&wrong)).unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{wrong:?}");
            assert!(!refused.message().contains(&token[6..20]), "{refused:?}");
        }
    }

    /// A gate that asks no database: what it would be told is remembered.
    fn gate(requires_identity: bool, tokens: &[(&str, TokenRole)]) -> Gate {
        let pool = PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
        let pools =
            Pools { control: pool.clone(), renewals: pool.clone(), turnover: pool.clone(), upkeep: pool };
        let gate = Gate::new(&pools, requires_identity, Limits::default(), TaskTracker::new());
        for (name, role) in tokens {
            let holder = Holder { token_id: 1, name: (*name).to_owned(), role: *role, expire_time: None };
            gate.tokens.remember(
                token_hash(&token_named(name)).unwrap(),
                Instant::now(),
                Found::Valid(holder),
            );
        }
        gate
    }

    fn token_named(name: &str) -> String {
        token_of([name.len() as u8; 32])
    }

    fn certified(identity: Identity, until: SystemTime) -> PeerInfo {
        let certified = Some(Certified { identity, expires_at: until });
        PeerInfo { address: None, certified, activity: Activity::default(), gives_way: false }
    }

    #[tokio::test]
    async fn a_certificate_says_who_calls_until_it_expires() {
        let gate = gate(false, &[("gpu-01", TokenRole::Worker), ("olga", TokenRole::Operator)]);
        let worker = Identity::Worker { name: "a".to_owned() };
        let vera = Identity::User { name: "vera".to_owned(), role: Role::Viewer };
        let later = SystemTime::now() + Duration::from_secs(3600);
        let of = async |peer: &PeerInfo, token: Option<&str>| {
            let bearer = token.map(|name| format!("Bearer {}", token_named(name)));
            let headers = headers(&bearer.iter().map(String::as_str).collect::<Vec<_>>());
            gate.identify(Method::ListJobs, peer, &headers).await
        };
        let plain =
            PeerInfo { address: None, certified: None, activity: Activity::default(), gives_way: false };
        assert_eq!(of(&plain, None).await.unwrap().0, Caller::Trusted);
        for identity in [worker.clone(), vera.clone(), Identity::Coordinator { name: "c".to_owned() }] {
            let (caller, proof) = of(&certified(identity.clone(), later), None).await.unwrap();
            assert_eq!((caller.clone(), proof), (Caller::Known(identity), Proof::Certificate(later)));
            assert!(gate.still_known(proof, &caller).await.is_ok());
            let over = Proof::Certificate(SystemTime::now());
            assert_eq!(gate.still_known(over, &caller).await.unwrap_err().code(), Code::Unauthenticated);
        }
        // A person's token counts, a daemon's certificate does.
        let olga = Caller::Known(TokenRole::Operator.identity("olga"));
        assert_eq!(of(&certified(vera.clone(), later), Some("olga")).await.unwrap().0, olga);
        let found = of(&certified(worker.clone(), later), Some("olga")).await.unwrap();
        assert_eq!(found.0, Caller::Known(worker.clone()));
        let gpu = Caller::Known(Identity::Worker { name: "gpu-01".to_owned() });
        assert_eq!(of(&plain, Some("gpu-01")).await.unwrap().0, gpu);
        // What has expired is refused whatever else is shown.
        for (identity, token) in [(worker, None), (vera, Some("olga"))] {
            let refused = of(&certified(identity, SystemTime::now()), token).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated);
            assert!(refused.message().contains("certificate has expired"), "{refused:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_that_does_not_answer_lets_nobody_in_and_throws_nobody_out() {
        let gate = gate(true, &[("olga", TokenRole::Operator)]);
        let plain =
            PeerInfo { address: None, certified: None, activity: Activity::default(), gives_way: false };
        let nobody = gate.identify(Method::ListJobs, &plain, &headers(&[])).await.unwrap();
        assert_eq!(nobody, (Caller::Nobody, Proof::None));
        let olga = Caller::Known(TokenRole::Operator.identity("olga"));
        let unknown = token_hash(&token_of([99; 32])).unwrap();
        assert!(gate.tokens.find(unknown, false).await.is_err());
        assert!(gate.still_known(Proof::Token(unknown), &olga).await.is_ok());
        let hash = token_hash(&token_named("olga")).unwrap();
        gate.tokens.remember(hash, Instant::now(), Found::Revoked { name: "olga".to_owned() });
        assert!(gate.still_known(Proof::Token(hash), &olga).await.is_err());
    }
}
