//! What clients do that are broken or mean harm.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use cakes_proto::method::Method;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Plan;
use super::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, RST_STREAM, begin, connect, field, frame,
    head, message, send, until_closed,
};

/// Whence abuse comes: another address of this machine than that of the calm client.
pub const ABUSER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Streams that are opened and reset on one connection.
const RESETS: u32 = 2000;
/// Streams of one connection whose answers are not taken.
const UNTAKEN: u32 = 40;
/// Frames of a head that does not end.
const ENDLESS_FRAMES: u32 = 2000;

/// One way to abuse a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abuse {
    /// A connection, and not a word.
    Silent,
    /// The beginning of the first line, and no more.
    HalfPreface,
    /// All that a connection begins with, and no stream.
    NoStream,
    /// More connections than one address may have.
    Connections,
    /// A stream is opened and reset, again and again.
    RapidReset,
    /// A head that does not end.
    EndlessHead,
    /// A head that is too long.
    LongHead,
    /// A message is said to have a gibibyte.
    LongMessage,
    /// A message begins and does not go on.
    SlowBody,
    /// Calls whose answers are not taken.
    SlowReader,
    /// Messages that are none, for every method.
    Garbage,
    /// Bytes that are no HTTP/2 at all.
    Noise,
    /// As many calls as go.
    Calls,
}

impl Abuse {
    pub const ALL: [Abuse; 13] = [
        Abuse::Silent,
        Abuse::HalfPreface,
        Abuse::NoStream,
        Abuse::Connections,
        Abuse::RapidReset,
        Abuse::EndlessHead,
        Abuse::LongHead,
        Abuse::LongMessage,
        Abuse::SlowBody,
        Abuse::SlowReader,
        Abuse::Garbage,
        Abuse::Noise,
        Abuse::Calls,
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Abuse::ALL.into_iter().find(|abuse| abuse.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Abuse::Silent => "silent",
            Abuse::HalfPreface => "half_preface",
            Abuse::NoStream => "no_stream",
            Abuse::Connections => "connections",
            Abuse::RapidReset => "rapid_reset",
            Abuse::EndlessHead => "endless_head",
            Abuse::LongHead => "long_head",
            Abuse::LongMessage => "long_message",
            Abuse::SlowBody => "slow_body",
            Abuse::SlowReader => "slow_reader",
            Abuse::Garbage => "garbage",
            Abuse::Noise => "noise",
            Abuse::Calls => "calls",
        }
    }

    /// The limit that must be seen to act: the metric, and its reason.
    pub fn limit(self) -> Option<(&'static str, &'static str)> {
        const CONNECTIONS: &str = "cakes_connections_refused_total";
        const CALLS: &str = "cakes_calls_refused_total";
        match self {
            Abuse::Silent => Some((CONNECTIONS, "silent")),
            Abuse::HalfPreface | Abuse::NoStream => Some((CONNECTIONS, "no_request")),
            Abuse::Connections => Some((CONNECTIONS, "address")),
            Abuse::SlowReader => Some((CONNECTIONS, "stalled")),
            Abuse::LongMessage => Some((CALLS, "size")),
            Abuse::Calls => Some((CALLS, "rate")),
            // The HTTP/2 library, the call's deadline or the decoder ends these.
            Abuse::RapidReset
            | Abuse::EndlessHead
            | Abuse::LongHead
            | Abuse::SlowBody
            | Abuse::Garbage
            | Abuse::Noise => None,
        }
    }

    /// Whether the server must close each connection by itself.
    pub fn must_be_closed(self) -> bool {
        !matches!(
            self,
            Abuse::LongHead | Abuse::LongMessage | Abuse::SlowBody | Abuse::Garbage | Abuse::Calls
        )
    }
}

/// What became of the abuser's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    /// That could be opened.
    pub opened: u64,
    /// That the server closed by itself in time.
    pub closed: u64,
    /// Longest time until it did, in seconds.
    pub slowest_s: f64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.opened += other.opened;
        self.closed += other.closed;
        self.slowest_s = self.slowest_s.max(other.slowest_s);
    }
}

