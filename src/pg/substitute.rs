//! Puts masks and row filters into queries, in the planner hook: at any depth of a rewritten query, every entry of a masked or
//! filtered relation.
//!
//! A filter becomes a security qual of the entry, as row security does it: no function of the agent's is called with a row
//! before it, and indexes keep working. A masked relation becomes a subquery over the original entry, which the planner pulls
//! up again; where rows are locked, the masks take the place of the columns instead, so that the lock stays where it was.
//! The entry that a statement changes is `target`'s. Each entry that was dealt with is marked, for `second_line`.
//!
//! It decides nothing: plans are cached. What it does not understand it refuses.

mod generated;
mod target;
mod vars;

use std::ffi::{CStr, CString, c_void};
use std::os::raw::c_char;
use std::rc::Rc;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

pub use self::generated::may_read;
use super::gather::names;
use super::masks::{self, Masked};
use super::{version, walk};
use crate::refusal::{Refusal, SqlState};

/// How a query tree was dealt with, as its entries carry it in a field that the server uses for other kinds of entries only
/// and copies from a parent to its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Read through masks and filters of this fingerprint.
    Substituted(u64),
    /// As `Substituted`, by a role that may only read the generated view: the server checks the view's owner instead, and
    /// whoever starts the plan has to check the role.
    Lent(u64),
    /// Changed by the statement, whose reads of masked columns were refused.
    Target(u64),
    /// Read raw by a row security policy of the DBA's.
    Policy,
}

const PREFIX: &str = "agent_guard:";

impl Mark {
    fn text(self) -> CString {
        let text = match self {
            Mark::Substituted(fingerprint) => format!("{PREFIX}s{fingerprint:016x}"),
            Mark::Lent(fingerprint) => format!("{PREFIX}l{fingerprint:016x}"),
            Mark::Target(fingerprint) => format!("{PREFIX}t{fingerprint:016x}"),
            Mark::Policy => format!("{PREFIX}p"),
        };
        CString::new(text).unwrap_or_default()
    }

    /// Whether the mark of an entry is `Lent`.
    pub fn is_lent(entry: &pg_sys::RangeTblEntry) -> bool {
        entry.rtekind == pg_sys::RTEKind::RTE_RELATION
            && !entry.ctename.is_null()
            // SAFETY: as in `of`.
            && unsafe { CStr::from_ptr(entry.ctename) }.to_bytes().starts_with(b"agent_guard:l")
    }

    /// The mark of an entry of a plan.
    pub fn of(entry: &pg_sys::RangeTblEntry) -> Option<Mark> {
        if entry.ctename.is_null() || entry.rtekind != pg_sys::RTEKind::RTE_RELATION {
            return None;
        }
        // SAFETY: not null, hence a NUL-terminated text: the server's or ours.
        let text = unsafe { CStr::from_ptr(entry.ctename) }.to_bytes().strip_prefix(PREFIX.as_bytes())?;
        let (kind, digits) = text.split_first()?;
        let fingerprint = || hexadecimal(digits);
        match kind {
            b's' => Some(Mark::Substituted(fingerprint()?)),
            b'l' => Some(Mark::Lent(fingerprint()?)),
            b't' => Some(Mark::Target(fingerprint()?)),
            b'p' => Some(Mark::Policy),
            _ => None,
        }
    }
}

/// Sixteen digits as they are written above; asked for every masked relation of every statement.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let append = |number: u64, byte: &u8| Some(number << 4 | u64::from(digit(byte)?));
    digits.iter().try_fold(0, append).filter(|_| digits.len() == 16)
}

/// Puts a mark on an entry.
unsafe fn mark(entry: *mut pg_sys::RangeTblEntry, mark: Mark) {
    let text = mark.text();
    // SAFETY: pstrdup copies; the entry is of a query that is being planned.
    unsafe { (*entry).ctename = pg_sys::pstrdup(text.as_ptr()) };
}

/// Whether an entry is of a kind that masks and filters bear on.
pub fn may_concern(entry: &pg_sys::RangeTblEntry) -> bool {
    entry.rtekind == pg_sys::RTEKind::RTE_RELATION
        && matches!(entry.relkind.cast_unsigned(), b'r' | b'p' | b'f' | b'm')
}

/// The refusal of a query that is not understood.
fn not_understood(what: &str) -> Refusal {
    Refusal::new(
        SqlState::InsufficientPrivilege,
        "mask_not_applied",
        "the query reads masked relations in a way that is not understood",
        what,
        "Write the query in another way, or ask a DBA.",
    )
}

