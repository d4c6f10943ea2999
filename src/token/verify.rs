//! From a text to a token that may act: presented, authentic, active, each state consumed by the next.
//!
//! The caller looks up the window that the head names and hands in what its row says, the clock and the session. It
//! also has to see that the key id in the head is that of the row and not retired; where it is not, or where there is
//! no such window, it calls `burn` and refuses with `unknown_window`.

use std::fmt;
use std::hint::black_box;

use super::active::ActiveToken;
use super::attenuate;
use super::claims::Claims;
use super::mac::{self, Secret, WindowKey};
use super::network::{Network, Peer};
use super::refusals::{self, Decider};
use super::wire::{self, Chain, Form};
use super::{BlockId, WindowId, hex};
use crate::refusal::Refusal;

/// Seconds by which a clock may be behind the one that set `nbf`.
const LEEWAY: i64 = 5;

/// A text that follows the grammar. Nothing that it says has been verified.
pub struct PresentedToken {
    form: Form,
    chain: Chain,
    tag: Secret,
}

impl fmt::Debug for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PresentedToken")
            .field("form", &self.form)
            .field("window", &hex(self.window()))
            .finish_non_exhaustive()
    }
}

impl PresentedToken {
    /// Parses a token or a proof.
    ///
    /// # Errors
    /// `token_refused`, the same for every fault.
    pub fn parse(text: &str) -> Result<PresentedToken, Refusal> {
        let (form, chain, tag) = wire::split(text).map_err(|_| refusals::token_refused())?;
        Ok(PresentedToken { form, chain, tag })
    }

    /// The key id that the head names.
    pub fn kid(&self) -> u32 {
        self.chain.kid()
    }

    /// The window that the head names.
    pub fn window(&self) -> &WindowId {
        self.chain.window()
    }

    /// How it is presented.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The identifiers that the blocks would have.
    pub fn block_ids(&self) -> Vec<BlockId> {
        self.chain.block_ids()
    }

    /// Verifies the signature, then reads the blocks. `challenge` is the one that this session has open, and a proof
    /// needs one. A caller that has none should refuse a proof before it looks the window up, so that
    /// `proof_stale` does not tell which windows exist.
    ///
    /// # Errors
    /// `proof_stale`, `token_refused`; behind the signature `caveat_malformed`, `too_deep`, `wider_than_parent`.
    pub fn authenticate(self, key: &WindowKey, challenge: Option<&str>) -> Result<AuthenticToken, Refusal> {
        let chain_tag = mac::chain_tag(key, &self.chain);
        let expected = match self.form {
            Form::Bearer => chain_tag,
            Form::Proof => {
                let open = challenge.filter(|challenge| wire::is_challenge(challenge));
                mac::proof_tag(&chain_tag, open.ok_or_else(refusals::proof_stale)?)
            }
        };
        if !expected.equals(&self.tag) {
            return Err(refusals::token_refused());
        }
        let form = self.form;
        Ok(AuthenticToken { form, blocks: Blocks::read(self.chain)? })
    }

