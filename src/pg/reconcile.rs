//! Brings what is stored of a relation's masks and filters up to date with the relation as it is now.
//!
//! Never shows more than before: a mask that can no longer be made becomes NULL, a filter lets no row exist, each with a
//! WARNING. Nothing here stops the statement that changed the relation, unless not even NULL can stand there.

use std::collections::BTreeSet;

use pgrx::{PgLogLevel, pg_sys};

use super::admin_error::{AdminError, AdminResult};
use super::store::mask::{self as store, FilterRow, MaskRow};
use super::types::{self, Attribute};
use super::{catalog, expression, keys, masked_view, own};
use crate::mask::rule::{Mask, Options};
use crate::policy::rule::RuleError;

/// Looks after one relation, which may be gone. One that was restored and not rebuilt is left alone: the numbers of its
/// columns mean nothing, and no agent reaches it.
pub fn relation(relation: pg_sys::Oid) -> AdminResult<()> {
    let Some(facts) = catalog::relation_facts(relation) else {
        return store::forget_relation(relation);
    };
    if store::view_of(relation)?.is_some() {
        return look_after(relation);
    }
    if is_restored(relation)? {
        return Ok(());
    }
    // The columns of a materialized view can be exposed without a mask, and have the same numbers wherever it is restored.
    if facts.kind == b'm' {
        store::tidy_exposures(relation)?;
    }
    without_masks(relation)
}

/// Looks after a relation that has no view and was found without masks. Nothing here asks for them again: a restore that goes on
/// beside this may commit some at any time.
fn without_masks(relation: pg_sys::Oid) -> AdminResult<()> {
    row_filters(relation)?;
    masked_view::announce(relation);
    Ok(())
}

/// Whether a relation's masks were restored and not rebuilt.
///
/// # Errors
/// Of the tables.
pub fn is_restored(relation: pg_sys::Oid) -> AdminResult<bool> {
    Ok(store::view_of(relation)?.is_none() && !store::masks(Some(relation))?.is_empty())
}

fn look_after(relation: pg_sys::Oid) -> AdminResult<()> {
    let attributes = types::attributes(relation);
    for mask in store::masks(Some(relation))? {
        match attributes.iter().find(|attribute| attribute.number == mask.number) {
            Some(attribute) => masked_column(&mask, attribute)?,
            None => {
                store::remove_mask(relation, mask.number)?;
                let fact =
                    format!("the mask of column \"{}\" of {} went with it", mask.column, named(relation));
                AdminError::state(fact).tell(PgLogLevel::NOTICE);
            }
        }
    }
    store::tidy_exposures(relation)?;
    row_filters(relation)?;
    masked_view::refresh(relation)
}

fn row_filters(relation: pg_sys::Oid) -> AdminResult<()> {
    store::filters(Some(relation))?.iter().try_for_each(row_filter)
}

/// Makes every view anew, as after a restore; how many there are.
pub fn rebuild() -> AdminResult<i64> {
    for relation in store::gone_relations()? {
        store::forget_relation(relation)?;
        let fact = format!("a relation with masks or filters is gone (OID {})", relation.to_u32());
        AdminError::undefined(fact).hint("Mask it anew where it was restored.").tell(PgLogLevel::WARNING);
    }
    for relation in store::kept_relations()? {
        // SAFETY: takes a lock, which does not need the relation to exist.
        unsafe { pg_sys::LockRelationOid(relation, pg_sys::ShareUpdateExclusiveLock.cast_signed()) };
        if catalog::relation_facts(relation).is_some() {
            anew(relation)?;
        }
    }
    for view in store::stray_views()? {
        masked_view::drop_view(view);
    }
    let masked: BTreeSet<u32> = store::masks(None)?.iter().map(|mask| mask.relation.to_u32()).collect();
    Ok(i64::try_from(masked.len()).unwrap_or(i64::MAX))
}

/// Makes one relation's view anew, found by the names of its columns where it was restored. Whether it was is asked once, of this
/// relation alone: what a restore commits beside this is either found here as a whole, or waits for the next time.
fn anew(relation: pg_sys::Oid) -> AdminResult<()> {
    if store::view_of(relation)?.is_none() {
        let restored = is_restored(relation)?;
        let missing = store::missing_columns(relation)?;
        if !missing.is_empty() {
            let fact =
                format!("{} stays out of agents' reach: it has no {}", named(relation), missing.join(", "));
            AdminError::undefined(fact)
                .detail("Columns are masked or exposed under these names.")
                .hint("Take these off with agent_guard.unmask_column(), rebuild, and mask the columns that they are now.")
                .tell(PgLogLevel::WARNING);
            return Ok(());
        }
        store::renumber(relation)?;
        if !restored {
            return without_masks(relation);
        }
    }
    if store::masks(Some(relation))?.iter().any(|mask| mask.expression.contains(own::MASK_HASH)) {
        keys::make_mask_key()?;
    }
    look_after(relation)
}

