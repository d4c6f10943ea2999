//! Relations and columns: from the permission entries of a plan to accesses.
//!
//! The planner's flattened range table keeps an entry for every relation, also of pulled-up and proven-empty subqueries;
//! cached plans carry it too. Children and partitions come without permissions of their own and are covered by the
//! rules on their relatives (`policies`).

use rustc_hash::FxHashMap as HashMap;
use std::cell::RefCell;

use pgrx::pg_sys;

use super::super::catalog::{self, FIRST_NORMAL, RelationFacts};
use super::super::enforce::{Target, Wanted};
use super::super::policies::{self, Policy};
use super::super::process::PerProcess;
use super::super::substitute::Mark;
use super::super::{calls, own, quick, version};
use super::brought::{self, Brought};
use super::functions;
use crate::policy::builtin::{self, Guarded};
use crate::request::{Action, Columns, Kind, ObjectClass, Verb, Voice};

/// One relation's permission entry, the same on every server version.
#[derive(Clone, Copy)]
pub struct Entry {
    relid: pg_sys::Oid,
    required: u32,
    check_as: pg_sys::Oid,
    /// The server checks the owner of the generated view: the role itself may only read that (`substitute::generated`).
    lent: bool,
    selected: *mut pg_sys::Bitmapset,
    inserted: *mut pg_sys::Bitmapset,
    updated: *mut pg_sys::Bitmapset,
}

/// An entry as it is remembered.
pub struct Asked {
    relid: pg_sys::Oid,
    required: u32,
    selected: Words,
    /// The columns that it fills and changes; `None` where it does neither.
    changed: Option<Box<[Words; 2]>>,
}

/// The words of a set. One is nearly always enough, and compared where it stands.
struct Words {
    count: usize,
    first: pg_sys::bitmapword,
    others: Box<[pg_sys::bitmapword]>,
}

impl Words {
    fn of(set: *const pg_sys::Bitmapset) -> Words {
        // SAFETY: an entry's own set, valid as long as the list that it was taken from.
        let words = unsafe { quick::words(set) };
        let (first, others) = words.split_first().map_or((0, &[][..]), |(first, others)| (*first, others));
        Words { count: words.len(), first, others: others.into() }
    }

    #[inline]
    fn are(&self, set: *const pg_sys::Bitmapset) -> bool {
        // SAFETY: as above.
        let words = unsafe { quick::words(set) };
        words.len() == self.count
            && words.split_first().is_none_or(|(first, others)| {
                *first == self.first && (others.is_empty() || *others == *self.others)
            })
    }
}

impl Asked {
    /// Remembers an entry; `None` for one that a view or rule reached, which who owns what decides too.
    pub fn of(entry: &Entry) -> Option<Asked> {
        let changes = !(entry.inserted.is_null() && entry.updated.is_null());
        let changed = changes.then(|| Box::new([Words::of(entry.inserted), Words::of(entry.updated)]));
        let named = entry.check_as == pg_sys::InvalidOid && !entry.lent;
        named.then(|| Asked {
            relid: entry.relid,
            required: entry.required,
            selected: Words::of(entry.selected),
            changed,
        })
    }

    /// Whether an entry asks for the same.
    #[inline]
    pub fn is(&self, entry: &Entry) -> bool {
        let changed = match &self.changed {
            None => entry.inserted.is_null() && entry.updated.is_null(),
            Some(changed) => changes_the_same(changed, entry),
        };
        self.relid == entry.relid
            && self.required == entry.required
            && entry.check_as == pg_sys::InvalidOid
            && !entry.lent
            && changed
            && self.selected.are(entry.selected)
    }
}

/// Apart, as most statements only read.
#[inline(never)]
fn changes_the_same([inserted, updated]: &[Words; 2], entry: &Entry) -> bool {
    inserted.are(entry.inserted) && updated.are(entry.updated)
}

impl Entry {
    /// The relation.
    pub fn relation(&self) -> pg_sys::Oid {
        self.relid
    }

    /// The columns that it reads; `None` where it reads nothing.
    pub fn read(&self) -> Option<Columns> {
        (self.required & pg_sys::ACL_SELECT != 0).then(|| columns(self.selected))
    }

    /// The columns that it fills; `None` where it inserts nothing.
    pub fn filled(&self) -> Option<Columns> {
        (self.required & pg_sys::ACL_INSERT != 0).then(|| columns(self.inserted))
    }

