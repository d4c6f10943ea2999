//! What a chain of blocks leaves: the intersection that is the guarantee, and the lint that is hygiene.
//!
//! `Scope` and `remaining_depth` only ever intersect, so no block can add anything, whatever it says. `lint` refuses
//! a child that *claims* more than its parent, so that a broken template surfaces instead of being clipped; a fault
//! in it opens nothing. The window's own row is narrowed later and clips silently: the parent could not know.

use super::act::Mask;
use super::claims::Claims;
use super::refusals;
use super::value::MAX_DEPTH;
use crate::refusal::Refusal;
use crate::request::{Form, Verb};

/// The smallest value of a limit along the chain, and the first block that sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The value.
    pub value: u64,
    /// The index of the block.
    pub block: usize,
}

impl Bound {
    fn tightest(blocks: &[Claims], limit: impl Fn(&Claims) -> Option<u64>) -> Option<Bound> {
        blocks
            .iter()
            .enumerate()
            .filter_map(|(block, claims)| limit(claims).map(|value| Bound { value, block }))
            .min_by_key(|bound| bound.value)
    }
}

/// The limits that the blocks leave; `None` where no block sets one. Each block's own limit holds besides, for all
/// that is derived from it: these are the values that a session cannot exceed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows.
    pub rows: Option<Bound>,
    /// Bytes of results.
    pub bytes: Option<Bound>,
    /// Statements.
    pub stmts: Option<Bound>,
    /// Activations.
    pub uses: Option<Bound>,
    /// Sessions at one time.
    pub sess: Option<Bound>,
}

/// What a chain leaves, compiled once.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    act: Mask,
    narrows_relations: bool,
    pub(super) limits: Limits,
    /// The earliest `exp` and its block.
    pub(super) expires: (i64, usize),
    /// The latest `nbf` and its block.
    pub(super) begins: Option<(i64, usize)>,
}

impl Scope {
    /// The intersection of all blocks.
    pub(super) fn of(blocks: &[Claims]) -> Scope {
        let numbered = || blocks.iter().enumerate();
        Scope {
            act: blocks.iter().fold(Mask::ALL, |mask, claims| mask.and(Mask::of(claims.act.as_deref()))),
            narrows_relations: blocks.iter().any(|claims| claims.rel.is_some()),
            limits: Limits {
                rows: Bound::tightest(blocks, |claims| claims.rows),
                bytes: Bound::tightest(blocks, |claims| claims.bytes),
                stmts: Bound::tightest(blocks, |claims| claims.stmts),
                uses: Bound::tightest(blocks, |claims| claims.uses),
                sess: Bound::tightest(blocks, |claims| claims.sess),
            },
            // A chain without blocks does not parse; were there one, it would have expired.
            expires: numbered().map(|(i, claims)| (claims.exp, i)).min().unwrap_or((i64::MIN, 0)),
            begins: numbered().filter_map(|(i, claims)| Some((claims.nbf?, i))).max_by_key(|begin| begin.0),
        }
    }

    /// Whether every block leaves the access; the index of the first that does not.
    #[inline]
    pub(super) fn permits(
        &self,
        blocks: &[Claims],
        verb: Verb,
        form: Form,
        relation: Option<(&str, &str)>,
    ) -> Result<(), usize> {
        // The masks answer nearly every question; the blocks are walked to match names and to name the culprit.
        let by_name = relation.filter(|_| self.narrows_relations);
        if self.act.covers(verb, form) && by_name.is_none() {
            return Ok(());
        }
        blocks.iter().position(|claims| !leaves(claims, verb, form, by_name)).map_or(Ok(()), Err)
    }
}

/// Whether one block by itself leaves the access.
fn leaves(claims: &Claims, verb: Verb, form: Form, relation: Option<(&str, &str)>) -> bool {
    let named = match (&claims.rel, relation) {
        (Some(rel), Some((schema, name))) => rel.iter().any(|pattern| pattern.matches(schema, name)),
        _ => true,
    };
    named && Mask::of(claims.act.as_deref()).covers(verb, form)
}

/// The block at which no action is left that any word of `act` names, if there is one.
pub(super) fn first_without_actions(blocks: &[Claims]) -> Option<usize> {
    let mut left: Option<Vec<_>> = None;
    for (block, claims) in blocks.iter().enumerate() {
        let Some(act) = &claims.act else {
            continue;
        };
        let both = match left {
            None => act.clone(),
            Some(left) => left.into_iter().filter(|word| act.contains(word)).collect(),
        };
        if both.is_empty() {
            return Some(block);
        }
        left = Some(both);
    }
    None
}

