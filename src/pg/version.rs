//! What the server's major versions do differently, behind one face: one place for each difference, each with its reason.
//!
//! Two kinds stay where they are used: the two forms of ExecutorCheckPerms_hook (`hooks::check_perms`), whose whole frame
//! differs, and the fields of `Port` (`connection`), which are a layout. Nothing is decided here.

use std::ffi::c_void;
use std::os::raw::{c_char, c_int};

use pgrx::pg_sys;

// --- tuples and catalogues ---

/// The attributes of a descriptor, dropped ones included. 18 keeps them behind an array of compact ones, without a field.
///
/// # Safety
/// `descriptor` is valid, and outlives what is made of the result.
pub unsafe fn attributes<'a>(descriptor: pg_sys::TupleDesc) -> &'a [pg_sys::FormData_pg_attribute] {
    // SAFETY: the caller's promise: natts attributes lie side by side (src/include/access/tupdesc.h).
    unsafe {
        let count = usize::try_from((*descriptor).natts).unwrap_or(0);
        #[cfg(not(feature = "pg18"))]
        return (*descriptor).attrs.as_slice(count);
        #[cfg(feature = "pg18")]
        if count == 0 {
            return &[];
        }
        #[cfg(feature = "pg18")]
        std::slice::from_raw_parts(pg_sys::TupleDescAttr(descriptor, 0), count)
    }
}

/// The sequence of an identity column, a partition's that of the whole table; `InvalidOid` where there is none. From 17 on
/// partitions have identity columns too.
///
/// # Safety
/// `relation` is open.
pub unsafe fn identity_sequence(relation: pg_sys::Relation, column: i16) -> pg_sys::Oid {
    // SAFETY: the caller's promise; with missing_ok it raises for none.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return pg_sys::getIdentitySequence((*relation).rd_id, column, true);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        pg_sys::getIdentitySequence(relation, column, true)
    }
}

/// The number of pg_constraint.conrelid: 18 put conenforced before it.
pub const CONSTRAINT_RELATION: usize = if cfg!(feature = "pg18") { 9 } else { 8 };

/// A scan of an index by one key. 18 has a parameter more, for statistics.
///
/// # Safety
/// As index_beginscan in genam.h.
pub unsafe fn begin_index_scan(
    heap: pg_sys::Relation,
    index: pg_sys::Relation,
    snapshot: pg_sys::Snapshot,
) -> pg_sys::IndexScanDesc {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return pg_sys::index_beginscan(heap, index, snapshot, 1, 0);
        #[cfg(feature = "pg18")]
        pg_sys::index_beginscan(heap, index, snapshot, std::ptr::null_mut(), 1, 0)
    }
}

/// Builds the index of an unlogged table anew. From 17 on event triggers are told of the statement, of which there is none.
///
/// # Safety
/// The caller holds the locks that reindex_index asks for (index.h).
pub unsafe fn reindex_unlogged(index: pg_sys::Oid) {
    let mut params = pg_sys::ReindexParams { options: 0, tablespaceOid: pg_sys::InvalidOid };
    let unlogged = pg_sys::RELPERSISTENCE_UNLOGGED as std::os::raw::c_char;
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        pg_sys::reindex_index(index, false, unlogged, &raw mut params);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        pg_sys::reindex_index(std::ptr::null(), index, false, unlogged, &raw mut params);
    }
}

/// Empties relations as TRUNCATE does, with the rights of whoever runs. From 16 on logical replication asks for its own.
///
/// # Safety
/// The lists are of open relations and of their OIDs, of equal length.
pub unsafe fn truncate(relations: *mut pg_sys::List, oids: *mut pg_sys::List) {
    let restrict = pg_sys::DropBehavior::DROP_RESTRICT;
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg15")]
        pg_sys::ExecuteTruncateGuts(relations, oids, std::ptr::null_mut(), restrict, false);
        #[cfg(not(feature = "pg15"))]
        pg_sys::ExecuteTruncateGuts(relations, oids, std::ptr::null_mut(), restrict, false, false);
    }
}

