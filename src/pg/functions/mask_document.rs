//! The part of policy documents that is about row filters and exposed columns: applied and exported.

use pgrx::pg_sys;

use super::mask::{exposable, filterable, lock_in_order, named_columns, named_relation};
use crate::pattern::quoted;
use crate::pg::admin_error::{AdminError, AdminResult};
use crate::pg::catalog;
use crate::pg::expression;
use crate::pg::masked_view;
use crate::pg::store::mask as store;
use crate::pg::store::policy::PolicyId;
use crate::policy::document::{PolicyDocument, WrittenFilter};

/// What was changed, and of what.
pub type Changes = Vec<(String, String)>;

/// Locks what the document's filters and exposures name.
pub fn lock_named(document: &PolicyDocument) {
    let filtered = document.row_filters.iter().flatten().filter_map(|it| named_relation(&it.relation).ok());
    let exposed = document.exposed.iter().flatten().filter_map(|it| Some(named_columns(it).ok()?.0));
    lock_in_order(filtered.chain(exposed).collect());
}

/// Makes the policy's row filters those of the document.
///
/// # Errors
/// The first that is wrong, with its path.
pub fn apply_filters(policy: PolicyId, wanted: &[WrittenFilter]) -> AdminResult<Changes> {
    let mut changes = Changes::new();
    let present: Vec<_> =
        store::filters(None)?.into_iter().filter(|filter| filter.policy == policy).collect();
    let mut kept = Vec::new();
    for (i, filter) in wanted.iter().enumerate() {
        let path = format!("row_filters[{i}]");
        let relation = named_relation(&filter.relation)
            .and_then(filterable)
            .map_err(|error| error.at(&format!("{path}.relation")))?;
        let predicate =
            expression::condition(relation, &filter.predicate, &format!("{path}.predicate"))?.text();
        if kept.contains(&relation) {
            return Err(AdminError::invalid(format!(
                "{path}.relation: a second row filter of {}",
                named(relation)
            ))
            .hint("A policy has one row filter for each relation: put the conditions together by AND."));
        }
        kept.push(relation);
        if present.iter().any(|known| known.relation == relation && known.predicate == predicate) {
            continue;
        }
        store::put_filter(policy, relation, &predicate)?;
        masked_view::announce(relation);
        changes.push(("set row filter".to_owned(), format!("{} where {predicate}", named(relation))));
    }
    for filter in present.iter().filter(|filter| !kept.contains(&filter.relation)) {
        store::remove_filter(policy, filter.relation)?;
        masked_view::announce(filter.relation);
        let item = format!("{} where {}", named(filter.relation), filter.predicate);
        changes.push(("dropped row filter".to_owned(), item));
    }
    Ok(changes)
}

/// Makes the columns that the policy reads unmasked those of the document.
///
/// # Errors
/// The first that is wrong, with its path.
pub fn apply_exposures(policy: PolicyId, wanted: &[String]) -> AdminResult<Changes> {
    let mut changes = Changes::new();
    let present = store::exposures(policy)?;
    let mut kept = Vec::new();
    for (i, pattern) in wanted.iter().enumerate() {
        let at = |error: AdminError| error.at(&format!("exposed[{i}]"));
        let (relation, columns) = named_columns(pattern).map_err(at)?;
        for column in columns {
            let attribute = exposable(relation, &column).map_err(at)?;
            kept.push((relation, attribute.number));
            if store::expose(policy, relation, attribute.number, &attribute.name)? {
                masked_view::announce(relation);
                changes.push(("exposed column".to_owned(), column_of(relation, &attribute.name)));
            }
        }
    }
    for (relation, number, column) in present {
        if !kept.contains(&(relation, number)) {
            store::hide(policy, relation, number)?;
            masked_view::announce(relation);
            changes.push(("hid column".to_owned(), column_of(relation, &column)));
        }
    }
    Ok(changes)
}

/// The policy's row filters; `None` where it has none, so that a document does not speak of them.
pub fn filters(policy: PolicyId) -> AdminResult<Option<Vec<WrittenFilter>>> {
    let filters: Vec<_> = store::filters(None)?
        .into_iter()
        .filter(|filter| filter.policy == policy)
        .map(|filter| WrittenFilter { relation: named(filter.relation), predicate: filter.predicate })
        .collect();
    Ok((!filters.is_empty()).then_some(filters))
}

/// The columns that the policy reads unmasked, by relation; `None` where there are none.
pub fn exposures(policy: PolicyId) -> AdminResult<Option<Vec<String>>> {
    let mut relations: Vec<(pg_sys::Oid, Vec<String>)> = Vec::new();
    for (relation, _, column) in store::exposures(policy)? {
        match relations.last_mut().filter(|(last, _)| *last == relation) {
            Some((_, columns)) => columns.push(quoted(&column)),
            None => relations.push((relation, vec![quoted(&column)])),
        }
    }
    let written: Vec<_> = relations
        .into_iter()
        .map(|(relation, columns)| format!("{}({})", named(relation), columns.join(", ")))
        .collect();
    Ok((!written.is_empty()).then_some(written))
}

fn named(relation: pg_sys::Oid) -> String {
    catalog::relation_object(relation)
        .map(|object| format!("{}.{}", quoted(&object.schema), quoted(&object.name)))
        .unwrap_or_default()
}

fn column_of(relation: pg_sys::Oid, column: &str) -> String {
    format!("{}({})", named(relation), quoted(column))
}