/// The derivations that are left below the last block, of at most `ceiling` below the first.
pub(super) fn remaining_depth(ceiling: u8, blocks: &[Claims]) -> Result<u8, Refusal> {
    let mut left = ceiling.min(MAX_DEPTH);
    for (block, claims) in blocks.iter().enumerate() {
        left = below(left, block)?.min(claims.depth.unwrap_or(MAX_DEPTH));
    }
    Ok(left)
}

/// What is left of the depth once `block` has been derived.
fn below(left: u8, block: usize) -> Result<u8, Refusal> {
    match block {
        0 => Ok(left),
        _ => left.checked_sub(1).ok_or_else(|| refusals::too_deep(block)),
    }
}

/// What the blocks so far claim, for comparison with the next.
#[derive(Default)]
struct Prefix<'a> {
    exp: Option<i64>,
    pol: Option<&'a [String]>,
    act: Option<&'a [super::Act]>,
    rows: Option<u64>,
    bytes: Option<u64>,
    stmts: Option<u64>,
    uses: Option<u64>,
    sess: Option<u64>,
    role: Option<&'a str>,
    db: Option<&'a str>,
    auth: Option<&'a str>,
}

/// Refuses the first block that claims more than the blocks before it.
pub(super) fn lint(blocks: &[Claims]) -> Result<(), Refusal> {
    let mut prefix = Prefix::default();
    let mut left = MAX_DEPTH;
    for (block, claims) in blocks.iter().enumerate() {
        left = below(left, block)?;
        if claims.depth.is_some_and(|depth| depth > left) {
            let fact = format!("only {left} derivations are left below it");
            return Err(refusals::wider_than_parent(block, "depth", &fact));
        }
        left = left.min(claims.depth.unwrap_or(left));
        prefix.take(claims).map_err(|(name, fact)| refusals::wider_than_parent(block, name, fact))?;
    }
    Ok(())
}

impl<'a> Prefix<'a> {
    /// Narrows the prefix by one block, unless that claims more.
    fn take(&mut self, claims: &'a Claims) -> Result<(), (&'static str, &'static str)> {
        let more = "it is larger than a block before it allows";
        let other = "it differs from a block before it";
        let beyond = "it has an item that a block before it leaves out";
        lower(&mut self.exp, Some(claims.exp))
            .ok_or(("exp", "it is later than that of a block before it"))?;
        subset(&mut self.pol, claims.pol.as_deref()).ok_or(("pol", beyond))?;
        subset(&mut self.act, claims.act.as_deref()).ok_or(("act", beyond))?;
        lower(&mut self.rows, claims.rows).ok_or(("rows", more))?;
        lower(&mut self.bytes, claims.bytes).ok_or(("bytes", more))?;
        lower(&mut self.stmts, claims.stmts).ok_or(("stmts", more))?;
        same(&mut self.role, claims.role.as_deref()).ok_or(("role", other))?;
        same(&mut self.db, claims.db.as_deref()).ok_or(("db", other))?;
        same(&mut self.auth, claims.auth.as_deref()).ok_or(("auth", other))?;
        lower(&mut self.uses, claims.uses).ok_or(("uses", more))?;
        lower(&mut self.sess, claims.sess).ok_or(("sess", more))
    }
}

/// Replaces the bound by a claim that is not above it; `None` where it is.
fn lower<T: Ord + Copy>(bound: &mut Option<T>, claim: Option<T>) -> Option<()> {
    if let (Some(bound), Some(claim)) = (*bound, claim)
        && claim > bound
    {
        return None;
    }
    *bound = claim.or(*bound);
    Some(())
}

/// Replaces the set by a claim within it; `None` where it is not.
fn subset<'a, T: PartialEq>(set: &mut Option<&'a [T]>, claim: Option<&'a [T]>) -> Option<()> {
    if let (Some(set), Some(claim)) = (*set, claim)
        && !claim.iter().all(|item| set.contains(item))
    {
        return None;
    }
    *set = claim.or(*set);
    Some(())
}

/// Sets the name, or compares the claim with the one that is set.
fn same<'a>(name: &mut Option<&'a str>, claim: Option<&'a str>) -> Option<()> {
    if let (Some(name), Some(claim)) = (*name, claim)
        && name != claim
    {
        return None;
    }
    *name = claim.or(*name);
    Some(())
}
