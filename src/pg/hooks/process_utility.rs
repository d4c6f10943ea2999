//! ProcessUtility_hook: every statement that is no query, decided before the server runs it.

use std::ffi::CStr;
use std::os::raw::c_char;
use std::rc::Rc;

use pgrx::pg_sys;

use super::super::gather::needs::{Needs, Permit};
use super::super::gather::{held, masked_ddl, utility};
use super::super::statement::{self, Key, Opening};
use super::super::{
    approvals, calls, catalog, copy, databases, enforce, epoch, guc, limit_timer, meter, outgoing, quick,
    record, results, rows, secrets, session, settings, synced, text, upkeep, withhold,
};
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
    /// What the number of rows is that the server tells at the end.
    counts: Counts,
}

/// What the number of rows is that the server tells at the end of a utility statement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// Rows that have been returned, or that the executor has counted.
    Returned,
    /// COPY FROM: rows that nobody else has counted.
    Written,
    /// MOVE: rows that went nowhere.
    Nothing,
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
        let mut statement = statement;
        if guc::guarded() {
            raise_if(checked(|| before(statement, source, context, parameters, &raw mut frame)));
            raise_if(checked(|| rewrite(&raw mut statement)));
        }
        if upkeep::needs_a_look((*statement).utilityStmt) {
            guarded(|| upkeep::look((*statement).utilityStmt));
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
        // A statement that another was taken apart into leaves a relation half altered.
        if upkeep::pending() && context != pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND {
            guarded(upkeep::settle);
        }
        if let Some(frame) = frame {
            raise_if(checked(|| after(frame, completion)));
            if synced::wanted() {
                raise_if(checked(synced::wait_at_top));
            }
        }
    }
}

/// What CALL was given stands nowhere else; what a query within EXPLAIN or CREATE TABLE AS was given, in its own event too.
fn tell_parameters(key: Key, parameters: pg_sys::ParamListInfo) {
    // With the statement open, so that an error of an output function is recorded as the statement's.
    // SAFETY: the parameters of the statement that is about to run.
    let given = unsafe { rows::Given::to(parameters) };
    statement::with_key(key, |open| open.set_parameters(given));
}

