//! Keeps raw values out of the texts of errors and notices, while a statement handles them: constraint violations that print
//! the row, RAISE in triggers, casts inside the server's own checks.
//!
//! emit_log_hook would be too late for an EXCEPTION block of the agent's, and it sees only what goes to the server's log. So
//! this is an error context callback at the bottom of the stack: it runs inside errfinish, for every report, before
//! anybody reads it. SQLSTATE and the names of constraints stay.

use std::ffi::{CStr, c_void};
use std::os::raw::{c_char, c_int};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use pgrx::pg_sys;

use super::unusual::{self, Unusual};
use super::{calls, raise, statement};

/// Which texts of a statement's reports are withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Texts(u8);

impl Texts {
    /// None.
    pub const PLAIN: Texts = Texts(0);
    /// Rows that the server prints of violated constraints: the relation has columns that the agent may not read.
    pub const ROWS: Texts = Texts(1);
    /// Values in errors of expressions: masks, filters and policies look at raw values.
    pub const VALUES: Texts = Texts(2);
    /// Everything that does not come from the server itself: rows with masked columns are changed, and triggers see them.
    pub const RAW: Texts = Texts(7);

    /// Both.
    pub fn and(self, other: Texts) -> Texts {
        Texts(self.0 | other.0)
    }

    fn includes(self, other: Texts) -> bool {
        self.0 & other.0 == other.0
    }
}

/// What an outer frame of ours is about to raise: never withheld. `raise.rs` gives it as the file of the report.
const OURS: &CStr = c"agent_guard";

unsafe extern "C-unwind" {
    // Unguarded: they are called inside errfinish, where nothing may unwind.
    fn errstart(elevel: c_int, domain: *const c_char) -> bool;
    fn errfinish(filename: *const c_char, lineno: c_int, funcname: *const c_char);
    fn errmsg_internal(fmt: *const c_char, ...) -> c_int;
    fn errdetail_internal(fmt: *const c_char, ...) -> c_int;
    fn errhint(fmt: *const c_char, ...) -> c_int;
    #[link_name = "pstrdup"]
    fn raw_pstrdup(text: *const c_char) -> *mut c_char;
}

/// A statement of this transaction handled raw values: deferred triggers and constraints will.
static IN_TRANSACTION: AtomicBool = AtomicBool::new(false);

static mut CALLBACK: pg_sys::ErrorContextCallback = pg_sys::ErrorContextCallback {
    previous: std::ptr::null_mut(),
    callback: Some(withhold),
    arg: std::ptr::null_mut(),
};

/// Notes that a statement handles raw values, and puts the callback in place.
pub fn begin(texts: Texts) {
    if texts == Texts::PLAIN {
        return;
    }
    if texts.includes(Texts::RAW) {
        IN_TRANSACTION.store(true, Ordering::Relaxed);
    }
    unusual::set(Unusual::Withheld, true);
    install();
}

/// Puts the callback in place again where a statement of this transaction needs it: every PG_TRY of the server restores the
/// chain that it found. One load for everybody else. Neither raises nor panics: outer hook frames call it.
#[inline]
pub fn stay() {
    if armed() {
        install();
    }
}

/// Whether a statement of this transaction withholds texts.
#[inline]
pub fn armed() -> bool {
    unusual::is(Unusual::Withheld)
}

fn install() {
    // SAFETY: the chain is this process's own; its frames are alive as long as they are in it. Ours is static, and last.
    unsafe {
        let ours = &raw mut CALLBACK;
        let mut place = &raw mut pg_sys::error_context_stack;
        while !(*place).is_null() && *place != ours {
            place = &raw mut (**place).previous;
        }
        *place = ours;
    }
}

/// The transaction has ended, deferred triggers and all.
pub fn transaction_ended() {
    IN_TRANSACTION.store(false, Ordering::Relaxed);
    unusual::set(Unusual::Withheld, false);
}

/// Whether what begins now is run by code that handles raw values: its text and parameters may hold some.
pub fn inside_raw() -> bool {
    armed() && in_force().includes(Texts::RAW)
}

/// emit_log_hook's part: what reaches the top without having met the callback, as errors of deferred foreign keys do.
///
/// # Safety
/// `data` is what the hook was given.
pub unsafe fn at_last(data: *mut pg_sys::ErrorData) {
    if armed() {
        let texts = in_force();
        if texts != Texts::PLAIN {
            // SAFETY: the caller's promise.
            unsafe { edit(&mut *data, texts) };
        }
    }
}

/// Which texts are withheld right now.
fn in_force() -> Texts {
    match statement::texts() {
        // Between statements: deferred triggers at COMMIT.
        None if IN_TRANSACTION.load(Ordering::Relaxed) => Texts::RAW,
        None => Texts::PLAIN,
        Some((texts, fires_deferred)) => {
            if fires_deferred && IN_TRANSACTION.load(Ordering::Relaxed) {
                Texts::RAW
            } else {
                texts
            }
        }
    }
}

/// The report that a nested one stands on, as emit_log_hook is shown the nested one.
static REPORT: AtomicPtr<pg_sys::ErrorData> = AtomicPtr::new(std::ptr::null_mut());
static ASKING: AtomicBool = AtomicBool::new(false);

/// emit_log_hook's part: true where the report is our own question and nobody else's business.
///
/// # Safety
/// `data` is what the hook was given.
pub unsafe fn answer(data: *mut pg_sys::ErrorData) -> bool {
    if !ASKING.swap(false, Ordering::Relaxed) {
        return false;
    }
    // SAFETY: reports are elements of one array (errordata in elog.c); the one that is being worked on stands below ours.
    unsafe {
        (*data).output_to_server = false;
        (*data).output_to_client = false;
        REPORT.store(data.sub(1), Ordering::Relaxed);
    }
    true
}

