//! What agents have written runs in autovacuum too: ANALYZE evaluates the expressions of indexes and statistics, and calls the
//! functions of range types, as the owner of their table and in no session. There it may compute and reach nothing.
//!
//! A function that the agent could have written is known by its owner. From its first call on, until its transaction ends,
//! the worker runs no query over a relation, no statement that is no query, and no function that does more than compute. That
//! ends the analysis of this one table; nothing else of autovacuum calls functions. Whatever a session runs, a DBA's own
//! ANALYZE too, is not looked at here.

use std::cell::{Cell, RefCell};
use std::os::raw::{c_char, c_int, c_void};

use pgrx::pg_sys;
use rustc_hash::FxHashMap as HashMap;

use super::super::gather::functions::{self, Execution};
use super::super::gather::names;
use super::super::process::PerProcess;
use super::super::{calls, catalog, version};
use super::{checked, guarded, raise_if};
use crate::refusal::{Refusal, SqlState};

static mut PREV_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREV_UTILITY: pg_sys::ProcessUtility_hook_type = None;
static mut PREV_ACCESS: pg_sys::object_access_hook_type = None;

/// The local transaction in which a function of an agent's was called; 0 for none.
static CALLED_IN: PerProcess<Cell<u32>> = PerProcess::new(Cell::new(0));
/// Whether the hooks of this worker are installed.
static INSTALLED: PerProcess<Cell<bool>> = PerProcess::new(Cell::new(false));

/// Whose functions are an agent's, in the transaction that asked.
struct Owners {
    transaction: u32,
    agents: Vec<pg_sys::Oid>,
    functions: HashMap<pg_sys::Oid, bool>,
}

static OWNERS: PerProcess<RefCell<Option<Owners>>> = PerProcess::new(RefCell::new(None));

/// Whether calls of this function have to be reported here: those that are not built in, in autovacuum.
#[inline]
pub fn reported(function: pg_sys::Oid) -> bool {
    function.to_u32() >= catalog::FIRST_NORMAL && worker()
}

/// Whether this process is a worker of autovacuum.
fn worker() -> bool {
    // SAFETY: a plain value of this process.
    unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_AUTOVAC_WORKER }
}

fn transaction() -> u32 {
    // SAFETY: a worker of autovacuum has its PGPROC from before its first transaction on.
    unsafe { *version::local_transaction(pg_sys::MyProc) }
}

/// A function that is not built in is called.
pub fn begin(function: pg_sys::Oid) {
    let transaction = transaction();
    if CALLED_IN.with(Cell::get) != transaction && is_agents(function, transaction) {
        CALLED_IN.with(|called| called.set(transaction));
        // SAFETY: a worker runs on one thread; nobody is within these hooks yet.
        unsafe { install() };
    }
}

/// Whether the function's owner is a guarded role, or one that a guarded role is a member of.
fn is_agents(function: pg_sys::Oid, transaction: u32) -> bool {
    OWNERS.with_borrow_mut(|owners| {
        if owners.as_ref().is_none_or(|owners| owners.transaction != transaction) {
            *owners =
                Some(Owners { transaction, agents: calls::guarded_roles(), functions: HashMap::default() });
        }
        let Some(Owners { agents, functions, .. }) = owners.as_mut() else { return true };
        *functions.entry(function).or_insert_with(|| {
            let Some(facts) = catalog::function_facts(function) else { return true };
            // SAFETY: reads the membership caches, in a transaction.
            agents.iter().any(|role| unsafe { pg_sys::is_member_of_role_nosuper(*role, facts.owner) })
        })
    })
}

/// The hooks of this process alone: no session pays for them.
unsafe fn install() {
    if INSTALLED.with(|installed| installed.replace(true)) {
        return;
    }
    // SAFETY: plain function pointers of this process; ours from _PG_init are among the previous ones.
    unsafe {
        PREV_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(start);
        PREV_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(utility);
        PREV_ACCESS = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(object_access);
    }
}

/// Whether code of an agent's runs, or has run in this transaction.
fn contained() -> bool {
    CALLED_IN.with(Cell::get) == transaction()
}

fn refused(what: &str) -> Refusal {
    Refusal::new(
        SqlState::InsufficientPrivilege,
        "no_session",
        format!("a function of a guarded role may not {what} in autovacuum"),
        "It runs in no session there, under no token and no policy: it may compute, and nothing else.",
        "Drop the index, the statistics or the range type whose function does that; an ANALYZE by a session looks at them meanwhile.",
    )
}

unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        if contained() {
            raise_if(checked(|| before_start(query)));
        }
        if let Some(previous) = PREV_START {
            previous(query, flags);
        }
    }
}

/// What reads no relation and changes nothing is how a function in SQL computes.
fn before_start(query: *mut pg_sys::QueryDesc) -> Result<(), Refusal> {
    // SAFETY: the server passes a complete QueryDesc; the range table holds range table entries.
    let reaches = unsafe {
        let plan = &*(*query).plannedstmt;
        plan.commandType != pg_sys::CmdType::CMD_SELECT
            || names::members(plan.rtable).iter().any(|entry| {
                (*entry.cast::<pg_sys::RangeTblEntry>()).rtekind == pg_sys::RTEKind::RTE_RELATION
            })
    };
    if reaches { Err(refused("read or change a relation")) } else { Ok(()) }
}

unsafe extern "C-unwind" fn utility(
    statement: *mut pg_sys::PlannedStmt,
    source: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    receiver: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        if contained() {
            raise_if(checked(|| Err(refused("run a command"))));
        }
        if let Some(previous) = PREV_UTILITY {
            previous(
                statement,
                source,
                read_only_tree,
                context,
                parameters,
                environment,
                receiver,
                completion,
            );
        }
    }
}

unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    argument: *mut c_void,
) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE && contained() {
            raise_if(checked(|| function(object)));
        }
        if let Some(previous) = PREV_ACCESS {
            previous(access, class, object, sub, argument);
        }
    }
}

/// Built-ins that need no rule, those of aggregates, and functions that are contained themselves or promise to change nothing.
fn function(function: pg_sys::Oid) -> Result<(), Refusal> {
    let computes = if function.to_u32() < catalog::FIRST_NORMAL {
        matches!(functions::execution(function), Execution::Free | Execution::ServerOnly)
    } else {
        is_agents(function, transaction())
            || catalog::function_facts(function).is_some_and(|facts| facts.volatility != b'v')
    };
    if computes { Ok(()) } else { Err(refused(&format!("call {}", name(function)))) }
}

fn name(function: pg_sys::Oid) -> String {
    catalog::function_facts(function).map_or_else(|| "a function".to_owned(), |facts| facts.name)
}

/// A call begins, in whatever process: the outer frame of fmgr_hook asks this of processes that are not guarded.
///
/// # Safety
/// Called from an outer frame: no value with a destructor is alive.
pub unsafe fn called(function: pg_sys::Oid, event: pg_sys::FmgrHookEventType::Type) {
    if event == pg_sys::FmgrHookEventType::FHET_START && reported(function) {
        guarded(|| begin(function));
    }
}