fn before(
    planned: *mut pg_sys::PlannedStmt,
    source: *const c_char,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
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
    let mut text: Rc<str> = unsafe { text::statement(source, location, length) }.into();
    withhold::stay();
    let raw = withhold::inside_raw() && calls::any();
    if raw {
        text = withhold::TEXT.into();
    }
    // SAFETY: a valid utility statement; the tag's name is a static string.
    let command = unsafe {
        CStr::from_ptr(pg_sys::GetCommandTagName(pg_sys::CreateCommandTag(node))).to_str().unwrap_or("")
    };
    // SAFETY: it sets the token.
    if sets_token && unsafe { settings::outlives_transaction(node) } {
        session::for_the_session()?;
    }
    let key = statement::next_utility();
    // SAFETY: the state of the transaction is this process's own.
    if unsafe { pg_sys::IsAbortedTransactionBlockState() } {
        end_failed(key, command, text, node)?;
        // SAFETY: the outer frame's local.
        unsafe { *frame = Some(Frame { resets_all, key, sets_token, counts: Counts::Nothing }) };
        return Ok(());
    }
    let session = session::current();
    let epoch = epoch::policies();
    // SAFETY: as above.
    let meant = unsafe { held::meant(node) };
    // SAFETY: as above.
    let needs = unsafe { utility::needs(node) };
    // What would have been refused, where denials are only recorded.
    let mut observed: Option<Refusal> = None;
    let needs = match (needs, &session) {
        // SAFETY: as above.
        (Ok(needs), Err(_)) if needs.without_token && !unsafe { commits(node) } => needs,
        (needs, Err(refusal)) if guc::observing() => {
            outgoing::init();
            observed = Some(refusal.clone());
            needs.unwrap_or_else(|_| Needs::ordinary())
        }
        (_, Err(refusal)) => {
            // SAFETY: the hook's own argument, null or a parameter list.
            let given = unsafe { if raw { None } else { rows::Given::to(parameters) } };
            record::record_refused_with(command, &text, given.as_ref(), None, refusal);
            return Err(refusal.clone());
        }
        (Err(refusal), Ok(bound)) if enforce::observing(bound) => {
            observed = Some(refusal);
            Needs::ordinary()
        }
        (Err(refusal), Ok(_)) => {
            let opening = Opening {
                key,
                command,
                text,
                known: None,
                session: session.ok(),
                form: Some(Form::Plain),
                at: None,
            };
            statement::open(opening, |_| {})?;
            statement::with_key(key, |open| open.refuse(&refusal, false));
            return Err(refusal);
        }
        (Ok(needs), Ok(_)) => needs,
    };
    let Needs { mut wanted, mut permit, form, .. } = needs;
    // The sequence, index or constraint of a table is allowed with the table; denies hold.
    let derived =
        context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND && object_access::derives();
    let voice = if derived { Voice::View } else { calls::voice() };
    wanted.iter_mut().filter(|one| one.voice == Voice::Named).for_each(|one| one.voice = voice);
    let session = session.ok();
    let opening =
        Opening { key, command, text, known: None, session: session.clone(), form: Some(form), at: None };
    // SAFETY: as above.
    let makes_table = unsafe { utility::table_made(node) }.is_some();
    statement::open(opening, |open| (open.node, open.makes_table) = (node.addr(), makes_table))?;
    if !parameters.is_null() && !raw {
        tell_parameters(key, parameters);
    }
    if let Some(refusal) = observed {
        statement::with_key(key, |open| open.refuse(&refusal, true));
    }
    if let Some(session) = &session {
        let top = statement::with_key(key, |open| open.is_top_level()) == Some(true);
        // SAFETY: as above.
        let free = || sets_token || resets_all || unsafe { free_of_charge(node) };
        let opened = if top { meter::opened(session, free).map(|()| meter::begins()) } else { Ok(()) };
        opened.inspect_err(|refusal| {
            statement::with_key(key, |open| open.refuse(refusal, false));
        })?;
        if top && results::wanted() {
            // SAFETY: as above.
            results::begins(key, unsafe { copy::encoding(node) });
        }
        if let Err(refusal) = enforce::enforce(session, &wanted, form) {
            let waited = approvals::until_decided(key, &refusal, context).inspect_err(|refusal| {
                statement::with_key(key, |open| open.refuse(refusal, false));
            })?;
            let Some(session) = waited else { return Err(refusal) };
            // The names may stand for something else by now.
            // SAFETY: as above.
            let Needs { wanted, form, .. } = unsafe { utility::needs(node) }?;
            enforce::enforce(&session, &wanted, form)?;
        }
        // SAFETY: as above.
        if unsafe { (*node).type_ == pg_sys::NodeTag::T_TruncateStmt }
            && let Some(refusal) = meter::uncounted("a table cannot be truncated")
        {
            limited(key, refusal)?;
        }
    }
    if !meant.is_empty() {
        decide_again(node, voice, meant, epoch, &mut permit).inspect_err(|refusal| {
            statement::with_key(key, |open| open.refuse(refusal, false));
        })?;
    }
    statement::with_key(key, |open| open.node = 0);
    // SAFETY: as above.
    unsafe { masked_ddl::check(node) }.inspect_err(enforce::note_refusal)?;
    object_access::enter(permit, node);
    // SAFETY: the outer frame's local.
    unsafe { *frame = Some(Frame { resets_all, key, sets_token, counts: counts(node) }) };
    Ok(())
}

/// With the relations locked that the statement names: decides again where they, or the policies, are others than those that were
/// decided on, as after a wait for whoever gave a table's name to another.
fn decide_again(
    node: *mut pg_sys::Node,
    voice: Voice,
    mut meant: Vec<pg_sys::Oid>,
    mut epoch: u64,
    permit: &mut Permit,
) -> Result<(), Refusal> {
    loop {
        // SAFETY: the utility statement of the hook.
        let held = unsafe { held::hold(node) };
        let now = epoch::policies();
        if held == meant && now == epoch {
            return Ok(());
        }
        (meant, epoch) = (held, now);
        let session = match session::current() {
            Ok(session) => session,
            Err(_) if guc::observing() => return Ok(()),
            Err(refusal) => return Err(refusal),
        };
        // SAFETY: as above.
        let needs = match unsafe { utility::needs(node) } {
            Ok(needs) => needs,
            Err(_) if enforce::observing(&session) => return Ok(()),
            Err(refusal) => return Err(refusal),
        };
        let mut wanted = needs.wanted;
        wanted.iter_mut().filter(|one| one.voice == Voice::Named).for_each(|one| one.voice = voice);
        enforce::enforce(&session, &wanted, needs.form)?;
        *permit = needs.permit;
    }
}

