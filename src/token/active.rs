//! A token in force: what it leaves, and whether it still holds.
//!
//! It decides nothing by itself about a statement: `policy` asks it which block, if any, leaves an access out. What
//! is used up of its limits is counted elsewhere.

use super::attenuate::{Limits, Scope};
use super::circumstance::{WindowFacts, is_early};
use super::claims::Claims;
use super::mac::{self, WindowKey};
use super::refusals::{self, Decider};
use super::verify::Blocks;
use super::{BlockId, WindowId, issue};
use crate::refusal::Refusal;
use crate::request::{Form, Verb};

/// A token that was authentic and held in its session when it was activated.
#[derive(Clone, Debug)]
pub struct ActiveToken {
    blocks: Blocks,
    scope: Scope,
    lineage: Vec<String>,
    policy: String,
    window_ends: i64,
    remaining_depth: u8,
}

impl ActiveToken {
    /// Compiles what the blocks and the row leave. Only `AuthenticToken::activate` may make one.
    pub(super) fn new(blocks: Blocks, window: &WindowFacts, remaining_depth: u8) -> ActiveToken {
        // The root block is minted for the window's own agent: named twice it would read as a child of itself.
        let own = blocks.claims.first().is_some_and(|root| root.sub == window.agent);
        let subs = blocks.claims.iter().skip(usize::from(own)).map(|claims| claims.sub.clone());
        ActiveToken {
            scope: Scope::of(&blocks.claims),
            lineage: std::iter::once(window.agent.clone()).chain(subs).collect(),
            policy: window.policy.clone(),
            window_ends: window.expires_at,
            remaining_depth,
            blocks,
        }
    }

    /// The window.
    pub fn window(&self) -> &WindowId {
        self.blocks.chain.window()
    }

    /// The key id.
    pub fn kid(&self) -> u32 {
        self.blocks.chain.kid()
    }

    /// The window's agent, then each block's; all but the first are asserted by parents.
    pub fn lineage(&self) -> &[String] {
        &self.lineage
    }

    /// The blocks' identifiers, the root's first.
    pub fn block_ids(&self) -> &[BlockId] {
        &self.blocks.ids
    }

    /// What the blocks say, the root's first.
    pub fn claims(&self) -> &[Claims] {
        &self.blocks.claims
    }

    /// The end, in unix seconds: the earliest of the window's and the blocks'.
    pub fn expires_at(&self) -> i64 {
        self.scope.expires.0.min(self.window_ends)
    }

    /// The latest `nbf`, in unix seconds.
    pub fn not_before(&self) -> Option<i64> {
        self.scope.begins.map(|(nbf, _)| nbf)
    }

    /// Derivations still allowed below the last block.
    pub fn remaining_depth(&self) -> u8 {
        self.remaining_depth
    }

    /// The name under which the token may be shown: `agt1:<8 hex of the window>:<id of the last block>`.
    pub fn public_id(&self) -> String {
        let leaf = self.blocks.ids.last().copied().unwrap_or_default();
        super::public_id(self.window(), &leaf)
    }

    /// Head and blocks without the tag, for parallel workers.
    pub fn public_text(&self) -> &str {
        self.blocks.chain.text()
    }

    /// The tightest limits along the chain.
    pub fn limits(&self) -> &Limits {
        &self.scope.limits
    }

    /// Whether the window's row and every block leave the policy.
    pub fn allows_policy(&self, name: &str) -> bool {
        let leaves =
            |claims: &Claims| claims.pol.as_ref().is_none_or(|pol| pol.iter().any(|pol| pol == name));
        self.policy == name && self.blocks.claims.iter().all(leaves)
    }

    /// Whether every block leaves the access. `relation` is the schema and the name of the relation that is accessed,
    /// by the catalogue, and `None` for an access to anything else: `rel` does not apply to that.
    ///
    /// # Errors
    /// The index of the first block whose `act` or `rel` leaves it out.
    #[inline]
    pub fn permits(&self, verb: Verb, form: Form, relation: Option<(&str, &str)>) -> Result<(), usize> {
        self.scope.permits(&self.blocks.claims, verb, form, relation)
    }

    /// Whether the token's times leave no doubt that it holds: `check_still` then finds nothing but a revocation.
    #[inline]
    pub fn is_within(&self, now: i64) -> bool {
        now < self.window_ends && now < self.scope.expires.0 && self.scope.begins.is_none()
    }

    /// Until when, in unix seconds, `is_within` is true; `None` where it depends on more than an end.
    pub fn within_until(&self) -> Option<i64> {
        self.scope.begins.is_none().then(|| self.window_ends.min(self.scope.expires.0))
    }

    /// Whether the token still holds, for each statement and each batch. Allocates only to refuse. A revoked window is
    /// the caller's to notice.
    ///
    /// # Errors
    /// `expired`, `not_yet_valid` (the clock went back) or `revoked`.
    pub fn check_still(&self, now: i64, is_revoked: &dyn Fn(&BlockId) -> bool) -> Result<(), Refusal> {
        let (exp, block) = self.scope.expires;
        if now >= self.window_ends {
            return Err(refusals::expired(Decider::Window, self.window_ends, now));
        }
        if now >= exp {
            return Err(refusals::expired(Decider::Block(block), exp, now));
        }
        if let Some((nbf, block)) = self.scope.begins
            && is_early(nbf, now)
        {
            return Err(refusals::not_yet_valid(block, nbf, now));
        }
        match self.blocks.ids.iter().enumerate().find(|(_, id)| is_revoked(id)) {
            None => Ok(()),
            Some((index, id)) => Err(refusals::block_revoked(index, id)),
        }
    }

    /// Derives a child's token on the server, the same as its holder would offline; the tag is computed again from
    /// the window's key, because a session keeps none.
    ///
    /// # Errors
    /// Those of `derive`.
    pub fn delegate(&self, key: &WindowKey, child: &Claims) -> Result<String, Refusal> {
        if self.remaining_depth == 0 {
            return Err(refusals::too_deep(self.blocks.claims.len()));
        }
        let tag = mac::chain_tag(key, &self.blocks.chain);
        issue::extend(&self.blocks.chain, &self.blocks.claims, &tag, child)
    }
}
