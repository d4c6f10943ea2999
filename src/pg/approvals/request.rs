//! A request on its way: from the agent through the ring to the writer and its table, and the words that the agent reads.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pgrx::pg_sys;
use serde_json::{Value, json};

use super::super::admin_error::AdminResult;
use super::super::policies::Policy;
use super::super::process::PerProcess;
use super::super::session::Session;
use super::super::store::approval as store;
use super::super::{record, trail};
use super::table::{self, Found};
use super::{Asked, basis, plan};
use crate::audit::event::{AuditDecision, EventKind, prefix};
use crate::audit::record::{MAX_REQUEST, OwnedEvent};
use crate::audit::redact::redact;
use crate::decision::RuleId;
use crate::refusal::{Refusal, SqlState};
use crate::token::hex;

/// What the current statement brings to be asked for.
pub struct Asking {
    pub words: Option<Refusal>,
    pub rules: Vec<RuleId>,
    /// What it touches, as far as that is known.
    pub items: Vec<String>,
    /// The utility statement that has yet to run; 0 for none.
    pub node: usize,
    /// It touches more than is known.
    pub incomplete: bool,
    /// What it has come upon while it runs.
    pub beyond: Vec<String>,
    /// What was agreed to, with its hash.
    pub approved: Option<([u8; 32], Vec<String>)>,
}

/// What exactly is asked for.
pub struct Basis<'a> {
    pub fingerprint: [u8; 32],
    pub objects: &'a [String],
    pub found: &'a [String],
    pub parameters: Option<Vec<Option<String>>>,
    /// The query that is held, its executor started; null for any other statement.
    pub query: *mut pg_sys::QueryDesc,
}

/// How much of a statement's text is shown; all of it is in the hash.
const SHOWN: usize = 12 * 1024;
/// How many bytes of one parameter are shown.
const SHOWN_VALUE: usize = 1024;

/// Makes a request and waits until it is stored for good; the request that stands for the statement then, `None` where
/// there is none.
///
/// # Errors
/// The refusal of a statement that is too large to be put to anybody.
pub fn make(
    session: &Session,
    policy: &Policy,
    chain: &[Asked],
    rules: &[RuleId],
    basis: Basis<'_>,
) -> Result<Option<Found>, Refusal> {
    let Some(own) = chain.last() else { return Ok(None) };
    let Some(id) = random_id() else { return Ok(None) };
    let token = &session.token;
    let block = token.block_ids().last().map(|id| hex(id)).unwrap_or_default();
    let shown = |value: &Option<String>| {
        value.as_deref().map(|value| redact(prefix(value, SHOWN_VALUE)).into_owned())
    };
    let parameters = basis.parameters.as_deref().or(own.parameters.as_deref());
    let parameters: Option<Vec<Option<String>>> = parameters.map(|list| list.iter().map(shown).collect());
    // SAFETY: the process id; a GUC string of this process.
    let (pid, application) = unsafe {
        (pg_sys::MyProcPid, super::super::catalog::text(pg_sys::application_name).unwrap_or_default())
    };
    let mut request = json!({
        "request_id": uuid(&id),
        "request_key": uuid(&table::key(&basis.fingerprint)),
        "fingerprint": hex(&basis.fingerprint),
        "objects": basis.objects,
        "found": basis.found,
        "window_id": uuid(token.window()),
        "block_id": block,
        "statement": redact(prefix(&own.text, SHOWN)),
        "statement_length": own.text.len(),
        "session_id": uuid(&session.id),
        "lineage": token.lineage(),
        "role": session.role,
        "client_addr": session.address,
        "application_name": application,
        "pid": pid,
        "policy": policy.name,
        "policy_version": policy.version,
        "command": own.command,
        "parameters": parameters,
        "context": basis::context(chain).iter().map(|text| redact(text).into_owned()).collect::<Vec<_>>(),
        "search_path": basis::setting(c"search_path"),
        "rule_ids": rules,
    });
    let without_plan = request.to_string();
    // A secret in a condition would go past redaction, as the numbers of its bytes.
    let secret = chain.iter().any(|asked| hides(&asked.text, asked.parameters.as_deref()))
        || hides("", basis.parameters.as_deref());
    if let (false, Some(parts)) = (basis.query.is_null() || secret, request.as_object_mut()) {
        // SAFETY: the query's executor has started.
        let (explained, changes) = unsafe { (plan::explained(basis.query), plan::changes(basis.query)) };
        parts.insert("plan".to_owned(), explained.into());
        parts.insert("changes".to_owned(), changes.into());
    }
    let with_plan = request.to_string();
    let text = if with_plan.len() <= MAX_REQUEST { with_plan } else { without_plan };
    let room = text.len() <= MAX_REQUEST;
    let message = format!("approval asked for: request {}", uuid(&id));
    if !room
        || !record::record_approval(Some(&text), &message, AuditDecision::Approve, rules.first().copied())
    {
        return Ok(None);
    }
    if !trail::wait_until_stored() {
        return Ok(None);
    }
    Ok(table::newest(&basis.fingerprint).filter(|found| {
        found.known.state == "pending"
            && found.known.objects == basis.objects
            && found.known.found == basis.found
    }))
}

