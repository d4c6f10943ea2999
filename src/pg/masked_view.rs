//! The generated view of a masked relation: made from what is stored, and compared with it.
//!
//! Runs as the extension's owner (a SECURITY DEFINER function, or `upkeep`) while `pinned::Settings` lives. The view
//! depends on its relation and on the extension as a part that goes with them: neither DROP TABLE nor ALTER TABLE nor
//! DROP EXTENSION stops at it. `upkeep` makes it anew after whatever changes the relation.

use std::ffi::CString;

use pgrx::pg_sys;

use super::admin_error::{AdminError, AdminResult};
use super::expression::{self, Expression};
use super::functions::masking::permit;
use super::gather::names;
use super::store::mask as store;
use super::types::{self, Attribute};
use super::{catalog, encoding, own};
use crate::mask::quote::identifier;
use crate::mask::view::{self, Entry, SCHEMA};

/// pg_rewrite (src/include/catalog/pg_rewrite.h).
const REWRITE: u32 = 2618;

unsafe extern "C-unwind" {
    #[link_name = "DefineView"]
    fn raw_define_view(
        statement: *mut pg_sys::ViewStmt,
        source: *const std::os::raw::c_char,
        location: std::os::raw::c_int,
        length: std::os::raw::c_int,
    ) -> pg_sys::ObjectAddress;
    #[link_name = "StoreViewQuery"]
    fn raw_store_view_query(view: pg_sys::Oid, query: *mut pg_sys::Query, replace: bool);
}

/// Makes the view of a relation anew, or drops it where no column is masked.
///
/// # Errors
/// Where a stored expression can no longer be read; the caller has looked after them before.
pub fn refresh(relation: pg_sys::Oid) -> AdminResult<()> {
    let masks = store::masks(Some(relation))?;
    let known = store::view_of(relation)?;
    if masks.is_empty() {
        if let Some(view) = known {
            drop_view(view);
            store::set_view(relation, None)?;
        }
        announce(relation);
        return Ok(());
    }
    let object = catalog::relation_object(relation).ok_or_else(vanished)?;
    let attributes = types::attributes(relation);
    let mut entries = Vec::with_capacity(attributes.len());
    let mut wanted = Vec::with_capacity(attributes.len());
    for attribute in &attributes {
        let mask = masks.iter().find(|mask| mask.number == attribute.number);
        let expression = match mask {
            Some(mask) => {
                let path = format!("mask of column \"{}\"", attribute.name);
                Some(expression::for_column(relation, &mask.expression, attribute.place, &path)?)
            }
            None => None,
        };
        entries.push(Entry {
            column: attribute.name.clone(),
            expression: mask.map(|mask| mask.expression.clone()),
        });
        wanted.push(expression);
    }
    let name = view::name(&object.schema, &object.name, relation.to_u32());
    // After a restore there is a view of this name, with the privileges that were given on it.
    let old = match known.filter(|view| catalog::relation_facts(*view).is_some()) {
        Some(view) => Some(view),
        None => store::view_named(&name)?,
    };
    let qualified = format!("{}.{}", identifier(SCHEMA), identifier(&name));
    let grants = match old {
        Some(view) => store::grants(view, &qualified)?,
        None => Vec::new(),
    };
    if let Some(view) = old {
        drop_view(view);
    }
    // The name may be another relation's that has just been renamed, and whose own view is made anew next.
    if let Some(view) = store::view_named(&name)? {
        drop_view(view);
    }
    let definition = view::definition(&name, &object.schema, &object.name, &entries);
    let made = define(&definition)?;
    holds_what_was_meant(made, relation, &attributes, &wanted)?;
    mark_hashes(made, &definition)?;
    depend(made, relation)?;
    store::set_view(relation, Some(made))?;
    for grant in grants {
        store::grant(&grant)?;
    }
    announce(relation);
    Ok(())
}

fn vanished() -> AdminError {
    AdminError::undefined("the relation does not exist any more").hint("Run the statement again.")
}

