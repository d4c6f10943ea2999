//! An event as a row of a segment table: one datum for each column, in the current memory context.

use std::borrow::Cow;
use std::net::IpAddr;
use std::os::raw::c_char;

use pgrx::prelude::*;

use super::blocks::Blocks;
use super::encoding::{self, ServerText};
use crate::audit::event::EventKind;
use crate::audit::jsonb;
use crate::audit::record::OwnedEvent;
use crate::audit::redact::redact;
use crate::audit::results;
use crate::refusal::Decider;
use crate::token::hex;

/// Columns of a segment table (sql/audit.sql) without the hash behind them; `fill` is in their order.
pub const COLUMNS: usize = 29;

/// Microseconds from the Unix epoch to PostgreSQL's.
const EPOCH: i64 = 946_684_800_000_000;

unsafe extern "C-unwind" {
    pub fn jsonb_in(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
    pub fn inet_in(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}

/// What stands in the place of an event that cannot be stored as it is.
pub fn fault(seq: u64, why: &str) -> OwnedEvent {
    let message = format!("event {seq} could not be stored: {why}");
    OwnedEvent::bare(EventKind::Fault, unix_now(), &message)
}

fn unix_now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }.saturating_add(EPOCH)
}

/// How many different sets of accesses a chunk of rows remembers.
const REMEMBERED: usize = 16;

type Row = [Option<pg_sys::Datum>; COLUMNS];

/// Makes the rows of one chunk; datums are shared between rows where agents repeat themselves.
pub struct RowMaker<'a> {
    text: &'a ServerText,
    blocks: &'a mut Blocks,
    accesses: Vec<(&'a OwnedEvent, pg_sys::Datum)>,
    cells: Cells<'a>,
}

