//! The backend's copy of the policy in force, and what was compiled of it for the objects that were touched.
//!
//! Keyed by the policy epoch in shared memory; what was compiled is dropped when the catalogue changes. A policy that
//! cannot be read denies everything.

use rustc_hash::{FxBuildHasher, FxHashMap as HashMap};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use super::catalog::RelationFacts;
use super::own::own;
use super::process::PerProcess;
use super::scan::{self, Key};
use super::{catalog, epoch};
use crate::limit::{self, Limits};
use crate::policy::rule::{Binding, Effect, RawRule, Rule};
use crate::policy::scope::{ActionScope, Column};
use crate::recording::{Kept, Recording};
use crate::refusal::{Refusal, SqlState};
use crate::request::{Action, Columns, Kind, Object, ObjectClass, Oid, Verb};

/// A policy as it was read.
pub struct Policy {
    /// The epoch before it was read.
    epoch: u64,
    /// Its id.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Denials are only recorded.
    pub observe: bool,
    /// Moves with every change.
    pub version: i64,
    /// The rules in the order of their ids.
    pub rules: Vec<Rule>,
    /// What it limits.
    pub limits: Limits,
    /// What it records of results.
    pub recording: Recording,
    /// Whether any of them looks at the statement's text.
    pub has_patterns: bool,
    /// Whether any of them denies built-ins by name.
    denies_built_ins: bool,
    /// Whether any of them denies the use of a sequence, or holds it.
    pub keeps_from_drawing: bool,
}

impl Policy {
    /// A policy that is not stored, to ask what it would say. What is compiled of it must not be mixed with another's:
    /// `forget` before and after.
    pub fn of_rules(name: String, rules: Vec<Rule>) -> Policy {
        let has_patterns = rules.iter().any(|rule| rule.statement_pattern.is_some());
        let denies_built_ins = rules.iter().any(Rule::denies_built_ins);
        let keeps_from_drawing = keeps_from(&rules, Verb::Usage);
        let limits = Limits::default();
        Policy {
            epoch: 0,
            id: 0,
            name,
            observe: false,
            version: 0,
            rules,
            limits,
            recording: Recording::default(),
            has_patterns,
            denies_built_ins,
            keeps_from_drawing,
        }
    }

    /// Whether a rule denies this built-in by name.
    pub fn denies_built_in(&self, function: pg_sys::Oid) -> bool {
        self.denies_built_ins
            && catalog::function_object(function)
                .is_none_or(|object| self.rules.iter().any(|rule| rule.denies_built_in(&object)))
    }
}

impl Policy {
    /// Whether a rule denies reading something, or holds it.
    pub fn keeps_from_reading(&self) -> bool {
        keeps_from(&self.rules, Verb::Select)
    }

    /// The epoch that it is of.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Whether a rule denies this to something, or holds it.
fn keeps_from(rules: &[Rule], verb: Verb) -> bool {
    let action = Action::plain(verb);
    rules.iter().any(|rule| rule.effect != Effect::Allow && rule.actions.iter().any(|one| one.covers(action)))
}

/// The number that moves whenever the catalogue changes, as far as decisions depend on it.
pub fn generation() -> u64 {
    CACHE.with(|cache| cache.try_borrow().map_or(0, |cache| cache.generation))
}

/// What the policy says of one action on one object.
pub struct Compiled {
    /// The object; `None` for actions that have none.
    pub object: Option<Arc<Object>>,
    /// The object's qualified name; empty for none.
    pub name: Rc<str>,
    /// The columns of a relation; empty for anything else.
    pub columns: Vec<Column>,
    /// The rules that bear on it.
    pub scope: ActionScope,
    /// The columns that were last shown by name: a prepared statement asks for the same ones again.
    shown: RefCell<Option<(Vec<i16>, Rc<str>)>>,
}

impl Compiled {
    /// The columns of an access as they are recorded: by name, separated by commas. `None` for none in particular.
    pub fn shown(&self, columns: &Columns) -> Option<Rc<str>> {
        match columns {
            Columns::Unnamed => None,
            Columns::Whole => Some("*".into()),
            Columns::Of(numbers) => {
                let mut shown = self.shown.try_borrow_mut().ok();
                if let Some(Some((known, names))) = shown.as_deref()
                    && known == numbers
                {
                    return Some(Rc::clone(names));
                }
                let names: Rc<str> = self.names(numbers).into();
                if let Some(shown) = shown.as_deref_mut() {
                    *shown = Some((numbers.clone(), Rc::clone(&names)));
                }
                Some(names)
            }
        }
    }

