//! The refusals of the handshake: one function per reason, with the words that the agent or its parent reads.
//!
//! Up to and including the MAC there is one text for every fault, so that nobody learns which part of a forgery was
//! right. Behind it every refusal names the block and the field, so that a parent can mend its template. No text of
//! a token ever goes into a refusal; expected roles, databases, addresses and principals do not either.

use std::fmt;

use super::BlockId;
use super::json::Malformed;
use super::wire::hex;
pub(super) use crate::refusal::Decider;
use crate::refusal::Refusal;

impl fmt::Display for Decider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decider::Window => f.write_str("the window"),
            Decider::Block(index) => write!(f, "block {index}"),
        }
    }
}

fn field(decider: Decider, name: &str) -> String {
    format!("{decider}, field \"{name}\"")
}

/// Every fault up to and including the signature.
pub fn token_refused() -> Refusal {
    Refusal::handshake(
        "token_refused",
        "the token is refused",
        "",
        "Present the token exactly as it was issued or derived, or, for a proof, read agent_guard.challenge in \
         this session and answer that; if it is refused again, ask the parent agent for a new token.",
    )
}

/// The refusal of a token whose window (or key) does not exist here: word for word that of a bad signature.
pub fn unknown_window() -> Refusal {
    token_refused()
}

/// A proof where no challenge is open.
pub fn proof_stale() -> Refusal {
    Refusal::handshake(
        "proof_stale",
        "the proof answers no open challenge",
        "each challenge is good for one answer in one session",
        "Run SHOW agent_guard.challenge in this session, make a new proof for it, and SET agent_guard.token to that.",
    )
}

/// A bearer token where only proofs are accepted.
pub(super) fn bearer_not_allowed(who: &str) -> Refusal {
    Refusal::handshake(
        "bearer_not_allowed",
        "only a proof is accepted here, not the token itself",
        format!("{who} asks for proofs"),
        "Run SHOW agent_guard.challenge, compute the proof from it and the token, and SET agent_guard.token to the \
         proof; treat the token that was sent as exposed.",
    )
}

/// A block that is not well-formed.
pub(super) fn caveat_malformed(block: usize, fault: &Malformed) -> Refusal {
    let detail = match fault.key.as_deref().map(printable) {
        Some(Some(key)) => format!("{}: {}", field(Decider::Block(block), key), fault.fact),
        Some(None) => format!("block {block}: a key of it {}", fault.fact),
        None => format!("block {block}: it {}", fault.fact),
    };
    Refusal::handshake(
        "caveat_malformed",
        "a block of the token is malformed",
        detail,
        format!("Ask the agent that derived block {block} to derive it again with that corrected."),
    )
    .by(Decider::Block(block))
}

/// A key as it may be shown: short and plain, so that no holder can put other text into our messages.
fn printable(key: &str) -> Option<&str> {
    let plain = key.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    (plain && (1..=16).contains(&key.len())).then_some(key)
}

/// A block that does not fit into the limits of the format, while it is being made.
pub(super) fn resource_limit(detail: String, hint: &str) -> Refusal {
    Refusal::handshake("resource_limit", "the token would be too large", detail, hint)
}

/// Too early.
pub(super) fn not_yet_valid(block: usize, nbf: i64, now: i64) -> Refusal {
    Refusal::handshake(
        "not_yet_valid",
        "the token is not valid yet",
        format!("{}: {} s to go", field(Decider::Block(block), "nbf"), nbf.saturating_sub(now)),
        "Wait that long and present the token again.",
    )
    .by(Decider::Block(block))
}

/// Too late.
pub(super) fn expired(decider: Decider, at: i64, now: i64) -> Refusal {
    let (name, hint) = match decider {
        Decider::Window => ("expires_at", "Ask a DBA to grant a new window."),
        Decider::Block(0) => ("exp", "Ask whoever granted the window for a new one."),
        Decider::Block(_) => ("exp", "Ask the parent agent to derive a new token with a later \"exp\"."),
    };
    Refusal::handshake(
        "expired",
        "the token has expired",
        format!("{}: {} s ago", field(decider, name), now.saturating_sub(at)),
        hint,
    )
    .by(decider)
}

/// The window has been revoked.
pub(super) fn window_revoked() -> Refusal {
    revoked("the window".to_owned()).by(Decider::Window)
}

/// A block has been revoked.
pub(super) fn block_revoked(block: usize, id: &BlockId) -> Refusal {
    revoked(format!("block {block}, id {}", hex(id))).by(Decider::Block(block))
}

fn revoked(detail: String) -> Refusal {
    Refusal::handshake(
        "revoked",
        "the token has been revoked",
        detail,
        "Stop the work and report to the parent agent; nothing derived from that block will be accepted again.",
    )
}

