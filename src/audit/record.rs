//! The bytes of an event: how it lies in the ring, and how it is read back.
//!
//! Little-endian, one version byte in front, no alignment. Encoding never fails: what does not fit is cut and the
//! event says so. Decoding accepts any bytes whatever and never panics.
//!
//! ```text
//! version kind decision flags  at pid xid level rows duration policy_version statement_len   (fixed)
//! session_id [window_id] [statement_sha256] [rule_id] [sqlstate]                             (by flags)
//! role client_addr application_name command message statement                                (u32 length, bytes)
//! lineage (u16 count)  parameters (u16 count, u32::MAX as the length of NULL)  accesses (u16 count)
//! ```

#![forbid(unsafe_code)]

use sha2::{Digest, Sha256};

use crate::audit::event::{
    AccessRecord, AuditDecision, AuditEvent, EventKind, MAX_EVENT, MAX_STATEMENT, class_of_byte, prefix,
};
pub use crate::audit::stored::{Cut, OwnedAccess, OwnedEvent};
use crate::request::{Kind, Verb};

/// The least room in which every event fits, however much of it has to be cut.
pub const MIN_EVENT: usize = 1024;

const VERSION: u8 = 1;
const MAX_ACCESSES: usize = 256;
const NULL_LENGTH: u32 = u32::MAX;
const NO_KIND: u8 = u8::MAX;

const HAS_WINDOW: u8 = 1;
const HAS_SHA256: u8 = 2;
const HAS_RULE: u8 = 4;
const HAS_SQLSTATE: u8 = 8;
const HAS_PARAMETERS: u8 = 16;
const CUT_PARAMETERS: u8 = 32;
const CUT_ACCESSES: u8 = 64;
const CUT_OTHER: u8 = 128;

/// How many bytes each part of an event may take.
#[derive(Clone, Copy)]
struct Caps {
    statement: usize,
    parameters: usize,
    accesses: usize,
    lineage: usize,
    message: usize,
    name: usize,
}

/// Together below `MAX_EVENT`.
const FULL: Caps = Caps {
    statement: MAX_STATEMENT,
    parameters: 8 * 1024,
    accesses: 12 * 1024,
    lineage: 4 * 1024,
    message: 2 * 1024,
    name: 256,
};

/// Together below `MIN_EVENT`.
const LEAST: Caps = Caps { statement: 128, parameters: 0, accesses: 0, lineage: 128, message: 128, name: 64 };

/// A request for approval is carried by the parameters; what would be cut is not asked for.
const REQUEST: Caps = Caps { statement: 8 * 1024, parameters: MAX_REQUEST + 16, accesses: 0, ..FULL };

/// The most bytes of a request for approval.
pub const MAX_REQUEST: usize = 40 * 1024;

/// Appends the event to `out`, cutting each part at its cap; at most `MAX_EVENT` bytes.
pub fn encode(event: &AuditEvent, out: &mut Vec<u8>) {
    let caps = if event.kind == EventKind::ApprovalRequest { &REQUEST } else { &FULL };
    encode_capped(event, caps, out);
}

/// Appends the event to `out` in at most `limit` bytes (not below `MIN_EVENT`): first parameters give way, then
/// the statement's end, then accesses.
pub fn encode_within(event: &AuditEvent, limit: usize, out: &mut Vec<u8>) {
    let start = out.len();
    let limit = limit.clamp(MIN_EVENT, MAX_EVENT);
    let mut caps = FULL;
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

fn encode_capped(event: &AuditEvent, caps: &Caps, out: &mut Vec<u8>) {
    let statement = prefix(event.statement, caps.statement);
    let sha256 = event.statement_sha256.or_else(|| {
        (statement.len() < event.statement.len()).then(|| Sha256::digest(event.statement).into())
    });
    let mut flags = 0;
    let mut flag = |present: bool, bit: u8| {
        if present {
            flags |= bit;
        }
    };
    flag(event.window_id.is_some(), HAS_WINDOW);
    flag(sha256.is_some(), HAS_SHA256);
    flag(event.rule_id.is_some(), HAS_RULE);
    flag(event.sqlstate.is_some(), HAS_SQLSTATE);
    flag(event.parameters.is_some(), HAS_PARAMETERS);

    let flags_at = out.len().saturating_add(3);
    // Enough for nearly every event, so that the buffer grows at most once.
    out.reserve(statement.len().saturating_add(1024));
    out.extend_from_slice(&fixed_part(event));
    if let Some(id) = &event.window_id {
        out.extend_from_slice(id);
    }
    if let Some(digest) = &sha256 {
        out.extend_from_slice(digest);
    }
    if let Some(rule) = event.rule_id {
        out.extend_from_slice(&rule.to_le_bytes());
    }
    if let Some(code) = &event.sqlstate {
        out.extend_from_slice(code);
    }

    let mut cut = false;
    for text in [event.role, event.client_addr, event.application_name, event.command] {
        cut |= put_prefix(text, caps.name, out);
    }
    cut |= put_prefix(event.message, caps.message, out);
    put_text(statement, out);

    let lineage = event.lineage.iter().map(|name| Some(name.as_str()));
    cut |= put_list(lineage, caps.lineage, caps.name, out);
    if let Some(parameters) = event.parameters {
        flags |= match put_list(parameters.iter().map(Option::as_deref), caps.parameters, usize::MAX, out) {
            true => CUT_PARAMETERS,
            false => 0,
        };
    }
    flags |= if put_accesses(event.accesses, caps.accesses, out) { CUT_ACCESSES } else { 0 };
    flags |= if cut { CUT_OTHER } else { 0 };
    if let Some(byte) = out.get_mut(flags_at) {
        *byte = flags;
    }
}

/// The bytes of the fixed part with the session's id.
const FIXED: usize = 74;

/// Laid out as one array, which is put at once.
fn fixed_part(event: &AuditEvent) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    let mut rest = fixed.as_mut_slice();
    put_fixed([VERSION, event.kind as u8, event.decision as u8, 0], &mut rest);
    put_fixed(event.at.to_le_bytes(), &mut rest);
    put_fixed(event.pid.to_le_bytes(), &mut rest);
    put_fixed(event.xid.to_le_bytes(), &mut rest);
    put_fixed(event.level.to_le_bytes(), &mut rest);
    put_fixed(event.rows.to_le_bytes(), &mut rest);
    put_fixed(event.duration_us.to_le_bytes(), &mut rest);
    put_fixed(event.policy_version.to_le_bytes(), &mut rest);
    put_fixed(event.statement_len.to_le_bytes(), &mut rest);
    put_fixed(event.session_id, &mut rest);
    fixed
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

/// Why bytes are no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Another layout than this one.
    Version(u8),
    /// They end too early.
    Short,
    /// A byte stands for nothing, or a text is not UTF-8.
    Value,
    /// There is more than one event.
    Trailing,
}

