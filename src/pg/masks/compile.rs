//! One relation's masks and filters as expression trees: its own ones, those of its parents, and those of its children.
//!
//! A mask on a parent covers every partition and child that is read directly, one on a child covers the column of the
//! parent. A child's filter holds, when the parent is read, for the rows of that child. An expression that uses code of a role
//! that is no superuser is not put in force.

use std::hash::{Hash, Hasher};

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::gather::names;
use super::super::{catalog, encoding, expression_check, version};
use super::{Declared, copies, predicate, unusable};
use crate::refusal::Refusal;

/// What agents read of one relation. The trees live in a memory context of their own and refer to the relation as entry 1.
pub struct Masked {
    /// The relation.
    pub relation: pg_sys::Oid,
    /// Tells this state of masks and filters from any other; plans carry it.
    pub fingerprint: u64,
    /// The columns that read masked, by number.
    pub columns: Vec<i16>,
    /// Columns that hold copies of masked ones elsewhere and cannot be read, with the reason; 0 is the whole relation.
    pub withheld: Vec<(i16, String)>,
    /// An expression may show a raw value in the text of an error.
    pub leaks_in_errors: bool,
    /// The relation has row security of its own.
    pub row_security: bool,
    /// Its own generated view, where it has one.
    pub view: Option<pg_sys::Oid>,
    /// The target list of that view, as it is stored.
    shown: *mut pg_sys::List,
    /// One target entry for each attribute number, dropped ones included.
    targets: *mut pg_sys::List,
    /// Target entries of the masked columns alone.
    masked_targets: *mut pg_sys::List,
    filters: *mut pg_sys::List,
    context: pg_sys::MemoryContext,
}

impl Drop for Masked {
    fn drop(&mut self) {
        // SAFETY: the context is this value's own, and nothing refers to its trees but this value.
        unsafe { pg_sys::MemoryContextDelete(self.context) };
    }
}

impl Masked {
    /// Whether reading it takes a subquery: some column reads masked.
    pub fn masks(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Whether rows are filtered.
    pub fn filters_rows(&self) -> bool {
        !self.filters.is_null()
    }

    /// A copy of the target list, one entry for each attribute, in the current memory context.
    pub fn targets(&self) -> *mut pg_sys::List {
        copy(self.targets)
    }

    /// A copy of the entries of the masked columns, for entry `index` of a range table.
    pub fn masked_targets(&self, index: i32) -> *mut pg_sys::List {
        renumbered(copy(self.masked_targets), index)
    }

    /// Whether a target list is that of the relation's own generated view.
    ///
    /// # Safety
    /// `list` is a valid target list.
    pub unsafe fn shows(&self, list: *mut pg_sys::List) -> bool {
        // SAFETY: the caller's promise; both are only compared.
        !self.shown.is_null() && unsafe { pg_sys::equal(self.shown.cast(), list.cast()) }
    }

    /// A copy of the predicates, for entry `index` of a range table.
    pub fn filters(&self, index: i32) -> *mut pg_sys::List {
        renumbered(copy(self.filters), index)
    }
}

fn copy(list: *mut pg_sys::List) -> *mut pg_sys::List {
    // SAFETY: copies a valid tree, or null.
    unsafe { pg_sys::copyObjectImpl(list.cast()).cast() }
}

fn renumbered(list: *mut pg_sys::List, index: i32) -> *mut pg_sys::List {
    if index != 1 {
        // SAFETY: a fresh copy; its Vars refer to entry 1.
        unsafe { pg_sys::ChangeVarNodes(list.cast(), 1, index, 0) };
    }
    list
}

/// An opened relation, closed when it goes.
pub struct Opened(pub pg_sys::Relation);

const ACCESS_SHARE: i32 = 1;

impl Opened {
    /// Opens a relation; `None` where there is none.
    pub fn open(relation: pg_sys::Oid) -> Option<Opened> {
        // SAFETY: try_relation_open gives null for a missing relation.
        let opened = unsafe { pg_sys::try_relation_open(relation, ACCESS_SHARE) };
        // Not then_some: an Opened of null would be closed.
        (!opened.is_null()).then(|| Opened(opened))
    }

