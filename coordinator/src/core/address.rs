//! What counts as one address: whoever has one IPv6 address has a whole network of them.

use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that say whose network it is; customers get at least a /64.
const NETWORK_BITS: u32 = 64;

/// The address that limits count: an IPv4 address, or the network of an IPv6 address.
pub fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(long) => match long.to_ipv4_mapped() {
            Some(short) => IpAddr::V4(short),
            None => IpAddr::V6(Ipv6Addr::from_bits(long.to_bits() & (u128::MAX << NETWORK_BITS))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_counts_as_one_address() {
        let of = |text: &str| counted(text.parse().unwrap());
        assert_eq!(of("10.0.0.3"), of("::ffff:10.0.0.3"));
        assert_ne!(of("10.0.0.3"), of("10.0.0.4"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("::1"), of("127.0.0.1"));
    }
}
