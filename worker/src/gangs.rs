//! Where the ranks of this machine are reached by those of others.

use std::net::{IpAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use cakes::address::{host_and_port, is_host};
use cakes_proto::v1::GangSeat;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

/// Of one try to reach the others: the answer of a machine that is there takes no second.
const TRY_LIMIT: Duration = Duration::from_secs(5);
const TRY_PAUSE: Duration = Duration::from_millis(500);

/// What other machines are told of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertised {
    /// The address of the interface by which it reaches the coordinator, unless that is the
    /// loopback: other workers of the coordinator may be on other machines.
    Found,
    /// This one, which must be its own.
    At(String),
    /// Its slots train with no others.
    Off,
}

impl Advertised {
    /// Reads `off`, an address or a name; none for what is found.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: Option<&str>) -> Result<Self, String> {
        let text = match text.map(str::trim) {
            None => return Ok(Advertised::Found),
            Some("off") => return Ok(Advertised::Off),
            Some(text) => text,
        };
        if is_host(text) {
            return Ok(Advertised::At(text.to_owned()));
        }
        Err(format!(
            "'{text}' is no address of this machine; write 10.0.0.5 or its name, without a port, or off"
        ))
    }

    /// Where this machine is reached; `None` where its slots train alone.
    pub fn resolve(&self, server: &Endpoint) -> Option<String> {
        match self {
            Advertised::Off => None,
            Advertised::At(address) => Some(address.clone()),
            Advertised::Found => {
                let found = own_address(server).filter(|address| !address.is_loopback());
                if found.is_none() {
                    tracing::info!(
                        "no address is found at which other machines reach this one; its slots train with no others \
                         unless --advertise-address names one"
                    );
                }
                found.map(|address| address.to_string())
            }
        }
    }
}

/// The address that the way to the coordinator begins with. Nothing is sent.
fn own_address(server: &Endpoint) -> Option<IpAddr> {
    let uri = server.uri();
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(443);
    let to = (host, port).to_socket_addrs().ok()?.next()?;
    let any: IpAddr = match to.ip() {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether somebody answers at `meeting` within the limit. Rank 0 listens before it is told where,
/// so whoever gets no answer has no way there.
pub async fn is_reached(meeting: &str, limit: Duration) -> bool {
    let Some(place) = host_and_port(meeting) else { return false };
    let reached = async {
        while !matches!(timeout(TRY_LIMIT, TcpStream::connect(place)).await, Ok(Ok(_))) {
            sleep(TRY_PAUSE).await;
        }
    };
    timeout(limit, reached).await.is_ok()
}

/// The ranks that a trainer is started with, where others train with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranks {
    pub world_size: u32,
    pub first_rank: u32,
    pub rank_count: u32,
    /// Where other machines reach this one.
    pub own: String,
    /// Where rank 0 is, for whoever does not have it.
    pub meeting: Option<String>,
}

impl Ranks {
    pub fn of(seat: &GangSeat, own: String) -> Self {
        Ranks {
            world_size: seat.world_size,
            first_rank: seat.first_rank,
            rank_count: seat.rank_count,
            own,
            meeting: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_without_a_port_or_none_at_all() {
        let at = |text: &str| Advertised::At(text.to_owned());
        for (text, expected) in
            [("off", Advertised::Off), ("10.0.0.5", at("10.0.0.5")), ("gpu-1", at("gpu-1"))]
        {
            assert_eq!(Advertised::parse(Some(text)), Ok(expected));
        }
        assert_eq!(Advertised::parse(Some("fe80::1")), Ok(at("fe80::1")));
        assert_eq!(Advertised::parse(None), Ok(Advertised::Found));
        for wrong in ["", "10.0.0.5:7000", "http://gpu-1", "gpu 1", "--out"] {
            assert!(Advertised::parse(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_meeting_is_reached_as_soon_as_somebody_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        assert!(is_reached(&at.to_string(), Duration::from_secs(20)).await);
        drop(listener);
        assert!(!is_reached("127.0.0.1:1", Duration::from_millis(50)).await);
        assert!(!is_reached("nowhere", Duration::from_secs(20)).await);
        let later = async {
            sleep(Duration::from_millis(50)).await;
            std::net::TcpListener::bind(at)
        };
        let (is_reached, _listener) =
            tokio::join!(async { is_reached(&at.to_string(), Duration::from_secs(20)).await }, later);
        assert!(is_reached, "the first try came too early");
    }

    #[test]
    fn a_machine_that_is_only_known_to_itself_trains_with_no_others_unless_it_is_told_to() {
        let server = Endpoint::from_static("http://127.0.0.1:7550");
        assert_eq!(Advertised::Found.resolve(&server), None);
        assert_eq!(Advertised::Off.resolve(&server), None);
        for named in ["gpu-1", "127.0.0.1"] {
            assert_eq!(Advertised::At(named.into()).resolve(&server).as_deref(), Some(named));
        }
    }
}