/// The end of a transaction that has failed, or of the part of it that has: recorded, and decided by nobody. The server lets nothing
/// else come here, of which nothing can last; and where no transaction is in progress, neither a policy nor the tables that a
/// standby knows revocations from can be read.
fn end_failed(
    key: Key,
    command: &'static str,
    text: Rc<str>,
    node: *mut pg_sys::Node,
) -> Result<(), Refusal> {
    let session = session::bound();
    statement::open(
        Opening { key, command, text, known: None, session, form: Some(Form::Plain), at: None },
        |open| open.node = 0,
    )?;
    object_access::enter(Needs::ordinary().permit, node);
    Ok(())
}

/// Whether it is a statement that a session needs to leave, whatever it has used up: the end of a transaction, or the
/// challenge for another token's proof.
///
/// # Safety
/// `statement` is a valid utility statement.
unsafe fn free_of_charge(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag decides the cast.
    unsafe {
        match (*statement).type_ {
            pg_sys::NodeTag::T_TransactionStmt => true,
            pg_sys::NodeTag::T_VariableShowStmt => {
                catalog::text((*statement.cast::<pg_sys::VariableShowStmt>()).name)
                    .is_some_and(|name| name.eq_ignore_ascii_case("agent_guard.challenge"))
            }
            _ => false,
        }
    }
}

/// What the number of rows of a statement will be.
///
/// # Safety
/// `statement` is a valid utility statement.
unsafe fn counts(statement: *mut pg_sys::Node) -> Counts {
    // SAFETY: the tag decides the cast.
    unsafe {
        match (*statement).type_ {
            pg_sys::NodeTag::T_CopyStmt if (*statement.cast::<pg_sys::CopyStmt>()).is_from => Counts::Written,
            pg_sys::NodeTag::T_FetchStmt if (*statement.cast::<pg_sys::FetchStmt>()).ismove => {
                Counts::Nothing
            }
            _ => Counts::Returned,
        }
    }
}

/// A limit is passed: an error, unless the policy only observes.
fn limited(key: Key, refusal: Refusal) -> Result<(), Refusal> {
    let observed = statement::with_key(key, |open| {
        let observed = open.session().is_some_and(|session| enforce::observing(&session));
        open.refuse(&refusal, observed);
        observed
    });
    if observed == Some(true) { Ok(()) } else { Err(refusal) }
}

/// COPY of a masked table becomes COPY of a query.
fn rewrite(statement: *mut *mut pg_sys::PlannedStmt) -> Result<(), Refusal> {
    // SAFETY: the outer frame's local, which holds the hook's argument.
    unsafe {
        if let Some(changed) = copy::as_query(*statement).inspect_err(enforce::note_refusal)? {
            *statement = changed;
        }
    }
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
    let too_many = statement::with_key(frame.key, |open| {
        if let Some(rows) = rows {
            open.set_rows(rows);
        }
        many = rows.is_some_and(|rows| open.obligations.approve_above.is_some_and(|(limit, _)| rows > limit));
        match (rows, open.obligations.max_rows) {
            (Some(rows), Some((limit, rule))) if rows > limit && !open.observed => {
                Some(rows::limit_refusal(limit, rule))
            }
            _ => None,
        }
    })
    .flatten();
    if let Some(refusal) = refused.or(too_many) {
        statement::with_key(frame.key, |open| open.refuse(&refusal, false));
        return Err(refusal);
    }
    if many {
        approvals::copied()?;
    }
    if meter::limited() || limit_timer::armed() {
        let rows = rows.and_then(|rows| u64::try_from(rows).ok()).unwrap_or(0);
        if frame.counts == Counts::Written {
            meter::wrote(rows).or_else(|refusal| limited(frame.key, refusal))?;
        }
        if statement::with_key(frame.key, |open| open.is_top_level()) == Some(true) {
            if frame.counts != Counts::Nothing {
                meter::completed(rows).or_else(|refusal| limited(frame.key, refusal))?;
            }
            limit_timer::disarm();
        }
    }
    statement::close(frame.key);
    if frame.resets_all {
        guc::unbind();
    }
    if frame.sets_token {
        return session::settle();
    }
    Ok(())
}