unsafe extern "C" {
    // src/include/mb/pg_wchar.h. libpq has functions of these names too; where both are loaded, the server's own are called
    // by another since 17 (USE_PRIVATE_ENCODING_FUNCS before).
    #[cfg_attr(not(any(feature = "pg15", feature = "pg16")), link_name = "pg_char_to_encoding_private")]
    fn pg_char_to_encoding(name: *const c_char) -> c_int;
}

/// The number of an encoding by its name; negative for none. Looks into a table and raises nothing.
///
/// # Safety
/// `name` is NUL-terminated.
pub unsafe fn encoding_number(name: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { pg_char_to_encoding(name) }
}

// --- permissions of queries ---

/// What a query's permissions stand in: its range table up to 15, a list of its own from 16 on.
///
/// # Safety
/// `query` is a valid query.
pub unsafe fn permissions(query: *mut pg_sys::Query) -> *mut pg_sys::List {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg15")]
        return (*query).rtable;
        #[cfg(not(feature = "pg15"))]
        (*query).rteperminfos
    }
}

/// Whether an entry carries permissions of its own; those of partitions and children do not.
pub fn has_permissions(entry: &pg_sys::RangeTblEntry) -> bool {
    #[cfg(feature = "pg15")]
    return entry.requiredPerms != 0;
    #[cfg(not(feature = "pg15"))]
    return entry.perminfoindex != 0;
}

/// ACL_SELECT as the privilege functions take it: AclMode has 64 bits from 16 on.
pub const ACL_SELECT: pg_sys::AclMode = pg_sys::ACL_SELECT as pg_sys::AclMode;
/// ACL_TRIGGER likewise.
pub const ACL_TRIGGER: pg_sys::AclMode = pg_sys::ACL_TRIGGER as pg_sys::AclMode;

// --- the planner ---

/// Whether the planner finds junk columns of a subquery that it pulls up; 18 takes them for missing
/// (ReplaceVarFromTargetList in rewriteManip.c).
pub const JUNK_IS_PULLED_UP: bool = cfg!(not(feature = "pg18"));

/// Whether an outer join may put NULL in the place of what a reference reads; before 16 references do not tell.
pub fn may_be_nulled(var: &pg_sys::Var) -> bool {
    #[cfg(feature = "pg15")]
    return {
        let _ = var;
        true
    };
    #[cfg(not(feature = "pg15"))]
    return !var.varnullingrels.is_null();
}

// --- the executor ---

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" {
    // The bindings' own declaration is guarded: an error through it would lose its fields.
    #[link_name = "standard_ExecutorRun"]
    fn raw_run(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64, once: bool);
}
#[cfg(feature = "pg18")]
unsafe extern "C-unwind" {
    // As above.
    #[link_name = "standard_ExecutorRun"]
    fn raw_run(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64);
}

/// Hands ExecutorRun on: to the hook that was there before, or to the server. 18 has no `once` any more.
///
/// # Safety
/// As ExecutorRun; a part of the outer frame (hooks/mod.rs), so nothing here has a destructor.
#[inline]
pub unsafe fn run_executor(
    previous: pg_sys::ExecutorRun_hook_type,
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        match previous {
            Some(previous) => previous(query, direction, count, once),
            None => raw_run(query, direction, count, once),
        }
        #[cfg(feature = "pg18")]
        match previous {
            Some(previous) => previous(query, direction, count),
            None => raw_run(query, direction, count),
        }
        #[cfg(feature = "pg18")]
        let _ = once;
    }
}

// --- processes ---

/// This backend's place among all, from 0; negative before it has one. 17 made the backend id a number that starts at 0.
pub fn own_place() -> c_int {
    // SAFETY: plain integers of this process.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return pg_sys::MyBackendId - 1;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        pg_sys::MyProcNumber
    }
}

/// A handler of signals.
type Handler = unsafe extern "C-unwind" fn(c_int);

unsafe extern "C-unwind" {
    // src/include/port.h. The server's own is called by another name since 18, as libpq has one too. What older ones return
    // is left alone.
    #[cfg_attr(feature = "pg18", link_name = "pqsignal_be")]
    fn pqsignal(signal: c_int, handler: Option<Handler>);
}

