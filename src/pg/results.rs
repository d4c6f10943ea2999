//! Result rows into the record, as they leave for the client: what `outgoing` has handed on is copied into parts, which
//! become events of their own beside the statement's.
//!
//! The room of a part is reserved before its first row leaves, so a row that could not be recorded is not sent; it is copied
//! after it was handed on, so what the client did not get is not in the record. A row belongs to the portal that runs: rows
//! that the server has stored (FETCH, RETURNING, EXECUTE, EXPLAIN) leave when their statement has long ended. What the texts
//! mean is told with them (`audit::results`); nothing is converted here.

use std::cell::{Cell, RefCell, RefMut};
use std::ffi::CStr;
use std::fmt::Write;
use std::os::raw::c_char;
use std::rc::Rc;

use pgrx::pg_sys;
use sha2::{Digest, Sha256};

use super::lane::{self, Sink};
use super::process::PerProcess;
use super::session::{self, Session};
use super::statement::{self, Key};
use super::trail::{self, Reservation};
use super::unusual::{self, Unusual};
use super::{encoding, epoch, held, record, synced, text, version};
use crate::audit::results::{self, BESIDE_ROW, Column, MAX_PART, Shape};
use crate::recording::{Kept, Recording};
use crate::refusal::Refusal;

/// Room for who and what beside a part's rows.
const BESIDE_PART: usize = 6 * 1024;
/// What is reserved for the rows of a part at first; more is asked for as it is needed.
const FIRST_PART: usize = 4 * 1024;
/// Bytes that are hashed at once.
const UNHASHED: usize = 4 * 1024;

/// The rows of one statement on their way.
struct Stream {
    /// The portal that sends it, by its address; 0 for none.
    portal: usize,
    /// When its statement began: what the record knows the statement by.
    at: i64,
    command: &'static str,
    session: Option<Rc<Session>>,
    recording: Recording,
    shape: Shape,
    /// The encoding of COPY's own option.
    copy_encoding: Option<i32>,
    so_far: Progress,
    /// How far it had come before the first row that waits in front of the connection.
    held: Option<Progress>,
    part: Vec<u8>,
    reservation: Reservation,
    /// Bytes of rows that the reservation is good for.
    reserved: usize,
}

/// How far a result has come.
#[derive(Clone)]
struct Progress {
    rows: u64,
    bytes: u64,
    recorded: u64,
    recorded_bytes: u64,
    /// No further row is kept: a limit is reached, or a row was cut.
    full: bool,
    digest: Option<Sha256>,
    part_rows: i64,
    part_length: usize,
}

/// What is recorded of statements that begin from here on.
static RECORDING: PerProcess<Cell<Recording>> =
    PerProcess::new(Cell::new(Recording { results: Kept::Nothing, max_rows: None, max_bytes: None }));
static RESULTS: PerProcess<RefCell<Vec<Stream>>> = PerProcess::new(RefCell::new(Vec::new()));
/// Memory of the last part, for the next.
static SPARE: PerProcess<Cell<Vec<u8>>> = PerProcess::new(Cell::new(Vec::new()));
/// The result that sent last, by its place.
static SENDING: PerProcess<Cell<Option<usize>>> = PerProcess::new(Cell::new(None));
/// The last statement's beginning, so that no two have the same.
static LAST: PerProcess<Cell<i64>> = PerProcess::new(Cell::new(0));

/// What is recorded from here on.
pub fn watch(recording: Recording) {
    RECORDING.set(recording);
    if recording.wanted() {
        unusual::set(Unusual::Recorded, true);
    }
}

/// What is recorded now.
pub fn recording() -> Recording {
    RECORDING.get()
}

/// Whether statements that begin have their results recorded.
#[inline]
pub fn wanted() -> bool {
    RECORDING.get().wanted()
}

/// Whether messages are looked at.
#[inline]
pub fn is_watched() -> bool {
    unusual::is(Unusual::Recorded)
}