    /// Its attributes in order, dropped ones included.
    pub fn attributes(&self) -> &[pg_sys::FormData_pg_attribute] {
        // SAFETY: an open relation has a descriptor of natts attributes.
        unsafe { version::attributes((*self.0).rd_att) }
    }

    /// The query of a view or a materialized view, which belongs to its cache entry. get_view_query of the server's is for views alone.
    pub fn query(&self) -> Option<*mut pg_sys::Query> {
        // SAFETY: the rules of an open relation are null or complete; the action of a rule ON SELECT is one query.
        unsafe {
            let rules = (*self.0).rd_rules.as_ref()?;
            let all = std::slice::from_raw_parts(rules.rules, usize::try_from(rules.numLocks).ok()?);
            let select = all.iter().find(|rule| (***rule).event == pg_sys::CmdType::CMD_SELECT)?;
            names::members((**select).actions).first().map(|query| query.cast())
        }
    }

    /// The number of the live column of this name.
    pub fn number(&self, name: &str) -> Option<i16> {
        let found =
            self.attributes().iter().find(|one| !one.attisdropped && encoding::name(&one.attname) == name)?;
        Some(found.attnum)
    }

    /// The name of a live column.
    pub fn name(&self, number: i16) -> Option<String> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        let found = self.attributes().get(at).filter(|one| !one.attisdropped)?;
        Some(encoding::name(&found.attname))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: opened above with this lock.
        unsafe { pg_sys::relation_close(self.0, ACCESS_SHARE) };
    }
}

/// Compiles what bears on a relation; `None` where nothing does.
pub fn compile(declared: &Declared, relation: pg_sys::Oid) -> Result<Option<Masked>, Refusal> {
    let Some(facts) = catalog::relation_facts(relation) else { return Ok(None) };
    if !matches!(facts.kind, b'r' | b'p' | b'f' | b'm' | b't') {
        return Ok(None);
    }
    let mut sources = vec![relation];
    sources.extend(catalog::ancestors(relation));
    let above = sources.len();
    if facts.has_children {
        sources.extend(catalog::descendants(relation));
    }
    let Some(opened) = Opened::open(relation) else { return Ok(None) };
    let withheld = copies::of(declared, &opened, facts.kind)?;
    let concerned = sources.iter().any(|source| declared.names(*source));
    if !concerned && withheld.is_empty() {
        return Ok(None);
    }
    // SAFETY: a new context of ours; built in it, and deleted with the value, or here where building fails.
    unsafe {
        let context = pg_sys::AllocSetContextCreateInternal(
            pg_sys::CacheMemoryContext,
            c"agent_guard mask".as_ptr(),
            0,
            1024,
            8 * 1024 * 1024,
        );
        let mut built = Masked {
            relation,
            fingerprint: 0,
            columns: Vec::new(),
            withheld,
            leaks_in_errors: false,
            row_security: (*(*opened.0).rd_rel).relrowsecurity,
            view: None,
            shown: std::ptr::null_mut(),
            targets: std::ptr::null_mut(),
            masked_targets: std::ptr::null_mut(),
            filters: std::ptr::null_mut(),
            context,
        };
        let mut expressions: Vec<(i16, *mut pg_sys::Node)> = Vec::new();
        let old = pg_sys::MemoryContextSwitchTo(context);
        let _back = Back(old);
        for (nth, source) in sources.iter().enumerate() {
            masks_of(declared, &opened, *source, &mut expressions, &mut built)?;
            filters_of(declared, &opened, *source, nth >= above, &mut built.filters)?;
        }
        expressions.sort_by_key(|(number, _)| *number);
        build(&opened, &expressions, &mut built)?;
        Ok(Some(built))
    }
}

/// Switches back to a memory context when it goes.
struct Back(pg_sys::MemoryContext);

impl Drop for Back {
    fn drop(&mut self) {
        // SAFETY: the context that was current before.
        unsafe { pg_sys::MemoryContextSwitchTo(self.0) };
    }
}

