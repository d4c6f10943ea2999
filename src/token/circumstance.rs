//! Whether an authentic token holds in this session, at this time: its blocks against the window's row, the clock,
//! the role, the database, the client and the form that it came in.
//!
//! Everything is handed in, so that expiry and revocation are table tests. The order is that of the specification;
//! the first condition that does not hold gives the reason.

use super::BlockId;
use super::attenuate;
use super::claims::Claims;
use super::json::Malformed;
use super::network::{Network, Peer};
use super::refusals::{self, Decider};
use super::verify::Blocks;
use super::wire::Form;
use crate::refusal::Refusal;

/// Seconds by which a clock may be behind the one that set `nbf`.
const LEEWAY: i64 = 5;
/// The longest life, in seconds, of a one-time token that takes the place of a proof in the connection's options.
const ONE_TIME_LIFE: i64 = 120;

/// What the window's row says.
#[derive(Clone, Debug)]
pub struct WindowFacts {
    /// The name of the agent that the window was granted to.
    pub agent: String,
    /// The policy.
    pub policy: String,
    /// The session's role.
    pub role: String,
    /// Derivations allowed.
    pub max_depth: u8,
    /// The window ends here, in unix seconds.
    pub expires_at: i64,
    /// Only proofs are accepted.
    pub require_proof: bool,
    /// Where clients may be; `None` for anywhere.
    pub client_addr: Option<Vec<Network>>,
    /// The window has been revoked.
    pub revoked: bool,
}

/// The session in which a token is presented.
pub struct Circumstance<'a> {
    /// The server's clock, in unix seconds.
    pub now: i64,
    /// The session's role.
    pub role: &'a str,
    /// The database.
    pub database: &'a str,
    /// Where the client is.
    pub peer: Peer,
    /// SYSTEM_USER, where the server knows one.
    pub system_user: Option<&'a str>,
    /// The server accepts proofs only.
    pub proof_only: bool,
    /// The token came in the connection's options, where no challenge has been seen yet.
    pub at_connect: bool,
    /// The server's own limit on derivations.
    pub depth_ceiling: u8,
    /// Whether a block has been revoked.
    pub is_revoked: &'a dyn Fn(&BlockId) -> bool,
    /// The server's encoding is UTF8.
    pub utf8: bool,
}

/// Checks everything; gives the derivations that are left.
pub(super) fn check(
    form: Form,
    blocks: &Blocks,
    window: &WindowFacts,
    here: &Circumstance<'_>,
) -> Result<u8, Refusal> {
    let claims = blocks.claims.as_slice();
    check_encoding(claims, here)?;
    check_revocation(blocks, window, here)?;
    check_time(claims, window, here.now)?;
    check_session(claims, window, here)?;
    let depth = attenuate::remaining_depth(window.max_depth.min(here.depth_ceiling), claims)?;
    check_form(form, claims, window, here)?;
    if let Some((index, id)) = waits_for_approval(blocks) {
        return Err(refusals::approval_missing(index, id));
    }
    check_scope(claims, window)?;
    Ok(depth)
}

fn check_encoding(claims: &[Claims], here: &Circumstance<'_>) -> Result<(), Refusal> {
    if here.utf8 {
        return Ok(());
    }
    let beyond = claims.iter().enumerate().find_map(|(i, claims)| Some((i, claims.first_beyond_ascii()?)));
    match beyond {
        None => Ok(()),
        Some((index, key)) => Err(refusals::caveat_malformed(
            index,
            &Malformed::at(key, "is not ASCII, and the database's encoding is not UTF8"),
        )),
    }
}

fn check_revocation(blocks: &Blocks, window: &WindowFacts, here: &Circumstance<'_>) -> Result<(), Refusal> {
    if window.revoked {
        return Err(refusals::window_revoked());
    }
    match blocks.ids.iter().enumerate().find(|(_, id)| (here.is_revoked)(id)) {
        None => Ok(()),
        Some((index, id)) => Err(refusals::block_revoked(index, id)),
    }
}

