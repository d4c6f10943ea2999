//! Rows into a segment table, and a segment table emptied: past executor, triggers and SPI, without waiting for a
//! lock.

use pgrx::prelude::*;

use super::blocks::Blocks;
use super::columns;
use super::encoding::ServerText;
use super::row::{COLUMNS, RowMaker};
use super::scan::POSTGRES_EPOCH_MICROS;
use super::seal::Sealer;
use crate::audit::chain::Value;
use crate::audit::record::OwnedEvent;

/// Rows formed and inserted at once.
pub const CHUNK: usize = 512;
/// The memory that the datums of an ordinary chunk take.
const DATUMS: usize = 1024 * 1024;

/// What an attempt to write came to, other than an ERROR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Every row is in.
    All,
    /// Somebody holds a lock that keeps rows out; nothing was written.
    Locked,
    /// A segment is gone: the extension has been dropped.
    Gone,
}

/// What is to be inserted, in the order of its numbers.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// Events out of the ring.
    Events(&'a [(u64, OwnedEvent)]),
    /// Events out of the journal, by their columns.
    Restored(&'a [(u64, Vec<(u8, Value<'a>)>)]),
}

impl<'a> Rows<'a> {
    /// How many there are.
    pub fn len(self) -> usize {
        match self {
            Rows::Events(rows) => rows.len(),
            Rows::Restored(rows) => rows.len(),
        }
    }

    /// The numbers of the first and the last one.
    pub fn ends(self) -> Option<(u64, u64)> {
        match self {
            Rows::Events(rows) => Some((rows.first()?.0, rows.last()?.0)),
            Rows::Restored(rows) => Some((rows.first()?.0, rows.last()?.0)),
        }
    }

