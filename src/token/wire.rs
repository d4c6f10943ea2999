//! Text to parts and back: the grammar of tokens, proofs and challenges, with its limits.
//!
//! Nothing here is trusted. Of a chain only the head is decoded; a block stays the text it came as until the MAC
//! over it has been verified.
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::mac::Secret;
use super::{BlockId, WindowId};

/// The longest text, in characters.
pub(super) const MAX_TEXT: usize = 4096;
/// The most blocks of a chain.
pub(super) const MAX_BLOCKS: usize = 8;
/// The longest JSON of a block, in bytes.
pub(super) const MAX_JSON: usize = 1024;
/// 1024 bytes in base64url without padding.
const MAX_BLOCK_TEXT: usize = 1366;
/// 20 bytes (key id and window) in base64url without padding.
const HEAD_TEXT: usize = 27;
/// 32 bytes in base64url without padding.
const TAG_TEXT: usize = 43;
/// 24 bytes in base64url without padding.
const NONCE_TEXT: usize = 32;

/// How a chain is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `agt1`: the secret itself; whoever sees it can present it and derive from it.
    Bearer,
    /// `agp1`: an answer to one challenge; useless anywhere else.
    Proof,
}

impl Form {
    /// The first segment of the text.
    pub fn word(self) -> &'static str {
        match self {
            Form::Bearer => "agt1",
            Form::Proof => "agp1",
        }
    }
}

/// The text does not follow the grammar. Carries nothing: before the MAC every refusal reads the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadText;

/// The public part of a token, `H.B0...Bn`, known to follow the grammar and nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    text: String,
    kid: u32,
    window: WindowId,
}

impl Chain {
    /// Parses `H.B0...Bn`.
    pub(super) fn parse(text: &str) -> Result<Chain, BadText> {
        let mut segments = text.split('.');
        let head = segments.next().filter(|head| head.len() == HEAD_TEXT).ok_or(BadText)?;
        let mut blocks = 0;
        for block in segments {
            blocks += 1;
            if blocks > MAX_BLOCKS
                || block.is_empty()
                || block.len() > MAX_BLOCK_TEXT
                || !is_canonical(block.as_bytes())
            {
                return Err(BadText);
            }
        }
        if blocks == 0 {
            return Err(BadText);
        }
        let head = decode(head).ok_or(BadText)?;
        let (kid, window) = head.split_first_chunk::<4>().ok_or(BadText)?;
        Ok(Chain {
            text: text.to_owned(),
            kid: u32::from_be_bytes(*kid),
            window: window.try_into().map_err(|_| BadText)?,
        })
    }

    /// The public text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The key id that the head names.
    pub(super) fn kid(&self) -> u32 {
        self.kid
    }

    /// The window that the head names.
    pub(super) fn window(&self) -> &WindowId {
        &self.window
    }

    /// The head as transmitted.
    pub(super) fn head(&self) -> &str {
        self.text.split('.').next().unwrap_or("")
    }

    /// The blocks as transmitted.
    pub(super) fn blocks(&self) -> impl Iterator<Item = &str> {
        self.text.split('.').skip(1)
    }

    /// The identifiers of the blocks; each covers the whole prefix, so nobody can plant another chain's.
    pub(super) fn block_ids(&self) -> Vec<BlockId> {
        let mut prefix = Sha256::new_with_prefix(b"agt1/bid.");
        prefix.update(self.head());
        self.blocks()
            .map(|block| {
                prefix.update(b".");
                prefix.update(block);
                let mut id = BlockId::default();
                id.iter_mut().zip(prefix.clone().finalize()).for_each(|(to, from)| *to = from);
                id
            })
            .collect()
    }
}

/// Splits a presented text into its form, its chain and its tag.
pub(super) fn split(text: &str) -> Result<(Form, Chain, Secret), BadText> {
    if text.len() > MAX_TEXT {
        return Err(BadText);
    }
    let (form, rest) = match text.split_once('.') {
        Some(("agt1", rest)) => (Form::Bearer, rest),
        Some(("agp1", rest)) => (Form::Proof, rest),
        _ => return Err(BadText),
    };
    let (chain, tag) = rest.rsplit_once('.').ok_or(BadText)?;
    if tag.len() != TAG_TEXT {
        return Err(BadText);
    }
    let tag = decode(tag).and_then(|tag| <[u8; 32]>::try_from(tag).ok()).ok_or(BadText)?;
    Ok((form, Chain::parse(chain)?, Secret::new(tag)))
}

