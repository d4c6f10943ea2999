//! The token: an HMAC chain of JSON blocks, each of which can only narrow what the one before it left.
//!
//! It proves a text and computes what the blocks leave; windows, keys, clocks and revocations are handed in by
//! the server side, which also counts. `PresentedToken -> AuthenticToken -> ActiveToken` consume each other, so
//! no check can be skipped.

#![forbid(unsafe_code)]

mod act;
mod active;
mod attenuate;
mod circumstance;
mod claims;
mod issue;
mod json;
mod mac;
mod network;
pub mod refusals;
mod value;
mod verify;
mod wire;

#[cfg(test)]
mod tests;

pub use act::Act;
pub use active::ActiveToken;
pub use attenuate::{Bound, Limits};
pub use circumstance::{Circumstance, WindowFacts};
pub use claims::{Claims, RelationPattern};
pub use issue::{derive, fresh_challenge, fresh_id, fresh_jti, fresh_salt, mint, prove};
pub use mac::{WindowKey, window_key};
pub use network::{Network, Peer};
pub use refusals::unknown_window;
pub use verify::{AuthenticToken, PresentedToken};
pub use wire::{Form, hex};

/// The identifier of a window, as it stands in the token's head.
pub type WindowId = [u8; 16];

/// The public identifier of a block: a digest of everything up to and including it. Revocation is keyed by it.
pub type BlockId = [u8; 16];

/// The name of a token that holds no secret.
fn public_id(window: &WindowId, leaf: &BlockId) -> String {
    let window = wire::hex(window);
    format!("agt1:{}:{}", window.get(..8).unwrap_or(""), wire::hex(leaf))
}
