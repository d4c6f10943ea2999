//! Making tokens: the server mints a root, a holder derives a child or answers a challenge.
//!
//! What is made here is read back by the strict parser and linted before it leaves, so that a token which this code
//! made is not refused for its form. Minting needs the window's key; deriving needs nothing but the parent's text.

use super::WindowId;
use super::attenuate;
use super::claims::Claims;
use super::mac::{self, Secret, WindowKey};
use super::refusals;
use super::verify::{Blocks, PresentedToken};
use super::wire::{self, Chain, Form};
use crate::refusal::Refusal;

/// A new block's `jti`.
///
/// # Errors
/// `not_ready` where the system has no randomness.
pub fn fresh_jti() -> Result<String, Refusal> {
    random::<16>()
}

/// A new id of a window or a session.
///
/// # Errors
/// `not_ready` where the system has no randomness.
pub fn fresh_id() -> Result<[u8; 16], Refusal> {
    let mut id = random_bytes::<16>()?;
    // Version 4, variant 1 (RFC 9562), so that it reads as a random UUID.
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut id;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    Ok(id)
}

/// A new window's salt.
///
/// # Errors
/// `not_ready` where the system has no randomness.
pub fn fresh_salt() -> Result<[u8; 16], Refusal> {
    random_bytes()
}

/// A new challenge.
///
/// # Errors
/// `not_ready` where the system has no randomness.
pub fn fresh_challenge() -> Result<String, Refusal> {
    Ok(format!("agc1.{}", random::<24>()?))
}

fn random<const N: usize>() -> Result<String, Refusal> {
    Ok(wire::encode(&random_bytes::<N>()?))
}

fn random_bytes<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| refusals::not_ready("the system gives no random bytes"))?;
    Ok(bytes)
}

/// Mints a window's root token.
///
/// # Errors
/// `caveat_malformed` or `resource_limit` for claims that no block may have.
pub fn mint(key: &WindowKey, kid: u32, window: &WindowId, root: &Claims) -> Result<String, Refusal> {
    let head = wire::head(kid, window);
    let block = block(root, 0)?;
    attenuate::lint(std::slice::from_ref(root))?;
    let tag = mac::block_tag(&mac::head_tag(key, &head), &block);
    Ok(wire::join(Form::Bearer, &format!("{head}.{block}"), &tag))
}

/// Derives a child's token. The parent's signature cannot be checked here; a forged parent gives a forged child.
///
/// # Errors
/// `token_refused` for a parent that is no token, `caveat_malformed`, `wider_than_parent`, `too_deep`,
/// `resource_limit`.
pub fn derive(parent: &str, child: &Claims) -> Result<String, Refusal> {
    let (chain, tag) = bearer(parent)?;
    let blocks = Blocks::read(chain)?;
    extend(&blocks.chain, &blocks.claims, &tag, child)
}

/// Answers a challenge with a token.
///
/// # Errors
/// `token_refused` for what is no token, `proof_stale` for what is no challenge.
pub fn prove(token: &str, challenge: &str) -> Result<String, Refusal> {
    let (chain, tag) = bearer(token)?;
    if !wire::is_challenge(challenge) {
        return Err(refusals::proof_stale());
    }
    Ok(wire::join(Form::Proof, chain.text(), &mac::proof_tag(&tag, challenge)))
}

/// A token that can be derived from and answered with; a proof cannot.
fn bearer(text: &str) -> Result<(Chain, Secret), Refusal> {
    match PresentedToken::parse(text)?.into_parts() {
        (Form::Bearer, chain, tag) => Ok((chain, tag)),
        (Form::Proof, ..) => Err(refusals::token_refused()),
    }
}

/// Adds a block to a chain whose last tag is `tag`.
pub(super) fn extend(
    chain: &Chain,
    claims: &[Claims],
    tag: &Secret,
    child: &Claims,
) -> Result<String, Refusal> {
    let index = claims.len();
    if index >= wire::MAX_BLOCKS {
        return Err(refusals::too_deep(index));
    }
    let block = block(child, index)?;
    let all: Vec<Claims> = claims.iter().chain([child]).cloned().collect();
    attenuate::lint(&all)?;
    let public = format!("{}.{block}", chain.text());
    let text = wire::join(Form::Bearer, &public, &mac::block_tag(tag, &block));
    if text.len() > wire::MAX_TEXT {
        return Err(refusals::resource_limit(
            format!("{} characters, and {} are allowed", text.len(), wire::MAX_TEXT),
            "Derive with fewer or shorter list items, or from a parent with fewer blocks.",
        ));
    }
    Ok(text)
}

/// A block's text, once the strict parser has accepted what it says.
fn block(claims: &Claims, index: usize) -> Result<String, Refusal> {
    let json = claims.to_json();
    if json.len() > wire::MAX_JSON {
        return Err(refusals::resource_limit(
            format!("block {index} has {} bytes, and {} are allowed", json.len(), wire::MAX_JSON),
            "Use fewer or shorter list items, or patterns that cover several relations.",
        ));
    }
    Claims::parse(json.as_bytes()).map_err(|fault| refusals::caveat_malformed(index, &fault))?;
    Ok(wire::encode(json.as_bytes()))
}
