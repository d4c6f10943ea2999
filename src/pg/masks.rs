//! What agents read of masked and row-filtered relations, under the policy in force.
//!
//! The tables are read once per policy epoch and policy, straight from the heap; what was compiled of them for a relation is
//! dropped when the catalogue changes. It decides nothing: `substitute` puts it into queries, `second_line` proves that it is
//! there. A mask of which anything is not understood closes the relation.

mod compile;
mod copies;
pub mod dependents;
mod predicate;

use rustc_hash::{FxBuildHasher, FxHashMap as HashMap, FxHashSet as HashSet};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use pgrx::pg_sys;

pub use self::compile::{Masked, Opened};
use super::own::own;
use super::process::PerProcess;
use super::scan::{self, Key};
use super::{catalog, epoch, guc, quick, session};
use crate::refusal::{Place, Refusal, SqlState};

/// What the tables say, for one policy.
#[derive(Default)]
struct Declared {
    /// Masked columns of each relation, by number.
    masks: HashMap<pg_sys::Oid, Vec<i16>>,
    /// The generated view of each masked relation.
    views: HashMap<pg_sys::Oid, pg_sys::Oid>,
    /// The policy's predicates.
    filters: HashMap<pg_sys::Oid, Vec<String>>,
    /// Columns that the policy reads unmasked.
    exposed: HashSet<(pg_sys::Oid, i16)>,
}

impl Declared {
    fn names(&self, relation: pg_sys::Oid) -> bool {
        self.masks.contains_key(&relation) || self.filters.contains_key(&relation)
    }

    /// The columns of a relation that it masks itself and that the policy does not expose.
    fn masked(&self, relation: pg_sys::Oid) -> impl Iterator<Item = i16> + '_ {
        let columns = self.masks.get(&relation).map_or(&[][..], Vec::as_slice);
        columns.iter().copied().filter(move |number| !self.exposed.contains(&(relation, *number)))
    }

    /// Whether the DBA has said how agents read this relation.
    fn settled(&self, relation: pg_sys::Oid) -> bool {
        self.names(relation) || self.exposed.iter().any(|(exposed, _)| *exposed == relation)
    }
}

/// The epoch and the policy that something was read under.
type Under = (u64, Option<i64>);

struct Cache {
    /// What was read.
    declared: Option<(Under, Rc<Declared>)>,
    compiled: HashMap<pg_sys::Oid, Option<Rc<Masked>>>,
    generation: u64,
}

impl Cache {
    fn is_of(&self, now: Under) -> bool {
        self.declared.as_ref().is_some_and(|(of, _)| *of == now)
    }
}

static CACHE: PerProcess<RefCell<Cache>> = PerProcess::new(RefCell::new(Cache {
    declared: None,
    compiled: HashMap::with_hasher(FxBuildHasher),
    generation: 0,
}));

/// The epoch and the binding for which it is known whether anything is masked or filtered: what other statements pay.
static ANYTHING: PerProcess<Cell<Option<(u64, u64, bool)>>> = PerProcess::new(Cell::new(None));

/// Forgets what was compiled; called from catalogue invalidation.
pub fn forget_compiled() {
    let dropped = CACHE.with(|cache| {
        let mut cache = cache.try_borrow_mut().ok()?;
        cache.generation = cache.generation.wrapping_add(1);
        Some(std::mem::take(&mut cache.compiled))
    });
    drop(dropped);
}

/// The policy whose filters and exposures hold; without a binding (observing only) every mask holds and nothing is exposed.
///
/// A session that has not bound its token of the startup packet yet does so here: planning comes before anybody else asks.
fn policy_in_force() -> Option<i64> {
    let session = session::bound().or_else(|| session::current().ok());
    session.map(|session| session.policy_id)
}

/// Whether anything is masked or filtered for this session.
pub fn any() -> bool {
    let here = (epoch::policies(), guc::active_serial());
    if let Some((epoch, serial, anything)) = ANYTHING.get()
        && (epoch, serial) == here
        && !epoch::changed_here()
    {
        return anything;
    }
    if !readable() {
        // Nothing can run either; whatever asks is told that it has to ask further.
        return true;
    }
    let policy = policy_in_force();
    let declared = declared((here.0, policy));
    let anything = !declared.masks.is_empty() || !declared.filters.is_empty();
    // A token that is still to bind brings a policy, with filters perhaps.
    let known = (anything || policy.is_some()) && !epoch::changed_here() && epoch::policies() == here.0;
    ANYTHING.set(known.then_some((here.0, here.1, anything)));
    anything
}