/// More derivations than are allowed; `block` is the first too many.
pub(super) fn too_deep(block: usize) -> Refusal {
    let allowed = block.saturating_sub(1);
    Refusal::handshake(
        "too_deep",
        "the token has been derived too often",
        format!(
            "{}: the chain may hold {allowed} derivations at most",
            field(Decider::Block(block), "depth")
        ),
        "Use the parent's token, or ask for one whose \"depth\" allows another derivation.",
    )
    .by(Decider::Block(block))
}

/// A child that claims more than its parent.
pub(super) fn wider_than_parent(block: usize, name: &str, fact: &str) -> Refusal {
    Refusal::handshake(
        "wider_than_parent",
        "a block of the token claims more than the blocks before it",
        format!("{}: {fact}", field(Decider::Block(block), name)),
        format!(
            "Derive block {block} again without \"{name}\", which inherits it, or with a narrower value."
        ),
    )
    .by(Decider::Block(block))
}

/// Another session role.
pub(super) fn wrong_role(decider: Decider) -> Refusal {
    Refusal::handshake(
        "wrong_role",
        "the token is for another role",
        field(decider, "role"),
        "Connect as the role that the token was issued for.",
    )
    .by(decider)
}

/// Another database.
pub(super) fn wrong_database(decider: Decider) -> Refusal {
    Refusal::handshake(
        "wrong_database",
        "the token is for another database",
        field(decider, "db"),
        "Connect to the database that the token was issued for.",
    )
    .by(decider)
}

/// Another client address.
pub(super) fn wrong_address(decider: Decider) -> Refusal {
    let name = match decider {
        Decider::Window => "client_addr",
        Decider::Block(_) => "cidr",
    };
    Refusal::handshake(
        "wrong_address",
        "the token is not for clients at this address",
        field(decider, name),
        "Connect from an address that the token allows; behind a pooler the server sees the pooler's address.",
    )
    .by(decider)
}

/// Another authenticated principal.
pub(super) fn wrong_principal(decider: Decider) -> Refusal {
    Refusal::handshake(
        "wrong_principal",
        "the token is for another authenticated user",
        field(decider, "auth"),
        "Authenticate as the principal that the token was issued for, or ask that principal's agent to act.",
    )
    .by(decider)
}

/// A block that waits for an approval.
pub(super) fn approval_missing(block: usize, id: &BlockId) -> Refusal {
    Refusal::handshake(
        "approval_missing",
        "the token needs an approval that it does not have",
        format!("{}, id {}", field(Decider::Block(block), "appr"), hex(id)),
        "Ask the parent agent for a token without \"appr\", or the approvers to approve that id.",
    )
    .by(Decider::Block(block))
}

/// A policy that the blocks leave out.
pub(super) fn policy_out_of_scope(block: usize) -> Refusal {
    out_of_scope(block, "pol", "it leaves nothing of the window's policy")
}

/// Actions of which the blocks leave none.
pub(super) fn actions_out_of_scope(block: usize) -> Refusal {
    out_of_scope(block, "act", "it leaves no action")
}

fn out_of_scope(block: usize, name: &str, fact: &str) -> Refusal {
    Refusal::handshake(
        "out_of_scope",
        "the token leaves nothing that could be done with it",
        format!("{}: {fact}", field(Decider::Block(block), name)),
        format!(
            "Derive block {block} again with a \"{name}\" that has something in common with its parent's."
        ),
    )
    .by(Decider::Block(block))
}

/// The setting came from somewhere else than a session.
pub fn session_only() -> Refusal {
    Refusal::handshake(
        "session_only",
        "agent_guard.token can only be set in a session",
        "A token stored on a role, a database, a function or in a file would be readable and would outlive its session.",
        "Run SET agent_guard.token = '...' after connecting, or pass it in the connection's options.",
    )
}

/// A token for the whole session where it may be given for a transaction only.
pub fn local_only() -> Refusal {
    Refusal::handshake(
        "local_only",
        "this server takes a token for one transaction only",
        "agent_guard.require_local is on, because a pooler hands the session on after each transaction.",
        "Run BEGIN, then SET LOCAL agent_guard.token = '...', then the work, then COMMIT.",
    )
}

/// A guarded role without an active token.
pub fn no_token() -> Refusal {
    Refusal::handshake(
        "no_token",
        "this role is guarded and the session has presented no token",
        "Nothing runs in this session until a token is accepted.",
        "Ask a DBA for a window (agent_guard.grant_window), then run SET agent_guard.token = '<token>'.",
    )
}

/// The server cannot judge tokens.
pub fn not_ready(detail: impl Into<String>) -> Refusal {
    Refusal::handshake(
        "not_ready",
        "agent_guard cannot accept tokens",
        detail,
        "Ask a DBA to look into the server's log and mend the installation.",
    )
}
