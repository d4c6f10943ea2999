//! object_access_hook: functions wherever they are prepared for execution, objects as they are dropped (also by a cascade),
//! truncated, created and altered. For fast-path calls and for expressions of utility statements it is the only hook.

use std::cell::RefCell;
use std::ffi::c_void;
use std::os::raw::c_int;

use pgrx::pg_sys;

use super::super::decided::Decided;
use super::super::defaults::{self, Belongs, Fills};
use super::super::enforce::{self, Target, Wanted};
use super::super::gather::functions::{self, Execution};
use super::super::gather::needs::Permit;
use super::super::gather::sequences;
use super::super::gather::{masked_ddl, parts};
use super::super::process::PerProcess;
use super::super::session::Session;
use super::super::{calls, catalog, drops, guc, meter, policies, session, synced, text, trail, upkeep};
use super::super::{record, statement};
use super::{checked, guarded, raise_if};
use crate::audit::event::AuditDecision;
use crate::refusal::Refusal;
use crate::request::{Action, Columns, Form, Kind, Verb, Voice};

/// pg_inherits (src/include/catalog/pg_inherits.h).
const INHERITS: pg_sys::Oid = pg_sys::Oid::from_u32(2611);

static mut PREVIOUS: pg_sys::object_access_hook_type = None;

/// Saves the previous hook and installs ours.
pub fn init() {
    // SAFETY: _PG_init runs alone; a plain function pointer.
    unsafe {
        PREVIOUS = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(object_access);
    }
}

/// A utility statement that is running.
struct Frame {
    permit: Permit,
    /// What it evaluates of defaults outside any plan.
    fills: Fills,
    /// CREATE TABLE or ALTER TABLE, which the server takes apart into statements of its own.
    derives: bool,
    /// TRUNCATE ... RESTART IDENTITY.
    restarts: bool,
    created: Vec<pg_sys::Oid>,
    dropped: Vec<pg_sys::Oid>,
    /// Parts of relations that were dropped, each with its relation: fine where the relation itself goes.
    parts: Vec<(pg_sys::Oid, Wanted)>,
    subtransaction: u32,
}

static FRAMES: PerProcess<RefCell<Vec<Frame>>> = PerProcess::new(RefCell::new(Vec::new()));

/// A utility statement begins.
pub fn enter(permit: Permit, node: *mut pg_sys::Node) {
    // SAFETY: the statement of the hook; the tag decides the cast. The subtransaction id is a plain value.
    let (fills, derives, restarts, subtransaction) = unsafe {
        use pg_sys::NodeTag as T;
        let derives =
            matches!((*node).type_, T::T_CreateStmt | T::T_CreateForeignTableStmt | T::T_AlterTableStmt);
        let restarts =
            (*node).type_ == T::T_TruncateStmt && (*node.cast::<pg_sys::TruncateStmt>()).restart_seqs;
        (Fills::of(node), derives, restarts, pg_sys::GetCurrentSubTransactionId())
    };
    let frame = Frame {
        permit,
        fills,
        derives,
        restarts,
        created: Vec::new(),
        dropped: Vec::new(),
        parts: Vec::new(),
        subtransaction,
    };
    FRAMES.with(|frames| frames.borrow_mut().push(frame));
}

/// The innermost utility statement that is running.
fn with_frame<T>(body: impl FnOnce(&mut Frame) -> T) -> Option<T> {
    FRAMES.with(|frames| frames.borrow_mut().last_mut().map(body))
}

/// Whether the innermost utility statement that is running is taken apart into further ones.
pub fn derives() -> bool {
    with_frame(|frame| frame.derives).unwrap_or(false)
}

/// The server is about to copy rows into a relation. The columns that it fills with their defaults.
pub fn copies_into(relation: pg_sys::Oid, filled: &Columns) -> Vec<i16> {
    with_frame(|frame| frame.fills.copies_into(relation, filled)).unwrap_or_default()
}

