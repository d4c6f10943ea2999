//! The bytes of an event read back: the layout is `record.rs`'s. Any bytes whatever are taken, none makes it panic.

#![forbid(unsafe_code)]

use crate::audit::event::{AuditDecision, EventKind, class_of_byte};
use crate::audit::record::{
    CUT_ACCESSES, CUT_OTHER, CUT_PARAMETERS, HAS_PARAMETERS, HAS_RULE, HAS_SHA256, HAS_SQLSTATE, HAS_WINDOW,
    NO_KIND, NULL_LENGTH, NUMBERS, VERSION, decider_of_byte,
};
use crate::audit::stored::{Cut, OwnedAccess, OwnedEvent, Span, Texts};
use crate::request::{Kind, Verb};

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
    let mut rest = Reader { bytes, texts: Texts::with_capacity(bytes.len()), items: Vec::new() };
    let version = rest.byte()?;
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    let kind = EventKind::of_byte(rest.byte()?).ok_or(Malformed::Value)?;
    let decision = AuditDecision::of_byte(rest.byte()?).ok_or(Malformed::Value)?;
    let flags = rest.byte()?;
    let decided_by = decider_of_byte(rest.byte()?);
    let has = |bit: u8| flags & bit != 0;
    let at = i64::from_le_bytes(rest.array()?);
    let mut event = OwnedEvent {
        decision,
        decided_by,
        pid: i32::from_le_bytes(rest.array()?),
        xid: u64::from_le_bytes(rest.array()?),
        level: u16::from_le_bytes(rest.array()?),
        rows: i64::from_le_bytes(rest.array()?),
        duration_us: i64::from_le_bytes(rest.array()?),
        policy_version: i64::from_le_bytes(rest.array()?),
        statement_len: u64::from_le_bytes(rest.array()?),
        rule_id: if has(HAS_RULE) { Some(i64::from_le_bytes(rest.array()?)) } else { None },
        sqlstate: if has(HAS_SQLSTATE) { Some(rest.array()?) } else { None },
        statement_sha256: if has(HAS_SHA256) { Some(rest.array()?) } else { None },
        parameter_types: if has(HAS_PARAMETERS) { rest.types()? } else { Vec::new() },
        parameters: if has(HAS_PARAMETERS) { Some(rest.parameters()?) } else { None },
        cut: Cut {
            parameters: has(CUT_PARAMETERS),
            whole_parameters: if has(CUT_PARAMETERS) {
                Some((u64::from_le_bytes(rest.array()?), rest.array()?))
            } else {
                None
            },
            accesses: has(CUT_ACCESSES),
            other: has(CUT_OTHER),
        },
        session_id: rest.array()?,
        window_id: if has(HAS_WINDOW) { Some(rest.array()?) } else { None },
        role: rest.text()?,
        client_addr: rest.text()?,
        application_name: {
            rest.list()?;
            rest.text()?
        },
        command: rest.text()?,
        message: rest.text()?,
        statement: rest.text()?,
        accesses: rest.accesses()?,
        results: if kind == EventKind::Results { rest.prefixed()?.to_vec() } else { Vec::new() },
        ..OwnedEvent::bare(kind, at, "")
    };
    if !rest.bytes.is_empty() {
        return Err(Malformed::Trailing);
    }
    (event.items, event.texts) = (rest.items, rest.texts);
    Ok(event)
}

struct Reader<'a> {
    /// What is still to be read.
    bytes: &'a [u8],
    texts: Texts,
    /// The items of the lists.
    items: Vec<Span>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Malformed::Short)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(Malformed::Short)?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// The types of parameters. Where these are numbers, their digits are put behind the items meanwhile.
    fn types(&mut self) -> Result<Vec<u32>, Malformed> {
        let count = u16::from_le_bytes(self.array()?);
        if count != NUMBERS {
            return (0..count).map(|_| Ok(u32::from_le_bytes(self.array()?))).collect();
        }
        (0..u16::from_le_bytes(self.array()?)).map(|_| self.number()).collect()
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        let type_oid = u32::from_le_bytes(self.array()?);
        let present = self.byte()? != 0;
        let value = i64::from_le_bytes(self.array()?);
        let mut digits = itoa::Buffer::new();
        let item = self.texts.push(present.then(|| digits.format(value)));
        self.items.push(item);
        Ok(type_oid)
    }

    /// Puts the parameters behind the items, if they are not there yet; how many there are then.
    fn parameters(&mut self) -> Result<usize, Malformed> {
        if self.items.is_empty() { self.list() } else { Ok(self.items.len()) }
    }

    fn prefixed(&mut self) -> Result<&'a [u8], Malformed> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(usize::try_from(length).map_err(|_| Malformed::Short)?)
    }

    fn text(&mut self) -> Result<Span, Malformed> {
        let bytes = self.prefixed()?;
        let text = std::str::from_utf8(bytes).map_err(|_| Malformed::Value)?;
        Ok(self.texts.push(Some(text)))
    }

    /// A text, or NULL.
    fn item(&mut self) -> Result<Span, Malformed> {
        match self.bytes.strip_prefix(&NULL_LENGTH.to_le_bytes()) {
            Some(rest) => {
                self.bytes = rest;
                Ok(self.texts.push(None))
            }
            None => self.text(),
        }
    }

    /// Puts a list behind the items; how many there are then.
    fn list(&mut self) -> Result<usize, Malformed> {
        for _ in 0..u16::from_le_bytes(self.array()?) {
            let item = self.item()?;
            self.items.push(item);
        }
        Ok(self.items.len())
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
