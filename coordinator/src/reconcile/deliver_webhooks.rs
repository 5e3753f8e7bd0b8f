//! Makes the deliveries that transactions have left.
//!
//! At least once: a delivery is taken for as long as its request may last, and comes
//! back by itself if whoever took it dies.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::{Duration, Instant, SystemTime};

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::PERIOD;
use super::ticks::Ticks;
use crate::core::webhook::{TRIES_MAX, Target, judge, message_id};
use crate::metrics::metrics;
use crate::store::webhooks::{Claim, Claimed, claim, prune, settle};
use crate::store::{Error, PgPool, limited};

/// What an operator can set about deliveries.
#[derive(Clone, Copy, Debug)]
pub struct Webhooks {
    /// How long a receiver may take to answer.
    pub timeout: Duration,
    /// Also http to other machines.
    pub allows_plain: bool,
}

impl Default for Webhooks {
    fn default() -> Self {
        Webhooks { timeout: Duration::from_secs(10), allows_plain: false }
    }
}

/// Requests under way at a time, of one coordinator.
const REQUESTS_MAX: usize = 32;
/// Of these, to one webhook.
const REQUESTS_PER_WEBHOOK_MAX: usize = 4;
/// What of an answer is read, so that its connection can be used again.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Beyond the time of a request, to record how it went.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// How long those under way are waited for when the daemon stops.
const STOP_TIME: Duration = Duration::from_secs(5);
/// Deliveries are kept that long after their end.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
const PRUNE_PERIOD: Duration = Duration::from_secs(600);

/// Its name in metrics.
const NAME: &str = "deliver_webhooks";

/// Makes deliveries at every tick until stopped.
pub(super) async fn run(pool: PgPool, settings: Webhooks, stop: CancellationToken) {
    let client = match client(settings) {
        Ok(client) => client,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "webhooks cannot be delivered");
            return;
        }
    };
    let (mut under_way, mut counts) = (FuturesUnordered::new(), BTreeMap::<Uuid, usize>::new());
    let mut pruned: Option<Instant> = None;
    let mut ticks = Ticks::every(NAME, PERIOD, stop);
    loop {
        tokio::select! {
            tick = ticks.next() => if tick.is_none() { break },
            Some(webhook) = under_way.next() => forget(&mut counts, webhook),
        }
        let wish = wish(under_way.len(), &counts, settings);
        if wish.limit > 0 {
            match limited(claim(&pool, &wish)).await {
                Ok(claimed) => {
                    for delivery in claimed {
                        *counts.entry(delivery.webhook).or_default() += 1;
                        under_way.push(deliver(&pool, &client, settings, delivery));
                    }
                }
                Err(error) => warn("could not look for deliveries of webhooks", &error),
            }
        }
        if pruned.is_none_or(|at| at.elapsed() > PRUNE_PERIOD) {
            if let Err(error) = limited(prune(&pool, KEPT)).await {
                warn("could not delete old deliveries of webhooks", &error);
            }
            pruned = Some(Instant::now());
        }
    }
    // What is cut off comes back, here or elsewhere.
    let _ = timeout(STOP_TIME, under_way.collect::<Vec<_>>()).await;
}

fn warn(what: &'static str, error: &Error) {
    metrics().reconciler_errors.add([NAME], 1);
    tracing::warn!(error = error as &dyn std::error::Error, "{what}");
}

fn forget(counts: &mut BTreeMap<Uuid, usize>, webhook: Uuid) {
    if let Some(count) = counts.get_mut(&webhook) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&webhook);
        }
    }
}

/// A receiver that does not answer keeps few places, so that it does not keep others.
fn wish(under_way: usize, counts: &BTreeMap<Uuid, usize>, settings: Webhooks) -> Claim {
    let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    Claim {
        limit: count(REQUESTS_MAX.saturating_sub(under_way)),
        limit_per_webhook: count(REQUESTS_PER_WEBHOOK_MAX),
        busy: counts.keys().copied().collect(),
        hold: settings.timeout + SETTLE_TIME,
    }
}

fn client(settings: Webhooks) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(settings.timeout)
        .user_agent(concat!("cakes/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Makes one request and records how it went; the webhook that it was for.
async fn deliver(pool: &PgPool, client: &reqwest::Client, settings: Webhooks, delivery: Claimed) -> Uuid {
    let attempt = u32::try_from(delivery.attempt).unwrap_or(u32::MAX);
    let outcome = if attempt > TRIES_MAX {
        Err("no request was seen to its end".to_owned())
    } else {
        send(client, settings, &delivery).await
    };
    let verdict = judge(outcome, attempt, delivery.id.as_u64_pair().0 ^ u64::from(attempt).rotate_right(8));
    let outcome = if verdict.error.is_empty() { "delivered" } else { "failed" };
    metrics().webhook_attempts.add([outcome], 1);
    if !verdict.error.is_empty() {
        tracing::info!(delivery = %delivery.id, attempt, error = verdict.error, "a webhook was not delivered");
    }
    if let Err(error) = limited(settle(pool, delivery.id, delivery.attempt, &verdict)).await {
        warn("could not record how a delivery of a webhook went", &error);
    }
    delivery.webhook
}

/// The status of the answer, or why there was none.
async fn send(client: &reqwest::Client, settings: Webhooks, delivery: &Claimed) -> Result<u16, String> {
    let target = Target::parse(&delivery.url, settings.allows_plain)?;
    let id = message_id(delivery.id);
    let since =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_err(|error| error.to_string())?;
    let signature = delivery.secret.sign(&id, since.as_secs(), &delivery.payload)?;
    let request = client
        .post(target.as_str())
        .header("content-type", "application/json")
        .header("webhook-id", id)
        .header("webhook-timestamp", since.as_secs().to_string())
        .header("webhook-signature", signature)
        .body(delivery.payload.clone());
    let mut response = request.send().await.map_err(cause)?;
    let (status, mut read) = (response.status().as_u16(), 0);
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(status)
}

/// What kept a request from its answer, without the address.
fn cause(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    match error.source() {
        Some(_) => format!("{error}: {innermost}"),
        None => error.to_string(),
    }
}
