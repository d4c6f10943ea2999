//! mask_column, unmask_column, expose_columns, hide_columns, filter_rows, unfilter_rows, rebuild_masks.

use std::ffi::CStr;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::mask::rule::{Mask, Options};
use crate::pattern::{ObjectPattern, Part};
use crate::pg::admin_error::{AdminError, AdminResult, given};
use crate::pg::functions::{administrator, done, optional_texts, texts};
use crate::pg::store::{catalogue, mask as store, policy};
use crate::pg::text_datum::{Text, Texts};
use crate::pg::types::{self, Attribute};
use crate::pg::{catalog, encoding, expression, keys, masked_view, own, pinned, reconcile};
use crate::policy::near::nearest;

#[pg_extern(sql = false)]
#[expect(clippy::too_many_arguments, reason = "the parameters of the SQL function")]
fn mask_column(
    relation: Option<pg_sys::Oid>,
    column_name: Option<&CStr>,
    mask: Option<Text>,
    expression: Option<Text>,
    prefix: Option<i32>,
    pad: Option<Text>,
    suffix: Option<i32>,
    size: Option<AnyNumeric>,
    keys: Option<Texts>,
) -> Result<Text, ErrorReport> {
    let (mask, expression, pad) = (mask.as_deref(), expression.as_deref(), pad.as_deref());
    let write = || -> AdminResult<String> {
        administrator()?;
        let _settings = pinned::Settings::begin();
        let relation = built(maskable(given(relation, "relation")?)?)?;
        let attribute = named_column(relation, column_name)?;
        let options = Options {
            prefix,
            pad: pad.map(str::to_owned),
            suffix,
            size: size.map(|size| size.normalize().to_owned()),
            keys: optional_texts(keys, "keys")?,
        };
        let (mask, path, text) = match (mask, expression) {
            (Some(word), None) => {
                let mask = Mask::parse(word)?;
                let of = types::column_type(attribute.place);
                (
                    Some(mask),
                    "mask",
                    crate::mask::expression::expression(mask, &options, &attribute.name, &of)?,
                )
            }
            (None, Some(text)) if !options.any() => (None, "expression", text.to_owned()),
            (None, Some(_)) => {
                return Err(AdminError::invalid("options go with a mask, not with an expression")
                    .hint("Write everything into the expression, or give a mask."));
            }
            (Some(_), Some(_)) => {
                return Err(AdminError::invalid("either a mask or an expression, not both")
                    .hint("Leave one of the two out."));
            }
            (None, None) => {
                return Err(AdminError::invalid("neither a mask nor an expression").hint(
                    "Give a mask, such as mask => 'redact', or what agents read, as expression => '...'.",
                ));
            }
        };
        if let (Some(mask), Some(domain)) = (mask, constrained_domain(attribute.place.type_oid)) {
            return Err(AdminError::invalid(format!(
                "mask: the mask \"{}\" may not satisfy the constraints of the domain {domain}",
                mask.word()
            ))
            .hint("Write a value that satisfies them as expression => '...'."));
        }
        if text.contains(own::MASK_HASH) {
            keys::make_mask_key()?;
        }
        let made = expression::for_column(relation, &text, attribute.place, path)?.text();
        store::put_mask(store::NewMask {
            relation,
            column: &attribute.name,
            number: attribute.number,
            mask: mask.map(Mask::word),
            options: options.to_json(),
            expression: &made,
        })?;
        masked_view::refresh(relation)?;
        done("mask_column", format!("{}.{}: {made}", named(relation), attribute.name));
        Ok(made)
    };
    Ok(Text(write()?))
}

#[pg_extern(sql = false)]
fn unmask_column(relation: Option<pg_sys::Oid>, column_name: Option<&CStr>) -> Result<(), ErrorReport> {
    let remove = || -> AdminResult<()> {
        administrator()?;
        let _settings = pinned::Settings::begin();
        let relation = locked(given(relation, "relation")?)?;
        let name = encoding::from_server(given(column_name, "column_name")?);
        // By the name that is stored: after a restore there may be no such column any more.
        if !store::remove_mask_named(relation, &name)? {
            return Err(not_masked(relation, &column(relation, &name)?.name));
        }
        reconcile::relation(relation)?;
        done("unmask_column", format!("{}.{name}", named(relation)));
        Ok(())
    };
    Ok(remove()?)
}