    /// Whether it may give the column a value that is not the statement's own: the default.
    pub fn may_default(&self, column: i16) -> bool {
        let updated = || matches!(columns(self.updated), Columns::Of(numbers) if numbers.contains(&column));
        // INSERT names a column also where its value is DEFAULT.
        self.required & pg_sys::ACL_INSERT != 0 || (self.required & pg_sys::ACL_UPDATE != 0 && updated())
    }

    /// Whether the role reads it by a privilege on its generated view alone, which nobody has checked yet.
    pub fn is_lent(&self) -> bool {
        self.lent
    }

    /// Takes what the generated view lends for what it is: read by the agent itself.
    #[cfg(not(feature = "pg15"))]
    fn mark_lent(&mut self) {
        self.lent = true;
        self.check_as = pg_sys::InvalidOid;
    }

    /// Whether it inserts or changes rows.
    pub fn changes(&self) -> bool {
        // FOR UPDATE and its like ask for UPDATE without naming a column.
        self.required & (pg_sys::ACL_INSERT | pg_sys::ACL_DELETE) != 0
            || (self.required & pg_sys::ACL_UPDATE != 0 && !self.updated.is_null())
    }
}

/// The entries of what ExecutorCheckPerms_hook is given: range table entries up to 15, permission infos from 16 on.
///
/// # Safety
/// `list` is the hook's own argument.
pub unsafe fn entries(list: *mut pg_sys::List) -> Vec<Entry> {
    // SAFETY: the caller's promise.
    unsafe { each(list) }.collect()
}

/// As `entries`, one after the other.
///
/// # Safety
/// As `entries`; the list outlives what is returned.
pub unsafe fn each(list: *mut pg_sys::List) -> impl Iterator<Item = Entry> + Clone {
    // SAFETY: the caller's promise; length and elements belong together.
    unsafe {
        let length = list.as_ref().map_or(0, |list| usize::try_from(list.length).unwrap_or(0));
        (0..length).filter_map(move |i| entry((*(*list).elements.add(i)).ptr_value))
    }
    .filter(|entry| entry.required != 0)
}

/// # Safety
/// `node` is of the type that the hook's contract names; it is only read.
unsafe fn entry(node: *mut std::ffi::c_void) -> Option<Entry> {
    #[cfg(feature = "pg15")]
    // SAFETY: the caller's promise.
    let (entry, required, lent) = unsafe {
        let entry = &*node.cast::<pg_sys::RangeTblEntry>();
        if entry.rtekind != pg_sys::RTEKind::RTE_RELATION {
            return None;
        }
        (entry, entry.requiredPerms, Mark::is_lent(entry))
    };
    #[cfg(not(feature = "pg15"))]
    // SAFETY: the caller's promise.
    let (entry, required, lent) = unsafe {
        let entry = &*node.cast::<pg_sys::RTEPermissionInfo>();
        (entry, u32::try_from(entry.requiredPerms).unwrap_or(u32::MAX), false)
    };
    Some(Entry {
        relid: entry.relid,
        required,
        check_as: if lent { pg_sys::InvalidOid } else { entry.checkAsUser },
        lent,
        selected: entry.selectedCols,
        inserted: entry.insertedCols,
        updated: entry.updatedCols,
    })
}

/// Whether a generated view lends anything, where the entries themselves do not tell (`mark_lent`).
///
/// # Safety
/// As `mark_lent`.
#[cfg(not(feature = "pg15"))]
pub unsafe fn any_lent(range_table: *mut pg_sys::List) -> bool {
    // SAFETY: a list of range table entries.
    unsafe {
        super::names::members(range_table)
            .iter()
            .any(|node| Mark::is_lent(&*node.cast::<pg_sys::RangeTblEntry>()))
    }
}

/// Marks what generated views lend: from 16 on the marks stand in the range table, apart from the permissions.
///
/// # Safety
/// Both are the hook's own arguments.
#[cfg(not(feature = "pg15"))]
pub unsafe fn mark_lent(range_table: *mut pg_sys::List, infos: *mut pg_sys::List, entries: &mut [Entry]) {
    // SAFETY: lists of range table entries and permission infos.
    unsafe {
        let infos = super::names::members(infos);
        for node in super::names::members(range_table) {
            let entry = &*node.cast::<pg_sys::RangeTblEntry>();
            if !Mark::is_lent(entry) {
                continue;
            }
            let at = usize::try_from(entry.perminfoindex).unwrap_or(0);
            let Some(info) = at.checked_sub(1).and_then(|at| infos.get(at)) else { continue };
            let check_as = (*info.cast::<pg_sys::RTEPermissionInfo>()).checkAsUser;
            // A view of the same owner's over the same relation is then taken for the agent's own reading: the stricter side.
            entries
                .iter_mut()
                .filter(|one| one.relid == entry.relid && one.check_as == check_as)
                .for_each(Entry::mark_lent);
        }
    }
}