/// Plans that were made for the relation are dropped in every session when this transaction commits.
pub fn announce(relation: pg_sys::Oid) {
    if catalog::relation_facts(relation).is_some() {
        // SAFETY: the relation exists.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) };
    }
}

/// Drops a generated view past hooks and event triggers: it is nobody's object but the extension's.
pub fn drop_view(view: pg_sys::Oid) {
    if catalog::relation_facts(view).is_none_or(|facts| facts.kind != b'v') {
        return;
    }
    let address = address(pg_sys::RelationRelationId, view);
    // SAFETY: a complete address of a view that exists; what the server drops it locks.
    unsafe {
        let flags = i32::try_from(pg_sys::PERFORM_DELETION_INTERNAL).unwrap_or(0);
        pg_sys::performDeletion(&raw const address, pg_sys::DropBehavior::DROP_CASCADE, flags);
        pg_sys::CommandCounterIncrement();
    }
}

fn address(class: pg_sys::Oid, object: pg_sys::Oid) -> pg_sys::ObjectAddress {
    pg_sys::ObjectAddress { classId: class, objectId: object, objectSubId: 0 }
}

/// Runs CREATE VIEW past the utility hook and event triggers.
fn define(text: &str) -> AdminResult<pg_sys::Oid> {
    let source = encoding::c_string(text);
    // SAFETY: a parsed CREATE VIEW statement and the text that it was parsed from.
    unsafe {
        let statement = view_statement(&source)?;
        let length = i32::try_from(source.as_bytes().len()).unwrap_or(0);
        // An error becomes a panic, which unwinds to the frame that the server called.
        let made =
            pg_sys::ffi::pg_guard_ffi_boundary(|| raw_define_view(statement, source.as_ptr(), 0, length));
        pg_sys::CommandCounterIncrement();
        Ok(made.objectId)
    }
}