struct Walk {
    /// Inside a row security policy: its own relations are read as they are.
    raw: bool,
    refused: Option<Refusal>,
}

/// Puts the masks and filters of this session into a query that is about to be planned.
///
/// # Errors
/// Where a masked column would be read from what the statement changes, or something is not understood.
///
/// # Safety
/// `query` is the planner's own, rewritten query.
pub unsafe fn substitute(query: *mut pg_sys::Query) -> Result<(), Refusal> {
    let mut walk = Walk { raw: false, refused: None };
    // SAFETY: the walker visits valid nodes; the context is our Walk.
    unsafe { visit(query.cast(), (&raw mut walk).cast()) };
    walk.refused.map_or(Ok(()), Err)
}

unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the cast; the context is our Walk.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ != T::T_Query {
            return walk::expression(node, visit, context);
        }
        if let Err(refusal) = level(node.cast(), context) {
            (*context.cast::<Walk>()).refused.get_or_insert(refusal);
        }
        (*context.cast::<Walk>()).refused.is_some()
    }
}

/// One query level: first what is below it, then its own entries.
unsafe fn level(query: *mut pg_sys::Query, context: *mut c_void) -> Result<(), Refusal> {
    let ignore = i32::try_from(pg_sys::QTW_IGNORE_RANGE_TABLE).unwrap_or(8);
    // SAFETY: a valid query; the fields that are walked apart are put back at once.
    unsafe {
        let checks = std::mem::replace(&mut (*query).withCheckOptions, std::ptr::null_mut());
        let stopped = walk::query(query, visit, context, ignore);
        (*query).withCheckOptions = checks;
        if stopped {
            return Ok(());
        }
        let has_policies = (*query).hasRowSecurity;
        for node in names::members(checks) {
            let of_policy = (*node.cast::<pg_sys::WithCheckOption>()).kind != pg_sys::WCOKind::WCO_VIEW_CHECK;
            walk_as(node, of_policy && has_policies, context);
        }
        for node in names::members((*query).rtable) {
            below(node.cast(), has_policies, context)?;
        }
        if (*context.cast::<Walk>()).refused.is_some() {
            return Ok(());
        }
        let raw = (*context.cast::<Walk>()).raw;
        own_entries(query, raw)
    }
}

/// Walks a part as a policy's own or as the statement's.
unsafe fn walk_as(node: *mut pg_sys::Node, raw: bool, context: *mut c_void) {
    // SAFETY: a node of the query; the context is our Walk.
    unsafe {
        let before = (*context.cast::<Walk>()).raw;
        (*context.cast::<Walk>()).raw = before || raw;
        visit(node, context);
        (*context.cast::<Walk>()).raw = before;
    }
}

/// What an entry holds below itself.
unsafe fn below(
    entry: *mut pg_sys::RangeTblEntry,
    has_policies: bool,
    context: *mut c_void,
) -> Result<(), Refusal> {
    use pg_sys::RTEKind as K;
    // SAFETY: an entry of the query; the kind says which fields are in use.
    unsafe {
        let fields = &*entry;
        let parts: &[*mut pg_sys::Node] = match fields.rtekind {
            K::RTE_RELATION => {
                // The quals of a barrier view are the statement's, those of row security are not.
                let of_policy = has_policies && has_row_security(fields.relid);
                walk_as(fields.securityQuals.cast(), of_policy, context);
                &[fields.tablesample.cast()]
            }
            K::RTE_SUBQUERY => &[fields.subquery.cast(), fields.securityQuals.cast()],
            K::RTE_FUNCTION => &[fields.functions.cast(), fields.securityQuals.cast()],
            K::RTE_TABLEFUNC => &[fields.tablefunc.cast(), fields.securityQuals.cast()],
            K::RTE_VALUES => &[fields.values_lists.cast(), fields.securityQuals.cast()],
            K::RTE_JOIN => &[fields.joinaliasvars.cast()],
            K::RTE_CTE | K::RTE_NAMEDTUPLESTORE | K::RTE_RESULT => &[fields.securityQuals.cast()],
            #[cfg(feature = "pg18")]
            K::RTE_GROUP => &[fields.groupexprs.cast()],
            _ => return Err(not_understood("A part of its FROM is of an unknown kind.")),
        };
        for part in parts {
            visit(*part, context);
        }
        Ok(())
    }
}

fn has_row_security(relation: pg_sys::Oid) -> bool {
    super::catalog::has_row_security(relation)
}

