//! The token as a whole. Here is what the tests share: a window, a session, and short ways to make and judge tokens.

use std::net::IpAddr;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::Value;

use super::attenuate::{self, Scope};
use super::wire::hex;
use super::*;
use crate::refusal::{Refusal, SqlState};
use crate::request::{Form as Through, Verb};

mod circumstance;
mod containment;
mod forgery;
mod narrowing;
mod properties;
mod vectors;

const NOW: i64 = 1_790_000_000;
const WINDOW: WindowId = [7; 16];

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../pg_test/vectors/token.json")).unwrap()
}

fn bytes<const N: usize>(value: &Value) -> [u8; N] {
    let text = value.as_str().unwrap();
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}

fn vector_key(key: &Value) -> WindowKey {
    window_key(
        &bytes(&key["master"]),
        key["sysid"].as_str().unwrap().parse().unwrap(),
        u32::try_from(key["dboid"].as_u64().unwrap()).unwrap(),
        &bytes(&key["window"]),
        &bytes(&key["salt"]),
    )
}

fn window() -> WindowFacts {
    WindowFacts {
        agent: "fleet".into(),
        policy: "reporting".into(),
        role: "agent_rw".into(),
        max_depth: 7,
        expires_at: NOW + 3600,
        require_proof: false,
        client_addr: None,
        revoked: false,
    }
}

fn here() -> Circumstance<'static> {
    Circumstance {
        now: NOW,
        role: "agent_rw",
        database: "prod",
        peer: Peer::Local,
        system_user: Some("oauth:alice"),
        proof_only: false,
        at_connect: false,
        depth_ceiling: 7,
        is_revoked: &|_| false,
        utf8: true,
    }
}

fn key() -> WindowKey {
    WindowKey::from_bytes([9; 32])
}

fn claims(sub: &str) -> Claims {
    Claims::new(fresh_jti().unwrap(), sub, NOW + 600)
}

fn root(change: impl FnOnce(&mut Claims)) -> String {
    let mut root = claims("root");
    change(&mut root);
    mint(&key(), 1, &WINDOW, &root).unwrap()
}

fn child(parent: &str, change: impl FnOnce(&mut Claims)) -> Result<String, Refusal> {
    let mut child = claims("child");
    change(&mut child);
    derive(parent, &child)
}

fn authentic(text: &str) -> Result<AuthenticToken, Refusal> {
    PresentedToken::parse(text)?.authenticate(&key(), None)
}

fn activate(text: &str, window: &WindowFacts, here: &Circumstance<'_>) -> Result<ActiveToken, Refusal> {
    authentic(text)?.activate(window, here)
}

fn active(text: &str) -> ActiveToken {
    activate(text, &window(), &here()).unwrap()
}

/// The reason, and the detail that goes with it.
fn refused(outcome: Result<ActiveToken, Refusal>) -> (&'static str, String) {
    let refusal = outcome.map(|token| token.public_id()).unwrap_err();
    assert_eq!(refusal.sqlstate, SqlState::InvalidAuthorization);
    (refusal.reason, refusal.detail)
}

/// Signs whatever blocks are given, as a holder could who does not use our code.
fn signed(blocks: &[&str]) -> String {
    let head = wire::head(1, &WINDOW);
    let tag = blocks.iter().fold(mac::head_tag(&key(), &head), |tag, block| mac::block_tag(&tag, block));
    wire::join(Form::Bearer, &format!("{head}.{}", blocks.join(".")), &tag)
}

fn signed_json(json: &[u8]) -> String {
    signed(&[&URL_SAFE_NO_PAD.encode(json)])
}