/// The report that is being finished. The server gives callbacks no pointer to it; the hook is given one to each report that
/// goes to the log. So a report of our own is begun on top of it, and goes nowhere.
unsafe fn report() -> *mut pg_sys::ErrorData {
    // SAFETY: errstart .. errfinish as ereport does it, at a level that never raises; the chain is put back at once, so that
    // no callback runs for it.
    unsafe {
        REPORT.store(std::ptr::null_mut(), Ordering::Relaxed);
        let chain = pg_sys::error_context_stack;
        pg_sys::error_context_stack = std::ptr::null_mut();
        ASKING.store(true, Ordering::Relaxed);
        let level = c_int::try_from(pg_sys::LOG_SERVER_ONLY).unwrap_or(16);
        if errstart(level, std::ptr::null()) {
            errmsg_internal(c"agent_guard".as_ptr());
            errfinish(OURS.as_ptr(), 0, c"report".as_ptr());
        }
        ASKING.store(false, Ordering::Relaxed);
        pg_sys::error_context_stack = chain;
        REPORT.load(Ordering::Relaxed)
    }
}

/// The callback. No frame above has a destructor, nothing in it raises or panics.
unsafe extern "C-unwind" fn withhold(_argument: *mut c_void) {
    let texts = in_force();
    if texts == Texts::PLAIN {
        return;
    }
    // SAFETY: the report is the one that is being finished; its texts are null or NUL-terminated, and the memory context is
    // the report's own (errfinish switches to it).
    unsafe {
        let data = report();
        if data.is_null() {
            // The hook is not called, because a superuser's function has turned the log off: all of the text goes.
            errmsg_internal(c"%s".as_ptr(), WITHHELD.as_ptr());
            errdetail_internal(c"%s".as_ptr(), ROW.as_ptr());
            errhint(c"%s".as_ptr(), c"".as_ptr());
            return;
        }
        edit(&mut *data, texts);
    }
}

/// What the trail keeps in the place of a text that code wrote which sees raw values.
pub const TEXT: &str = "(text withheld: run by code that sees masked columns)";

const WITHHELD: &CStr = c"the text of this message is withheld";
const WITHHELD_DETAIL: &CStr =
    c"reason=withheld It comes from code that sees columns that this session reads masked or not at all.";
const ROW: &CStr =
    c"reason=withheld The row is not shown: it has columns that this session reads masked or not at all.";

/// Where the server reports violated constraints, in messages that name the constraint and DETAILs that print the row.
const CONSTRAINTS: [&CStr; 10] = [
    c"execMain.c",
    c"execPartition.c",
    c"execIndexing.c",
    c"nbtinsert.c",
    c"nbtsort.c",
    c"tuplesort.c",
    c"tuplesortvariants.c",
    c"ri_triggers.c",
    c"execReplication.c",
    c"tablecmds.c",
];

unsafe fn is(text: *const c_char, other: &CStr) -> bool {
    // SAFETY: null or NUL-terminated.
    !text.is_null() && unsafe { CStr::from_ptr(text) } == other
}

unsafe fn edit(data: &mut pg_sys::ErrorData, texts: Texts) {
    let level = |level: u32| c_int::try_from(level).unwrap_or(0);
    // SAFETY: as in `withhold`.
    unsafe {
        if is(data.filename, OURS) {
            return;
        }
        if data.elevel < level(pg_sys::PGERROR) {
            // What goes to the client. Levels below INFO stay on the server, as far as a guarded session can choose.
            if texts.includes(Texts::RAW) && data.output_to_client {
                replace(data);
            }
            return;
        }
        let class = raise::sqlstate_text(data.sqlerrcode);
        let (class, subclass) = class.split_at(2);
        let of_constraint =
            matches!(class, b"23" | b"44" | b"42") && CONSTRAINTS.iter().any(|file| is(data.filename, file));
        let inside = calls::any();
        if of_constraint && (class != b"42" || subclass == b"501") {
            if !data.detail.is_null() {
                data.detail = raw_pstrdup(ROW.as_ptr());
                data.detail_log = std::ptr::null_mut();
            }
            if inside && texts.includes(Texts::RAW) {
                data.context = std::ptr::null_mut();
            }
            return;
        }
        // Conditions of the server: locks, memory, cancellation, connection, the state of the transaction.
        let of_server = matches!(class, b"08" | b"25" | b"40" | b"53" | b"55" | b"57" | b"58" | b"28")
            && !is(data.funcname, c"exec_stmt_raise");
        let of_values = matches!(class, b"22" | b"23" | b"44" | b"P0" | b"2F" | b"38" | b"39" | b"54");
        let withheld = if texts.includes(Texts::RAW) {
            !of_server && (inside || of_values)
        } else {
            texts.includes(Texts::VALUES) && of_values
        };
        if withheld {
            replace(data);
        }
    }
}

/// Takes every text out of a report but its SQLSTATE and where the server raised it.
unsafe fn replace(data: &mut pg_sys::ErrorData) {
    // SAFETY: texts are palloc'd in the report's own context, which frees them.
    unsafe {
        data.message = raw_pstrdup(WITHHELD.as_ptr());
        data.detail = raw_pstrdup(WITHHELD_DETAIL.as_ptr());
    }
    for text in [
        &mut data.detail_log,
        &mut data.hint,
        &mut data.context,
        &mut data.internalquery,
        &mut data.schema_name,
        &mut data.table_name,
        &mut data.column_name,
        &mut data.datatype_name,
        &mut data.constraint_name,
    ] {
        *text = std::ptr::null_mut();
    }
    data.internalpos = 0;
    data.cursorpos = 0;
}
