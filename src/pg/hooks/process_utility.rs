//! ProcessUtility_hook: every statement that is no query, decided before the server runs it.

use std::ffi::CStr;
use std::os::raw::c_char;
use std::rc::Rc;

use pgrx::pg_sys;

use super::super::gather::utility::{self, Needs};
use super::super::statement::{self, Key, Opening};
use super::super::{approvals, calls, databases, enforce, guc, quick, secrets, session, settings, text};
use super::{checked, guarded, object_access, raise_if};
use crate::refusal::Refusal;
use crate::request::{Form, Voice};

static mut PREVIOUS: pg_sys::ProcessUtility_hook_type = None;

unsafe extern "C-unwind" {
    // Unguarded, as in executor.rs.
    #[link_name = "standard_ProcessUtility"]
    fn raw_utility(
        statement: *mut pg_sys::PlannedStmt,
        source: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        receiver: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Saves the previous hook and installs ours.
pub fn init() {
    // SAFETY: _PG_init runs alone; a plain function pointer.
    unsafe {
        PREVIOUS = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(utility);
    }
}

/// What the outer frame keeps between before and after: plain data.
#[derive(Clone, Copy)]
struct Frame {
    /// DISCARD ALL or RESET ALL: whoever uses the connection next starts without a token.
    resets_all: bool,
    key: Key,
    sets_token: bool,
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
    // SAFETY: outer frame; see hooks/mod.rs. Frame and Raised are plain data.
    unsafe {
        if databases::needs_them_empty((*statement).utilityStmt) {
            guarded(|| databases::vacate((*statement).utilityStmt));
        }
        let mut frame: Option<Frame> = None;
        if guc::guarded() {
            raise_if(checked(|| before(statement, source, context, &raw mut frame)));
        }
        match PREVIOUS {
            Some(previous) => previous(
                statement,
                source,
                read_only_tree,
                context,
                parameters,
                environment,
                receiver,
                completion,
            ),
            None => raw_utility(
                statement,
                source,
                read_only_tree,
                context,
                parameters,
                environment,
                receiver,
                completion,
            ),
        }
        if let Some(frame) = frame {
            raise_if(checked(|| after(frame, completion)));
        }
    }
}

fn before(
    planned: *mut pg_sys::PlannedStmt,
    source: *const c_char,
    context: pg_sys::ProcessUtilityContext::Type,
    frame: *mut Option<Frame>,
) -> Result<(), Refusal> {
    // SAFETY: the server passes a complete utility PlannedStmt; only read.
    let (node, location, length, sets_token, resets_all) = unsafe {
        let planned = &*planned;
        // A statement that was parsed before comes with a copy of the text that no earlier hook saw.
        secrets::hide(source);
        let sets_token = settings::sets_token(planned.utilityStmt);
        let resets_all = settings::resets_all(planned.utilityStmt);
        (planned.utilityStmt, planned.stmt_location, planned.stmt_len, sets_token, resets_all)
    };
    // SAFETY: the source is NUL-terminated.
    let text: Rc<str> = unsafe { text::statement(source, location, length) }.into();
    // SAFETY: a valid utility statement; the tag's name is a static string.
    let command = unsafe {
        CStr::from_ptr(pg_sys::GetCommandTagName(pg_sys::CreateCommandTag(node))).to_str().unwrap_or("")
    };
    let key = statement::next_utility();
    let session = session::current();
    // SAFETY: as above.
    let needs = unsafe { utility::needs(node) };
    // What would have been refused, where denials are only recorded.
    let mut observed: Option<Refusal> = None;
    let needs = match (needs, &session) {
        // SAFETY: as above.
        (Ok(needs), Err(_)) if needs.without_token && !unsafe { commits(node) } => needs,
        (needs, Err(refusal)) if guc::observing() => {
            observed = Some(refusal.clone());
            needs.unwrap_or_else(|_| Needs::ordinary())
        }
        (_, Err(refusal)) => {
            statement::record_refused_alone(command, &text, None, refusal);
            return Err(refusal.clone());
        }
        (Err(refusal), Ok(bound)) if enforce::observing(bound) => {
            observed = Some(refusal);
            Needs::ordinary()
        }
        (Err(refusal), Ok(_)) => {
            let opening =
                Opening { key, command, text, session: session.ok(), form: Some(Form::Plain), at: None };
            statement::open(opening, |_| {})?;
            statement::with_key(key, |open| open.refuse(&refusal, false));
            return Err(refusal);
        }
        (Ok(needs), Ok(_)) => needs,
    };
    let Needs { mut wanted, permit, form, .. } = needs;
    // The sequence, index or constraint of a table is allowed with the table; denies hold.
    let derived =
        context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND && object_access::derives();
    let voice = if derived { Voice::View } else { calls::voice() };
    wanted.iter_mut().filter(|one| one.voice == Voice::Named).for_each(|one| one.voice = voice);
    let session = session.ok();
    let opening = Opening { key, command, text, session: session.clone(), form: Some(form), at: None };
    statement::open(opening, |open| open.node = node.addr())?;
    if let Some(refusal) = observed {
        statement::with_key(key, |open| open.refuse(&refusal, true));
    }
    if let Some(session) = &session {
        enforce::enforce(session, &wanted, form)?;
    }
    statement::with_key(key, |open| open.node = 0);
    object_access::enter(permit, node);
    // SAFETY: the outer frame's local.
    unsafe { *frame = Some(Frame { resets_all, key, sets_token }) };
    Ok(())
}

/// Whether a statement would make lasting what the transaction wrote under a token that is no longer good.
///
/// # Safety
/// `statement` is a valid utility statement.
unsafe fn commits(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag decides the cast; the state of the transaction is this process's own.
    unsafe {
        (*statement).type_ == pg_sys::NodeTag::T_TransactionStmt
            && (*statement.cast::<pg_sys::TransactionStmt>()).kind
                == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT
            && quick::transaction() != 0
            && !pg_sys::IsAbortedTransactionBlockState()
    }
}

fn after(frame: Frame, completion: *mut pg_sys::QueryCompletion) -> Result<(), Refusal> {
    let refused = object_access::leave();
    // SAFETY: the completion is null or the server's own.
    let rows =
        unsafe { completion.as_ref() }.and_then(|completion| i64::try_from(completion.nprocessed).ok());
    let mut many = false;
    let limited = statement::with_key(frame.key, |open| {
        if let Some(rows) = rows {
            open.set_rows(rows);
        }
        many = rows.is_some_and(|rows| open.obligations.approve_above.is_some_and(|(limit, _)| rows > limit));
        match (rows, open.obligations.max_rows) {
            (Some(rows), Some((limit, rule))) if rows > limit && !open.observed => {
                Some(super::super::rows::limit_refusal(limit, rule))
            }
            _ => None,
        }
    })
    .flatten();
    if let Some(refusal) = refused.or(limited) {
        statement::with_key(frame.key, |open| open.refuse(&refusal, false));
        return Err(refusal);
    }
    if many {
        approvals::copied()?;
    }
    statement::close(frame.key);
    if frame.resets_all {
        guc::unbind();
    }
    if frame.sets_token {
        session::settle();
    }
    Ok(())
}