/// The masks that `source` puts on the relation, for columns that have none yet.
unsafe fn masks_of(
    declared: &Declared,
    opened: &Opened,
    source: pg_sys::Oid,
    expressions: &mut Vec<(i16, *mut pg_sys::Node)>,
    built: &mut Masked,
) -> Result<(), Refusal> {
    // SAFETY: the view's query belongs to its open cache entry and is copied from.
    unsafe {
        let relation = (*opened.0).rd_id;
        let mut numbers = declared.masked(source).peekable();
        if numbers.peek().is_none() {
            return Ok(());
        }
        let Some(from) = Opened::open(source) else {
            return Err(unusable(relation, "A relation of its inheritance is gone."));
        };
        let view = declared.views.get(&source).and_then(|view| Opened::open(*view));
        let Some(view) = view.filter(|view| (*(*view.0).rd_rel).relkind.cast_unsigned() == b'v') else {
            return Err(unusable(relation, "Its generated view is missing."));
        };
        let query = pg_sys::get_view_query(view.0);
        let entries = names::members((*query).targetList);
        let live = from.attributes().iter().filter(|one| !one.attisdropped).count();
        let Some(base) = base_entry(query, source).filter(|_| entries.len() == live) else {
            return Err(unusable(relation, "Its generated view is out of date."));
        };
        if source == relation {
            built.view = Some((*view.0).rd_id);
            built.shown = copy((*query).targetList);
        }
        for number in numbers {
            let Some(name) = from.name(number) else {
                return Err(unusable(relation, "A masked column is gone."));
            };
            let own = if source == relation { Some(number) } else { opened.number(&name) };
            // A child's column that this relation does not have is not read through it.
            let Some(own) = own else { continue };
            if expressions.iter().any(|(known, _)| *known == own)
                || declared.exposed.contains(&(relation, own))
            {
                continue;
            }
            let before = from.attributes().iter().take(usize::try_from(number).unwrap_or(0));
            let nth = before.filter(|one| !one.attisdropped).count().checked_sub(1);
            let Some(entry) = nth.and_then(|nth| entries.get(nth)) else {
                return Err(unusable(relation, "Its generated view is out of date."));
            };
            let expression = (*entry.cast::<pg_sys::TargetEntry>()).expr;
            let expression: *mut pg_sys::Node = pg_sys::copyObjectImpl(expression.cast()).cast();
            if base != 1 {
                pg_sys::ChangeVarNodes(expression, base, 1, 0);
            }
            let collation = from.attributes().iter().find(|one| one.attnum == number);
            in_trusted_hands(relation, source, expression, collation.map(|one| one.attcollation))?;
            let attribute = opened.attributes().iter().find(|one| one.attnum == own);
            let Some(attribute) = attribute else {
                return Err(unusable(relation, "A masked column is gone."));
            };
            let mapped = source == relation || predicate::carry(expression, &from, opened);
            let expression = if mapped {
                expression
            } else {
                // It looks at columns that this relation does not have: nothing is shown.
                let null =
                    pg_sys::makeNullConst(attribute.atttypid, attribute.atttypmod, attribute.attcollation);
                null.cast()
            };
            if pg_sys::exprType(expression) != attribute.atttypid {
                return Err(unusable(relation, "A mask does not have its column's type."));
            }
            expressions.push((own, expression));
        }
        Ok(())
    }
}

/// What an expression uses was checked when it was written, and DDL that gives it away is refused. What no DDL here shows (a
/// role that is no superuser any more, an object made anew under the old name) is found now.
fn in_trusted_hands(
    relation: pg_sys::Oid,
    source: pg_sys::Oid,
    expression: *mut pg_sys::Node,
    collation: Option<pg_sys::Oid>,
) -> Result<(), Refusal> {
    let collation = collation.unwrap_or(pg_sys::InvalidOid);
    expression_check::check(source, expression, collation, "its expression")
        .map_err(|error| unusable(relation, &format!("It uses what it may not: {}.", error.message())))
}