    /// Does the work of deriving a key and verifying under it, for nothing: a window that does not exist then takes
    /// as long as a bad signature.
    pub fn burn(&self) {
        let key = mac::window_key(&[0x5c; 32], 0, 0, self.window(), &[0x36; 16]);
        let chain_tag = mac::chain_tag(&key, &self.chain);
        let expected = match self.form {
            Form::Bearer => chain_tag,
            Form::Proof => mac::proof_tag(&chain_tag, "agc1.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        };
        black_box(expected.equals(&self.tag));
    }

    pub(super) fn into_parts(self) -> (Form, Chain, Secret) {
        (self.form, self.chain, self.tag)
    }
}

/// A chain whose blocks have been read and found not to claim more than their parents.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    pub(super) chain: Chain,
    pub(super) ids: Vec<BlockId>,
    pub(super) claims: Vec<Claims>,
}

impl Blocks {
    /// Reads the blocks strictly. Whether they are authentic is the caller's to know.
    pub(super) fn read(chain: Chain) -> Result<Blocks, Refusal> {
        let mut claims = Vec::with_capacity(wire::MAX_BLOCKS);
        for (index, block) in chain.blocks().enumerate() {
            let json = wire::decode(block).ok_or_else(refusals::token_refused)?;
            claims.push(Claims::parse(&json).map_err(|fault| refusals::caveat_malformed(index, &fault))?);
        }
        attenuate::lint(&claims)?;
        Ok(Blocks { ids: chain.block_ids(), chain, claims })
    }
}

/// A token that this server's key signed, link by link. Whether it holds here is still open.
#[derive(Clone, Debug)]
pub struct AuthenticToken {
    form: Form,
    blocks: Blocks,
}

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
    /// The server's own limit on derivations.
    pub depth_ceiling: u8,
    /// Whether a block has been revoked.
    pub is_revoked: &'a dyn Fn(&BlockId) -> bool,
    /// The server's encoding is UTF8.
    pub utf8: bool,
}

impl AuthenticToken {
    /// The window.
    pub fn window(&self) -> &WindowId {
        self.blocks.chain.window()
    }

    /// The key id.
    pub fn kid(&self) -> u32 {
        self.blocks.chain.kid()
    }

    /// How it was presented.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The blocks' identifiers, the root's first.
    pub fn block_ids(&self) -> &[BlockId] {
        &self.blocks.ids
    }

    /// What the blocks say, the root's first.
    pub fn claims(&self) -> &[Claims] {
        &self.blocks.claims
    }

    /// Head and blocks without the tag: no secret, and enough to know what was verified.
    pub fn public_text(&self) -> &str {
        self.blocks.chain.text()
    }

    /// Holds the token against the window's row and the session.
    ///
    /// # Errors
    /// The reason of the first condition that does not hold.
    pub fn activate(self, window: &WindowFacts, here: &Circumstance<'_>) -> Result<ActiveToken, Refusal> {
        let AuthenticToken { form, blocks } = self;
        let claims = blocks.claims.as_slice();
        check_encoding(claims, here)?;
        check_revocation(&blocks, window, here)?;
        check_time(claims, window, here.now)?;
        check_session(claims, window, here)?;
        let depth = attenuate::remaining_depth(window.max_depth.min(here.depth_ceiling), claims)?;
        check_form(form, claims, window, here)?;
        if let Some((index, id)) = waits_for_approval(&blocks) {
            return Err(refusals::approval_missing(index, id));
        }
        check_scope(claims, window)?;
        Ok(ActiveToken::new(blocks, window, depth))
    }
}

impl ActiveToken {
    /// Rebuilds in a parallel worker what its leader has activated. The text carries no signature: it must come from
    /// the leader and never from a client. Everything but the signature and the form is checked again.
    ///
    /// # Errors
    /// Those of `authenticate` and `activate`.
    pub fn from_public_text(
        text: &str,
        window: &WindowFacts,
        here: &Circumstance<'_>,
    ) -> Result<ActiveToken, Refusal> {
        let chain = Chain::parse(text).map_err(|_| refusals::token_refused())?;
        // The leader has seen to the form; to the worker any token is as good as a proof.
        AuthenticToken { form: Form::Proof, blocks: Blocks::read(chain)? }.activate(window, here)
    }
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
            &super::json::Malformed::at(key, "is not ASCII, and the database's encoding is not UTF8"),
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
    if here.proof_only {
        return Err(refusals::bearer_not_allowed("the server"));
    }
    if window.require_proof {
        return Err(refusals::bearer_not_allowed("the window"));
    }
    match claims.iter().position(|claims| claims.pop) {
        None => Ok(()),
        Some(index) => Err(refusals::bearer_not_allowed(&format!("block {index}, field \"pop\","))),
    }
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
