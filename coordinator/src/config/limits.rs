//! Settings about how much anybody may ask for.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::{ConfigError, check_duration, invalid};
use crate::accept;
use crate::core::throttle::{self, Rate};
use crate::grpc;

/// Largest number of anything that is counted: more is a slip.
const COUNT_MAX: u32 = 10_000_000;

/// The table `[limits]` of the file.
#[derive(Clone, Debug, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Limits (in the file: the table [limits])")]
pub struct LimitSettings {
    /// Most connections to the API; more wait [default: 8192]
    #[arg(long, env = "CAKES_MAX_CONNECTIONS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections: Option<u32>,

    /// Most connections of one address, and at most half of a port's [default: 1024]
    #[arg(long, env = "CAKES_MAX_CONNECTIONS_PER_ADDRESS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections_per_address: Option<u32>,

    /// New connections of one address per second, once as many as it may have came at once
    /// [default: 100]
    #[arg(long, env = "CAKES_MAX_CONNECTION_RATE_PER_ADDRESS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connection_rate_per_address: Option<u32>,

    /// Most connections of one certificate's name [default: 256]
    #[arg(long, env = "CAKES_MAX_CONNECTIONS_PER_IDENTITY", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_connections_per_identity: Option<u32>,

    /// Most TLS handshakes at a time, of one address a quarter of them [default: 256]
    #[arg(long, env = "CAKES_MAX_HANDSHAKES", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_handshakes: Option<u32>,

    /// How long a TLS handshake may take [default: 5s]
    #[arg(long, env = "CAKES_HANDSHAKE_TIMEOUT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    handshake_timeout: Option<Duration>,

    /// How long a connection may be silent at its beginning [default: 5s]
    #[arg(long, env = "CAKES_FIRST_BYTE_TIMEOUT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    first_byte_timeout: Option<Duration>,

    /// How long a connection may be without a first request [default: 10s]
    #[arg(long, env = "CAKES_FIRST_REQUEST_TIMEOUT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    first_request_timeout: Option<Duration>,

    /// How long a connection may be without any request later [default: 5m]
    #[arg(long, env = "CAKES_IDLE_TIMEOUT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    idle_timeout: Option<Duration>,

    /// How long a peer may leave untaken what it asked for [default: 2m]
    #[arg(long, env = "CAKES_STALL_TIMEOUT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    stall_timeout: Option<Duration>,

    /// Most calls and streams of one connection [default: 64]
    #[arg(long, env = "CAKES_MAX_STREAMS_PER_CONNECTION", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_streams_per_connection: Option<u32>,

    /// Most calls and streams under way, of one address without names three quarters of
    /// them [default: 8192]
    #[arg(long, env = "CAKES_MAX_CALLS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_calls: Option<u32>,

    /// Most calls and streams under way of one identity [default: 128]
    #[arg(long, env = "CAKES_MAX_CALLS_PER_IDENTITY", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_calls_per_identity: Option<u32>,

    /// Calls per second of one identity [default: 500]
    #[arg(long, env = "CAKES_MAX_CALL_RATE_PER_IDENTITY", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_call_rate_per_identity: Option<u32>,

    /// Calls at once of one identity, after a pause [default: 2000]
    #[arg(long, env = "CAKES_MAX_CALL_BURST_PER_IDENTITY", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_call_burst_per_identity: Option<u32>,

    /// Calls per second of one address whose callers have no names [default: 5000]
    #[arg(long, env = "CAKES_MAX_CALL_RATE_PER_ADDRESS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_call_rate_per_address: Option<u32>,

    /// Calls at once of one address whose callers have no names, after a pause
    /// [default: 20000]
    #[arg(long, env = "CAKES_MAX_CALL_BURST_PER_ADDRESS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_call_burst_per_address: Option<u32>,

    /// How long a call may take, and a stream until it begins [default: 15s]
    #[arg(long, env = "CAKES_CALL_TIMEOUT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    call_timeout: Option<Duration>,

    /// Most streams that follow something, in all [default: 500]
    #[arg(long, env = "CAKES_MAX_WATCHES", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_watches: Option<u32>,

    /// Most jobs that wait; then nothing is queued any more [default: 1000000]
    #[arg(long, env = "CAKES_MAX_WAITING_JOBS", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_waiting_jobs: Option<u32>,

    /// Most searches that have not ended; then none is taken any more [default: 10000]
    #[arg(long, env = "CAKES_MAX_OPEN_SEARCHES", value_name = "COUNT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_open_searches: Option<u32>,
}

