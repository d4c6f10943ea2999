//! The HMAC chain: window key, head, blocks, proof, and the comparison that takes the same time for every tag.
//!
//! It knows nothing of what a block says. Every label ends before the first byte that a holder chooses, and no
//! label is a prefix of another, so that no block can pass for a head or a proof. All keys are 32 bytes.

use std::fmt;
use std::hint::black_box;

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::WindowId;
use super::wire::Chain;

/// 32 secret bytes: a key or a tag. Wiped when dropped; prints nothing.
#[derive(Clone)]
pub(super) struct Secret([u8; 32]);

impl Secret {
    /// Takes the bytes over.
    pub(super) fn new(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }

    /// The bytes, for the one who writes them into a token.
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Equality in constant time.
    pub(super) fn equals(&self, other: &Secret) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0 = [0; 32];
        // Keeps the store from being removed as dead; the best that is to be had without unsafe code.
        black_box(&self.0);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The key of one window. Made from the key file and the window's salt, so that neither alone forges a token.
#[derive(Clone, Debug)]
pub struct WindowKey(Secret);

impl WindowKey {
    /// A key that was derived before, for a server side that caches it.
    pub fn from_bytes(bytes: [u8; 32]) -> WindowKey {
        WindowKey(Secret::new(bytes))
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }
}

/// Derives a window's key. The cluster and the database are part of it: a token never verifies elsewhere.
pub fn window_key(
    master: &[u8; 32],
    sysid: u64,
    dboid: u32,
    window: &WindowId,
    salt: &[u8; 16],
) -> WindowKey {
    let master = Secret::new(*master);
    WindowKey(hmac(
        &master,
        &[b"agent_guard/v1/window", &sysid.to_be_bytes(), &dboid.to_be_bytes(), window, salt],
    ))
}

/// The tag of a head without blocks. It never leaves the server.
pub(super) fn head_tag(key: &WindowKey, head: &str) -> Secret {
    hmac(&key.0, &[b"agt1/head.", head.as_bytes()])
}

/// The tag behind one more block; the tag before it cannot be recovered from it.
pub(super) fn block_tag(before: &Secret, block: &str) -> Secret {
    hmac(before, &[b"agt1/block.", block.as_bytes()])
}

/// The answer to a challenge.
pub(super) fn proof_tag(tag: &Secret, challenge: &str) -> Secret {
    hmac(tag, &[b"agp1/proof.", challenge.as_bytes()])
}

/// The tag that a chain must carry under a key.
pub(super) fn chain_tag(key: &WindowKey, chain: &Chain) -> Secret {
    chain.blocks().fold(head_tag(key, chain.head()), |tag, block| block_tag(&tag, block))
}

fn hmac(key: &Secret, parts: &[&[u8]]) -> Secret {
    // HMAC pads a short key with zeros to the block size itself; padding here makes construction infallible.
    let mut padded = [0; 64];
    padded.iter_mut().zip(key.bytes()).for_each(|(to, from)| *to = *from);
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&padded.into());
    padded = [0; 64];
    black_box(&padded);
    parts.iter().for_each(|part| mac.update(part));
    Secret::new(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::wire::hex;

    #[test]
    fn hmac_agrees_with_rfc_4231_and_with_the_slice_constructor() {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&[3; 32]).unwrap();
        mac.update(b"ab");
        let expected: [u8; 32] = mac.finalize().into_bytes().into();
        assert_eq!(hmac(&Secret::new([3; 32]), &[b"a", b"b"]).bytes(), &expected);
        // RFC 4231 test case 2: the key "Jefe", which zero padding extends.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        assert_eq!(
            hex(hmac(&Secret::new(key), &[b"what do ya want ", b"for nothing?"]).bytes()),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn no_label_is_a_prefix_of_another() {
        let labels = ["agent_guard/v1/window", "agt1/head.", "agt1/block.", "agp1/proof.", "agt1/bid."];
        for (i, a) in labels.iter().enumerate() {
            assert!(labels.iter().enumerate().all(|(j, b)| i == j || !a.starts_with(b)));
        }
    }

    #[test]
    fn keys_differ_by_cluster_database_window_and_salt() {
        let key = |sysid, dboid, window, salt| {
            *window_key(&[1; 32], sysid, dboid, &[window; 16], &[salt; 16]).bytes()
        };
        let all = [key(1, 1, 1, 1), key(2, 1, 1, 1), key(1, 2, 1, 1), key(1, 1, 2, 1), key(1, 1, 1, 2)];
        for (i, a) in all.iter().enumerate() {
            assert!(all.iter().enumerate().all(|(j, b)| i == j || a != b));
        }
    }

    #[test]
    fn a_key_prints_nothing_of_itself() {
        let key = WindowKey::from_bytes([0xab; 32]);
        assert_eq!(format!("{key:?}"), "WindowKey(Secret(..))");
    }
}