fn named(relation: pg_sys::Oid) -> String {
    catalog::relation_object(relation).map(|object| object.to_string()).unwrap_or_default()
}

fn masked_column(mask: &MaskRow, attribute: &Attribute) -> AdminResult<()> {
    let lasting = expression::attempt(|| made(mask, attribute));
    let (word, text) = match lasting {
        Ok(text) if text == mask.expression && mask.column == attribute.name => return Ok(()),
        Ok(text) => (mask.mask.as_deref(), text),
        Err(error) => {
            let fact =
                format!("agents read NULL for column \"{}\" of {} now", attribute.name, named(mask.relation));
            AdminError::state(fact)
                .detail(format!("Its mask can no longer be made: {}.", error.message()))
                .hint("Mask it anew with agent_guard.mask_column().")
                .tell(PgLogLevel::WARNING);
            (Some("null"), expression::for_column(mask.relation, "NULL", attribute.place, "mask")?.text())
        }
    };
    store::rewrite_mask(mask.id, &attribute.name, word, &text)
}

/// The expression of a mask for its column as it is now.
fn made(mask: &MaskRow, attribute: &Attribute) -> AdminResult<String> {
    let text = match &mask.mask {
        Some(word) => {
            let options = Options::from_json(&mask.options);
            let written = |mask: Mask| -> Result<String, RuleError> {
                crate::mask::expression::expression(
                    mask,
                    &options,
                    &attribute.name,
                    &types::column_type(attribute.place),
                )
            };
            written(Mask::parse(word)?)?
        }
        None => mask.expression.clone(),
    };
    Ok(expression::for_column(mask.relation, &text, attribute.place, "mask")?.text())
}

fn row_filter(filter: &FilterRow) -> AdminResult<()> {
    let read = || Ok(expression::condition(filter.relation, &filter.predicate, "predicate")?.text());
    match expression::attempt(read) {
        Ok(text) if text == filter.predicate => Ok(()),
        Ok(text) => store::rewrite_filter(filter.id, &text),
        Err(error) => {
            let fact =
                format!("policy \"{}\" shows no row of {} now", filter.policy_name, named(filter.relation));
            AdminError::state(fact)
                .detail(format!(
                    "Its row filter ({}) can no longer be read: {}.",
                    filter.predicate,
                    error.message()
                ))
                .hint("Write it anew with agent_guard.filter_rows().")
                .tell(PgLogLevel::WARNING);
            store::rewrite_filter(filter.id, "false")
        }
    }
}

/// What was inherited stays when a relation leaves its parents: masks and filters of `parents` that it has none of its own
/// for.
///
/// # Errors
/// Where the child's own masks were restored and not rebuilt: a copied one could take the place of another column's.
pub fn inherit(child: pg_sys::Oid, parents: &[pg_sys::Oid]) -> AdminResult<()> {
    if is_restored(child)? {
        let fact = format!("the masks of {} were restored and not rebuilt", named(child));
        return Err(AdminError::state(fact)
            .detail("What it has from its parent can not be told from its own yet.")
            .hint("Run SELECT agent_guard.rebuild_masks() first."));
    }
    let attributes = types::attributes(child);
    let mut copied = Vec::new();
    for parent in parents {
        for mask in store::masks(Some(*parent))? {
            let own = store::masks(Some(child))?;
            let Some(attribute) = attributes.iter().find(|attribute| attribute.name == mask.column) else {
                continue;
            };
            if own.iter().any(|mask| mask.number == attribute.number) {
                continue;
            }
            let expression =
                expression::attempt(|| made(&MaskRow { relation: child, ..mask.clone() }, attribute));
            let (word, expression) = match expression {
                Ok(text) => (mask.mask.as_deref(), text),
                Err(_) => {
                    (Some("null"), expression::for_column(child, "NULL", attribute.place, "mask")?.text())
                }
            };
            store::put_mask(store::NewMask {
                relation: child,
                column: &attribute.name,
                number: attribute.number,
                mask: word,
                options: mask.options.clone(),
                expression: &expression,
            })?;
            copied.push(attribute.name.clone());
        }
        for filter in store::filters(Some(*parent))? {
            let own = store::filters(Some(child))?;
            if !own.iter().any(|own| own.policy == filter.policy) {
                store::put_filter(filter.policy, child, &filter.predicate)?;
                let own = FilterRow { relation: child, ..filter };
                copied.push(format!("rows of policy \"{}\"", own.policy_name));
            }
        }
    }
    if copied.is_empty() {
        return Ok(());
    }
    let fact = format!("{} keeps the masks and filters that it had from its parent", named(child));
    AdminError::state(fact)
        .detail(format!("They are now its own: {}.", copied.join(", ")))
        .hint("Take them off with agent_guard.unmask_column() and unfilter_rows() where they are not wanted.")
        .tell(PgLogLevel::NOTICE);
    look_after(child)
}
