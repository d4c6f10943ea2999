//! Keeps masks, filters and generated views true under DDL, by whoever and in whatever session.
//!
//! The object access hook notes the relations that a statement changes; after a utility statement that noted one that has
//! masks or filters they are looked after, in the same transaction, as the extension's owner. Renames and
//! changes of hands are followed by reading every expression before, and checking and writing it after: a statement that
//! puts code of a mask into the hands of a role that is no superuser is refused. A statement that changes no relation pays
//! one look at a flag.

use std::cell::{Cell, RefCell};

use pgrx::pg_sys;
use rustc_hash::FxHashSet as HashSet;

use super::admin_error::AdminResult;
use super::expression::{self, Kept};
use super::gather::names;
use super::own::{self, Own};
use super::process::PerProcess;
use super::scan::{self, Key};
use super::store::mask as store;
use super::{catalog, guc, pinned, prepared, reconcile};

/// Whether there is anything to look after.
static PENDING: PerProcess<Cell<bool>> = PerProcess::new(Cell::new(false));
static WORK: PerProcess<RefCell<Work>> =
    PerProcess::new(RefCell::new(Work { touched: Vec::new(), renamed: Vec::new(), leaving: Vec::new() }));

#[derive(Default)]
struct Work {
    /// Relations that were altered or dropped.
    touched: Vec<pg_sys::Oid>,
    /// Expressions as they were before a rename.
    renamed: Vec<Renamed>,
    /// Children whose tie to a parent, which comes second, was cut or made.
    leaving: Vec<(pg_sys::Oid, pg_sys::Oid)>,
}

struct Renamed {
    what: Stored,
    relation: pg_sys::Oid,
    kept: Kept,
}

#[derive(Clone, Copy)]
enum Stored {
    Mask(i64),
    Filter(i64),
}

const NO_LOCK: i32 = 0;

/// From this many relations on, one pass over all that is stored is cheaper than a look-up for each.
const MANY: usize = 64;

/// More relations than this in one statement are not noted one by one: every masked relation is looked after.
const NOTED_MAX: usize = 10_000;

/// Notes that a relation is altered or dropped.
pub fn touched(relation: pg_sys::Oid) {
    WORK.with_borrow_mut(|work| {
        if work.touched.last() != Some(&relation) && work.touched.len() <= NOTED_MAX {
            work.touched.push(relation);
        }
    });
    PENDING.set(true);
}

/// Notes that a relation leaves a parent, or gets one. Told by the server as it does so, with both locked: who looked before the
/// statement would not see the mask that somebody was about to commit, and for which the statement waits.
pub fn parted(child: pg_sys::Oid, parent: pg_sys::Oid) {
    WORK.with_borrow_mut(|work| work.leaving.push((child, parent)));
    PENDING.set(true);
}

/// Whether a utility statement has left anything to look after.
#[inline]
pub fn pending() -> bool {
    PENDING.get()
}

/// Forgets what was noted; the transaction is undone.
pub fn forget() {
    if PENDING.replace(false) {
        prepared::over();
        // Asked by a callback of the transaction's abort, which must not panic.
        if let Ok(mut work) = WORK.try_borrow_mut() {
            *work = Work::default();
        }
    }
}

/// Whether a statement may rename what expressions name, put it into other hands, or commit what was prepared. Only looks at
/// tags.
///
/// # Safety
/// `node` is a utility statement.
#[inline]
pub unsafe fn needs_a_look(node: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag as T;
    // SAFETY: the caller's promise; the tag decides the cast.
    unsafe {
        match (*node).type_ {
            T::T_RenameStmt
            | T::T_AlterObjectSchemaStmt
            | T::T_AlterTableStmt
            | T::T_AlterDomainStmt
            | T::T_AlterOwnerStmt
            | T::T_ReassignOwnedStmt
            | T::T_AlterRoleStmt => true,
            T::T_TransactionStmt => {
                (*node.cast::<pg_sys::TransactionStmt>()).kind
                    == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED
            }
            _ => false,
        }
    }
}