    fn names(&self, numbers: &[i16]) -> String {
        let mut names = String::with_capacity(numbers.len() * 12);
        for number in numbers {
            if !names.is_empty() {
                names.push(',');
            }
            match self.columns.iter().find(|column| column.0 == *number) {
                Some((_, name)) => names.push_str(name),
                None => names.push_str(&number.to_string()),
            }
        }
        names
    }
}

type MemoKey = (ObjectClass, Oid, Action);

struct Cache {
    policy: Option<Rc<Policy>>,
    compiled: HashMap<MemoKey, Rc<Compiled>>,
    /// Rows of pg_class. Every change of one invalidates the relation (CacheInvalidateHeapTuple in inval.c), and that
    /// drops what was compiled together with these.
    facts: HashMap<Oid, RelationFacts>,
    /// Moves whenever the catalogue changes.
    generation: u64,
}

impl Cache {
    const fn empty(generation: u64) -> Cache {
        Cache {
            policy: None,
            compiled: HashMap::with_hasher(FxBuildHasher),
            facts: HashMap::with_hasher(FxBuildHasher),
            generation,
        }
    }
}

/// The policy epoch in which the policy in force is known to deny no built-in by name; 0 for none.
static NO_BUILT_IN_DENIED: AtomicU64 = AtomicU64::new(0);

/// Whether a built-in that needs no rule may be denied all the same. Takes no lock and cannot fail: asked by an outer hook
/// frame for every function of every statement.
#[inline]
pub fn may_deny_built_ins() -> bool {
    NO_BUILT_IN_DENIED.load(Ordering::Relaxed) != epoch::policies()
}

static CACHE: PerProcess<RefCell<Cache>> = PerProcess::new(RefCell::new(Cache::empty(0)));

/// More than this many compiled objects are dropped together: a bound on memory, not on speed.
const COMPILED_MAX: usize = 16_384;

/// Forgets the policy and everything compiled; called when the binding changes.
pub fn forget() {
    NO_BUILT_IN_DENIED.store(0, Ordering::Relaxed);
    CACHE.with(|cache| {
        if let Ok(mut cache) = cache.try_borrow_mut() {
            *cache = Cache::empty(cache.generation.wrapping_add(1));
        }
    });
}

/// Forgets what was compiled, but not the rules; called from catalogue invalidation.
pub fn forget_compiled() {
    CACHE.with(|cache| {
        if let Ok(mut cache) = cache.try_borrow_mut() {
            cache.compiled.clear();
            cache.facts.clear();
            cache.generation = cache.generation.wrapping_add(1);
        }
    });
}

fn unreadable(detail: String) -> Refusal {
    Refusal::new(
        SqlState::InternalError,
        "policy_unreadable",
        "the policy of this session cannot be read",
        detail,
        "A DBA can look at it with SELECT * FROM agent_guard.rules, and mend or drop the rule.",
    )
}

/// The policy of this id as it is now.
///
/// # Errors
/// When it is gone or one of its rules does not parse.
pub fn policy(id: i64) -> Result<Rc<Policy>, Refusal> {
    loop {
        let epoch = epoch::policies();
        let known = CACHE.with(|cache| cache.borrow().policy.clone());
        if let Some(policy) = known.filter(|policy| policy.epoch == epoch && policy.id == id) {
            return Ok(policy);
        }
        let changed = CACHE.with(|cache| cache.borrow().policy.is_some());
        let policy = Rc::new(read(id, epoch)?);
        // Read while it changed: once more, so that no decision mixes two versions.
        if epoch::policies() != epoch {
            continue;
        }
        CACHE.with(|cache| {
            let mut cache = cache.borrow_mut();
            cache.compiled.clear();
            cache.policy = Some(Rc::clone(&policy));
        });
        NO_BUILT_IN_DENIED.store(if policy.denies_built_ins { 0 } else { epoch }, Ordering::Relaxed);
        if changed {
            // SAFETY: plans hold what was substituted under the old policy; they are rebuilt at their next use.
            unsafe { pg_sys::ResetPlanCache() };
        }
        return Ok(policy);
    }
}

fn read(id: i64, epoch: u64) -> Result<Policy, Refusal> {
    let own =
        own().ok_or_else(|| unreadable("The extension is not installed in this database.".to_owned()))?;
    let mut head = None;
    scan::rows(own.policy, Some((own.policy_pkey, 1, Key::Big(id))), |row| {
        head = (|| {
            let (name, mode) = (row.column::<String>(2)?, row.column::<String>(4)?);
            Some((name, mode, row.column::<i64>(5)?, limits_at(row, POLICY_LIMITS), recording_at(row)?))
        })();
    });
    let (name, mode, version, limits, recording) =
        head.ok_or_else(|| unreadable(format!("Policy {id} is gone.")))?;
    let observe = match mode.as_str() {
        "enforce" => false,
        "observe" => true,
        other => return Err(unreadable(format!("Its mode is \"{other}\"."))),
    };
    let mut raws = Vec::new();
    scan::rows(own.rule, Some((own.rule_by_policy, 2, Key::Big(id))), |row| {
        raws.push(RawRule {
            id: row.column(1).unwrap_or_default(),
            effect: row.column(3).unwrap_or_default(),
            actions: row.texts(4),
            objects: row.texts(5),
            columns: row.texts(6),
            require_where: row.column(7).unwrap_or(true),
            max_rows: row.column(8),
            statement_pattern: row.column(9),
            approval: None,
        });
    });
    raws.sort_by_key(|raw| raw.id);
    let mut bindings = read_bindings(own.rule_binding, own.rule_binding_pkey, &raws);
    let mut rules = Vec::with_capacity(raws.len());
    for raw in &raws {
        let mut rule = Rule::parse(raw)
            .map_err(|error| unreadable(format!("Rule {}: {}: {}.", raw.id, error.path, error.message)))?;
        for (ord, binding) in bindings.remove(&raw.id).unwrap_or_default() {
            if let Some(object) = usize::try_from(ord).ok().and_then(|ord| rule.objects.get_mut(ord)) {
                object.binding = Some(binding);
            }
        }
        rules.push(rule);
    }
    let has_patterns = rules.iter().any(|rule| rule.statement_pattern.is_some());
    let denies_built_ins = rules.iter().any(Rule::denies_built_ins);
    let keeps_from_drawing = keeps_from(&rules, Verb::Usage);
    Ok(Policy {
        epoch,
        id,
        name,
        observe,
        version,
        rules,
        limits,
        recording,
        has_patterns,
        denies_built_ins,
        keeps_from_drawing,
    })
}

/// The first column of the limits in the table policy.
const POLICY_LIMITS: usize = 9;

/// What a row of policy says of results: record_results, record_max_rows, record_max_bytes. `None` where it cannot be read.
fn recording_at(row: &scan::Row<'_>) -> Option<Recording> {
    const FIRST: usize = POLICY_LIMITS + 6;
    let column = |nth: usize| row.column::<i64>(nth).map(|value| u64::try_from(value).unwrap_or(0));
    let results = Kept::of_word(&row.column::<String>(FIRST)?)?;
    Some(Recording { results, max_rows: column(FIRST + 1), max_bytes: column(FIRST + 2) })
}

/// The limits in a row of policy or window_grant, which have their columns in the same order: rows_per_statement, rows_read,
/// rows_written, bytes_read, statements, statement_timeout and, in window_grant, uses.
pub fn limits_at(row: &scan::Row<'_>, first: usize) -> Limits {
    let column = |nth: usize| {
        // Only checked values are stored; a number below 1 lets nothing through.
        row.column::<i64>(first + nth).map(|value| u64::try_from(value).unwrap_or(0))
    };
    let uses = if first == POLICY_LIMITS { None } else { column(6) };
    let mut totals = [None; limit::METERS];
    for (place, value) in totals.iter_mut().zip([column(1), column(2), column(3), column(4), uses]) {
        *place = value;
    }
    let timeout = row.column::<pgrx::datum::Interval>(first + 5).map(|interval| microseconds(&interval));
    Limits { totals, rows_per_statement: column(0), statement_timeout: timeout }
}

/// An interval in microseconds, a month as thirty days; at least one.
pub fn microseconds(interval: &pgrx::datum::Interval) -> u64 {
    let days = i64::from(interval.months()).saturating_mul(30).saturating_add(i64::from(interval.days()));
    let micros = days.saturating_mul(86_400_000_000).saturating_add(interval.micros());
    u64::try_from(micros).unwrap_or(0).max(1)
}

/// The number of rules from which one pass over all bindings is cheaper than a look-up for each rule.
const MANY_RULES: usize = 64;

fn read_bindings(
    table: pg_sys::Oid,
    index: pg_sys::Oid,
    rules: &[RawRule],
) -> HashMap<i64, Vec<(i32, Binding)>> {
    let mut bindings: HashMap<i64, Vec<(i32, Binding)>> = HashMap::default();
    let mut keep = |row: &scan::Row<'_>| {
        let binding = (|| {
            let class = match row.column::<i8>(3)?.cast_unsigned() {
                b'r' => ObjectClass::Relation,
                b'f' => ObjectClass::Function,
                b's' => ObjectClass::Schema,
                b'o' => ObjectClass::Role,
                _ => return None,
            };
            let attributes = row.column::<Vec<Option<i16>>>(5)?.into_iter().flatten().collect();
            let oid = catalog::core_oid(row.column::<pg_sys::Oid>(4)?);
            Some((row.column::<i64>(1)?, row.column::<i32>(2)?, Binding { class, oid, attributes }))
        })();
        if let Some((rule, ord, binding)) = binding {
            bindings.entry(rule).or_default().push((ord, binding));
        }
    };
    if rules.len() > MANY_RULES {
        scan::rows(table, None, keep);
    } else {
        for rule in rules {
            scan::rows(table, Some((index, 1, Key::Big(rule.id))), &mut keep);
        }
    }
    bindings
}