/// Whether a text or one of its parameters holds what is to be redacted.
fn hides(text: &str, parameters: Option<&[Option<String>]>) -> bool {
    let secret = |text: &str| matches!(redact(text), Cow::Owned(_));
    secret(text) || parameters.unwrap_or_default().iter().flatten().any(|value| secret(value))
}

/// A random uuid of version 4.
fn random_id() -> Option<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).ok()?;
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut id;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    Some(id)
}

/// The text form of a uuid.
pub fn uuid(id: &[u8; 16]) -> String {
    pgrx::datum::Uuid::from_bytes(*id).to_string()
}

/// The writer's part: stores the requests among a batch of events, in the batch's own transaction, and tells approvers; not
/// with the text, because everybody may listen.
/// Such a batch is on disk when it is committed: the agent is told of a request that no crash takes back.
///
/// # Errors
/// Where the database does not take one.
pub fn store_requests<'a>(events: impl Iterator<Item = &'a OwnedEvent>) -> AdminResult<()> {
    let requests = events.filter(|event| event.kind == EventKind::ApprovalRequest);
    for text in requests.filter_map(|event| event.parameters()?.next()?) {
        let Ok(request) = serde_json::from_str::<Value>(text) else { continue };
        store::add_request(&request)?;
        store::notify(&json!({
            "event": "request",
            "request_id": request.get("request_id"),
            "state": "pending",
            "lineage": request.get("lineage"),
            "policy": request.get("policy"),
            "command": request.get("command"),
        }))?;
        remove_ended()?;
        // SAFETY: sets a flag of the open transaction.
        unsafe { pg_sys::ForceSyncCommit() };
    }
    Ok(())
}

/// How often a writer looks for requests that ended too long ago, at most.
const LOOK_AFTER: Duration = Duration::from_secs(60);

static LOOKED_AT: PerProcess<Cell<Option<Instant>>> = PerProcess::new(Cell::new(None));

/// Old requests go where new ones come, so that the table does not grow for ever. A look that is rolled back with its batch
/// is made up for by a later one.
fn remove_ended() -> AdminResult<()> {
    let Some(retention) = super::wait::retention() else { return Ok(()) };
    if LOOKED_AT.get().is_some_and(|at| at.elapsed() < LOOK_AFTER.min(retention)) {
        return Ok(());
    }
    LOOKED_AT.set(Some(Instant::now()));
    store::remove_ended(retention.as_secs_f64())
}

/// What an approver did, for whoever listens.
///
/// # Errors
/// Where the notification cannot be queued.
pub fn announce(event: &str, request: &str, state: &str, by: &str) -> AdminResult<()> {
    store::notify(&json!({ "event": event, "request_id": request, "state": state, "by": by }))
}

/// What an approver's open transaction has decided, with whether it was an approval.
static DECIDED: PerProcess<RefCell<Vec<(String, bool)>>> = PerProcess::new(RefCell::new(Vec::new()));

/// Whether there is anything in it: every transaction of the server asks.
static ANY_DECIDED: AtomicBool = AtomicBool::new(false);

