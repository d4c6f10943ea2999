//! Keyed pseudonyms: the same value gives the same pseudonym everywhere on a server, and nobody without the key can
//! tell which value gave which.

#![forbid(unsafe_code)]

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The key, ready for use. Neither `Debug` nor readable.
#[derive(Clone)]
pub struct MaskKey(Hmac<Sha256>);

/// What kind of value a pseudonym is of: equal bytes of different kinds have nothing in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Domain {
    Text,
    Integer,
    Uuid,
    Bytes,
}

impl MaskKey {
    /// Of the 32 bytes of the key file.
    pub fn new(secret: &[u8; 32]) -> Option<MaskKey> {
        Hmac::new_from_slice(secret).ok().map(MaskKey)
    }

    fn pseudonym(&self, domain: Domain, value: &[u8]) -> [u8; 16] {
        let tag = match domain {
            Domain::Text => b't',
            Domain::Integer => b'i',
            Domain::Uuid => b'u',
            Domain::Bytes => b'b',
        };
        let mut mac = self.0.clone();
        mac.update(&[tag]);
        mac.update(value);
        let mut pseudonym = [0; 16];
        pseudonym.iter_mut().zip(mac.finalize().into_bytes()).for_each(|(to, from)| *to = from);
        pseudonym
    }

    /// A text's: 32 hexadecimal digits.
    pub fn text(&self, value: &[u8]) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).map_or('0', |digit| char::from(*digit));
        let bytes = self.pseudonym(Domain::Text, value);
        bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    /// A bigint's: 63 bits, never negative.
    pub fn bigint(&self, value: i64) -> i64 {
        let [a, b, c, d, e, f, g, h, ..] = self.pseudonym(Domain::Integer, &value.to_le_bytes());
        i64::from_le_bytes([a, b, c, d, e, f, g, h]) & i64::MAX
    }

    /// An integer's: 31 bits, never negative.
    pub fn integer(&self, value: i32) -> i32 {
        i32::try_from(self.bigint(i64::from(value)) & i64::from(i32::MAX)).unwrap_or(0)
    }

    /// A UUID's: one of version 8, which RFC 9562 leaves to applications.
    pub fn uuid(&self, value: &[u8; 16]) -> [u8; 16] {
        let mut uuid = self.pseudonym(Domain::Uuid, value);
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut uuid;
        *version = (*version & 0x0f) | 0x80;
        *variant = (*variant & 0x3f) | 0x80;
        uuid
    }

    /// A byte string's: 16 bytes.
    pub fn bytes(&self, value: &[u8]) -> [u8; 16] {
        self.pseudonym(Domain::Bytes, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(byte: u8) -> MaskKey {
        MaskKey::new(&[byte; 32]).unwrap_or_else(|| unreachable!())
    }

    #[test]
    fn a_pseudonym_is_stable() {
        assert_eq!(key(1).text(b"jane@example.com"), key(1).text(b"jane@example.com"));
        assert_ne!(key(1).text(b"jane@example.com"), key(2).text(b"jane@example.com"));
        assert_ne!(key(1).text(b"a"), key(1).text(b"A"));
        assert_eq!(key(1).text(b"").len(), 32);
    }

    #[test]
    fn an_integer_is_the_low_bits_of_its_bigint() {
        assert_eq!(i64::from(key(1).integer(7)), key(1).bigint(7) & 0x7fff_ffff);
    }

    #[test]
    fn a_uuid_says_that_it_is_made() {
        let uuid = key(1).uuid(&[7; 16]);
        assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (8, 2));
    }

    proptest! {
        #[test]
        fn pseudonyms_are_never_negative(value in any::<i64>(), small in any::<i32>()) {
            prop_assert!(key(3).bigint(value) >= 0);
            prop_assert!(key(3).integer(small) >= 0);
        }

        #[test]
        fn nothing_of_a_text_shows(value in "[g-z]{1,40}") {
            prop_assert!(!key(4).text(value.as_bytes()).contains(&value));
        }
    }
}