/// Tells the state of what was compiled from any other of this backend's; `None` while it is being changed here.
pub fn generation() -> Option<u64> {
    (!epoch::changed_here()).then(|| CACHE.with(|cache| cache.borrow().generation))
}

/// Whether tables can be read: not in a transaction that has failed, whose ROLLBACK is a statement too.
fn readable() -> bool {
    quick::in_transaction()
}

fn declared(now: Under) -> Rc<Declared> {
    let known = CACHE.with(|cache| {
        let cache = cache.borrow();
        cache.declared.as_ref().filter(|(of, _)| *of == now).map(|(_, declared)| Rc::clone(declared))
    });
    // A generated view that follows a DDL of this transaction is not committed yet.
    let changed_here = epoch::changed_here();
    if let Some(known) = known.filter(|_| !changed_here) {
        return known;
    }
    let fresh = Rc::new(read(now.1));
    let old = CACHE.with(|cache| {
        let mut cache = cache.borrow_mut();
        // Read while it changed: used once, and read again at the next question.
        let lasts = epoch::policies() == now.0 && !changed_here;
        cache.declared = lasts.then(|| (now, Rc::clone(&fresh)));
        std::mem::take(&mut cache.compiled)
    });
    drop(old);
    fresh
}

fn read(policy: Option<i64>) -> Declared {
    let mut declared = Declared::default();
    let Some(own) = own() else { return declared };
    scan::rows(own.mask, None, |row| {
        if let (Some(relation), Some(number)) = (row.column::<pg_sys::Oid>(2), row.column::<i16>(4)) {
            declared.masks.entry(relation).or_default().push(number);
        }
    });
    scan::rows(own.masked_view, None, |row| {
        if let (Some(relation), Some(view)) = (row.column::<pg_sys::Oid>(1), row.column::<pg_sys::Oid>(2)) {
            declared.views.insert(relation, view);
        }
    });
    let Some(policy) = policy else { return declared };
    scan::rows(own.row_filter, Some((own.row_filter_by_policy, 2, Key::Big(policy))), |row| {
        if let Some(relation) = row.column::<pg_sys::Oid>(3) {
            // A predicate that cannot be read lets no row exist.
            let predicate = row.column::<String>(4).unwrap_or_else(|| "false".to_owned());
            declared.filters.entry(relation).or_default().push(predicate);
        }
    });
    scan::rows(own.exposed_column, Some((own.exposed_column_pkey, 1, Key::Big(policy))), |row| {
        if let (Some(relation), Some(number)) = (row.column::<pg_sys::Oid>(2), row.column::<i16>(3)) {
            declared.exposed.insert((relation, number));
        }
    });
    declared
}

/// More than this many compiled relations are dropped together.
const COMPILED_MAX: usize = 16_384;

/// What agents read of a relation; `None` where it is read as it is.
///
/// # Errors
/// Where the mask or filter cannot be put in force: the relation is out of reach.
pub fn of(relation: pg_sys::Oid) -> Result<Option<Rc<Masked>>, Refusal> {
    if !any() || relation.to_u32() < catalog::FIRST_NORMAL {
        return Ok(None);
    }
    if !readable() {
        return Err(unusable(relation, "The transaction has failed."));
    }
    loop {
        let now = (epoch::policies(), policy_in_force());
        let masked = under(now, relation);
        // Compiling waits for whoever alters what it reads: what was declared before and what is compiled after are no pair. The
        // epoch moves before their locks go.
        if epoch::policies() == now.0 {
            return masked;
        }
        pgrx::check_for_interrupts!();
    }
}