/// Deals with the entries of one level.
unsafe fn own_entries(query: *mut pg_sys::Query, raw: bool) -> Result<(), Refusal> {
    // SAFETY: a valid query; entries are fetched anew after each change of the tree.
    unsafe {
        let count = names::members((*query).rtable).len();
        for nth in 0..count {
            let Some(entry) = names::members((*query).rtable).get(nth).copied() else { break };
            let entry = entry.cast::<pg_sys::RangeTblEntry>();
            if !may_concern(&*entry) {
                continue;
            }
            let Some(masked) = masks::of((*entry).relid)? else { continue };
            if !masked.masks() && !masked.filters_rows() {
                continue;
            }
            let index = i32::try_from(nth + 1).unwrap_or(i32::MAX);
            if raw {
                mark(entry, Mark::Policy);
            } else if generated::is_shown(query, index, &masked) {
                generated::keep(query, index, entry, &masked);
            } else if index == (*query).resultRelation {
                target::changed(query, index, &masked)?;
            } else {
                read(query, index, entry, &masked)?;
            }
        }
        Ok(())
    }
}

/// An entry that is read.
unsafe fn read(
    query: *mut pg_sys::Query,
    index: i32,
    entry: *mut pg_sys::RangeTblEntry,
    masked: &Rc<Masked>,
) -> Result<(), Refusal> {
    // SAFETY: an entry of the query.
    unsafe {
        if !masked.masks() {
            filter(entry, index, masked);
            mark(entry, Mark::Substituted(masked.fingerprint));
            return Ok(());
        }
        if is_locked(query, index) {
            in_place(query, index, masked);
            return Ok(());
        }
        if !version::JUNK_IS_PULLED_UP {
            vars::expand_whole_rows(query, index, entry)?;
        }
        // The query may be a copy by now.
        let nth = usize::try_from(index - 1).unwrap_or(0);
        let Some(entry) = names::members((*query).rtable).get(nth).copied() else {
            return Err(not_understood("A part of its FROM is missing."));
        };
        as_subquery(query, index, entry.cast(), masked);
        Ok(())
    }
}

/// Adds the filters to an entry, before whatever row security has put there.
unsafe fn filter(entry: *mut pg_sys::RangeTblEntry, index: i32, masked: &Masked) {
    if masked.filters_rows() {
        // SAFETY: fresh copies; list_concat_copy leaves both lists as they are.
        unsafe {
            (*entry).securityQuals = pg_sys::list_concat_copy(masked.filters(index), (*entry).securityQuals);
        }
    }
}

unsafe fn is_locked(query: *mut pg_sys::Query, index: i32) -> bool {
    // SAFETY: a list of RowMarkClauses.
    unsafe {
        names::members((*query).rowMarks)
            .into_iter()
            .any(|mark| i32::try_from((*mark.cast::<pg_sys::RowMarkClause>()).rti) == Ok(index))
    }
}

/// Puts the masks in the place of the columns, as pulling a subquery up would: the row's lock stays with the relation's
/// entry. An entry whose rows are locked is never on the nullable side of a join (the planner refuses that), so that a
/// mask is never computed for a row that does not exist.
unsafe fn in_place(query: *mut pg_sys::Query, index: i32, masked: &Masked) {
    // SAFETY: the mutated copy takes the query's place; what was taken out is put back into the copy.
    unsafe {
        let nth = usize::try_from(index - 1).unwrap_or(0);
        let entry_of = |query: *mut pg_sys::Query| {
            names::members((*query).rtable)
                .get(nth)
                .map_or(std::ptr::null_mut(), |entry| entry.cast::<pg_sys::RangeTblEntry>())
        };
        let entry = entry_of(query);
        let quals = std::mem::replace(&mut (*entry).securityQuals, std::ptr::null_mut());
        let targets = masked.masked_targets(index);
        let changed = vars::replaced(query.cast(), index, entry, targets).cast::<pg_sys::Query>();
        std::ptr::copy_nonoverlapping(changed, query, 1);
        let entry = entry_of(query);
        (*entry).securityQuals = quals;
        filter(entry, index, masked);
        mark(entry, Mark::Substituted(masked.fingerprint));
    }
}