#[pg_extern(sql = false)]
fn expose_columns(policy: Option<Text>, columns: Option<Texts>) -> Result<i64, ErrorReport> {
    let policy = policy.as_deref();
    let write = || each_exposure(given(policy, "policy")?, texts(columns, "columns")?, Exposure::Given);
    Ok(write()?)
}

#[pg_extern(sql = false)]
fn hide_columns(policy: Option<Text>, columns: Option<Texts>) -> Result<i64, ErrorReport> {
    let policy = policy.as_deref();
    let write = || each_exposure(given(policy, "policy")?, texts(columns, "columns")?, Exposure::TakenBack);
    Ok(write()?)
}

#[pg_extern(sql = false)]
fn filter_rows(
    policy: Option<Text>,
    relation: Option<pg_sys::Oid>,
    predicate: Option<Text>,
) -> Result<Text, ErrorReport> {
    let (policy, predicate) = (policy.as_deref(), predicate.as_deref());
    let write = || -> AdminResult<String> {
        administrator()?;
        let _settings = pinned::Settings::begin();
        let name = given(policy, "policy")?;
        let relation = given(relation, "relation")?;
        // The policy first, as everywhere: two that lock in different orders would wait for each other.
        let policy = policy::lock_policy(name)?.ok_or_else(|| policy::unknown_policy(name))?;
        let relation = maskable(relation)?;
        let text = given(predicate, "predicate")?;
        let predicate = expression::condition(relation, text, "predicate")?.text();
        store::put_filter(policy.id, relation, &predicate)?;
        policy::policy_changed(policy.id)?;
        masked_view::announce(relation);
        done("filter_rows", format!("policy {name}: {} where {predicate}", named(relation)));
        Ok(predicate)
    };
    Ok(Text(write()?))
}

#[pg_extern(sql = false)]
fn unfilter_rows(policy: Option<Text>, relation: Option<pg_sys::Oid>) -> Result<(), ErrorReport> {
    let policy = policy.as_deref();
    let remove = || -> AdminResult<()> {
        administrator()?;
        let _settings = pinned::Settings::begin();
        let name = given(policy, "policy")?;
        let relation = given(relation, "relation")?;
        let policy = policy::lock_policy(name)?.ok_or_else(|| policy::unknown_policy(name))?;
        let relation = locked(relation)?;
        if !store::remove_filter(policy.id, relation)? {
            return Err(AdminError::undefined(format!(
                "policy \"{name}\" has no row filter on {}",
                named(relation)
            ))
            .hint("The view agent_guard.row_filters lists the filters."));
        }
        policy::policy_changed(policy.id)?;
        masked_view::announce(relation);
        done("unfilter_rows", format!("policy {name}: {}", named(relation)));
        Ok(())
    };
    Ok(remove()?)
}

#[pg_extern(sql = false)]
fn rebuild_masks() -> Result<i64, ErrorReport> {
    let rebuild = || -> AdminResult<i64> {
        administrator()?;
        let _settings = pinned::Settings::begin();
        keys::make_mask_key()?;
        let rebuilt = reconcile::rebuild()?;
        done("rebuild_masks", format!("{rebuilt} relations"));
        Ok(rebuilt)
    };
    Ok(rebuild()?)
}

fn named(relation: pg_sys::Oid) -> String {
    catalog::relation_object(relation).map(|object| object.to_string()).unwrap_or_default()
}

/// The relation, locked against changes of its form and of its masks until the end of the transaction.
fn locked(relation: pg_sys::Oid) -> AdminResult<pg_sys::Oid> {
    // SAFETY: takes a lock, which does not need the relation to exist.
    unsafe { pg_sys::LockRelationOid(relation, pg_sys::ShareUpdateExclusiveLock.cast_signed()) };
    match catalog::relation_facts(relation) {
        Some(_) => Ok(relation),
        None => Err(AdminError::undefined(format!(
            "relation: there is no relation with OID {}",
            relation.to_u32()
        ))
        .hint("Name a table that exists.")),
    }
}