/// A statement of the client has been opened: the rows of its portal are its own.
pub fn begins(key: Key, copy_encoding: Option<i32>) {
    let last = LAST.get();
    let Some((at, command, session)) = statement::with_key(key, |open| open.told_apart(last)) else { return };
    LAST.set(at);
    let portal = active_portal();
    if let Some(mut all) = streams() {
        while let Some(place) = all.iter().position(|one| one.portal == portal) {
            let before = all.swap_remove(place);
            drop_result(before);
        }
        SENDING.set(None);
        all.push(Stream::new(portal, at, command, session, RECORDING.get(), copy_encoding));
    }
}

/// The results, with all that has left.
fn streams() -> Option<RefMut<'static, Vec<Stream>>> {
    let mut all = RESULTS.try_borrow_mut().ok()?;
    let (rows, bytes) = lane::close();
    if rows > 0
        && let Some(one) = SENDING.get().and_then(|place| all.get_mut(place))
    {
        one.left_by_lane(rows, bytes);
    }
    Some(all)
}

/// Whether a message is a row that needs no look before it leaves: there is room for it.
#[inline]
pub fn has_room(kind: u8, length: usize) -> bool {
    matches!(kind, b'D' | b'd') && lane::has_room(active_portal(), length)
}

/// A message is about to be sent that `has_room` says nothing of. The codes are those of the frontend/backend protocol.
///
/// # Errors
/// 53100 where a row could not be recorded: it must not be sent.
pub fn before(kind: u8, body: *const c_char, length: usize) -> Result<(), Refusal> {
    match kind {
        b'D' | b'd' => row_comes(length),
        b'V' => {
            call_returns();
            row_comes(length)
        }
        b'H' => {
            let binary = length > 0 && !body.is_null() && {
                // SAFETY: the server hands `length` bytes.
                unsafe { *body != 0 }
            };
            copy_begins(binary);
            Ok(())
        }
        b'C' => {
            if held::holding() {
                held::begun()?;
            }
            end("complete");
            if synced::wanted() { synced::wait_at_top() } else { Ok(()) }
        }
        b's' => {
            end("suspended");
            Ok(())
        }
        b'E' => {
            if held::holding() {
                take_back();
            }
            end("error");
            Ok(())
        }
        b'Z' => {
            all_over();
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A message was handed on, or waits in front of the connection. Neither waits nor raises.
pub fn after(kind: u8, body: *const c_char, length: usize, waits: bool) {
    if !matches!(kind, b'D' | b'd' | b'V') {
        return;
    }
    // SAFETY: the server hands `length` bytes, which nobody changes meanwhile; a null body has none.
    let body =
        unsafe { if body.is_null() { &[] } else { std::slice::from_raw_parts(body.cast::<u8>(), length) } };
    if let Some(mut all) = streams()
        && let Some(one) = SENDING.get().and_then(|place| all.get_mut(place))
    {
        match (waits, &one.held) {
            (true, None) => one.held = Some(one.so_far.clone()),
            (false, Some(_)) => one.held = None,
            _ => {}
        }
        one.sent(body);
        if one.portal == active_portal() {
            one.open_lane();
        }
        if kind == b'V' {
            drop(all);
            end("complete");
        }
    }
}

/// An error is about to be answered to what was being sent: records the part that was, and tells whether there is any.
pub fn ends_by_error() -> bool {
    let begun = is_watched() && SENDING.get().is_some();
    if begun {
        end("error");
    }
    begun
}

/// The connection ends: what was sent last is recorded.
pub fn connection_ends() {
    end("connection ended");
}

/// A row is about to be sent: finds out whose it is, and makes room for it.
fn row_comes(length: usize) -> Result<(), Refusal> {
    let Some(mut all) = streams() else { return Ok(()) };
    let portal = active_portal();
    let place = match all.iter().position(|one| one.portal == portal) {
        Some(place) => place,
        None => {
            let Some(stray) = Stream::stray(portal) else {
                SENDING.set(None);
                return Ok(());
            };
            all.push(stray);
            all.len().saturating_sub(1)
        }
    };
    SENDING.set(Some(place));
    let Some(one) = all.get_mut(place) else { return Ok(()) };
    let made = one.make_room(length);
    drop(all);
    made.inspect_err(|refusal| {
        let noted = statement::with_current(|open| open.refuse(refusal, false));
        if noted.is_none() {
            record::record_refused_alone("", &text::current(), None, refusal);
        }
    })
}

/// A fast-path call is no portal's: its only row stands alone.
fn call_returns() {
    if let Some(mut all) = streams() {
        let recording = RECORDING.get();
        if recording.wanted() && !all.iter().any(|one| one.portal == active_portal()) {
            let mut call =
                Stream::new(active_portal(), epoch::clock(), "FASTPATH", session::bound(), recording, None);
            call.shape = Shape::Call;
            all.push(call);
        }
    }
}

fn copy_begins(binary: bool) {
    if let Some(mut all) = streams() {
        let portal = active_portal();
        if let Some(one) = all.iter_mut().find(|one| one.portal == portal) {
            one.shape = if binary { Shape::CopyBinary } else { Shape::CopyText };
        }
    }
}

/// What waits in front of the connection will never leave: its record goes with it.
fn take_back() {
    if let Some(mut all) = streams()
        && let Some(one) = SENDING.get().and_then(|place| all.get_mut(place))
        && let Some(before) = one.held.take()
    {
        one.part.truncate(before.part_length);
        one.so_far = before;
    }
}

/// What was being sent ends here, or pauses.
fn end(state: &str) {
    let Some(mut all) = streams() else { return };
    let Some(place) = SENDING.take() else { return };
    if let Some(one) = all.get_mut(place) {
        one.publish(state);
        if state != "suspended" {
            drop_result(all.swap_remove(place));
        }
    }
}

/// The server is ready for the next query; outside a transaction no portal is left that could send more of the same.
fn all_over() {
    end("complete");
    // SAFETY: reads this process's own state.
    if unsafe { pg_sys::IsTransactionOrTransactionBlock() } {
        return;
    }
    if let Some(mut all) = streams() {
        all.drain(..).for_each(drop_result);
    }
    unusual::set(Unusual::Recorded, wanted());
}

fn drop_result(mut one: Stream) {
    if one.so_far.part_rows > 0 {
        one.publish("complete");
    }
    one.give_back();
    one.part.clear();
    SPARE.set(one.part);
}

impl Stream {
    fn new(
        portal: usize,
        at: i64,
        command: &'static str,
        session: Option<Rc<Session>>,
        recording: Recording,
        copy_encoding: Option<i32>,
    ) -> Stream {
        let shape = Shape::Rows;
        let digest = (recording.results == Kept::Digest).then(Sha256::new);
        Stream {
            portal,
            at,
            command,
            session,
            recording,
            shape,
            copy_encoding,
            so_far: Progress {
                rows: 0,
                bytes: 0,
                recorded: 0,
                recorded_bytes: 0,
                full: recording.results != Kept::Rows,
                digest,
                part_rows: 0,
                part_length: 0,
            },
            held: None,
            part: SPARE.take(),
            reservation: Reservation::default(),
            reserved: 0,
        }
    }

    /// Rows of which no statement of the client is known: a cursor that the protocol's Execute names. None for those of the
    /// statement that brought the token, which ran before it.
    fn stray(portal: usize) -> Option<Stream> {
        let (recording, session) = (RECORDING.get(), session::bound()?);
        if !recording.wanted() {
            return None;
        }
        // SAFETY: the portal that runs, or null; the name of a tag is a static text.
        let (query, command) = unsafe {
            let active = pg_sys::ActivePortal.as_ref()?;
            let name = CStr::from_ptr(pg_sys::GetCommandTagName(active.commandTag));
            (active.queryDesc.addr(), name.to_str().unwrap_or(""))
        };
        let unbound = statement::with_key(Key::Query(query), |open| open.session().is_none());
        if unbound == Some(true) {
            return None;
        }
        let at = epoch::clock().max(LAST.get().saturating_add(1));
        LAST.set(at);
        Some(Stream::new(portal, at, command, Some(session), recording, None))
    }

    /// Makes sure that a row of this length can be recorded, if it is one of those to be kept.
    fn make_room(&mut self, length: usize) -> Result<(), Refusal> {
        let bytes = u64::try_from(length).unwrap_or(u64::MAX);
        let recording = self.recording;
        self.so_far.full = self.so_far.full
            || self.so_far.recorded >= recording.rows()
            || self.so_far.recorded_bytes.saturating_add(bytes) > recording.bytes();
        if self.so_far.full {
            return if self.reserved == 0 { self.reserve(FIRST_PART) } else { Ok(()) };
        }
        let need = length.saturating_add(BESIDE_ROW);
        if self.so_far.part_rows > 0 && self.part.len().saturating_add(need) > MAX_PART {
            if held::holding() {
                // What is recorded is not taken back: first it has to be sure that it leaves.
                held::begun()?;
                self.held = None;
            }
            self.publish("sending");
        }
        if self.so_far.part_rows == 0 {
            let (columns, encoding) = self.columns();
            results::begin(self.shape, encoding, &columns, &mut self.part);
        }
        let wanted = self.part.len().saturating_add(need).min(MAX_PART);
        if wanted > self.reserved {
            let more = wanted.max(self.reserved.saturating_mul(2)).clamp(FIRST_PART, MAX_PART);
            self.reserve(more)?;
            self.part.reserve(more.saturating_sub(self.part.len()));
        }
        Ok(())
    }

    /// Has room for so many bytes of rows, instead of what there was.
    fn reserve(&mut self, bytes: usize) -> Result<(), Refusal> {
        let fresh = trail::reserve(bytes.saturating_add(BESIDE_PART))?;
        self.give_back();
        (self.reservation, self.reserved) = (fresh, bytes);
        Ok(())
    }

    fn give_back(&mut self) {
        if self.reserved > 0 {
            trail::release(self.reservation);
        }
        (self.reservation, self.reserved) = (Reservation::default(), 0);
    }

    /// Lets rows go without a further look, as long as nothing of them needs room that there is not.
    fn open_lane(&mut self) {
        let (room, rows) = if !self.so_far.full {
            let left = self.recording.bytes().saturating_sub(self.so_far.recorded_bytes);
            let left = usize::try_from(left).unwrap_or(usize::MAX).saturating_add(BESIDE_ROW);
            let room = self.reserved.saturating_sub(self.part.len()).min(left);
            (room, self.recording.rows().saturating_sub(self.so_far.recorded))
        } else if self.so_far.digest.is_some() {
            self.part.reserve(UNHASHED);
            (UNHASHED, u64::MAX)
        } else {
            (usize::MAX, u64::MAX)
        };
        let sink = match (self.so_far.full, &self.so_far.digest) {
            (false, _) => Sink::Rows(self.part.spare_capacity_mut()),
            (true, Some(_)) => Sink::Bytes(self.part.spare_capacity_mut()),
            (true, None) => Sink::Nothing,
        };
        lane::open(self.portal, sink, room, rows);
    }

    /// So many rows were handed on, and copied behind the part, while nobody looked.
    fn left_by_lane(&mut self, rows: u64, bytes: u64) {
        self.so_far.rows = self.so_far.rows.saturating_add(rows);
        self.so_far.bytes = self.so_far.bytes.saturating_add(bytes);
        let copied = usize::try_from(bytes).unwrap_or(0);
        if !self.so_far.full {
            let heads = usize::try_from(rows).unwrap_or(0).saturating_mul(BESIDE_ROW);
            self.extend_part(copied.saturating_add(heads));
            self.so_far.part_rows = self.so_far.part_rows.saturating_add_unsigned(rows);
            self.so_far.recorded = self.so_far.recorded.saturating_add(rows);
            self.so_far.recorded_bytes = self.so_far.recorded_bytes.saturating_add(bytes);
            self.so_far.part_length = self.part.len();
        } else if self.so_far.digest.is_some() {
            self.part.clear();
            self.extend_part(copied);
            if let Some(digest) = &mut self.so_far.digest {
                digest.update(&self.part);
            }
            self.part.clear();
        }
    }

    /// The part is so much longer: the lane has put bytes behind it.
    fn extend_part(&mut self, by: usize) {
        let length = self.part.len().saturating_add(by).min(self.part.capacity());
        // SAFETY: within the capacity; the lane has written so many bytes into what was spare.
        unsafe { self.part.set_len(length) };
    }

    /// A row was handed on.
    fn sent(&mut self, body: &[u8]) {
        let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
        self.so_far.rows = self.so_far.rows.saturating_add(1);
        self.so_far.bytes = self.so_far.bytes.saturating_add(length);
        if let Some(digest) = &mut self.so_far.digest {
            digest.update(body);
        }
        if self.so_far.full {
            return;
        }
        let room = self.reserved.saturating_sub(self.part.len());
        // The record is a beginning of the result: behind a row that was cut there is none.
        self.so_far.full = !results::add(body, room, &mut self.part);
        self.so_far.part_rows = self.so_far.part_rows.saturating_add(1);
        self.so_far.recorded = self.so_far.recorded.saturating_add(1);
        self.so_far.recorded_bytes = self.so_far.recorded_bytes.saturating_add(length);
        self.so_far.part_length = self.part.len();
    }

    /// Records the part, with what is known of the whole so far. Waits for nothing: its room is reserved.
    fn publish(&mut self, state: &str) {
        if self.so_far.rows == 0 || (self.so_far.part_rows == 0 && state == "sending") {
            return;
        }
        let mut told = format!(
            "{{\"state\":\"{state}\",\"rows\":{},\"bytes\":{},\"recorded\":{}",
            self.so_far.rows, self.so_far.bytes, self.so_far.recorded
        );
        if let Some(digest) = &self.so_far.digest {
            let digest: [u8; 32] = digest.clone().finalize().into();
            let _ = write!(told, ",\"sha256\":\"{}\"", crate::token::hex(&digest));
        }
        told.push('}');
        let part: &[u8] = if self.so_far.part_rows > 0 { &self.part } else { &[] };
        let (session, reservation) = (self.session.as_deref(), self.reservation);
        record::record_results(
            session,
            self.at,
            self.command,
            self.so_far.part_rows,
            part,
            &told,
            reservation,
        );
        (self.reservation, self.reserved, self.so_far.part_rows) = (Reservation::default(), 0, 0);
        self.part.clear();
    }

    /// The columns as the portal sends them, and the encoding of their texts.
    fn columns(&self) -> (Vec<Column>, i32) {
        // SAFETY: the client's encoding is a variable of this process; the portal that runs, or null, with its descriptor
        // and formats, of which there are as many as the descriptor has columns.
        unsafe {
            let encoding = self.copy_encoding.unwrap_or_else(|| pg_sys::pg_get_client_encoding());
            if self.shape != Shape::Rows {
                return (Vec::new(), encoding);
            }
            let Some(portal) = pg_sys::ActivePortal.as_ref() else { return (Vec::new(), encoding) };
            if portal.tupDesc.is_null() {
                return (Vec::new(), encoding);
            }
            let attributes = version::attributes(portal.tupDesc);
            let mut columns = Vec::with_capacity(attributes.len());
            let mut formats = portal.formats;
            for attribute in attributes {
                // No column that is dropped is sent, and it has no format.
                if attribute.attisdropped {
                    continue;
                }
                let binary = !formats.is_null() && *formats == 1;
                if !formats.is_null() {
                    formats = formats.add(1);
                }
                let name = encoding::from_server(CStr::from_ptr(attribute.attname.data.as_ptr()));
                columns.push(Column { name, of_type: attribute.atttypid.to_u32(), binary });
            }
            (columns, encoding)
        }
    }
}

#[inline]
fn active_portal() -> usize {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::ActivePortal }.addr()
}
