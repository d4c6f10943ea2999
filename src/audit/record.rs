//! The bytes of an event: how it lies in the ring, and how it is read back.
//!
//! Little-endian, one version byte in front, no alignment. Encoding never fails: what does not fit is cut and the
//! event says so. Read back by `decode.rs`.
//!
//! ```text
//! head  version kind decision flags decider  at pid xid level rows duration policy_version statement_len
//!       [rule_id] [sqlstate] [statement_sha256] [types parameters [length sha256] | numbers]      (by flags)
//! tail  session_id [window_id] role client_addr lineage application_name command message statement accesses [results]
//! ```
//!
//! Numbers are a u16 of ones, a u16 count and for each its type, whether it is there, and its value. A text is a u32 length and its bytes, with u32::MAX as the length of NULL; a list has a u16 count in front. The
//! tail is the same whenever a statement comes again in a session, and so is most of the head: `Again` is encoded once.

#![forbid(unsafe_code)]

use sha2::{Digest, Sha256};

pub use crate::audit::decode::{Malformed, decode};
use crate::audit::event::{
    AccessRecord, AuditDecision, AuditEvent, EventKind, MAX_EVENT, MAX_STATEMENT, prefix, whole_list,
};
use crate::audit::results::MAX_PART;
pub use crate::audit::stored::OwnedEvent;
use crate::refusal::Decider;

/// The least room in which every event fits, however much of it has to be cut.
pub const MIN_EVENT: usize = 1024;

pub(super) const VERSION: u8 = 4;
const MAX_ACCESSES: usize = 256;
pub(super) const NULL_LENGTH: u32 = u32::MAX;
pub(super) const NO_KIND: u8 = u8::MAX;
/// In place of the number of types: parameters are numbers, and follow as such.
pub(super) const NUMBERS: u16 = u16::MAX;
/// The byte of the decider: a block's index, or one of these.
const NO_DECIDER: u8 = u8::MAX;
const WINDOW_DECIDES: u8 = u8::MAX - 1;

pub(super) const HAS_WINDOW: u8 = 1;
pub(super) const HAS_SHA256: u8 = 2;
pub(super) const HAS_RULE: u8 = 4;
pub(super) const HAS_SQLSTATE: u8 = 8;
pub(super) const HAS_PARAMETERS: u8 = 16;
pub(super) const CUT_PARAMETERS: u8 = 32;
pub(super) const CUT_ACCESSES: u8 = 64;
pub(super) const CUT_OTHER: u8 = 128;

/// How many bytes each part of an event may take.
#[derive(Clone, Copy)]
struct Caps {
    statement: usize,
    parameters: usize,
    accesses: usize,
    results: usize,
    lineage: usize,
    message: usize,
    name: usize,
}

/// Together below `MAX_EVENT`.
const FULL: Caps = Caps {
    statement: MAX_STATEMENT,
    parameters: 8 * 1024,
    accesses: 12 * 1024,
    results: 0,
    lineage: 4 * 1024,
    message: 2 * 1024,
    name: 256,
};

/// Together below `MIN_EVENT`.
const LEAST: Caps =
    Caps { statement: 128, parameters: 0, accesses: 0, results: 0, lineage: 128, message: 128, name: 64 };

/// A request for approval is carried by the parameters; what would be cut is not asked for.
const REQUEST: Caps = Caps { statement: 8 * 1024, parameters: MAX_REQUEST + 16, accesses: 0, ..FULL };

/// A part of a result is whole or not there: what makes it has reserved the room.
const RESULTS: Caps = Caps { statement: 0, parameters: 0, accesses: 0, results: MAX_PART, ..FULL };

/// The most bytes of a request for approval.
pub const MAX_REQUEST: usize = 40 * 1024;

/// Appends the event to `out`, cutting each part at its cap; at most `MAX_EVENT` bytes.
pub fn encode(event: &AuditEvent, out: &mut Vec<u8>) {
    encode_capped(event, &caps_of(event.kind), out);
}

fn caps_of(kind: EventKind) -> Caps {
    match kind {
        EventKind::ApprovalRequest => REQUEST,
        EventKind::Results => RESULTS,
        _ => FULL,
    }
}

/// Appends the event to `out` in at most `limit` bytes (not below `MIN_EVENT`): first parameters give way, then
/// the statement's end, then accesses.
pub fn encode_within(event: &AuditEvent, limit: usize, out: &mut Vec<u8>) {
    let start = out.len();
    let limit = limit.clamp(MIN_EVENT, MAX_EVENT);
    let mut caps = Caps { results: caps_of(event.kind).results, ..FULL };
    for step in 0..5 {
        out.truncate(start);
        encode_capped(event, &caps, out);
        let excess = out.len().saturating_sub(start).saturating_sub(limit);
        if excess == 0 {
            return;
        }
        match step {
            0 => caps.parameters = caps.parameters.min(2048),
            1 => {
                let kept = prefix(event.statement, caps.statement).len();
                // 32 for the SHA-256 that a cut text brings with it.
                caps.statement = kept.saturating_sub(excess.saturating_add(32)).max(512);
            }
            2 => {
                caps = Caps { parameters: 256, accesses: 2048, statement: 512, ..LEAST };
            }
            _ => caps = LEAST,
        }
    }
}