/// Locks as `locked` does, in the order that everybody has who locks several: two that lock in different ones would wait for each
/// other.
pub fn lock_in_order(mut relations: Vec<pg_sys::Oid>) {
    relations.sort_unstable_by_key(|oid| oid.to_u32());
    relations.dedup();
    for relation in relations {
        // SAFETY: takes a lock, which does not need the relation to exist.
        unsafe { pg_sys::LockRelationOid(relation, pg_sys::ShareUpdateExclusiveLock.cast_signed()) };
    }
}

/// A relation whose stored masks are those of the columns that it has: not one that was restored and not rebuilt, where
/// the numbers stored are other columns'.
fn built(relation: pg_sys::Oid) -> AdminResult<pg_sys::Oid> {
    if !reconcile::is_restored(relation)? {
        return Ok(relation);
    }
    Err(AdminError::state(format!(
        "relation: the masks of {} were restored and not rebuilt",
        named(relation)
    ))
    .hint("Run SELECT agent_guard.rebuild_masks() first."))
}

/// A relation that can have masks and filters, locked.
fn maskable(relation: pg_sys::Oid) -> AdminResult<pg_sys::Oid> {
    let relation = locked(relation)?;
    let facts = catalog::relation_facts(relation);
    let refuse = |why: &str, hint: &str| {
        Err(AdminError::new(
            PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            format!("relation: {} {why}", named(relation)),
        )
        .hint(hint))
    };
    let Some(facts) = facts else { return Ok(relation) };
    let ours =
        own::own().is_some_and(|own| facts.namespace == own.schema || facts.namespace == own.masked_schema);
    if ours {
        return refuse("belongs to agent_guard", "Agents cannot reach it anyway.");
    }
    if relation.to_u32() < catalog::FIRST_NORMAL {
        return refuse(
            "belongs to the server",
            "Mask tables of your own; what agents see of the catalogue are the actions of a policy.",
        );
    }
    if facts.temporary {
        return refuse("is temporary", "Only its own session can read it; mask tables that stay.");
    }
    match facts.kind {
        b'r' | b'p' | b'f' | b'm' => Ok(relation),
        b'v' => refuse("is a view", "Mask the tables that it reads: their masks hold through every view."),
        _ => refuse("is no table", "Mask tables, partitioned tables, foreign tables and materialized views."),
    }
}

/// The column of a parameter of the type name, which is NUL-terminated bytes.
fn named_column(relation: pg_sys::Oid, name: Option<&CStr>) -> AdminResult<Attribute> {
    column(relation, &encoding::from_server(given(name, "column_name")?))
}

fn column(relation: pg_sys::Oid, name: &str) -> AdminResult<Attribute> {
    let attributes = types::attributes(relation);
    if let Some(found) = attributes.iter().find(|attribute| attribute.name == name) {
        return Ok(found.clone());
    }
    let names: Vec<String> = attributes.iter().map(|attribute| attribute.name.clone()).collect();
    let near = nearest(name, &names);
    let offered = if near.is_empty() { names } else { near };
    Err(AdminError::new(
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        format!("column_name: {} has no column \"{name}\"", named(relation)),
    )
    .hint(format!("Its columns: {}.", offered.join(", "))))
}

fn not_masked(relation: pg_sys::Oid, column: &str) -> AdminError {
    AdminError::undefined(format!("column \"{column}\" of {} is not masked", named(relation)))
        .hint("The view agent_guard.masks lists the masked columns.")
}

/// The domain with constraints that the type is or is made of.
fn constrained_domain(oid: pg_sys::Oid) -> Option<String> {
    let facts = types::type_facts(oid)?;
    if facts.element != pg_sys::InvalidOid {
        return constrained_domain(facts.element);
    }
    // SAFETY: a catalogue look-up.
    (facts.kind == b'd' && unsafe { pg_sys::DomainHasConstraints(oid) }).then(|| expression::type_name(oid))
}

/// Which way an exposure goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exposure {
    Given,
    TakenBack,
}