/// Whether the innermost utility statement that is running created this relation.
pub fn just_created(relation: pg_sys::Oid) -> bool {
    with_frame(|frame| frame.created.contains(&relation)).unwrap_or(false)
}

/// A utility statement has ended; a refusal where it took a part of a relation along that it may not.
pub fn leave() -> Option<Refusal> {
    let frame = FRAMES.with(|frames| frames.borrow_mut().pop())?;
    // The sequence of a serial column is made by a statement of its own.
    with_frame(|outer| {
        if outer.derives {
            outer.created.extend_from_slice(&frame.created);
        }
    });
    let left: Vec<(pg_sys::Oid, Wanted)> =
        frame.parts.into_iter().filter(|(relation, _)| !frame.dropped.contains(relation)).collect();
    if left.is_empty() {
        return None;
    }
    match session::current() {
        Ok(session) => left.into_iter().find_map(|(_, wanted)| part(&session, wanted).err()),
        Err(_) if guc::observing() => None,
        // Revoked or expired while it ran: what is still undecided is refused.
        Err(refusal) => Some(refusal),
    }
}

/// A part of a relation that stays: dropping it takes `drop <part>` on the relation, or altering the relation.
fn part(session: &Session, wanted: Wanted) -> Result<(), Refusal> {
    let alter = Wanted { action: Action::on(Verb::Alter, Kind::Table), ..wanted.clone() };
    let by_itself = held(session, &wanted)? || enforce::would_allow(session, &wanted)?;
    if by_itself || !enforce::would_allow(session, &alter)? {
        return enforce::enforce(session, &[wanted], Form::Plain);
    }
    enforce::enforce(session, &[alter], Form::Plain)
}

/// Whether a rule denies it or holds it for approval: altering the relation is then not enough.
fn held(session: &Session, wanted: &Wanted) -> Result<bool, Refusal> {
    Ok(!enforce::would_allow(session, &wanted.clone().by(Voice::View))?)
}

/// What is left to be decided with the relation of a part. A sequence that a column owns is an object by itself, and its name is
/// gone when the statement ends: what a rule says of it is decided at once, also where its table goes.
fn with_relation(relation: pg_sys::Oid, wanted: Wanted) -> Result<Option<Wanted>, Refusal> {
    if matches!(wanted.target, Target::Relation(part) if part == relation) {
        return Ok(Some(wanted));
    }
    let ruled = match session::current() {
        Ok(session) => held(&session, &wanted)? || enforce::would_allow(&session, &wanted)?,
        Err(_) => true,
    };
    if ruled {
        return enforce_one(wanted).map(|()| None);
    }
    let action = Action::on(Verb::Alter, Kind::Table);
    Ok(Some(Wanted { action, target: Target::Relation(relation), ..wanted }))
}

/// An error reached the top, or a subtransaction failed: its frames are gone.
pub fn forget_from(subtransaction: u32) {
    FRAMES.with(|frames| {
        if let Ok(mut frames) = frames.try_borrow_mut() {
            frames.retain(|frame| frame.subtransaction < subtransaction);
        }
    });
}

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    argument: *mut c_void,
) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        let looks = if guc::guarded() {
            !is_ordinary(access, object)
        } else {
            matches!(class, pg_sys::RelationRelationId | INHERITS) && changes_relation(access, sub, argument)
        };
        if looks {
            look(access, class, object, sub, argument);
        }
        if let Some(previous) = PREVIOUS {
            previous(access, class, object, sub, argument);
        }
    }
}

/// Apart, so that ordinary events pay for no frame.
#[inline(never)]
unsafe fn look(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    argument: *mut c_void,
) {
    // SAFETY: outer frame; see hooks/mod.rs.
    unsafe {
        if guc::guarded() {
            raise_if(checked(|| before(access, class, object, sub, argument)));
        }
        if class == pg_sys::RelationRelationId && changes_relation(access, sub, argument) {
            guarded(|| upkeep::touched(object));
        }
        // A child and, beside it, the parent that it leaves or gets.
        if class == INHERITS
            && access == pg_sys::ObjectAccessType::OAT_POST_ALTER
            && let Some(tie) = argument.cast::<pg_sys::ObjectAccessPostAlter>().as_ref()
        {
            let parent = tie.auxiliary_id;
            guarded(|| upkeep::parted(object, parent));
        }
    }
}