/// Reads an event back.
///
/// # Errors
/// `Malformed` for anything that `encode` does not write.
pub fn decode(bytes: &[u8]) -> Result<OwnedEvent, Malformed> {
    let mut rest = Reader(bytes);
    let version = rest.byte()?;
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    let kind = EventKind::of_byte(rest.byte()?).ok_or(Malformed::Value)?;
    let decision = AuditDecision::of_byte(rest.byte()?).ok_or(Malformed::Value)?;
    let flags = rest.byte()?;
    let has = |bit: u8| flags & bit != 0;
    let event = OwnedEvent {
        kind,
        decision,
        at: i64::from_le_bytes(rest.array()?),
        pid: i32::from_le_bytes(rest.array()?),
        xid: u64::from_le_bytes(rest.array()?),
        level: u16::from_le_bytes(rest.array()?),
        rows: i64::from_le_bytes(rest.array()?),
        duration_us: i64::from_le_bytes(rest.array()?),
        policy_version: i64::from_le_bytes(rest.array()?),
        statement_len: u64::from_le_bytes(rest.array()?),
        session_id: rest.array()?,
        window_id: if has(HAS_WINDOW) { Some(rest.array()?) } else { None },
        statement_sha256: if has(HAS_SHA256) { Some(rest.array()?) } else { None },
        rule_id: if has(HAS_RULE) { Some(i64::from_le_bytes(rest.array()?)) } else { None },
        sqlstate: if has(HAS_SQLSTATE) { Some(rest.array()?) } else { None },
        role: rest.text()?,
        client_addr: rest.text()?,
        application_name: rest.text()?,
        command: rest.text()?,
        message: rest.text()?,
        statement: rest.text()?,
        lineage: rest.list()?.into_iter().flatten().collect(),
        parameters: if has(HAS_PARAMETERS) { Some(rest.list()?) } else { None },
        accesses: rest.accesses()?,
        cut: Cut { parameters: has(CUT_PARAMETERS), accesses: has(CUT_ACCESSES), other: has(CUT_OTHER) },
    };
    if rest.0.is_empty() { Ok(event) } else { Err(Malformed::Trailing) }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed::Short)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        self.optional_text()?.ok_or(Malformed::Value)
    }

    fn optional_text(&mut self) -> Result<Option<String>, Malformed> {
        let length = u32::from_le_bytes(self.array()?);
        if length == NULL_LENGTH {
            return Ok(None);
        }
        let bytes = self.take(usize::try_from(length).map_err(|_| Malformed::Short)?)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Value)?;
        Ok(Some(text.to_owned()))
    }

    fn list(&mut self) -> Result<Vec<Option<String>>, Malformed> {
        let count = u16::from_le_bytes(self.array()?);
        (0..count).map(|_| self.optional_text()).collect()
    }

    fn accesses(&mut self) -> Result<Vec<OwnedAccess>, Malformed> {
        let count = u16::from_le_bytes(self.array()?);
        (0..count).map(|_| self.access()).collect()
    }

    fn access(&mut self) -> Result<OwnedAccess, Malformed> {
        let [verb, kind, class, decision, has_rule] = self.array()?;
        let oid = u32::from_le_bytes(self.array()?);
        let rule = i64::from_le_bytes(self.array()?);
        Ok(OwnedAccess {
            verb: Verb::of_byte(verb).ok_or(Malformed::Value)?,
            kind: match kind {
                NO_KIND => None,
                byte => Some(Kind::of_byte(byte).ok_or(Malformed::Value)?),
            },
            class: class_of_byte(class).ok_or(Malformed::Value)?,
            oid,
            decision: AuditDecision::of_byte(decision).ok_or(Malformed::Value)?,
            rule: (has_rule != 0).then_some(rule),
            name: self.text()?,
            columns: self.text()?,
        })
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