/// Abuses the server over so many connections at a time until the time is up, and then waits
/// for those that are open.
///
/// # Errors
/// No connection could be opened.
pub async fn abuse(abuse: Abuse, server: SocketAddr, plan: &Plan) -> Result<Tally> {
    let Plan { connections, duration, patience } = *plan;
    let until = Instant::now() + duration;
    let heads: Arc<[Vec<u8>]> = Method::ALL.iter().map(|method| head(method.path())).collect();
    let tasks: Vec<_> = (0..connections)
        .map(|number| {
            let heads = Arc::clone(&heads);
            tokio::spawn(async move {
                let mut tally = Tally::default();
                let mut round = number;
                loop {
                    tally.add(once(abuse, server, &heads, round, until, patience).await);
                    round += connections;
                    if Instant::now() >= until {
                        return tally;
                    }
                    // Whoever is closed at once comes again, but leaves the machine to others.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        })
        .collect();
    let mut tally = Tally::default();
    for task in tasks {
        tally.add(task.await?);
    }
    anyhow::ensure!(tally.opened > 0, "{}: not one connection could be opened", abuse.name());
    Ok(tally)
}

/// One connection.
async fn once(
    abuse: Abuse,
    server: SocketAddr,
    heads: &[Vec<u8>],
    round: usize,
    until: Instant,
    patience: Duration,
) -> Tally {
    let opened = match abuse {
        Abuse::Silent | Abuse::HalfPreface | Abuse::Connections | Abuse::Noise => {
            connect(ABUSER, server).await
        }
        // With a window of nothing no answer can be sent.
        Abuse::SlowReader => begin(ABUSER, server, Some(0)).await,
        _ => begin(ABUSER, server, None).await,
    };
    let Ok(mut stream) = opened else { return Tally::default() };
    play(abuse, &mut stream, heads, round, until).await;
    let closed = match abuse.must_be_closed() {
        true => until_closed(&mut stream, patience).await,
        // The server may keep it; what was asked is answered, or its time is up.
        false => until_closed(&mut stream, Duration::from_millis(200)).await,
    };
    let slowest_s = closed.map_or(0.0, |took| took.as_secs_f64());
    Tally { opened: 1, closed: u64::from(closed.is_some()), slowest_s }
}

/// Sends what there is to send.
async fn play(abuse: Abuse, stream: &mut TcpStream, heads: &[Vec<u8>], round: usize, until: Instant) {
    let list = head(Method::ListWorkers.path());
    match abuse {
        Abuse::Silent | Abuse::NoStream | Abuse::Connections => {}
        Abuse::HalfPreface => {
            send(stream, &PREFACE[..PREFACE.len() / 2]).await;
        }
        Abuse::RapidReset => {
            for number in 0..RESETS {
                let id = 2 * number + 1;
                let mut bytes = frame(HEADERS, END_HEADERS, id, &list);
                bytes.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
                if !send(stream, &bytes).await {
                    return;
                }
            }
        }
        Abuse::EndlessHead => {
            let mut more = Vec::new();
            for number in 0..100 {
                field(&mut more, &format!("x-{number}"), &"a".repeat(100));
            }
            if !send(stream, &frame(HEADERS, 0, 1, &list)).await {
                return;
            }
            for _ in 0..ENDLESS_FRAMES {
                if !send(stream, &frame(CONTINUATION, 0, 1, &more)).await {
                    return;
                }
            }
        }
        Abuse::LongHead => {
            let mut long = list;
            for number in 0..120 {
                field(&mut long, &format!("x-{number}"), &"a".repeat(100));
            }
            send(stream, &frame(HEADERS, END_HEADERS | END_STREAM, 1, &long)).await;
        }
        Abuse::LongMessage => {
            for number in 0..UNTAKEN {
                let id = 2 * number + 1;
                let mut bytes = frame(HEADERS, END_HEADERS, id, &heads[round % heads.len()]);
                bytes.extend(frame(DATA, 0, id, &message(1 << 30, &[0; 100])));
                send(stream, &bytes).await;
            }
        }
        Abuse::SlowBody => {
            let mut bytes = frame(HEADERS, END_HEADERS, 1, &heads[round % heads.len()]);
            bytes.extend(frame(DATA, 0, 1, &message(1000, &[0; 10])));
            send(stream, &bytes).await;
        }
        Abuse::SlowReader => {
            for number in 0..UNTAKEN {
                let id = 2 * number + 1;
                let mut bytes = frame(HEADERS, END_HEADERS, id, &list);
                bytes.extend(frame(DATA, END_STREAM, id, &message(0, &[])));
                if !send(stream, &bytes).await {
                    return;
                }
            }
        }
        Abuse::Garbage => {
            for (number, head) in (0_u32..).zip(heads) {
                let id = 2 * number + 1;
                let garbage = noise(round.wrapping_mul(31).wrapping_add(id as usize), 300);
                let mut bytes = frame(HEADERS, END_HEADERS, id, head);
                bytes.extend(frame(DATA, END_STREAM, id, &message(300, &garbage)));
                if !send(stream, &bytes).await {
                    return;
                }
            }
        }
        Abuse::Noise => {
            let _ = stream.write_all(&noise(round, 4096)).await;
        }
        Abuse::Calls => {
            let mut id = 1;
            while Instant::now() < until && id < 60_000 {
                let mut bytes = Vec::new();
                for _ in 0..20 {
                    bytes.extend(frame(HEADERS, END_HEADERS, id, &list));
                    bytes.extend(frame(DATA, END_STREAM, id, &message(0, &[])));
                    id += 2;
                }
                if !send(stream, &bytes).await {
                    return;
                }
                // What was answered is read, and more streams than may be open are not asked for.
                until_closed(stream, Duration::from_millis(20)).await;
            }
        }
    }
}

/// Bytes that mean nothing, the same for the same seed.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 ^ 0x9E37_79B9_7F4A_7C15;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}
