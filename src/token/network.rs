//! Where a client may come from: networks and the Unix socket.
//!
//! Behind a pooler the peer is the pooler. IPv4-mapped IPv6 addresses are IPv4 addresses here, on both sides.

use std::fmt;
use std::net::IpAddr;

/// Where the client of a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// On the Unix socket.
    Local,
    /// At this address.
    Ip(IpAddr),
}

/// One place that clients may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// The Unix socket.
    Local,
    /// The addresses whose first `length` bits are those of `address`; the others are zero.
    Ip {
        /// The network's address.
        address: IpAddr,
        /// The number of bits that count.
        length: u8,
    },
}

impl Network {
    /// A network; `None` when the length does not fit the address or a bit behind it is set.
    pub fn new(address: IpAddr, length: u8) -> Option<Network> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        if length > width || aligned(address) & !mask(length) != 0 {
            return None;
        }
        // A mapped network becomes the IPv4 network that it is. A shorter prefix, such as `::/0`, stays IPv6 and
        // covers no IPv4 client: who means both writes both.
        Some(match (address.to_canonical(), length.checked_sub(96)) {
            (v4 @ IpAddr::V4(_), Some(shorter)) if address.is_ipv6() => {
                Network::Ip { address: v4, length: shorter }
            }
            _ => Network::Ip { address, length },
        })
    }

    /// Parses `local`, an address, or `address/length`.
    pub fn parse(text: &str) -> Option<Network> {
        if text == "local" {
            return Some(Network::Local);
        }
        let Some((address, length)) = text.split_once('/') else {
            let address: IpAddr = text.parse().ok()?;
            return Network::new(address, if address.is_ipv4() { 32 } else { 128 });
        };
        let plain = length.bytes().all(|c| c.is_ascii_digit()) && (length == "0" || !length.starts_with('0'));
        if plain { Network::new(address.parse().ok()?, length.parse().ok()?) } else { None }
    }

    /// Whether a client there is within.
    pub fn contains(&self, peer: Peer) -> bool {
        match (self, peer) {
            (Network::Local, Peer::Local) => true,
            (Network::Ip { address, length }, Peer::Ip(peer)) => {
                let peer = peer.to_canonical();
                peer.is_ipv4() == address.is_ipv4()
                    && (aligned(peer) ^ aligned(*address)) & mask(*length) == 0
            }
            (Network::Local, Peer::Ip(_)) | (Network::Ip { .. }, Peer::Local) => false,
        }
    }
}

/// The address's bits, the first of them highest.
fn aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first `length` bits.
fn mask(length: u8) -> u128 {
    u128::MAX.checked_shl(128_u32.saturating_sub(u32::from(length))).unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Network::Local => f.write_str("local"),
            Network::Ip { address, length } => write!(f, "{address}/{length}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Peer {
        Peer::Ip(text.parse().unwrap())
    }

    #[test]
    fn a_network_covers_its_own_addresses_only() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
            ("2001:db8::/32", "2001:db8:1::", "2001:db9::"),
            ("::1", "::1", "::2"),
        ] {
            let network = Network::parse(network).unwrap();
            assert!(network.contains(peer(inside)), "{network} {inside}");
            assert!(!network.contains(peer(outside)), "{network} {outside}");
            assert!(!network.contains(Peer::Local));
        }
        assert!(Network::Local.contains(Peer::Local));
        assert!(!Network::Local.contains(peer("127.0.0.1")));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_on_both_sides() {
        assert!(Network::parse("10.0.0.0/8").unwrap().contains(peer("::ffff:10.1.2.3")));
        assert!(Network::parse("::ffff:10.0.0.0/104").unwrap().contains(peer("10.1.2.3")));
        assert!(Network::parse("::ffff:10.0.0.0/104").unwrap().contains(peer("::ffff:10.1.2.3")));
        assert!(!Network::parse("10.0.0.0/8").unwrap().contains(peer("::10.1.2.3")));
        assert!(!Network::parse("::/0").unwrap().contains(peer("::ffff:10.1.2.3")));
        assert_eq!(Network::parse("::ffff:10.0.0.0/104"), Network::parse("10.0.0.0/8"));
    }

    #[test]
    fn sloppy_spellings_are_no_networks() {
        for text in [
            "",
            "Local",
            "local ",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10.0.0.0/8/8",
            "10.0.0",
            "010.0.0.1",
            "10.0.0.0/-1",
            "::/129",
            "fe80::1%eth0",
            "::1/0",
            "0x0a.0.0.1",
            "10.0.0.0/256",
            "10.0.0.0/255.0.0.0",
            "::ffff:10.0.0.1/104",
        ] {
            assert_eq!(Network::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn networks_print_as_they_parse() {
        for text in ["local", "10.0.0.0/8", "10.0.0.1/32", "2001:db8::/32", "::/0"] {
            assert_eq!(Network::parse(text).unwrap().to_string(), text);
        }
    }
}
