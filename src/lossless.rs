//! Bytes that may be no UTF-8 as a text that stands for them and for nothing else.
//!
//! A byte that is part of no character becomes one of the last 256 code points, which Unicode leaves without a character for
//! good or for private use; a character that would be one of these itself is taken byte by byte. So two texts are equal
//! exactly where their bytes are, and no byte turns into a letter that means something.

#![forbid(unsafe_code)]

use std::borrow::Cow;

/// The code point of the byte 0.
const FIRST: u32 = 0x0010_FF00;

/// The byte that a character stands for.
pub fn byte_of(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(FIRST)?).ok()
}

/// The first bytes of what stands for bytes: without them there is nothing to look at.
const LEAD: [u8; 2] = [0xF4, 0x8F];

fn push_byte(byte: u8, out: &mut String) {
    out.extend(char::from_u32(FIRST.saturating_add(u32::from(byte))));
}

/// The text of bytes of which those of ASCII mean what they do, and the others are not known.
pub fn ascii(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        if byte.is_ascii() { out.push(char::from(*byte)) } else { push_byte(*byte, &mut out) }
    }
    out
}

/// The text of bytes.
pub fn text(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(plain) if !may_have_bytes(plain) => Cow::Borrowed(plain),
        _ => {
            let mut out = String::with_capacity(bytes.len().saturating_add(16));
            for chunk in bytes.utf8_chunks() {
                for c in chunk.valid().chars() {
                    if byte_of(c).is_some() {
                        c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_byte(byte, &mut out));
                    } else {
                        out.push(c);
                    }
                }
                chunk.invalid().iter().for_each(|byte| push_byte(*byte, &mut out));
            }
            Cow::Owned(out)
        }
    }
}

/// The bytes of such a text.
pub fn bytes(text: &str) -> Cow<'_, [u8]> {
    if !has_bytes(text) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut out = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(out)
}

/// Whether something in a text stands for a byte.
pub fn has_bytes(text: &str) -> bool {
    may_have_bytes(text) && text.chars().any(|c| byte_of(c).is_some())
}

fn may_have_bytes(text: &str) -> bool {
    !text.is_ascii() && text.as_bytes().windows(LEAD.len()).any(|two| two == LEAD)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_text_is_itself() {
        for plain in ["", "a.b", "gr\u{fc}\u{df}e \u{1f600}"] {
            assert!(matches!(text(plain.as_bytes()), Cow::Borrowed(same) if same == plain));
            assert!(!has_bytes(plain));
        }
    }

    #[test]
    fn bytes_that_are_no_text_stay_apart() {
        let (one, other) = (text(b"caf\xe9"), text(b"caf\xe8"));
        assert_ne!(one, other);
        assert_eq!(one, "caf\u{10ffe9}");
        assert!(has_bytes(&one));
        // A name that looks like the stand-in of another one's byte.
        assert_ne!(text("caf\u{10ffe9}".as_bytes()), one);
        assert!(!text(b"\xaa*\xaa").contains('\u{fffd}'));
    }

    proptest! {
        #[test]
        fn every_byte_comes_back(all in proptest::collection::vec(any::<u8>(), 0..40)) {
            let (plain, narrow) = (text(&all), ascii(&all));
            prop_assert_eq!(&*bytes(&plain), all.as_slice());
            prop_assert_eq!(&*bytes(&narrow), all.as_slice());
        }

        #[test]
        fn texts_are_equal_only_where_bytes_are(
            one in proptest::collection::vec(prop_oneof![Just(0xf4_u8), Just(0x8f), Just(0xbf), Just(0xa9), Just(b'a')], 0..8),
            other in proptest::collection::vec(prop_oneof![Just(0xf4_u8), Just(0x8f), Just(0xbf), Just(0xa9), Just(b'a')], 0..8),
        ) {
            prop_assert_eq!(text(&one) == text(&other), one == other);
            let plain = text(&one);
            prop_assert_eq!(&*bytes(&plain), one.as_slice());
        }

        #[test]
        fn ascii_stays_where_it_is(all in proptest::collection::vec(any::<u8>(), 0..40)) {
            let ascii = |bytes: &[u8]| bytes.iter().copied().filter(u8::is_ascii).collect::<Vec<_>>();
            prop_assert_eq!(ascii(text(&all).as_bytes()), ascii(&all));
        }
    }
}