impl<'a> RowMaker<'a> {
    /// A maker of rows whose texts become `text`.
    pub fn new(text: &'a ServerText, blocks: &'a mut Blocks) -> RowMaker<'a> {
        let cells = Cells { row: [None; COLUMNS], event: None, before: None };
        RowMaker { text, blocks, accesses: Vec::new(), cells }
    }

    /// Fills a row's values and nulls.
    pub fn fill(
        &mut self,
        seq: u64,
        event: &'a OwnedEvent,
        values: &mut [pg_sys::Datum],
        nulls: &mut [bool],
    ) {
        self.columns(seq, event);
        let cells = values.iter_mut().zip(nulls.iter_mut());
        for ((value, null), datum) in cells.zip(self.cells.row) {
            *null = datum.is_none();
            *value = datum.unwrap_or(pg_sys::Datum::from(0_usize));
        }
    }

    fn columns(&mut self, seq: u64, event: &'a OwnedEvent) {
        let text = self.text;
        let is_statement = event.statement_len > 0 || !event.statement().is_empty();
        let about_token = matches!(event.kind, EventKind::Bind | EventKind::HandshakeRefused);
        let parameters = event.parameters().filter(|_| !about_token);
        let accesses = (event.accesses().len() > 0).then(|| self.accesses(event));
        let listed = match event.kind {
            EventKind::Results => self.results(&event.results),
            // It was read with the whole text (long_text.rs); by itself it may begin inside a literal.
            EventKind::Text => Some(array_of([Some(text.encoded(event.statement()))].into_iter())),
            _ => parameters.map(|list| array(list, text)),
        };
        let (row, blocks) = (&mut self.cells, &mut self.blocks);
        row.take_up(event);
        // One session's statements have the same blocks; those of other events are theirs alone.
        let same_blocks = |a: &OwnedEvent, b: &OwnedEvent| {
            let statements = a.kind == EventKind::Statement && b.kind == EventKind::Statement;
            statements && a.session_id == b.session_id
        };
        row.set(0, Some(pg_sys::Datum::from(seq)));
        row.set(1, Some(pg_sys::Datum::from(event.at.saturating_sub(EPOCH))));
        row.set(2, (event.duration_us >= 0).then(|| interval(event.duration_us)));
        row.set(3, (event.xid != 0).then(|| pg_sys::Datum::from(event.xid)));
        row.set(4, event.rule_id.map(pg_sys::Datum::from));
        row.set(5, (event.rows >= 0).then(|| pg_sys::Datum::from(event.rows)));
        row.set(6, (event.policy_version != 0).then(|| pg_sys::Datum::from(event.policy_version)));
        row.set(7, is_statement.then(|| pg_sys::Datum::from(event.statement_len)));
        row.set(8, (event.pid != 0).then(|| pg_sys::Datum::from(event.pid)));
        row.set(9, Some(pg_sys::Datum::from(i32::from(event.level))));
        let session = || (event.session_id != [0; 16]).then(|| fixed(&event.session_id));
        row.like(10, |a, b| a.session_id == b.session_id, session);
        row.like(11, |a, b| a.window_id == b.window_id, || event.window_id.as_ref().map(fixed));
        row.like(12, |a, b| a.kind == b.kind, || event.kind.word().map(|word| varlena(word.as_bytes())));
        let decision = || event.decision.word().map(|word| varlena(word.as_bytes()));
        row.like(13, |a, b| a.decision == b.decision, decision);
        row.like(14, |a, b| a.command() == b.command(), || filled(event.command(), text));
        row.like(15, |a, b| a.role() == b.role(), || filled(event.role(), text));
        row.like(16, |a, b| a.client_addr() == b.client_addr(), || address(event.client_addr()));
        let application = || filled(&redact(event.application_name()), text);
        row.like(17, |a, b| a.application_name() == b.application_name(), application);
        let sqlstate = event.sqlstate.and_then(|code| String::from_utf8(code.to_vec()).ok());
        row.set(18, sqlstate.and_then(|code| filled(&code, text)));
        let lineage = || (event.lineage().len() > 0).then(|| array(event.lineage().map(Some), text));
        row.like(19, |a, b| a.lineage().eq(b.lineage()), lineage);
        row.set(20, accesses);
        row.set(21, listed);
        row.set(22, filled(&redact(event.message()), text));
        let statement = || is_statement.then(|| varlena(&text.encoded(&redact(event.statement()))));
        let same_text = |a: &OwnedEvent, b: &OwnedEvent| {
            (a.kind, a.statement_len, a.statement()) == (b.kind, b.statement_len, b.statement())
        };
        if event.kind == EventKind::Text {
            row.set(23, None);
        } else {
            row.like(23, same_text, statement);
        }
        row.set(24, event.statement_sha256.as_ref().map(|digest| varlena(digest)));
        row.set(25, cut(event, text));
        row.like(26, same_blocks, || {
            let blocks = blocks.of(event);
            (!blocks.is_empty()).then(|| array(blocks.iter().map(|id| Some(id.as_str())), text))
        });
        let decider = event.decided_by.map(|decider| named(decider, blocks.of(event)));
        row.set(27, decider.and_then(|name| filled(&name, text)));
        let types = || {
            let numbers =
                event.parameter_types.iter().map(|oid| Some(Cow::Owned(oid.to_string().into_bytes())));
            (!event.parameter_types.is_empty()).then(|| array_of(numbers))
        };
        row.like(28, |a, b| a.parameter_types == b.parameter_types, types);
    }

    /// The rows of a part of a result, secrets taken out of each value.
    fn results(&self, part: &[u8]) -> Option<pg_sys::Datum> {
        if part.is_empty() {
            return None;
        }
        let read = |encoding: i32, bytes: &[u8]| encoding::to_utf8(bytes, encoding);
        let texts = results::texts(part, &read)?;
        Some(array_of(texts.iter().map(|row| Some(self.text.encoded(row)))))
    }

    fn accesses(&mut self, event: &'a OwnedEvent) -> pg_sys::Datum {
        if let Some((_, datum)) = self.accesses.iter().find(|(known, _)| known.needed_what(event)) {
            return *datum;
        }
        let datum = varlena(&jsonb::accesses(event.accesses(), |name| self.text.encoded(name)));
        if self.accesses.len() < REMEMBERED {
            self.accesses.push((event, datum));
        }
        datum
    }
}

/// A row that is being made in the place of the one before it.
struct Cells<'a> {
    row: Row,
    event: Option<&'a OwnedEvent>,
    before: Option<&'a OwnedEvent>,
}

impl<'a> Cells<'a> {
    /// The cells are now those of another event.
    fn take_up(&mut self, event: &'a OwnedEvent) {
        self.before = self.event.replace(event);
    }

    fn set(&mut self, at: usize, datum: Option<pg_sys::Datum>) {
        if let Some(cell) = self.row.get_mut(at) {
            *cell = datum;
        }
    }

    /// The column stays as it was in the row before, where `same` finds that what it is made of is the same.
    fn like(
        &mut self,
        at: usize,
        same: impl Fn(&OwnedEvent, &OwnedEvent) -> bool,
        make: impl FnOnce() -> Option<pg_sys::Datum>,
    ) {
        let stays = self.before.zip(self.event).is_some_and(|(before, event)| same(before, event));
        if !stays {
            self.set(at, make());
        }
    }
}

/// What decided, as the trail names it: the window, or the id of the block.
fn named(decider: Decider, blocks: &[String]) -> String {
    match decider {
        Decider::Window => "window".to_owned(),
        Decider::Block(index) => blocks.get(index).cloned().unwrap_or_else(|| format!("block {index}")),
    }
}