/// What comes before the tail.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are those of AuditEvent")]
pub struct Head<'a> {
    pub kind: EventKind,
    pub decision: AuditDecision,
    pub decided_by: Option<Decider>,
    pub at: i64,
    pub pid: i32,
    pub xid: u64,
    pub level: u16,
    pub rows: i64,
    pub duration_us: i64,
    pub policy_version: i64,
    pub statement_len: u64,
    pub rule_id: Option<i64>,
    pub sqlstate: Option<[u8; 5]>,
    pub statement_sha256: Option<[u8; 32]>,
    pub parameters: Option<&'a [Option<String>]>,
    pub parameter_types: &'a [u32],
}

/// A bind parameter that is a whole number, or NULL: by far the commonest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The OID of its type.
    pub type_oid: u32,
    /// `None` for NULL.
    pub value: Option<i64>,
}

/// What differs from one run of a statement to the next in the same session.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are those of AuditEvent")]
pub struct Turn<'a> {
    pub at: i64,
    pub xid: u64,
    pub rows: i64,
    pub duration_us: i64,
    /// At most `Again::NUMBERS_MAX`.
    pub parameters: &'a [Number],
}

/// An event that comes again whenever its statement does, encoded once: who, with which application, what, on what.
#[derive(Clone, Debug)]
pub struct Again {
    /// The fixed part and the rule, of which `front_len` bytes count.
    front: [u8; FIXED + 8],
    front_len: usize,
    tail: Box<[u8]>,
}

impl Again {
    /// How many parameters a turn may have.
    pub const NUMBERS_MAX: usize = 32;

    /// From an event of which the text is whole, that has neither failed nor parameters.
    pub fn of(event: &AuditEvent) -> Again {
        let mut tail = Vec::with_capacity(512);
        let flags = put_tail(event, prefix(event.statement, FULL.statement), &FULL, &mut tail);
        let head = Head { sqlstate: None, statement_sha256: None, parameters: None, ..event.head() };
        let mut bytes = Vec::with_capacity(FIXED + 8);
        put_head(&head, flags, 0, &mut bytes);
        let mut front = [0; FIXED + 8];
        let front_len = bytes.len().min(front.len());
        front.iter_mut().zip(&bytes).for_each(|(place, byte)| *place = *byte);
        Again { front, front_len, tail: tail.into() }
    }

    /// Appends what comes before the tail, which is returned; together they read back as what `encode` would append.
    #[inline]
    pub fn put(&self, turn: &Turn, out: &mut Vec<u8>) -> &[u8] {
        let mut front = self.front;
        set(&mut front, AT_AT, turn.at.to_le_bytes());
        set(&mut front, XID_AT, turn.xid.to_le_bytes());
        set(&mut front, ROWS_AT, turn.rows.to_le_bytes());
        set(&mut front, DURATION_AT, turn.duration_us.to_le_bytes());
        if let Some(flags) = front.get_mut(FLAGS_AT).filter(|_| !turn.parameters.is_empty()) {
            *flags |= HAS_PARAMETERS;
        }
        // Of a constant length, so that it needs no call.
        let start = out.len();
        out.extend_from_slice(&front);
        out.truncate(start.saturating_add(self.front_len));
        if !turn.parameters.is_empty() {
            put_numbers(turn.parameters, out);
        }
        &self.tail
    }
}

/// Puts numbers as they are: their digits are the reader's to write.
fn put_numbers(numbers: &[Number], out: &mut Vec<u8>) {
    let [low, high] = u16::try_from(numbers.len()).unwrap_or(0).to_le_bytes();
    let [mark_low, mark_high] = NUMBERS.to_le_bytes();
    out.extend_from_slice(&[mark_low, mark_high, low, high]);
    for number in numbers {
        let mut bytes = [0; 13];
        let mut rest = bytes.as_mut_slice();
        put_fixed(number.type_oid.to_le_bytes(), &mut rest);
        put_fixed([u8::from(number.value.is_some())], &mut rest);
        put_fixed(number.value.unwrap_or(0).to_le_bytes(), &mut rest);
        out.extend_from_slice(&bytes);
    }
}