/// Puts a decision into the trail when this transaction commits.
pub fn record_at_commit(message: String, approved: bool) {
    DECIDED.with(|decided| {
        if let Ok(mut decided) = decided.try_borrow_mut() {
            decided.push((message, approved));
        }
    });
    ANY_DECIDED.store(true, Ordering::Relaxed);
}

/// The transaction callback's part; neither raises nor panics.
#[inline]
pub fn transaction_ended(event: pg_sys::XactEvent::Type) {
    if ANY_DECIDED.load(Ordering::Relaxed) {
        tell_decided(event);
    }
}

#[cold]
#[inline(never)]
fn tell_decided(event: pg_sys::XactEvent::Type) {
    let committed = event == pg_sys::XactEvent::XACT_EVENT_COMMIT;
    if !committed && event != pg_sys::XactEvent::XACT_EVENT_ABORT {
        return;
    }
    ANY_DECIDED.store(false, Ordering::Relaxed);
    let decided = DECIDED.with(|decided| decided.try_borrow_mut().map(|mut list| std::mem::take(&mut *list)));
    for (message, approved) in decided.unwrap_or_default().into_iter().filter(|_| committed) {
        let decision = if approved { AuditDecision::Allow } else { AuditDecision::Deny };
        record::record_approval(None, &message, decision, None);
    }
    if committed {
        super::wait::decided();
    }
}

/// The approval is being used: recorded, and told when the agent's transaction commits.
pub fn used(session: &Session, found: &Found) {
    let id = uuid(&found.id);
    let by = session.token.lineage().join(" > ");
    record::record_approval(None, &format!("runs with approval: request {id}"), AuditDecision::Allow, None);
    let payload = json!({ "event": "use", "request_id": id, "state": "used", "by": by }).to_string();
    table::notify("agent_guard_approval", &payload);
}

fn held(
    words: Refusal,
    sqlstate: SqlState,
    reason: &'static str,
    found: &Found,
    more: &str,
    hint: &str,
) -> Refusal {
    let id = uuid(&found.id);
    Refusal {
        sqlstate,
        reason,
        detail: format!("request={id} {} {more}", words.detail).trim_end().to_owned(),
        hint: hint.replace("<id>", &id),
        ..words
    }
}

/// A request, and how long a session may wait for it, as far as the rules say.
pub type Awaited = ([u8; 16], Option<Duration>);

/// The request that a statement of this session was last refused with.
static LAST_ASKED: PerProcess<Cell<Option<Awaited>>> = PerProcess::new(Cell::new(None));

/// The request that a statement of this session was last refused with.
pub fn last_asked() -> Option<Awaited> {
    LAST_ASKED.get()
}

/// Somebody has yet to decide.
pub fn pending(words: Refusal, found: &Found) -> Refusal {
    LAST_ASKED.set(Some((found.id, found.max_wait)));
    let more = format!("{} of {} approvals are given.", found.given, found.needed);
    held(
        words,
        SqlState::ApprovalRequired,
        "needs_approval",
        found,
        &more,
        "An approver decides with agent_guard.approve('<id>') or agent_guard.reject('<id>'); run the very same statement again after that. SELECT * FROM agent_guard.my_approvals() shows the state.",
    )
}

/// Another session is using the approval, or somebody is deciding on it at this moment.
pub fn busy(words: Refusal, found: &Found) -> Refusal {
    held(
        words,
        SqlState::ApprovalRequired,
        "approval_busy",
        found,
        "The approval is being used by another session, or changed, at this moment.",
        "Run the statement again in a moment; one approval is good for one execution.",
    )
}

/// Somebody has said no.
pub fn rejected(words: Refusal, found: &Found) -> Refusal {
    let comment = found.comment.as_deref().unwrap_or("");
    let more = if comment.is_empty() { String::new() } else { format!("Comment: {}", prefix(comment, 1000)) };
    Refusal {
        message: format!("an approver has rejected this statement: {}", words.message),
        ..held(
            words,
            SqlState::ApprovalRejected,
            "rejected",
            found,
            &more,
            "Do without it, or ask for something else; the very same statement stays rejected for a while.",
        )
    }
}