/// What agents read of a relation as far as `now` goes.
fn under(now: Under, relation: pg_sys::Oid) -> Result<Option<Rc<Masked>>, Refusal> {
    let known = |cache: &RefCell<Cache>| {
        let cache = cache.borrow();
        let current = cache.is_of(now) && !epoch::changed_here();
        (cache.compiled.get(&relation).filter(|_| current).cloned(), cache.generation)
    };
    if let (Some(known), _) = CACHE.with(known) {
        return Ok(known);
    }
    // Drops what was compiled where it is out of date.
    let declared = declared(now);
    let (_, generation) = CACHE.with(known);
    let fresh = compile::compile(&declared, relation)?.map(Rc::new);
    let old = CACHE.with(|cache| {
        let mut cache = cache.borrow_mut();
        let old = if cache.compiled.len() >= COMPILED_MAX {
            std::mem::take(&mut cache.compiled)
        } else {
            HashMap::default()
        };
        if cache.generation == generation {
            cache.compiled.insert(relation, fresh.clone());
        }
        old
    });
    drop(old);
    Ok(fresh)
}

/// Whether anything bears on a relation, be it that it cannot be put in force.
pub fn concern(relation: pg_sys::Oid) -> bool {
    of(relation).map_or(true, |masked| masked.is_some_and(|masked| masked.masks() || masked.filters_rows()))
}

/// The first masked or filtered relation that a query reads, through views and what materialized views store.
///
/// # Safety
/// `query` is a valid query.
pub unsafe fn read_by(query: *mut pg_sys::Query) -> Option<pg_sys::Oid> {
    if !any() || !readable() {
        return None;
    }
    let declared = declared((epoch::policies(), policy_in_force()));
    // SAFETY: the caller's promise.
    unsafe { copies::sensitive(&declared, query) }
}

/// The first masked or filtered relation whose rows a materialized view stores, whether or not it is settled how it reads.
pub fn stored_by(relation: pg_sys::Oid) -> Option<pg_sys::Oid> {
    if !any() || catalog::relation_facts(relation).is_none_or(|facts| facts.kind != b'm') {
        return None;
    }
    let opened = compile::Opened::open(relation)?;
    // SAFETY: a materialized view's query belongs to its open cache entry.
    opened.query().and_then(|query| unsafe { read_by(query) })
}

/// The masked or filtered relation for which the server calls a function with raw values: in an index, a constraint, a
/// trigger, a row security policy, a default or a generated column.
///
/// # Errors
/// Where a mask cannot be put in force.
pub fn calls_with_raw_values(function: pg_sys::Oid) -> Result<Option<pg_sys::Oid>, Refusal> {
    for relation in dependents::of_function(function) {
        if of(relation)?.is_some_and(|masked| masked.masks() || masked.filters_rows()) {
            return Ok(Some(relation));
        }
    }
    Ok(None)
}

/// The relation's own columns as the error's fields, and its name.
pub fn place(relation: pg_sys::Oid, column: Option<&str>) -> (String, Place) {
    let object = catalog::relation_object(relation);
    let name = object.as_ref().map_or_else(|| relation.to_u32().to_string(), ToString::to_string);
    let place = object.map(|object| Place {
        schema: object.schema,
        table: object.name,
        column: column.unwrap_or_default().to_owned(),
    });
    (name, place.unwrap_or_default())
}

/// A refusal about a relation, and a column of it where one is named.
pub fn refusal(
    reason: &'static str,
    relation: pg_sys::Oid,
    column: Option<&str>,
    message: impl FnOnce(&str) -> String,
    detail: &str,
    hint: &str,
) -> Refusal {
    let (name, place) = place(relation, column);
    let of_column = column.map(|column| format!(" column={column}")).unwrap_or_default();
    Refusal {
        place,
        ..Refusal::new(
            SqlState::InsufficientPrivilege,
            reason,
            message(&name),
            format!("object={name}{of_column} {detail}"),
            hint,
        )
    }
}

/// The refusal of a relation whose mask or filter cannot be put in force.
fn unusable(relation: pg_sys::Oid, why: &str) -> Refusal {
    refusal(
        "mask_unusable",
        relation,
        None,
        |name| format!("the mask or row filter of {name} cannot be put in force"),
        why,
        "Ask a DBA to run SELECT agent_guard.rebuild_masks(), or to write the mask or filter anew.",
    )
}
