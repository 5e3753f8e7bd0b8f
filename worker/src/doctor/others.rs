//! Where workers of other machines reach this one.

use std::net::TcpListener;

use tonic::transport::Endpoint;

use super::Check;
use crate::config::Settings;
use crate::gangs::Advertised;

/// Whether the address that other workers are told is one of this machine: its ranks listen there.
/// None where that cannot be said, because the coordinator's URL is none.
pub(super) fn look(settings: &Settings) -> Option<Check> {
    const NAME: &str = "other workers";
    let remedy = "name an address of this machine with --advertise-address, or say off";
    let advertised = match Advertised::parse(settings.advertise_address.as_deref()) {
        Ok(Advertised::Off) => return Some(Check::ok(NAME, "its slots train with no others")),
        Ok(advertised) => advertised,
        Err(problem) => return Some(Check::failed(NAME, problem, remedy)),
    };
    let url = settings.server.split(',').map(str::trim).find(|url| !url.is_empty())?;
    let server = Endpoint::from_shared(url.to_owned()).ok()?;
    let Some(address) = advertised.resolve(&server) else {
        let found = "its slots train with no others: no address is found at which those reach this machine";
        return Some(Check::warning(NAME, found, remedy));
    };
    let listens = TcpListener::bind((address.as_str(), 0)).and_then(|listener| listener.local_addr());
    Some(match listens {
        Err(error) => {
            Check::failed(NAME, format!("{address} is no address of this machine: {error}"), remedy)
        }
        Ok(at) if at.ip().is_loopback() => {
            Check::warning(NAME, format!("{address} is reached from this machine alone"), remedy)
        }
        Ok(at) => Check::ok(NAME, format!("they reach this machine at {}", at.ip())),
    })
}