/// Joins a form, the public text of a chain and a tag.
pub(super) fn join(form: Form, chain: &str, tag: &Secret) -> String {
    format!("{}.{chain}.{}", form.word(), encode(tag.bytes()))
}

/// The head of a window under a key.
pub(super) fn head(kid: u32, window: &WindowId) -> String {
    let mut bytes = kid.to_be_bytes().to_vec();
    bytes.extend_from_slice(window);
    encode(&bytes)
}

/// Whether a text is a challenge, with or without the digest of the server's certificate behind it.
pub(super) fn is_challenge(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("agc1.") else {
        return false;
    };
    let (nonce, binding) = match rest.split_once('.') {
        Some((nonce, binding)) => (nonce, Some(binding)),
        None => (rest, None),
    };
    nonce.len() == NONCE_TEXT
        && is_canonical(nonce.as_bytes())
        && binding.is_none_or(|digest| digest.len() == TAG_TEXT && is_canonical(digest.as_bytes()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |four: u8| char::from(if four < 10 { b'0' + four } else { b'a' - 10 + four });
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Base64url without padding.
pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Strict base64url without padding: any other character, padding or a spare bit that is set gives `None`.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    // The engine refuses spare bits by default; the check beside it does not depend on that default.
    if is_canonical(text.as_bytes()) { URL_SAFE_NO_PAD.decode(text).ok() } else { None }
}

/// Whether the characters are base64url in the one spelling that their bytes have, without decoding them.
fn is_canonical(text: &[u8]) -> bool {
    let spare = match text.len() % 4 {
        0 => 0,
        2 => 0b1111,
        3 => 0b11,
        _ => return false,
    };
    text.iter().all(|&c| sextet(c).is_some())
        && text.last().and_then(|&c| sextet(c)).is_none_or(|last| last & spare == 0)
}

/// The six bits of a base64url character.
fn sextet(c: u8) -> Option<u8> {
    match c {
        b'A'..=b'Z' => Some(c - b'A'),
        b'a'..=b'z' => Some(c - b'a' + 26),
        b'0'..=b'9' => Some(c - b'0' + 52),
        b'-' => Some(62),
        b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_one_spelling_of_the_same_bytes_is_canonical() {
        for (text, good) in [
            ("", true),
            ("A", false),
            ("AA", true),
            ("AB", false),
            ("AQ", true),
            ("AAA", true),
            ("AAB", false),
            ("AAE", true),
            ("AAAA", true),
            ("AA==", false),
            ("AA+A", false),
            ("AA/A", false),
            ("AA A", false),
            ("AAA\n", false),
            ("AA\u{e9}", false),
        ] {
            assert_eq!(is_canonical(text.as_bytes()), good, "{text:?}");
            assert_eq!(decode(text).is_some(), good, "{text:?}");
        }
    }

    #[test]
    fn a_challenge_is_24_bytes_with_at_most_one_digest_behind_it() {
        let nonce = encode(&[7; 24]);
        let digest = encode(&[9; 32]);
        assert!(is_challenge(&format!("agc1.{nonce}")));
        assert!(is_challenge(&format!("agc1.{nonce}.{digest}")));
        for text in [
            String::new(),
            "agc1.".into(),
            nonce.clone(),
            format!("agc1.{nonce}."),
            format!("agc1.{nonce}A"),
            format!("agc1.{nonce}.{digest}.{digest}"),
            format!("agc2.{nonce}"),
            format!(" agc1.{nonce}"),
        ] {
            assert!(!is_challenge(&text), "{text:?}");
        }
    }

    #[test]
    fn a_block_of_1024_bytes_fits_and_one_of_1025_does_not() {
        let head = head(1, &[0; 16]);
        assert!(Chain::parse(&format!("{head}.{}", encode(&[b'x'; 1024]))).is_ok());
        assert!(Chain::parse(&format!("{head}.{}", encode(&[b'x'; 1025]))).is_err());
    }

    proptest! {
        #[test]
        fn encoding_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn the_lexical_check_agrees_with_the_decoder(text in "[A-D_/=-]{0,9}") {
            prop_assert_eq!(is_canonical(text.as_bytes()), URL_SAFE_NO_PAD.decode(&text).is_ok());
        }
    }
}