    /// When the first and the last one began: microseconds since the Unix epoch.
    pub fn times(self) -> Option<(i64, i64)> {
        /// The column `at`, in PostgreSQL's own time.
        fn at(columns: &[(u8, Value<'_>)]) -> i64 {
            let found = columns.iter().find(|(number, _)| *number == 2);
            match found {
                Some((_, Value::Integer(at))) => at.saturating_add(POSTGRES_EPOCH_MICROS),
                _ => 0,
            }
        }
        match self {
            Rows::Events(rows) => Some((rows.first()?.1.at, rows.last()?.1.at)),
            Rows::Restored(rows) => Some((at(&rows.first()?.1), at(&rows.last()?.1))),
        }
    }

    /// The first `count` ones, and the others.
    pub fn split(self, count: usize) -> (Rows<'a>, Rows<'a>) {
        match self {
            Rows::Events(rows) => {
                let (taken, rest) = rows.split_at_checked(count).unwrap_or((rows, &[]));
                (Rows::Events(taken), Rows::Events(rest))
            }
            Rows::Restored(rows) => {
                let (taken, rest) = rows.split_at_checked(count).unwrap_or((rows, &[]));
                (Rows::Restored(taken), Rows::Restored(rest))
            }
        }
    }
}

/// Tuple slots that serve every batch: making them costs more than filling them.
pub struct Inserter {
    /// Gives every row its hash.
    pub sealer: Sealer,
    pub(super) text: ServerText,
    pub(super) blocks: Blocks,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    /// Where the datums of a chunk live. Emptied after each and never given back, so that the pages stay.
    datums: pg_sys::MemoryContext,
}

impl Inserter {
    /// An inserter for texts that become `text`.
    pub fn new(text: ServerText) -> Inserter {
        let (sealer, blocks) = (Sealer::default(), Blocks::default());
        Inserter { sealer, text, blocks, slots: Vec::new(), datums: std::ptr::null_mut() }
    }

    /// Inserts rows, at most `CHUNK`, and their index entries; in the caller's transaction. Indexes that a DBA has
    /// added are served too, as long as no expression is to be evaluated for them.
    pub fn insert(&mut self, relation: pg_sys::Oid, rows: Rows<'_>) -> Written {
        let relation = match open(relation, pg_sys::RowExclusiveLock) {
            Ok(relation) => relation,
            Err(why) => return why,
        };
        // SAFETY: the relation is open and locked, and has COLUMNS attributes, as `prepare` checks; all segments
        // have the same. The datums live until the chunk is in; heap slots copy them when they form a tuple.
        unsafe {
            self.prepare(relation);
            let indexes = pg_sys::CatalogOpenIndexes(relation);
            let before = pg_sys::MemoryContextSwitchTo(self.datums);
            let mut maker = RowMaker::new(&self.text, &mut self.blocks);
            let mut count = 0;
            self.sealer.begin((*relation).rd_att);
            for (n, slot) in self.slots.iter().copied().take(rows.len()).enumerate() {
                let values = std::slice::from_raw_parts_mut((*slot).tts_values, COLUMNS + 1);
                let nulls = std::slice::from_raw_parts_mut((*slot).tts_isnull, COLUMNS + 1);
                let seq = match rows {
                    Rows::Events(events) => {
                        let Some((seq, event)) = events.get(n) else { break };
                        maker.fill(*seq, event, values, nulls);
                        *seq
                    }
                    Rows::Restored(restored) => {
                        let Some((seq, columns)) = restored.get(n) else { break };
                        if !columns::fill(self.sealer.layout(), columns, values, nulls) {
                            error!(
                                "event {seq} of the audit journal has columns that the trail does not have"
                            );
                        }
                        if let (Some(value), Some(null)) = (values.first_mut(), nulls.first_mut()) {
                            (*value, *null) = (pg_sys::Datum::from(*seq), false);
                        }
                        *seq
                    }
                };
                self.sealer.seal(seq, values, nulls);
                pg_sys::ExecStoreVirtualTuple(slot);
                count += 1;
            }
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::heap_multi_insert(
                relation,
                self.slots.as_mut_ptr(),
                count,
                pg_sys::GetCurrentCommandId(true),
                0,
                std::ptr::null_mut(),
            );
            for slot in self.slots.iter().take(rows.len()) {
                index(relation, *slot, indexes);
            }
            pg_sys::CatalogCloseIndexes(indexes);
            pg_sys::table_close(relation, 0);
        }
        Written::All
    }

    /// Makes the slots, or empties them: an error may have left them filled.
    ///
    /// # Safety
    /// `relation` is open.
    unsafe fn prepare(&mut self, relation: pg_sys::Relation) {
        // SAFETY: the descriptor is copied into memory that lives as long as the process, and the slots with it.
        unsafe {
            if usize::try_from((*(*relation).rd_att).natts) != Ok(COLUMNS + 1) {
                error!("agent_guard's audit tables are of another version of the extension");
            }
            if self.slots.is_empty() {
                let before = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
                let descriptor = pg_sys::CreateTupleDescCopy((*relation).rd_att);
                for _ in 0..CHUNK {
                    self.slots.push(pg_sys::MakeSingleTupleTableSlot(
                        descriptor,
                        &raw const pg_sys::TTSOpsHeapTuple,
                    ));
                }
                pg_sys::MemoryContextSwitchTo(before);
            }
            for slot in &self.slots {
                pg_sys::ExecClearTuple(*slot);
            }
            if self.datums.is_null() {
                self.datums = pg_sys::AllocSetContextCreateInternal(
                    pg_sys::TopMemoryContext,
                    c"agent_guard audit rows".as_ptr(),
                    DATUMS,
                    DATUMS,
                    8 * DATUMS,
                );
            }
            pg_sys::MemoryContextReset(self.datums);
        }
    }
}

/// Inserts a row's index entries. CatalogTuplesMultiInsertWithInfo would do it for rows that are not toasted; of a
/// toasted one it indexes the tuple from before, which has no place in the table.
///
/// # Safety
/// `relation` and `indexes` are open; `slot` holds a row that heap_multi_insert has just stored.
unsafe fn index(
    relation: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    indexes: pg_sys::CatalogIndexState,
) {
    // SAFETY: the arrays of the ResultRelInfo have ri_NumIndices entries; no index has more than
    // INDEX_MAX_KEYS columns; heap_multi_insert has set tts_tid.
    unsafe {
        let count = usize::try_from((*indexes).ri_NumIndices).unwrap_or(0);
        for n in 0..count {
            let info = *(*indexes).ri_IndexRelationInfo.add(n);
            if !(*info).ii_ReadyForInserts {
                continue;
            }
            let plain = (*info).ii_Expressions.is_null() && (*info).ii_Predicate.is_null();
            if !plain || !(*info).ii_ExclusionOps.is_null() {
                error!(
                    "an index on the audit trail has an expression, a predicate or an exclusion constraint"
                );
            }
            let mut values = [pg_sys::Datum::from(0_usize); pg_sys::INDEX_MAX_KEYS as usize];
            let mut nulls = [false; pg_sys::INDEX_MAX_KEYS as usize];
            let columns = usize::try_from((*info).ii_NumIndexAttrs).unwrap_or(0);
            let cells = values.iter_mut().zip(nulls.iter_mut());
            for ((value, null), column) in cells.zip((*info).ii_IndexAttrNumbers).take(columns) {
                *value = pg_sys::slot_getattr(slot, i32::from(column), null);
            }
            let unique = if (*info).ii_Unique {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_YES
            } else {
                pg_sys::IndexUniqueCheck::UNIQUE_CHECK_NO
            };
            let index = *(*indexes).ri_IndexRelationDescs.add(n);
            let (values, nulls) = (values.as_mut_ptr(), nulls.as_mut_ptr());
            pg_sys::index_insert(index, values, nulls, &mut (*slot).tts_tid, relation, unique, false, info);
        }
    }
}

/// Opens a relation without waiting for its lock.
fn open(relation: pg_sys::Oid, mode: u32) -> Result<pg_sys::Relation, Written> {
    let mode = i32::try_from(mode).unwrap_or(0);
    // SAFETY: a lock by OID is legal for relations that are gone; try_table_open then gives null. The lock lasts
    // until the transaction ends.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(relation, mode) {
            return Err(Written::Locked);
        }
        let opened = pg_sys::try_table_open(relation, 0);
        if opened.is_null() {
            return Err(Written::Gone);
        }
        Ok(opened)
    }
}

/// Empties a segment, as TRUNCATE would: with new files, so that an abort undoes it.
pub fn truncate(relation: pg_sys::Oid) -> Written {
    let relation = match open(relation, pg_sys::AccessExclusiveLock) {
        Ok(relation) => relation,
        Err(why) => return why,
    };
    // SAFETY: the relation is locked and open; the lists are fresh ones in the current memory context.
    unsafe {
        let relations = pg_sys::lappend(std::ptr::null_mut(), relation.cast());
        let oids = pg_sys::lappend_oid(std::ptr::null_mut(), (*relation).rd_id);
        super::version::truncate(relations, oids);
        pg_sys::table_close(relation, 0);
    }
    Written::All
}