/// The entry of the masked relation in its generated view's query: the one in FROM.
unsafe fn base_entry(query: *mut pg_sys::Query, source: pg_sys::Oid) -> Option<i32> {
    // SAFETY: the view's query; the tag decides the cast.
    unsafe {
        let from = names::members((*(*query).jointree).fromlist);
        let [only] = from.as_slice() else { return None };
        if (**only).type_ != T::T_RangeTblRef || !(*(*query).jointree).quals.is_null() {
            return None;
        }
        let index = (*only.cast::<pg_sys::RangeTblRef>()).rtindex;
        let entries = names::members((*query).rtable);
        let entry = entries.get(usize::try_from(index).ok()?.checked_sub(1)?)?;
        let entry = &*entry.cast::<pg_sys::RangeTblEntry>();
        let is_it = entry.rtekind == pg_sys::RTEKind::RTE_RELATION && entry.relid == source;
        (is_it && !(*query).hasSubLinks).then_some(index)
    }
}

/// Adds the predicates that `source` puts on the relation.
unsafe fn filters_of(
    declared: &Declared,
    opened: &Opened,
    source: pg_sys::Oid,
    below: bool,
    filters: &mut *mut pg_sys::List,
) -> Result<(), Refusal> {
    // SAFETY: trees are made in the current context, which is the value's own.
    unsafe {
        let relation = (*opened.0).rd_id;
        for text in declared.filters.get(&source).into_iter().flatten() {
            let Some(from) = Opened::open(source) else {
                return Err(unusable(relation, "A relation of its inheritance is gone."));
            };
            let Some(mut condition) = predicate::parsed(text, &from) else {
                return Err(unusable(relation, "A row filter is no single condition over the row."));
            };
            in_trusted_hands(relation, source, condition, None)?;
            let carried = source == relation || predicate::carry(condition, &from, opened);
            if !carried {
                condition = pg_sys::makeBoolConst(false, false);
            }
            if below {
                condition = predicate::for_rows_of(source, condition);
            }
            // Each entry is one security level, hence an implicit AND of its own.
            *filters = pg_sys::lappend(*filters, condition.cast());
        }
        Ok(())
    }
}

/// The target lists and the fingerprint.
unsafe fn build(
    opened: &Opened,
    expressions: &[(i16, *mut pg_sys::Node)],
    built: &mut Masked,
) -> Result<(), Refusal> {
    // SAFETY: nodes are made in the current context, which is the value's own.
    unsafe {
        for attribute in opened.attributes() {
            let number = attribute.attnum;
            let masked = expressions.iter().find(|(known, _)| *known == number);
            let expression: *mut pg_sys::Expr = if attribute.attisdropped {
                pg_sys::makeNullConst(pg_sys::INT4OID, -1, pg_sys::InvalidOid).cast()
            } else if let Some((_, expression)) = masked {
                expression.cast()
            } else {
                let (typed, modified) = (attribute.atttypid, attribute.atttypmod);
                pg_sys::makeVar(1, number, typed, modified, attribute.attcollation, 0).cast()
            };
            let name = pg_sys::pstrdup(attribute.attname.data.as_ptr());
            let entry = pg_sys::makeTargetEntry(expression, number, name, false);
            built.targets = pg_sys::lappend(built.targets, entry.cast());
            if masked.is_some() {
                built.masked_targets = pg_sys::lappend(built.masked_targets, entry.cast());
                built.columns.push(number);
                built.leaks_in_errors |= pg_sys::contain_leaked_vars(expression.cast());
            }
        }
        built.leaks_in_errors |=
            !built.filters.is_null() && pg_sys::contain_leaked_vars(built.filters.cast());
        let mut hasher = rustc_hash::FxHasher::default();
        for tree in [built.targets, built.filters] {
            let text = catalog::text(pg_sys::nodeToString(tree.cast()));
            text.unwrap_or_default().hash(&mut hasher);
        }
        built.withheld.iter().for_each(|(number, _)| number.hash(&mut hasher));
        built.fingerprint = hasher.finish();
        Ok(())
    }
}