fn check_time(claims: &[Claims], window: &WindowFacts, now: i64) -> Result<(), Refusal> {
    if now >= window.expires_at {
        return Err(refusals::expired(Decider::Window, window.expires_at, now));
    }
    for (index, claims) in claims.iter().enumerate() {
        if now >= claims.exp {
            return Err(refusals::expired(Decider::Block(index), claims.exp, now));
        }
        if let Some(nbf) = claims.nbf
            && is_early(nbf, now)
        {
            return Err(refusals::not_yet_valid(index, nbf, now));
        }
    }
    Ok(())
}

/// Whether it is too early for an `nbf`.
pub(super) fn is_early(nbf: i64, now: i64) -> bool {
    now.saturating_add(LEEWAY) < nbf
}

fn check_session(claims: &[Claims], window: &WindowFacts, here: &Circumstance<'_>) -> Result<(), Refusal> {
    let elsewhere = |networks: &[Network]| !networks.iter().any(|network| network.contains(here.peer));
    if window.role != here.role {
        return Err(refusals::wrong_role(Decider::Window));
    }
    if window.client_addr.as_deref().is_some_and(elsewhere) {
        return Err(refusals::wrong_address(Decider::Window));
    }
    for (index, claims) in claims.iter().enumerate() {
        let decider = Decider::Block(index);
        if claims.role.as_deref().is_some_and(|role| role != here.role) {
            return Err(refusals::wrong_role(decider));
        }
        if claims.db.as_deref().is_some_and(|db| db != here.database) {
            return Err(refusals::wrong_database(decider));
        }
        if claims.cidr.as_deref().is_some_and(elsewhere) {
            return Err(refusals::wrong_address(decider));
        }
        if claims.auth.is_some() && claims.auth.as_deref() != here.system_user {
            return Err(refusals::wrong_principal(decider));
        }
    }
    Ok(())
}

fn check_form(
    form: Form,
    claims: &[Claims],
    window: &WindowFacts,
    here: &Circumstance<'_>,
) -> Result<(), Refusal> {
    if form == Form::Proof {
        return Ok(());
    }
    if here.proof_only && !(here.at_connect && one_time(claims, here.now)) {
        return Err(refusals::bearer_not_allowed("the server"));
    }
    if window.require_proof {
        return Err(refusals::bearer_not_allowed("the window").by(Decider::Window));
    }
    match claims.iter().position(|claims| claims.pop) {
        None => Ok(()),
        Some(index) => {
            Err(refusals::bearer_not_allowed(&format!("block {index}, field \"pop\","))
                .by(Decider::Block(index)))
        }
    }
}

/// Whether a token is good once and soon over, so that a copy of it is worth nothing after the connection.
fn one_time(claims: &[Claims], now: i64) -> bool {
    let ends = claims.iter().map(|claims| claims.exp).min();
    claims.iter().any(|claims| claims.uses == Some(1))
        && ends.is_some_and(|exp| exp <= now.saturating_add(ONE_TIME_LIFE))
}

/// Approvals of tokens are not recorded by this version, so a block that asks for one never has it.
fn waits_for_approval(blocks: &Blocks) -> Option<(usize, &BlockId)> {
    let index = blocks.claims.iter().position(|claims| claims.appr.is_some())?;
    Some((index, blocks.ids.get(index)?))
}

fn check_scope(claims: &[Claims], window: &WindowFacts) -> Result<(), Refusal> {
    let lacks = |claims: &Claims| claims.pol.as_ref().is_some_and(|pol| !pol.contains(&window.policy));
    if let Some(index) = claims.iter().position(lacks) {
        return Err(refusals::policy_out_of_scope(index));
    }
    match attenuate::first_without_actions(claims) {
        None => Ok(()),
        Some(index) => Err(refusals::actions_out_of_scope(index)),
    }
}