/// Before such a statement.
///
/// # Safety
/// `node` is a utility statement for which `needs_a_look`.
pub unsafe fn look(node: *mut pg_sys::Node) {
    use pg_sys::NodeTag as T;
    let Some(own) = installed() else { return };
    // SAFETY: the tag decides each cast.
    unsafe {
        let renames = match (*node).type_ {
            T::T_TransactionStmt => {
                prepared::commits();
                PENDING.set(true);
                Renames::Nothing
            }
            T::T_RenameStmt => renames(&*node.cast::<pg_sys::RenameStmt>()),
            T::T_AlterObjectSchemaStmt => match (*node.cast::<pg_sys::AlterObjectSchemaStmt>()).objectType {
                kind if is_relation(kind) => Renames::Nothing,
                _ => Renames::Anything,
            },
            // A constraint that its owner gives to a domain would run as whoever reads the mask.
            T::T_AlterDomainStmt | T::T_ReassignOwnedStmt => Renames::Anything,
            T::T_AlterRoleStmt if makes_superuser(&*node.cast::<pg_sys::AlterRoleStmt>()) => {
                Renames::Anything
            }
            T::T_AlterRoleStmt => Renames::Nothing,
            T::T_AlterOwnerStmt => match (*node.cast::<pg_sys::AlterOwnerStmt>()).objectType {
                kind if holds_code(kind) => Renames::Anything,
                _ => Renames::Nothing,
            },
            _ => {
                let statement = &*node.cast::<pg_sys::AlterTableStmt>();
                match statement.objtype {
                    pg_sys::ObjectType::OBJECT_TYPE => Renames::Anything,
                    _ => Renames::Nothing,
                }
            }
        };
        match renames {
            Renames::Nothing => {}
            Renames::Columns(relations) => {
                let of_interest: Vec<_> = relations.into_iter().filter(|oid| is_kept(*oid, own)).collect();
                if !of_interest.is_empty() {
                    remember(Some(&of_interest));
                }
            }
            Renames::Anything => {
                if has_any(own) {
                    remember(None);
                }
            }
        }
    }
}

/// What a statement renames, as far as it shows in expressions.
enum Renames {
    Nothing,
    Columns(Vec<pg_sys::Oid>),
    Anything,
}

fn is_relation(kind: pg_sys::ObjectType::Type) -> bool {
    use pg_sys::ObjectType as O;
    [
        O::OBJECT_TABLE,
        O::OBJECT_FOREIGN_TABLE,
        O::OBJECT_MATVIEW,
        O::OBJECT_VIEW,
        O::OBJECT_INDEX,
        O::OBJECT_SEQUENCE,
    ]
    .contains(&kind)
}

fn holds_code(kind: pg_sys::ObjectType::Type) -> bool {
    use pg_sys::ObjectType as O;
    [
        O::OBJECT_AGGREGATE,
        O::OBJECT_COLLATION,
        O::OBJECT_DOMAIN,
        O::OBJECT_FUNCTION,
        O::OBJECT_OPERATOR,
        O::OBJECT_PROCEDURE,
        O::OBJECT_ROUTINE,
        O::OBJECT_TYPE,
    ]
    .contains(&kind)
}

/// Whether a role becomes a superuser, or is one no more and keeps its code.
unsafe fn makes_superuser(statement: &pg_sys::AlterRoleStmt) -> bool {
    // SAFETY: a list of DefElems with names (gram.y).
    unsafe {
        names::members(statement.options).into_iter().any(|option| {
            let name = (*option.cast::<pg_sys::DefElem>()).defname;
            !name.is_null() && std::ffi::CStr::from_ptr(name) == c"superuser"
        })
    }
}

unsafe fn renames(statement: &pg_sys::RenameStmt) -> Renames {
    use pg_sys::ObjectType as O;
    match statement.renameType {
        O::OBJECT_COLUMN if !statement.relation.is_null() => {
            // SAFETY: a RangeVar of the statement; with missing_ok nothing is raised but what the statement raises as well.
            let relation = unsafe {
                let flags = pg_sys::RVROption::RVR_MISSING_OK;
                // No lock: the statement takes a stronger one, and two that do so wait for each other.
                pg_sys::RangeVarGetRelidExtended(
                    statement.relation,
                    NO_LOCK,
                    flags,
                    None,
                    std::ptr::null_mut(),
                )
            };
            let mut relations = vec![relation];
            relations.extend(catalog::descendants(relation));
            Renames::Columns(relations)
        }
        O::OBJECT_AGGREGATE
        | O::OBJECT_ATTRIBUTE
        | O::OBJECT_COLLATION
        | O::OBJECT_DOMAIN
        | O::OBJECT_FUNCTION
        | O::OBJECT_PROCEDURE
        | O::OBJECT_ROUTINE
        | O::OBJECT_SCHEMA
        | O::OBJECT_TYPE => Renames::Anything,
        _ => Renames::Nothing,
    }
}