fn encode_capped(event: &AuditEvent, caps: &Caps, out: &mut Vec<u8>) {
    let statement = prefix(event.statement, caps.statement);
    let statement_sha256 = event.statement_sha256.or_else(|| {
        (statement.len() < event.statement.len()).then(|| Sha256::digest(event.statement).into())
    });
    let flags_at = out.len().saturating_add(FLAGS_AT);
    // Enough for nearly every event, so that the buffer grows at most once.
    out.reserve(statement.len().saturating_add(1024));
    put_head(&Head { statement_sha256, ..event.head() }, 0, caps.parameters, out);
    let flags = put_tail(event, statement, caps, out);
    if let Some(byte) = out.get_mut(flags_at) {
        *byte |= flags;
    }
}

fn put_head(head: &Head, tail_flags: u8, parameters_cap: usize, out: &mut Vec<u8>) {
    let flags_at = out.len().saturating_add(FLAGS_AT);
    let mut flags = tail_flags;
    let mut flag = |present: bool, bit: u8| flags |= if present { bit } else { 0 };
    flag(head.rule_id.is_some(), HAS_RULE);
    flag(head.sqlstate.is_some(), HAS_SQLSTATE);
    flag(head.statement_sha256.is_some(), HAS_SHA256);
    flag(head.parameters.is_some(), HAS_PARAMETERS);
    out.extend_from_slice(&fixed_part(head, flags));
    if let Some(rule) = head.rule_id {
        out.extend_from_slice(&rule.to_le_bytes());
    }
    if let Some(code) = &head.sqlstate {
        out.extend_from_slice(code);
    }
    if let Some(digest) = &head.statement_sha256 {
        out.extend_from_slice(digest);
    }
    if let Some(parameters) = head.parameters {
        let (room, cut_types) = put_types(head.parameter_types, parameters_cap, out);
        let cut = put_list(parameters.iter().map(Option::as_deref), room, usize::MAX, out);
        if (cut || cut_types)
            && let Some(byte) = out.get_mut(flags_at)
        {
            *byte |= CUT_PARAMETERS;
            put_whole(parameters, out);
        }
    }
}

/// Puts what tells the whole of a list that was cut: its length and SHA-256.
#[cold]
fn put_whole(parameters: &[Option<String>], out: &mut Vec<u8>) {
    let (length, sha256) = whole_list(parameters);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&sha256);
}

/// Puts the types of parameters, in a quarter of their room at most; the room that is left, and whether some are missing.
fn put_types(types: &[u32], cap: usize, out: &mut Vec<u8>) -> (usize, bool) {
    let kept = types.get(..types.len().min(cap / 16)).unwrap_or(&[]);
    out.extend_from_slice(&u16::try_from(kept.len()).unwrap_or(0).to_le_bytes());
    for oid in kept {
        out.extend_from_slice(&oid.to_le_bytes());
    }
    (cap.saturating_sub(kept.len().saturating_mul(4)), kept.len() < types.len())
}

/// Puts the tail; the flags that it brings.
fn put_tail(event: &AuditEvent, statement: &str, caps: &Caps, out: &mut Vec<u8>) -> u8 {
    out.extend_from_slice(&event.session_id);
    if let Some(id) = &event.window_id {
        out.extend_from_slice(id);
    }
    let mut cut = put_prefix(event.role, caps.name, out);
    cut |= put_prefix(event.client_addr, caps.name, out);
    let lineage = event.lineage.iter().map(|name| Some(name.as_str()));
    cut |= put_list(lineage, caps.lineage, caps.name, out);
    cut |= put_prefix(event.application_name, caps.name, out);
    cut |= put_prefix(event.command, caps.name, out);
    cut |= put_prefix(event.message, caps.message, out);
    put_text(statement, out);
    let mut flags = if event.window_id.is_some() { HAS_WINDOW } else { 0 };
    flags |= if put_accesses(event.accesses, caps.accesses, out) { CUT_ACCESSES } else { 0 };
    if event.kind == EventKind::Results {
        let kept = if event.results.len() <= caps.results { event.results } else { &[] };
        cut |= kept.len() < event.results.len();
        out.extend_from_slice(&u32::try_from(kept.len()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(kept);
    }
    flags | if cut { CUT_OTHER } else { 0 }
}

/// The bytes of the fixed part.
const FIXED: usize = 59;
/// Where the flags are in it, and what differs from one turn to the next.
const FLAGS_AT: usize = 3;
const AT_AT: usize = 5;
const XID_AT: usize = 17;
const ROWS_AT: usize = 27;
const DURATION_AT: usize = 35;

/// Laid out as one array, which is put at once.
fn fixed_part(head: &Head, flags: u8) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    let mut rest = fixed.as_mut_slice();
    let decider = decider_byte(head.decided_by);
    put_fixed([VERSION, head.kind as u8, head.decision as u8, flags, decider], &mut rest);
    put_fixed(head.at.to_le_bytes(), &mut rest);
    put_fixed(head.pid.to_le_bytes(), &mut rest);
    put_fixed(head.xid.to_le_bytes(), &mut rest);
    put_fixed(head.level.to_le_bytes(), &mut rest);
    put_fixed(head.rows.to_le_bytes(), &mut rest);
    put_fixed(head.duration_us.to_le_bytes(), &mut rest);
    put_fixed(head.policy_version.to_le_bytes(), &mut rest);
    put_fixed(head.statement_len.to_le_bytes(), &mut rest);
    fixed
}

fn decider_byte(decider: Option<Decider>) -> u8 {
    match decider {
        None => NO_DECIDER,
        Some(Decider::Window) => WINDOW_DECIDES,
        // A chain has eight blocks at most.
        Some(Decider::Block(index)) => u8::try_from(index).unwrap_or(NO_DECIDER),
    }
}

pub(super) fn decider_of_byte(byte: u8) -> Option<Decider> {
    match byte {
        NO_DECIDER => None,
        WINDOW_DECIDES => Some(Decider::Window),
        index => Some(Decider::Block(usize::from(index))),
    }
}

/// Writes over what stands at a constant place.
#[inline(always)]
fn set<const N: usize>(bytes: &mut [u8; FIXED + 8], at: usize, value: [u8; N]) {
    // INVARIANT: the places are those of `fixed_part`; the tests compare with what `encode` puts.
    if let Some(place) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = value;
    }
}