/// Whether masks and views of the relation may have to be looked after. What the server does for itself (the tables that
/// CLUSTER and REFRESH put away, temporary tables at the session's end) concerns no mask.
#[inline]
unsafe fn changes_relation(
    access: pg_sys::ObjectAccessType::Type,
    sub: c_int,
    argument: *mut c_void,
) -> bool {
    use pg_sys::ObjectAccessType as A;
    // SAFETY: the argument of each kind of event is null or as objectaccess.h says.
    unsafe {
        match access {
            // A column that is added.
            A::OAT_POST_CREATE => sub != 0,
            A::OAT_POST_ALTER => true,
            A::OAT_DROP => argument.cast::<pg_sys::ObjectAccessDrop>().as_ref().is_none_or(|drop| {
                drop.dropflags & i32::try_from(pg_sys::PERFORM_DELETION_INTERNAL).unwrap_or(0) == 0
            }),
            _ => false,
        }
    }
}

/// A free built-in in a statement: by far the commonest event, answered without entering the guard.
#[inline]
unsafe fn is_ordinary(access: pg_sys::ObjectAccessType::Type, object: pg_sys::Oid) -> bool {
    // SAFETY: compares plain values; the text is null during fast-path calls, which are always looked at.
    unsafe {
        access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE
            && functions::known_free(object)
            && !policies::may_deny_built_ins()
            && !pg_sys::debug_query_string.is_null()
    }
}

#[inline(never)]
fn before(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    argument: *mut c_void,
) -> Result<(), Refusal> {
    use pg_sys::ObjectAccessType as A;
    match access {
        A::OAT_FUNCTION_EXECUTE => function(object),
        A::OAT_TRUNCATE => truncated(object),
        A::OAT_DROP => {
            // SAFETY: the argument of OAT_DROP is an ObjectAccessDrop (objectaccess.h).
            let flags = unsafe { argument.cast::<pg_sys::ObjectAccessDrop>().as_ref() }
                .map_or(0, |drop| drop.dropflags);
            let internal = flags & i32::try_from(pg_sys::PERFORM_DELETION_INTERNAL).unwrap_or(0) != 0;
            if internal { Ok(()) } else { dropped(class, object, sub) }
        }
        A::OAT_POST_CREATE => {
            // SAFETY: the argument is null or an ObjectAccessPostCreate.
            let internal = unsafe { argument.cast::<pg_sys::ObjectAccessPostCreate>().as_ref() }
                .is_some_and(|create| create.is_internal);
            if class == pg_sys::RelationRelationId {
                with_frame(|frame| match i16::try_from(sub) {
                    Ok(column @ 1..) => frame.fills.added(object, column),
                    _ => {
                        frame.created.push(object);
                        if internal {
                            frame.fills.made_internally();
                        }
                    }
                });
            }
            if internal { Ok(()) } else { made(class, Verb::Create) }
        }
        A::OAT_POST_ALTER => {
            // SAFETY: the argument is null or an ObjectAccessPostAlter.
            let internal = unsafe { argument.cast::<pg_sys::ObjectAccessPostAlter>().as_ref() }
                .is_some_and(|alter| alter.is_internal);
            if internal { Ok(()) } else { made(class, Verb::Alter) }
        }
        // Looking a name up in a schema is no access.
        A::OAT_NAMESPACE_SEARCH => Ok(()),
        // A kind of event that a later server adds.
        _ => {
            enforce_one(Wanted { never: true, ..Wanted::named(Action::plain(Verb::System), Target::Nothing) })
        }
    }
}