/// Sets the handler of a signal.
///
/// # Safety
/// The handler does nothing but what handlers may.
pub unsafe fn handle_signal(signal: c_int, handler: Handler) {
    // SAFETY: the caller's promise.
    unsafe { pqsignal(signal, Some(handler)) }
}

/// Every setting that this process knows of. 16 gives the number together with the settings.
pub fn settings() -> Vec<*mut pg_sys::config_generic> {
    // SAFETY: the array has as many elements as the server says; copied at once, because 16 makes it for the caller.
    unsafe {
        #[cfg(feature = "pg15")]
        let (settings, count) = (pg_sys::get_guc_variables(), pg_sys::GetNumConfigOptions());
        #[cfg(not(feature = "pg15"))]
        let mut count = 0;
        #[cfg(not(feature = "pg15"))]
        let settings = pg_sys::get_guc_variables(&raw mut count);
        std::slice::from_raw_parts(settings, usize::try_from(count).unwrap_or(0)).to_vec()
    }
}

/// Where a PGPROC keeps its local transaction: 17 put it beside the process number.
///
/// # Safety
/// `process` is the address of a PGPROC.
pub unsafe fn local_transaction(process: *const pg_sys::PGPROC) -> *const u32 {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return &raw const (*process).lxid;
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        &raw const (*process).vxid.lxid
    }
}

/// USER_TIMEOUT (src/include/utils/timeout.h): what asks RegisterTimeout for a number of its own. 17 has one timeout more.
pub const USER_TIMEOUT: c_int = if cfg!(any(feature = "pg15", feature = "pg16")) { 12 } else { 13 };

/// SYSTEM_USER, "method:identity": whom the client has authenticated as, apart from the role. There is none before 16, and
/// none where nothing was authenticated (trust).
pub fn system_user() -> Option<String> {
    #[cfg(feature = "pg15")]
    return None;
    #[cfg(not(feature = "pg15"))]
    // SAFETY: null or a NUL-terminated text of this process, set once after authentication (miscinit.c).
    unsafe {
        super::catalog::text(pg_sys::GetSystemUser())
    }
}

// --- settings ---

#[cfg(feature = "pg15")]
unsafe extern "C" {
    fn malloc(size: usize) -> *mut c_void;
    fn free(pointer: *mut c_void);
}

/// Memory for a setting's value or extra: malloc's own up to 15, that of a context of the server's from 16 on. Null where
/// there is none.
///
/// # Safety
/// Whoever takes it gives it to the GUC machinery or to `guc_release`.
pub unsafe fn guc_allocate(size: usize) -> *mut c_void {
    // SAFETY: any size will do.
    unsafe {
        #[cfg(feature = "pg15")]
        return malloc(size);
        #[cfg(not(feature = "pg15"))]
        pg_sys::guc_malloc(i32::try_from(pg_sys::LOG).unwrap_or(15), size)
    }
}

/// Gives such memory back.
///
/// # Safety
/// `pointer` is of `guc_allocate` or of the GUC machinery.
pub unsafe fn guc_release(pointer: *mut c_void) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(feature = "pg15")]
        free(pointer);
        #[cfg(not(feature = "pg15"))]
        pg_sys::guc_free(pointer);
    }
}

/// Adds flags to a setting of ours in this process. From 16 on settings are found by name; before, all are an array.
pub fn add_setting_flags(name: &std::ffi::CStr, flags: c_int) {
    #[cfg(feature = "pg15")]
    // SAFETY: the array of all variables, of the length that GetNumConfigOptions tells; names are NUL-terminated.
    unsafe {
        let count = usize::try_from(pg_sys::GetNumConfigOptions()).unwrap_or(0);
        let variables = std::slice::from_raw_parts(pg_sys::get_guc_variables(), count);
        for variable in variables {
            if std::ffi::CStr::from_ptr((**variable).name) == name {
                (**variable).flags |= flags;
            }
        }
    }
    #[cfg(not(feature = "pg15"))]
    // SAFETY: find_option gives the variable of this name or null.
    unsafe {
        let level = i32::try_from(pg_sys::PGERROR).unwrap_or(21);
        if let Some(variable) = pg_sys::find_option(name.as_ptr(), false, true, level).as_mut() {
            variable.flags |= flags;
        }
    }
}