/// What pg_class says of a relation, from the copy that is kept like what was compiled.
pub fn relation_facts(relid: pg_sys::Oid) -> Option<RelationFacts> {
    let key = catalog::core_oid(relid);
    let (known, generation) = CACHE.with(|cache| {
        let cache = cache.borrow();
        (cache.facts.get(&key).copied(), cache.generation)
    });
    if known.is_some() {
        return known;
    }
    let facts = catalog::relation_facts(relid)?;
    CACHE.with(|cache| {
        let mut cache = cache.borrow_mut();
        if cache.facts.len() >= COMPILED_MAX {
            cache.facts.clear();
        }
        if cache.generation == generation {
            cache.facts.insert(key, facts);
        }
    });
    Some(facts)
}

/// What the policy says of `action` on the object of this class and OID.
pub fn compiled(
    policy: &Policy,
    action: Action,
    class: ObjectClass,
    oid: pg_sys::Oid,
) -> Option<Rc<Compiled>> {
    let key = (class, catalog::core_oid(oid), action);
    if let Some(found) = CACHE.with(|cache| cache.borrow().compiled.get(&key).cloned()) {
        return Some(found);
    }
    let generation = CACHE.with(|cache| cache.borrow().generation);
    let object = match class {
        ObjectClass::Relation => catalog::relation_object(oid),
        ObjectClass::Function => catalog::function_object(oid),
        ObjectClass::Schema => catalog::schema_object(oid),
        ObjectClass::Role => catalog::role_object(oid),
        ObjectClass::Other => None,
    }?;
    let fresh = Rc::new(compile(policy, action, Some(Arc::new(object)), oid));
    CACHE.with(|cache| {
        let mut cache = cache.borrow_mut();
        if cache.compiled.len() >= COMPILED_MAX {
            cache.compiled.clear();
        }
        // Compiling reads the catalogue, which may change meanwhile: then it holds for this decision, not for others.
        if cache.generation == generation {
            cache.compiled.insert(key, Rc::clone(&fresh));
        }
    });
    Some(fresh)
}