fn filled(value: &str, text: &ServerText) -> Option<pg_sys::Datum> {
    (!value.is_empty()).then(|| varlena(&text.encoded(value)))
}

/// A text or bytea datum.
pub fn varlena(bytes: &[u8]) -> pg_sys::Datum {
    let length = bytes.len().saturating_add(pg_sys::VARHDRSZ);
    // SAFETY: palloc gives `length` bytes, or raises; SET_VARSIZE writes the first four.
    unsafe {
        let memory = pg_sys::palloc(length).cast::<u8>();
        pgrx::varlena::set_varsize_4b(memory.cast(), i32::try_from(length).unwrap_or(0));
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.add(pg_sys::VARHDRSZ), bytes.len());
        pg_sys::Datum::from(memory)
    }
}

/// A uuid datum.
fn fixed(bytes: &[u8; 16]) -> pg_sys::Datum {
    // SAFETY: palloc gives 16 bytes, or raises.
    unsafe {
        let memory = pg_sys::palloc(bytes.len()).cast::<u8>();
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len());
        pg_sys::Datum::from(memory)
    }
}

fn interval(microseconds: i64) -> pg_sys::Datum {
    // SAFETY: palloc gives memory for one Interval, suitably aligned, or raises.
    unsafe {
        let memory = pg_sys::palloc(size_of::<pg_sys::Interval>()).cast::<pg_sys::Interval>();
        memory.write(pg_sys::Interval { time: microseconds, day: 0, month: 0 });
        pg_sys::Datum::from(memory)
    }
}

/// The client's address; NULL for a Unix socket, as in pg_stat_activity.
fn address(text: &str) -> Option<pg_sys::Datum> {
    let host = text.split('%').next().unwrap_or("");
    let address: IpAddr = host.parse().ok()?;
    Some(input(inet_in, address.to_string().as_bytes()))
}

/// A type's input function, version 1.
pub type InputFunction = unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum;

/// Calls a type's input function on text that it is known to take.
pub fn input(function: InputFunction, bytes: &[u8]) -> pg_sys::Datum {
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| *byte != 0).chain([0]).collect();
    // SAFETY: the argument is a NUL-terminated string; these input functions look at nothing else.
    unsafe {
        pg_sys::DirectFunctionCall1Coll(
            Some(function),
            pg_sys::InvalidOid,
            pg_sys::Datum::from(text.as_ptr()),
        )
    }
}

/// A text[] datum.
fn array<'a>(items: impl Iterator<Item = Option<&'a str>>, text: &ServerText) -> pg_sys::Datum {
    array_of(items.map(|item| item.map(|item| Cow::Owned(text.encoded(&redact(item)).into_owned()))))
}

/// A text[] datum of texts that are the server's already.
pub fn array_of<'a>(items: impl Iterator<Item = Option<Cow<'a, [u8]>>>) -> pg_sys::Datum {
    let (mut values, mut nulls) = (Vec::new(), Vec::new());
    for item in items {
        nulls.push(item.is_none());
        values.push(item.map_or(pg_sys::Datum::from(0_usize), |item| varlena(&item)));
    }
    // SAFETY: the arrays have as many entries as `length` says; text is a varlena of int alignment.
    unsafe {
        if values.is_empty() {
            return pg_sys::Datum::from(pg_sys::construct_empty_array(pg_sys::TEXTOID));
        }
        let mut length = i32::try_from(values.len()).unwrap_or(0);
        let mut lower = 1;
        pg_sys::Datum::from(pg_sys::construct_md_array(
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            1,
            &mut length,
            &mut lower,
            pg_sys::TEXTOID,
            -1,
            false,
            c_char::from_ne_bytes([b'i']),
        ))
    }
}

/// The names of the columns that are not whole.
fn cut(event: &OwnedEvent, text: &ServerText) -> Option<pg_sys::Datum> {
    // The pieces of a text say by a message that there is more of it.
    let whole = event.kind == EventKind::Text && event.message().is_empty();
    let names = [
        (event.statement_sha256.is_some() && !whole, "statement"),
        (event.cut.parameters, "parameters"),
        (event.cut.accesses, "accesses"),
        (event.cut.other && event.kind == EventKind::Results, "parameters"),
        (event.cut.other && event.kind != EventKind::Results, "message or names"),
    ];
    let names: Vec<&str> = names.into_iter().filter_map(|(cut, name)| cut.then_some(name)).collect();
    // Behind the names, and no column: the view has it as columns of its own.
    let whole =
        event.cut.whole_parameters.map(|(length, sha256)| format!("parameters {length} {}", hex(&sha256)));
    (!names.is_empty()).then(|| array(names.into_iter().chain(whole.as_deref()).map(Some), text))
}