/// Makes an entry a subquery over itself.
unsafe fn as_subquery(
    query: *mut pg_sys::Query,
    index: i32,
    entry: *mut pg_sys::RangeTblEntry,
    masked: &Masked,
) {
    // SAFETY: nodes made in the planner's context; the old entry becomes the new one's inner part.
    unsafe {
        let inner: *mut pg_sys::RangeTblEntry = node(T::T_RangeTblEntry);
        std::ptr::copy_nonoverlapping(entry, inner, 1);
        (*inner).lateral = false;
        (*inner).inFromCl = true;
        let mut has_sublinks = false;
        if !(*inner).securityQuals.is_null() {
            (*inner).securityQuals = pg_sys::copyObjectImpl((*inner).securityQuals.cast()).cast();
            pg_sys::ChangeVarNodes((*inner).securityQuals.cast(), index, 1, 0);
            has_sublinks = pg_sys::checkExprHasSubLink((*inner).securityQuals.cast());
        }
        let mut lateral = (*entry).lateral;
        if !(*inner).tablesample.is_null() {
            // Its arguments may look at entries beside it, which are one level up from inside.
            let sample: *mut pg_sys::TableSampleClause =
                pg_sys::copyObjectImpl((*inner).tablesample.cast()).cast();
            lateral |= pg_sys::contain_vars_of_level(sample.cast(), 0);
            pg_sys::IncrementVarSublevelsUp(sample.cast(), 1, 0);
            (*inner).tablesample = sample;
        }
        filter(inner, 1, masked);
        mark(inner, Mark::Substituted(masked.fingerprint));
        let lender = generated::lender(query, entry, masked);

        let reference: *mut pg_sys::RangeTblRef = node(T::T_RangeTblRef);
        (*reference).rtindex = 1;
        let subquery: *mut pg_sys::Query = node(T::T_Query);
        (*subquery).commandType = pg_sys::CmdType::CMD_SELECT;
        (*subquery).canSetTag = true;
        (*subquery).hasSubLinks = has_sublinks;
        (*subquery).hasRowSecurity = (*query).hasRowSecurity;
        (*subquery).rtable = pg_sys::lappend(std::ptr::null_mut(), inner.cast());
        (*subquery).jointree = pg_sys::makeFromExpr(
            pg_sys::lappend(std::ptr::null_mut(), reference.cast()),
            std::ptr::null_mut(),
        );
        (*subquery).targetList = masked.targets();
        #[cfg(not(feature = "pg15"))]
        move_permissions(query, subquery, inner);
        if let Some(owner) = lender {
            generated::lend(subquery, inner, owner);
            mark(inner, Mark::Lent(masked.fingerprint));
        }
        let names = vars::columns_for(query, index, subquery, (*entry).eref);

        let outer: *mut pg_sys::RangeTblEntry = node(T::T_RangeTblEntry);
        (*outer).rtekind = pg_sys::RTEKind::RTE_SUBQUERY;
        (*outer).subquery = subquery;
        (*outer).lateral = lateral;
        (*outer).alias = (*entry).alias;
        (*outer).eref = names;
        (*outer).inFromCl = (*entry).inFromCl;
        std::ptr::copy_nonoverlapping(outer, entry, 1);
    }
}

/// From 16 on the permissions stand beside the range table: the subquery gets its own copy of the entry's.
#[cfg(not(feature = "pg15"))]
unsafe fn move_permissions(
    query: *mut pg_sys::Query,
    subquery: *mut pg_sys::Query,
    inner: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: perminfoindex counts from 1 in the query's own list.
    unsafe {
        let at = usize::try_from((*inner).perminfoindex).unwrap_or(0);
        let infos = names::members((*query).rteperminfos);
        if let Some(info) = at.checked_sub(1).and_then(|at| infos.get(at)) {
            let info = pg_sys::copyObjectImpl((*info).cast());
            (*subquery).rteperminfos = pg_sys::lappend(std::ptr::null_mut(), info.cast());
            (*inner).perminfoindex = 1;
        }
    }
}

/// A new node of zeros.
///
/// # Safety
/// `N` is the node type of the tag.
pub unsafe fn node<N>(tag: pg_sys::NodeTag) -> *mut N {
    // SAFETY: every node begins with its tag, and zeros are valid for all of its fields (makeNode in nodes.h).
    unsafe {
        let node = pg_sys::palloc0(size_of::<N>()).cast::<pg_sys::Node>();
        (*node).type_ = tag;
        node.cast()
    }
}

/// A palloc'd copy of a text.
unsafe fn text(text: &CStr) -> *mut c_char {
    // SAFETY: pstrdup copies.
    unsafe { pg_sys::pstrdup(text.as_ptr()) }
}