/// Whether a rule may let the agent put another body into a view or function. What lends because a rule names it would then lend
/// whatever the agent writes.
pub fn may_alter(policy: &Policy, kind: Kind, class: ObjectClass, oid: pg_sys::Oid) -> bool {
    compiled(policy, Action::on(Verb::Alter, kind), class, oid).is_none_or(|it| it.scope.has_allow())
}

/// What the policy says of `action` on an object that is not kept: one to be created, one of another class, or none.
pub fn compiled_once(policy: &Policy, action: Action, object: Option<Arc<Object>>) -> Compiled {
    compile(policy, action, object, pg_sys::InvalidOid)
}

fn compile(policy: &Policy, action: Action, object: Option<Arc<Object>>, relid: pg_sys::Oid) -> Compiled {
    let is_relation = relid != pg_sys::InvalidOid
        && object.as_ref().is_some_and(|object| object.class == ObjectClass::Relation);
    let columns = if is_relation { catalog::columns(relid) } else { Vec::new() };
    let mut scope = ActionScope::compile(&policy.rules, action, object.as_deref(), &columns);
    if is_relation {
        // A deny on a parent covers its partitions and children read directly, one on a child covers the parent.
        let mut kin = catalog::ancestors(relid);
        if catalog::relation_facts(relid).is_some_and(|facts| facts.has_children) {
            kin.extend(catalog::descendants(relid));
        }
        for relative in kin {
            if let Some(object) = catalog::relation_object(relative) {
                scope.inherit_denies(&policy.rules, action, &object, &catalog::columns(relative), &columns);
            }
        }
    }
    let name = object.as_ref().map(|object| object.to_string()).unwrap_or_default().into();
    Compiled { object, name, columns, scope, shown: RefCell::new(None) }
}