/// DETACH PARTITION and NO INHERIT: which relations have left their parents for good, and which of those have masks or filters.
/// What is taken away keeps what it had from them.
fn left(leaving: Vec<(pg_sys::Oid, pg_sys::Oid)>, own: Own) -> Vec<(pg_sys::Oid, Vec<pg_sys::Oid>)> {
    let mut left = Vec::new();
    for (child, parent) in leaving {
        let mut parents = vec![parent];
        parents.extend(catalog::ancestors(parent));
        parents.retain(|parent| is_kept(*parent, own));
        if parents.is_empty() {
            continue;
        }
        let mut below = catalog::descendants(child);
        below.push(child);
        for child in below {
            let still = catalog::ancestors(child);
            let gone: Vec<_> = parents.iter().copied().filter(|parent| !still.contains(parent)).collect();
            if !gone.is_empty() && catalog::relation_facts(child).is_some() {
                left.push((child, gone));
            }
        }
    }
    left
}

/// The extension's objects, where it is installed in this database.
fn installed() -> Option<Own> {
    // SAFETY: plain state of this process.
    if !unsafe { pg_sys::IsTransactionState() } {
        return None;
    }
    own::own()
}

/// Whether a relation has masks, filters or exposures. Straight from the heap: asked for every relation that any DDL
/// changes.
fn is_kept(relation: pg_sys::Oid, own: Own) -> bool {
    let mut found = false;
    scan::rows(own.mask, Some((own.mask_by_relation, 2, Key::Oid(relation))), |_| found = true);
    if !found {
        scan::rows(own.row_filter, Some((own.row_filter_by_relation, 3, Key::Oid(relation))), |_| {
            found = true
        });
    }
    if !found {
        scan::rows(own.exposed_column, Some((own.exposed_column_by_relation, 2, Key::Oid(relation))), |_| {
            found = true;
        });
    }
    if !found {
        scan::rows(own.masked_view, Some((own.masked_view_pkey, 1, Key::Oid(relation))), |_| found = true);
    }
    found
}

/// Every relation for which `is_kept`.
fn all_kept(own: Own) -> HashSet<u32> {
    let mut kept = HashSet::default();
    let tables = [(own.mask, 2), (own.row_filter, 3), (own.exposed_column, 2), (own.masked_view, 1)];
    for (table, column) in tables {
        scan::rows(table, None, |row| {
            if let Some(relation) = row.column::<pg_sys::Oid>(column) {
                kept.insert(relation.to_u32());
            }
        });
    }
    kept
}

fn has_any(own: Own) -> bool {
    let mut found = false;
    scan::rows(own.mask, None, |_| found = true);
    scan::rows(own.row_filter, None, |_| found = true);
    found
}

/// Keeps every expression on these relations, or on all, as trees. What cannot be read is left as it is.
fn remember(relations: Option<&[pg_sys::Oid]>) {
    let outcome = as_owner(|| {
        let wanted = |oid: &pg_sys::Oid| relations.is_none_or(|relations| relations.contains(oid));
        let mut renamed = Vec::new();
        let mut touched = Vec::new();
        for mask in store::masks(None)?.into_iter().filter(|mask| wanted(&mask.relation)) {
            let read = || {
                // By its name, which is right where the number, after a restore, may be another column's.
                let attributes = super::types::attributes(mask.relation);
                let place =
                    attributes.iter().find(|attribute| attribute.name == mask.column).map(|a| a.place);
                match place {
                    Some(place) => expression::for_column(mask.relation, &mask.expression, place, "mask"),
                    None => expression::condition(mask.relation, "NULL", "mask"),
                }
                .map(expression::Expression::kept)
            };
            if let Ok(kept) = expression::attempt(read) {
                renamed.push(Renamed { what: Stored::Mask(mask.id), relation: mask.relation, kept });
            }
            touched.push(mask.relation);
        }
        for filter in store::filters(None)?.into_iter().filter(|filter| wanted(&filter.relation)) {
            let read = || {
                expression::condition(filter.relation, &filter.predicate, "predicate")
                    .map(expression::Expression::kept)
            };
            if let Ok(kept) = expression::attempt(read) {
                renamed.push(Renamed { what: Stored::Filter(filter.id), relation: filter.relation, kept });
            }
            touched.push(filter.relation);
        }
        WORK.with_borrow_mut(|work| {
            work.renamed = renamed;
            work.touched.extend(touched);
        });
        PENDING.set(true);
        Ok(())
    });
    if let Err(error) = outcome {
        pgrx::pg_sys::panic::ErrorReport::from(error).report(pgrx::PgLogLevel::ERROR);
    }
}