/// No statement is being worked on and the client sent no text: a fast-path function call.
fn is_fast_path() -> bool {
    // SAFETY: a plain pointer of this process, null between messages and during fast-path calls (postgres.c).
    unsafe {
        // Inside a function it is that function's own matter: one that was called so, or an event trigger's at login.
        pg_sys::debug_query_string.is_null()
            && pg_sys::ParallelWorkerNumber < 0
            && !statement::any_active()
            && !calls::any()
    }
}

fn function(function: pg_sys::Oid) -> Result<(), Refusal> {
    let execution = functions::execution(function);
    if is_fast_path() {
        return fast_path(function, execution);
    }
    let voice = calls::voice();
    let wanted = match execution {
        Execution::Free => match denied_by_name(function)? {
            Some(wanted) => wanted,
            None => return Ok(()),
        },
        // Aggregates and the like bring theirs along in plans; a direct call is refused while planning.
        Execution::ServerOnly if statement::with_current(|open| !open.is_utility()).unwrap_or(true) => {
            return Ok(());
        }
        Execution::ServerOnly => {
            Wanted { never: true, ..Wanted::named(Action::plain(Verb::Execute), Target::Function(function)) }
        }
        Execution::Never if sequences::verb(function).is_some() && drawn_by_default(voice)? => return Ok(()),
        // Inside a function that lends, built-ins are that function's business; denies hold.
        Execution::Never if voice == Voice::Function && function.to_u32() < catalog::FIRST_NORMAL => {
            Wanted::named(Action::plain(Verb::Execute), Target::Function(function)).by(voice)
        }
        _ => match functions::wanted(function, voice) {
            Some(wanted) => wanted,
            None => return Ok(()),
        },
    };
    let others = match execution {
        Execution::Needs(Verb::System) => functions::handed_out(function),
        _ => Vec::new(),
    };
    enforce_one(wanted)?;
    others.into_iter().try_for_each(enforce_one)
}

/// As `functions::denied_by_name`, under this session's policy. Without a token nothing runs but what needs none.
fn denied_by_name(function: pg_sys::Oid) -> Result<Option<Wanted>, Refusal> {
    match session::current() {
        Ok(session) => Ok(functions::denied_by_name(function, &*policies::policy(session.policy_id)?)),
        Err(_) => Ok(None),
    }
}

/// Whether a sequence function is announced for a default that COPY FROM or ALTER TABLE evaluates, and what it uses allowed.
fn drawn_by_default(voice: Voice) -> Result<bool, Refusal> {
    let columns = match with_frame(|frame| frame.fills.announced()) {
        None | Some(Belongs::No) => return Ok(false),
        Some(Belongs::Decided) => return Ok(true),
        Some(Belongs::Perhaps(columns)) => columns,
    };
    let session = match session::current() {
        Ok(session) => session,
        Err(_) if guc::observing() => return Ok(true),
        Err(refusal) => return Err(refusal),
    };
    let policy = policies::policy(session.policy_id)?;
    let (uses, calls) = defaults::uses(&columns);
    let mut wanted = Vec::new();
    for one in uses {
        // Which sequence it is only the run would tell.
        let Some((sequence, verb)) = one else { return Ok(false) };
        if !just_created(sequence) {
            wanted.extend(sequences::wanted(&policy, sequence, verb, voice));
        }
    }
    enforce::enforce_under(&session, &policy, &wanted, Form::Plain)?;
    with_frame(|frame| frame.fills.decided(calls));
    Ok(calls > 0)
}