/// Hashes run in guarded sessions only where a mask has brought them (`permit`): the view keeps its query with the marks, and
/// whoever takes expressions out of it takes the marks along.
fn mark_hashes(view: pg_sys::Oid, definition: &str) -> AdminResult<()> {
    if !definition.contains(own::MASK_HASH) {
        return Ok(());
    }
    let source = encoding::c_string(definition);
    // SAFETY: the text has just made the view; an error of the unguarded function becomes a panic as in `define`.
    unsafe {
        let statement = view_statement(&source)?;
        let raw = pg_sys::palloc0(size_of::<pg_sys::RawStmt>()).cast::<pg_sys::RawStmt>();
        (*raw).type_ = pg_sys::NodeTag::T_RawStmt;
        (*raw).stmt = (*statement).query;
        let query = pg_sys::parse_analyze_fixedparams(
            raw,
            source.as_ptr(),
            std::ptr::null(),
            0,
            std::ptr::null_mut(),
        );
        permit((*query).targetList.cast());
        pg_sys::ffi::pg_guard_ffi_boundary(|| raw_store_view_query(view, query, true));
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}

/// The parsed form of a CREATE VIEW statement.
unsafe fn view_statement(source: &CString) -> AdminResult<*mut pg_sys::ViewStmt> {
    // SAFETY: the text is one statement, so the parser gives one RawStmt.
    unsafe {
        let list =
            names::members(pg_sys::raw_parser(source.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_DEFAULT));
        let statement = match list.as_slice() {
            [raw] => (*raw.cast::<pg_sys::RawStmt>()).stmt,
            _ => std::ptr::null_mut(),
        };
        if statement.is_null() || (*statement).type_ != pg_sys::NodeTag::T_ViewStmt {
            return Err(AdminError::state("the text of a generated view is no CREATE VIEW"));
        }
        Ok(statement.cast())
    }
}

/// Text was read back in between: the view has to hold each expression as it was checked, and every other column as it
/// is.
fn holds_what_was_meant(
    view: pg_sys::Oid,
    relation: pg_sys::Oid,
    attributes: &[Attribute],
    wanted: &[Option<Expression>],
) -> AdminResult<()> {
    // SAFETY: the view exists and is locked by its making; its query is copied before it is written to.
    let entries = unsafe {
        let opened = pg_sys::relation_open(view, pg_sys::AccessShareLock.cast_signed());
        let query = pg_sys::copyObjectImpl(pg_sys::get_view_query(opened).cast()).cast::<pg_sys::Query>();
        pg_sys::relation_close(opened, pg_sys::NoLock.cast_signed());
        let base = names::members((*query).rtable).iter().enumerate().find_map(|(i, node)| {
            let entry = &*node.cast::<pg_sys::RangeTblEntry>();
            // The entries OLD and NEW, up to 15, are the view itself.
            (entry.rtekind == pg_sys::RTEKind::RTE_RELATION && entry.relid == relation)
                .then(|| i32::try_from(i + 1).unwrap_or(0))
        });
        let Some(base) = base else { return Err(differs("its relation")) };
        pg_sys::ChangeVarNodes((*query).targetList.cast(), base, 1, 0);
        names::members((*query).targetList)
    };
    if entries.len() != attributes.len() {
        return Err(differs("the number of its columns"));
    }
    for ((entry, attribute), wanted) in entries.into_iter().zip(attributes).zip(wanted) {
        // SAFETY: target entries of the copy.
        let same = unsafe {
            let expression = (*entry.cast::<pg_sys::TargetEntry>()).expr.cast::<pg_sys::Node>();
            let place = attribute.place;
            let kept = pg_sys::exprType(expression) == place.type_oid
                && pg_sys::exprTypmod(expression) == place.typmod
                && pg_sys::exprCollation(expression) == place.collation;
            let meant = match wanted {
                Some(wanted) => pg_sys::equal(expression.cast(), wanted.node().cast()),
                None => {
                    (*expression).type_ == pg_sys::NodeTag::T_Var
                        && (*expression.cast::<pg_sys::Var>()).varattno == attribute.number
                }
            };
            kept && meant
        };
        if !same {
            return Err(differs(&format!("its column \"{}\"", attribute.name)));
        }
    }
    Ok(())
}

fn differs(what: &str) -> AdminError {
    AdminError::state(format!("the generated view differs from what was meant in {what}"))
        .hint("Write the casts, operators and functions of the expression out, with their schemas.")
}

/// Puts the view's dependencies on its relation and on the extension in the form that stops no DROP and no ALTER.
fn depend(view: pg_sys::Oid, relation: pg_sys::Oid) -> AdminResult<()> {
    let (extension, _) = store::extension()?.ok_or_else(vanished)?;
    // SAFETY: addresses of objects that exist.
    unsafe {
        let opened = pg_sys::relation_open(view, pg_sys::AccessShareLock.cast_signed());
        let rules = (*opened).rd_rules;
        let rule = if rules.is_null() || (*rules).numLocks != 1 {
            pg_sys::InvalidOid
        } else {
            (**(*rules).rules).ruleId
        };
        pg_sys::relation_close(opened, pg_sys::NoLock.cast_signed());
        let normal = pg_sys::DependencyType::DEPENDENCY_NORMAL;
        pg_sys::deleteDependencyRecordsForSpecific(
            pg_sys::Oid::from(REWRITE),
            rule,
            i8::try_from(normal).unwrap_or(0),
            pg_sys::RelationRelationId,
            relation,
        );
        let own = address(pg_sys::RelationRelationId, view);
        let base = address(pg_sys::RelationRelationId, relation);
        pg_sys::recordDependencyOn(&raw const own, &raw const base, pg_sys::DependencyType::DEPENDENCY_AUTO);
        let extension = address(pg_sys::ExtensionRelationId, extension);
        pg_sys::recordDependencyOn(
            &raw const own,
            &raw const extension,
            pg_sys::DependencyType::DEPENDENCY_AUTO_EXTENSION,
        );
        pg_sys::CommandCounterIncrement();
    }
    Ok(())
}