/// After a utility statement: looks after every relation that was noted.
pub fn settle() {
    let work = WORK.with_borrow_mut(std::mem::take);
    PENDING.set(false);
    prepared::over();
    let Some(own) = installed() else { return };
    let Work { mut touched, renamed, leaving } = work;
    touched.sort_unstable_by_key(|oid| oid.to_u32());
    touched.dedup();
    let all = touched.len() > NOTED_MAX;
    if !all {
        // The statement's own changes have to be seen, of the tables here too.
        // SAFETY: between two commands of a transaction.
        unsafe { pg_sys::CommandCounterIncrement() };
        if touched.len() > MANY {
            let kept = all_kept(own);
            touched.retain(|oid| kept.contains(&oid.to_u32()));
        } else {
            touched.retain(|oid| is_kept(*oid, own));
        }
    }
    let left = left(leaving, own);
    if touched.is_empty() && renamed.is_empty() && left.is_empty() {
        return;
    }
    let outcome = as_owner(|| {
        for one in &renamed {
            if catalog::relation_facts(one.relation).is_none() {
                continue;
            }
            let expression = one.kept.expression();
            // Before anything is read anew: reading the literal of an array or a row runs constraints of domains in it.
            match one.what {
                Stored::Mask(id) => {
                    expression.check(&format!("mask on {}", named(one.relation)))?;
                    store::set_expression(id, &expression.text())?;
                }
                Stored::Filter(id) => {
                    expression.check(&format!("row filter on {}", named(one.relation)))?;
                    store::rewrite_filter(id, &expression.text())?;
                }
            }
        }
        for (child, parents) in &left {
            reconcile::inherit(*child, parents)?;
        }
        if all {
            return reconcile::rebuild().map(drop);
        }
        touched.iter().try_for_each(|oid| reconcile::relation(*oid))
    });
    // What its own work has noted is its own.
    forget();
    if let Err(error) = outcome {
        pgrx::pg_sys::panic::ErrorReport::from(error).report(pgrx::PgLogLevel::ERROR);
    }
}

fn named(relation: pg_sys::Oid) -> String {
    catalog::relation_object(relation).map(|object| object.to_string()).unwrap_or_default()
}

/// Runs the extension's own work as its owner, under pinned settings, past its hooks.
fn as_owner<T>(work: impl FnOnce() -> AdminResult<T>) -> AdminResult<T> {
    let _own = guc::OwnWork::begin();
    let _settings = pinned::Settings::begin();
    let identity = Identity::of_session();
    let (_, owner) = store::extension()?.ok_or_else(|| {
        super::admin_error::AdminError::state("agent_guard is not installed in this database")
    })?;
    identity.become_owner(owner);
    work()
}

/// User and security context, put back when this is dropped, also while an error unwinds.
struct Identity {
    user: pg_sys::Oid,
    context: i32,
}

impl Identity {
    fn of_session() -> Identity {
        let mut identity = Identity { user: pg_sys::InvalidOid, context: 0 };
        // SAFETY: reads state of this process.
        unsafe { pg_sys::GetUserIdAndSecContext(&raw mut identity.user, &raw mut identity.context) };
        identity
    }

    fn become_owner(&self, owner: pg_sys::Oid) {
        let flags = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
        // SAFETY: put back by Drop, and by the server when the transaction or subtransaction fails.
        unsafe { pg_sys::SetUserIdAndSecContext(owner, self.context | i32::try_from(flags).unwrap_or(0)) };
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        // SAFETY: what `of_session` has read.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
    }
}