/// The entries of one query level before it is planned.
///
/// # Safety
/// `query` is a valid, rewritten query.
pub unsafe fn entries_of(query: *mut pg_sys::Query) -> Vec<Entry> {
    // SAFETY: the caller's promise.
    unsafe { entries(version::permissions(query)) }
}

fn columns(set: *mut pg_sys::Bitmapset) -> Columns {
    if set.is_null() {
        return Columns::Unnamed;
    }
    let mut numbers = Vec::with_capacity(8);
    // SAFETY: a valid Bitmapset of the plan, only read.
    for member in unsafe { quick::members(set) } {
        let number = member.saturating_add(pg_sys::FirstLowInvalidHeapAttributeNumber);
        if number == 0 {
            return Columns::Whole;
        }
        numbers.push(i16::try_from(number).unwrap_or(i16::MAX));
    }
    if numbers.is_empty() { Columns::Unnamed } else { Columns::Of(numbers) }
}

/// The accesses that these entries need.
pub fn wanted(entries: &[Entry], policy: &Policy) -> Vec<Wanted> {
    let mut wanted = Vec::with_capacity(entries.len() * 2);
    wanted_into(entries, policy, &mut wanted);
    wanted
}

/// As `wanted`, in memory that the caller uses again.
pub fn wanted_into(entries: &[Entry], policy: &Policy, wanted: &mut Vec<Wanted>) {
    let foreign_key = calls::in_foreign_key();
    let asked = match calls::voice() {
        // Even where an allowed function asks: a view of the agent's in its way speaks for the agent.
        Voice::Function if entries.iter().any(|entry| is_own_view(entry) && !lends(entry, policy)) => {
            Voice::Named
        }
        asked => asked,
    };
    let lent = asked != Voice::Named || entries.iter().any(|entry| entry.check_as != pg_sys::InvalidOid);
    let brought = if lent && !foreign_key {
        brought::brought(entries, |entry| lends(entry, policy))
    } else {
        Brought::default()
    };
    for entry in entries {
        let voice = match foreign_key {
            true => Voice::View,
            false if brought.relations.contains(&entry.relid) => Voice::Named,
            false => voice_of(entry, asked, entries, policy),
        };
        of_entry(entry, voice, foreign_key, policy, wanted);
    }
    wanted.extend(brought.functions().filter_map(|function| functions::wanted(function, Voice::Named)));
}

/// A table reached through a view is the view's to lend, unless the view is the agent's own making. A rule or a
/// materialized view of the agent's lends nothing.
fn voice_of(entry: &Entry, asked: Voice, all: &[Entry], policy: &Policy) -> Voice {
    if entry.check_as == pg_sys::InvalidOid {
        return asked;
    }
    if !calls::is_agents(entry.check_as) {
        return Voice::View;
    }
    // Whose body the entry comes from is not told: every candidate has to be one that lends.
    let mut sources = all
        .iter()
        .filter(|other| {
            catalog::relation_facts(other.relid)
                .is_some_and(|facts| facts.has_rules && facts.owner == entry.check_as)
        })
        .peekable();
    if sources.peek().is_some() && sources.all(|source| lends(source, policy)) {
        Voice::View
    } else {
        Voice::Named
    }
}

fn is_own_view(entry: &Entry) -> bool {
    catalog::relation_facts(entry.relid)
        .is_some_and(|facts| facts.kind == b'v' && calls::is_agents(facts.owner))
}

/// Whether an own view lends its tables: it is only read, a rule names that very view, and none lets it be replaced.
fn lends(entry: &Entry, policy: &Policy) -> bool {
    entry.required == pg_sys::ACL_SELECT
        && is_own_view(entry)
        && policies::compiled(policy, Action::plain(Verb::Select), ObjectClass::Relation, entry.relid)
            .is_some_and(|compiled| compiled.scope.allows_exactly())
        && !policies::may_alter(policy, Kind::View, ObjectClass::Relation, entry.relid)
}