#[inline(always)]
fn put_fixed<const N: usize>(bytes: [u8; N], rest: &mut &mut [u8]) {
    // INVARIANT: what is put adds up to FIXED, which the tests' round trip would notice.
    if let Some((place, behind)) = std::mem::take(rest).split_first_chunk_mut::<N>() {
        *place = bytes;
        *rest = behind;
    }
}

/// Puts the beginning of a text; true where the rest was cut.
#[inline(always)]
fn put_prefix(text: &str, cap: usize, out: &mut Vec<u8>) -> bool {
    let kept = prefix(text, cap);
    put_text(kept, out);
    kept.len() < text.len()
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    // INVARIANT: every text was cut by a cap far below u32::MAX.
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
    if !text.is_empty() {
        out.extend_from_slice(text.as_bytes());
    }
}

/// Puts as many items as fit in `cap` bytes; true where something was cut.
fn put_list<'a>(
    items: impl Iterator<Item = Option<&'a str>>,
    cap: usize,
    item_cap: usize,
    out: &mut Vec<u8>,
) -> bool {
    let count_at = out.len();
    out.extend_from_slice(&0_u16.to_le_bytes());
    let end = out.len().saturating_add(cap);
    let (mut count, mut cut) = (0_u16, false);
    for item in items {
        let room = end.saturating_sub(out.len());
        if room < 8 || count == u16::MAX {
            cut = true;
            break;
        }
        match item {
            None => out.extend_from_slice(&NULL_LENGTH.to_le_bytes()),
            Some(text) => {
                let kept = prefix(text, item_cap.min(room.saturating_sub(4)));
                cut |= kept.len() < text.len();
                put_text(kept, out);
            }
        }
        count = count.saturating_add(1);
    }
    set_count(count_at, count, out);
    cut
}

fn put_accesses(accesses: &[AccessRecord], cap: usize, out: &mut Vec<u8>) -> bool {
    let count_at = out.len();
    out.extend_from_slice(&0_u16.to_le_bytes());
    let end = out.len().saturating_add(cap);
    let mut count = 0_u16;
    for access in accesses.iter().take(MAX_ACCESSES) {
        let name = prefix(access.name, 256);
        let columns = prefix(access.columns, 1024);
        let need = name.len().saturating_add(columns.len()).saturating_add(25);
        if end.saturating_sub(out.len()) < need {
            break;
        }
        let kind = access.kind.map_or(NO_KIND, |kind| kind as u8);
        let has_rule = u8::from(access.rule.is_some());
        let mut fixed = [0; 17];
        let mut rest = fixed.as_mut_slice();
        let bytes = [access.verb as u8, kind, access.class as u8, access.decision as u8, has_rule];
        put_fixed(bytes, &mut rest);
        put_fixed(access.oid.to_le_bytes(), &mut rest);
        put_fixed(access.rule.unwrap_or(0).to_le_bytes(), &mut rest);
        out.extend_from_slice(&fixed);
        put_text(name, out);
        put_text(columns, out);
        count = count.saturating_add(1);
    }
    set_count(count_at, count, out);
    usize::from(count) < accesses.len()
}

fn set_count(at: usize, count: u16, out: &mut [u8]) {
    if let Some(bytes) = out.get_mut(at..at.saturating_add(2)) {
        bytes.copy_from_slice(&count.to_le_bytes());
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