/// Exposes or hides the columns that each pattern names; how many were changed.
fn each_exposure(name: &str, patterns: Vec<String>, way: Exposure) -> AdminResult<i64> {
    administrator()?;
    let policy = policy::lock_policy(name)?.ok_or_else(|| policy::unknown_policy(name))?;
    lock_in_order(patterns.iter().filter_map(|pattern| Some(named_columns(pattern).ok()?.0)).collect());
    let mut changed = 0;
    let mut relations = Vec::new();
    for (i, pattern) in patterns.iter().enumerate() {
        let (relation, columns) =
            named_columns(pattern).map_err(|error| error.at(&format!("columns[{i}]")))?;
        for name in columns {
            let attribute = match way {
                Exposure::Given => exposable(relation, &name),
                Exposure::TakenBack => column(locked(relation)?, &name),
            }
            .map_err(|error| error.at(&format!("columns[{i}]")))?;
            let moved = match way {
                Exposure::Given => store::expose(policy.id, relation, attribute.number, &attribute.name)?,
                Exposure::TakenBack => store::hide(policy.id, relation, attribute.number)?,
            };
            changed += i64::from(moved);
        }
        relations.push(relation);
    }
    if changed > 0 {
        policy::policy_changed(policy.id)?;
        relations.into_iter().for_each(masked_view::announce);
        let action = match way {
            Exposure::Given => "expose_columns",
            Exposure::TakenBack => "hide_columns",
        };
        done(action, format!("policy {name}: {}", patterns.join(", ")));
    }
    Ok(changed)
}

/// A column that can be exposed. What a materialized view stores may come from masked columns: saying that it may be read
/// needs no mask.
pub fn exposable(relation: pg_sys::Oid, name: &str) -> AdminResult<Attribute> {
    exposed_by_name(built(locked(relation)?)?, name)
}

/// The same without a lock, for what only looks.
pub fn exposed_by_name(relation: pg_sys::Oid, name: &str) -> AdminResult<Attribute> {
    let attribute = column(relation, name)?;
    let stored = catalog::relation_facts(relation).is_some_and(|facts| facts.kind == b'm');
    let masked = stored || store::masks(Some(relation))?.iter().any(|mask| mask.number == attribute.number);
    if masked { Ok(attribute) } else { Err(not_masked(relation, name)) }
}

/// A relation that can have a row filter, locked.
pub fn filterable(relation: pg_sys::Oid) -> AdminResult<pg_sys::Oid> {
    maskable(relation)
}

/// The relation of `schema.table`.
pub fn named_relation(text: &str) -> AdminResult<pg_sys::Oid> {
    const FORM: &str = "Write schema.table, without *.";
    let pattern =
        ObjectPattern::parse(text).map_err(|error| AdminError::invalid(error.message).hint(FORM))?;
    match pattern {
        ObjectPattern::Relation { schema: Part::Literal(schema), name: Part::Literal(name), columns }
            if columns.is_empty() =>
        {
            catalogue::relation(&schema, &name)?.ok_or_else(|| {
                AdminError::undefined(format!("there is no table {schema}.{name}"))
                    .hint("Name a table that exists.")
            })
        }
        _ => Err(AdminError::invalid(format!("\"{text}\" names no table")).hint(FORM)),
    }
}

/// The relation and the columns of `schema.table(column, ...)`.
pub fn named_columns(text: &str) -> AdminResult<(pg_sys::Oid, Vec<String>)> {
    const FORM: &str = "Write schema.table(column, ...), without *.";
    let pattern =
        ObjectPattern::parse(text).map_err(|error| AdminError::invalid(error.message).hint(FORM))?;
    let ObjectPattern::Relation { schema: Part::Literal(schema), name: Part::Literal(name), columns } =
        pattern
    else {
        return Err(AdminError::invalid(format!("\"{text}\" names no columns of one table")).hint(FORM));
    };
    if columns.is_empty() {
        return Err(AdminError::invalid(format!("\"{text}\" names no columns")).hint(FORM));
    }
    let relation = catalogue::relation(&schema, &name)?.ok_or_else(|| {
        AdminError::undefined(format!("there is no table {schema}.{name}"))
            .hint("The view agent_guard.masks lists the masked columns.")
    })?;
    Ok((relation, columns))
}