fn of_entry(entry: &Entry, voice: Voice, foreign_key: bool, policy: &Policy, wanted: &mut Vec<Wanted>) {
    let Some(facts) = policies::relation_facts(entry.relid) else {
        // Gone since it was planned: the server notices by itself, nothing is allowed here.
        wanted.push(Wanted::named(Action::plain(Verb::System), Target::Nothing));
        return;
    };
    let target = Target::Relation(entry.relid);
    let reads = entry.required & pg_sys::ACL_SELECT != 0;
    let writes = entry.required & !pg_sys::ACL_SELECT != 0;
    let own = own::own();
    if own.is_none_or(|own| own.schema == facts.namespace) {
        if writes || own.is_none_or(|own| own.session_policy != entry.relid) {
            wanted.push(Wanted { never: true, ..Wanted::named(Action::plain(Verb::Select), target) });
        }
        return;
    }
    if entry.relid.to_u32() < FIRST_NORMAL {
        of_catalogue(entry, voice, reads, writes, wanted);
        return;
    }
    // The rows of another table, in pieces.
    if facts.kind == b't' {
        wanted.push(Wanted { never: true, ..Wanted::named(Action::plain(Verb::Select), target) });
        return;
    }
    if facts.temporary {
        wanted.push(Wanted::named(Action::plain(Verb::Temporary), target).by(voice));
        return;
    }
    let add = |wanted: &mut Vec<Wanted>, verb: Verb, columns: Columns| {
        wanted.push(Wanted { columns, ..Wanted::named(Action::plain(verb), target.clone()).by(voice) });
    };
    // A foreign key's own look-up of the other table tells no more than the constraint does.
    if reads && !foreign_key {
        add(wanted, Verb::Select, columns(entry.selected));
    }
    if entry.required & pg_sys::ACL_INSERT != 0 {
        add(wanted, Verb::Insert, columns(entry.inserted));
    }
    if entry.required & pg_sys::ACL_UPDATE != 0 && !(foreign_key && entry.updated.is_null()) {
        // FOR UPDATE and its like ask for UPDATE without naming a column (addRangeTableEntry, transformLockingClause).
        let locks = entry.updated.is_null() && !may_update(policy, entry.relid);
        add(wanted, if locks { Verb::Lock } else { Verb::Update }, columns(entry.updated));
    }
    if entry.required & pg_sys::ACL_DELETE != 0 {
        add(wanted, Verb::Delete, Columns::Unnamed);
    }
    if is_foreign(&facts) {
        add(wanted, Verb::Foreign, Columns::Unnamed);
    }
}

fn is_foreign(facts: &RelationFacts) -> bool {
    facts.kind == b'f'
}

fn may_update(policy: &Policy, relid: pg_sys::Oid) -> bool {
    policies::compiled(policy, Action::plain(Verb::Update), ObjectClass::Relation, relid)
        .is_some_and(|compiled| compiled.scope.has_allow())
}

/// What of the server's own relations needs `inspect`, by OID: fixed for a server version.
static GUARDED: PerProcess<RefCell<HashMap<u32, Guarded>>> =
    PerProcess::new(RefCell::new(HashMap::with_hasher(rustc_hash::FxBuildHasher)));

fn guarded_columns(relid: pg_sys::Oid) -> Guarded {
    GUARDED.with(|known| {
        *known.borrow_mut().entry(relid.to_u32()).or_insert_with(|| {
            // SAFETY: a palloc'd name or null.
            let name = unsafe { catalog::text(pg_sys::get_rel_name(relid)) };
            name.map_or(Guarded::All, |name| builtin::catalogue_relation(&name))
        })
    })
}

/// Reading the catalogue is ordinary except for what `inspect` covers; a deny rule holds there too.
fn of_catalogue(entry: &Entry, voice: Voice, reads: bool, writes: bool, wanted: &mut Vec<Wanted>) {
    let target = || Target::Relation(entry.relid);
    if writes {
        wanted.push(Wanted::named(Action::plain(Verb::System), target()).by(voice));
    }
    if !reads {
        return;
    }
    let read = columns(entry.selected);
    let inspects = match guarded_columns(entry.relid) {
        Guarded::All => true,
        Guarded::Nothing => false,
        Guarded::Columns(names) => match &read {
            Columns::Unnamed => false,
            Columns::Whole => true,
            Columns::Of(numbers) => numbers.iter().any(|number| {
                catalog::column_name(entry.relid, *number).is_some_and(|name| names.contains(&name.as_str()))
            }),
        },
    };
    if inspects {
        wanted.push(Wanted {
            columns: read,
            ..Wanted::named(Action::plain(Verb::Inspect), target()).by(voice)
        });
    } else {
        // Voice::View: no allow is needed.
        wanted.push(Wanted {
            columns: read,
            ..Wanted::named(Action::plain(Verb::Select), target()).by(Voice::View)
        });
    }
}