/// Nothing else sees a fast-path call: token, decision and record are all here.
fn fast_path(function: pg_sys::Oid, execution: Execution) -> Result<(), Refusal> {
    let object = catalog::function_object(function);
    let name = object.as_ref().map(ToString::to_string).unwrap_or_default();
    let session = match session::current() {
        Ok(session) => session,
        Err(_) if guc::observing() => return Ok(()),
        Err(refusal) => {
            record::record_refused_alone("FASTPATH", &name, None, &refusal);
            return Err(refusal);
        }
    };
    trail::release(trail::reserve(trail::cost(0))?);
    meter::opened(&session, || false).and_then(|()| meter::untimed()).inspect_err(|refusal| {
        record::record_refused_alone("FASTPATH", &name, None, refusal);
    })?;
    let wanted = match execution {
        Execution::ServerOnly => Some(Wanted {
            never: true,
            ..Wanted::named(Action::plain(Verb::Execute), Target::Function(function))
        }),
        Execution::Free => denied_by_name(function)?,
        _ => functions::wanted(function, Voice::Named),
    };
    let outcome = match wanted {
        Some(wanted) => Some(enforce::decide_alone(&session, &wanted)?),
        None => None,
    };
    match outcome {
        Some((decided, Some(refusal))) if decided.decision == AuditDecision::Deny => {
            record::record_refused_alone("FASTPATH", &name, Some(&decided), &refusal);
            Err(refusal)
        }
        Some((decided, _)) => {
            record::record_alone("FASTPATH", &name, &decided);
            synced::wait_at_top()
        }
        None => {
            let decided = Decided {
                action: Action::plain(Verb::Execute),
                object: object.map(std::sync::Arc::new),
                name: name.as_str().into(),
                columns: None,
                decision: AuditDecision::Allow,
                rule: None,
            };
            record::record_alone("FASTPATH", &name, &decided);
            synced::wait_at_top()
        }
    }
}

fn enforce_one(wanted: Wanted) -> Result<(), Refusal> {
    let session = match session::current() {
        Ok(session) => session,
        Err(_) if guc::observing() => return Ok(()),
        Err(refusal) => {
            if !statement::any_active() {
                record::record_refused_alone("", &text::current(), None, &refusal);
            }
            return Err(refusal);
        }
    };
    enforce::enforce(&session, &[wanted], Form::Plain)
}

fn truncated(relid: pg_sys::Oid) -> Result<(), Refusal> {
    let temporary = catalog::relation_facts(relid).is_some_and(|facts| facts.temporary);
    masked_ddl::truncate(relid).inspect_err(enforce::note_refusal)?;
    let verb = if temporary { Verb::Temporary } else { Verb::Truncate };
    enforce_one(Wanted::named(Action::plain(verb), Target::Relation(relid)).by(calls::voice()))?;
    let restarts = with_frame(|frame| frame.restarts).unwrap_or(false);
    let restarted = if restarts { parts::restarted(relid) } else { Vec::new() };
    restarted.into_iter().try_for_each(enforce_one)
}

fn dropped(class: pg_sys::Oid, object: pg_sys::Oid, sub: c_int) -> Result<(), Refusal> {
    let voice = calls::voice();
    match drops::dropped(class, object, sub) {
        drops::Drop::Nothing => Ok(()),
        drops::Drop::Object(wanted) => {
            if let Target::Relation(relid) = wanted.target {
                with_frame(|frame| frame.dropped.push(relid));
            }
            enforce_one(wanted.by(voice))
        }
        drops::Drop::Part(relation, wanted) => {
            let Some(wanted) = with_relation(relation, wanted.by(voice))? else { return Ok(()) };
            let kept = with_frame(|frame| frame.parts.push((relation, wanted.clone())));
            if kept.is_some() { Ok(()) } else { enforce_one(wanted) }
        }
    }
}

/// Something was created or altered: only a statement that was decided as one that does so may.
fn made(class: pg_sys::Oid, verb: Verb) -> Result<(), Refusal> {
    let permitted = with_frame(|frame| frame.permit == Permit::Objects);
    if permitted == Some(true) || calls::voice() == Voice::Function {
        return Ok(());
    }
    let kind = drops::kind_of_class(class).unwrap_or(Kind::Table);
    enforce_one(Wanted::named(Action::on(verb, kind), Target::Nothing))
}

/// The kind of object that a relkind stands for.
pub fn relation_kind(kind: u8) -> Kind {
    match kind {
        b'v' => Kind::View,
        b'm' => Kind::MaterializedView,
        b'i' | b'I' => Kind::Index,
        b'S' => Kind::Sequence,
        b'f' => Kind::ForeignTable,
        b'c' => Kind::Type,
        _ => Kind::Table,
    }
}