/// How much anybody may ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Of the API; the other ports have fewer connections.
    pub connections: accept::Limits,
    pub calls: grpc::Limits,
}

impl LimitSettings {
    /// Nothing of it is set.
    pub(super) fn is_empty(&self) -> bool {
        *self == LimitSettings::default()
    }

    /// Fills in defaults and checks everything.
    pub(super) fn check(&self) -> Result<Limits, ConfigError> {
        let (connections, calls) = (accept::Limits::default(), grpc::Limits::default());
        let rates = calls.callers;
        Ok(Limits {
            connections: accept::Limits {
                connections: count("--max-connections", self.max_connections, connections.connections)?,
                connections_per_address: count(
                    "--max-connections-per-address",
                    self.max_connections_per_address,
                    connections.connections_per_address,
                )?,
                connection_rate_per_address: count(
                    "--max-connection-rate-per-address",
                    self.max_connection_rate_per_address,
                    connections.connection_rate_per_address,
                )?,
                connections_per_identity: count(
                    "--max-connections-per-identity",
                    self.max_connections_per_identity,
                    connections.connections_per_identity,
                )?,
                handshakes: count("--max-handshakes", self.max_handshakes, connections.handshakes)?,
                handshake_timeout: time(
                    "--handshake-timeout",
                    self.handshake_timeout,
                    connections.handshake_timeout,
                )?,
                first_byte_timeout: time(
                    "--first-byte-timeout",
                    self.first_byte_timeout,
                    connections.first_byte_timeout,
                )?,
                first_request_timeout: time(
                    "--first-request-timeout",
                    self.first_request_timeout,
                    connections.first_request_timeout,
                )?,
                idle_timeout: time("--idle-timeout", self.idle_timeout, connections.idle_timeout)?,
                stall_timeout: time("--stall-timeout", self.stall_timeout, connections.stall_timeout)?,
            },
            calls: grpc::Limits {
                streams_per_connection: count(
                    "--max-streams-per-connection",
                    self.max_streams_per_connection,
                    calls.streams_per_connection,
                )?,
                callers: throttle::Limits {
                    calls: count("--max-calls", self.max_calls, rates.calls)?,
                    calls_of_identity: count(
                        "--max-calls-per-identity",
                        self.max_calls_per_identity,
                        rates.calls_of_identity,
                    )?,
                    rate_of_identity: Rate {
                        per_s: rate(
                            "--max-call-rate-per-identity",
                            self.max_call_rate_per_identity,
                            rates.rate_of_identity.per_s,
                        )?,
                        burst: rate(
                            "--max-call-burst-per-identity",
                            self.max_call_burst_per_identity,
                            rates.rate_of_identity.burst,
                        )?,
                    },
                    rate_of_address: Rate {
                        per_s: rate(
                            "--max-call-rate-per-address",
                            self.max_call_rate_per_address,
                            rates.rate_of_address.per_s,
                        )?,
                        burst: rate(
                            "--max-call-burst-per-address",
                            self.max_call_burst_per_address,
                            rates.rate_of_address.burst,
                        )?,
                    },
                },
                call_timeout: time("--call-timeout", self.call_timeout, calls.call_timeout)?,
                watches: count("--max-watches", self.max_watches, calls.watches)?,
                waiting_jobs: count("--max-waiting-jobs", self.max_waiting_jobs, calls.waiting_jobs)?,
                open_searches: count("--max-open-searches", self.max_open_searches, calls.open_searches)?,
            },
        })
    }
}

fn number(setting: &'static str, given: u32) -> Result<u32, ConfigError> {
    if (1..=COUNT_MAX).contains(&given) {
        return Ok(given);
    }
    Err(invalid(setting, format!("must be 1 to {COUNT_MAX}, got {given}")))
}

fn count<T: TryFrom<u32>>(setting: &'static str, given: Option<u32>, default: T) -> Result<T, ConfigError> {
    let Some(given) = given else { return Ok(default) };
    let problem = |_| invalid(setting, format!("{given} is too many"));
    T::try_from(number(setting, given)?).map_err(problem)
}

fn rate(setting: &'static str, given: Option<u32>, default: f64) -> Result<f64, ConfigError> {
    given.map_or(Ok(default), |given| number(setting, given).map(f64::from))
}

fn time(setting: &'static str, given: Option<Duration>, default: Duration) -> Result<Duration, ConfigError> {
    check_duration(setting, given.unwrap_or(default))
}
