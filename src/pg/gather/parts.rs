//! What a statement on a table, a type or a domain does to objects that rules name by a kind of their own: constraints, indexes,
//! triggers, rules, row policies, identity sequences, typed tables.
//!
//! Whoever may alter the table needs no further allow for them; a deny of the part holds all the same. What is dropped is
//! decided where the server drops it.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::enforce::{Target, Wanted};
use super::super::{catalog, drops, scan};
use super::needs::on_relation;
use super::{evaluated, names, swept};
use crate::request::{Action, Kind, Verb, Voice};

/// The parts that ALTER TABLE makes or changes, as far as a rule may keep it from that.
///
/// # Safety
/// `statement` is a valid ALTER TABLE statement.
pub unsafe fn altered(statement: &pg_sys::AlterTableStmt, target: &Target) -> Vec<Wanted> {
    use pg_sys::AlterTableType as A;
    let mut actions = Vec::new();
    let mut wanted = Vec::new();
    // SAFETY: subcommands are AlterTableCmd nodes, whose definitions have the types that gram.y gives them.
    unsafe {
        for node in names::members(statement.cmds) {
            let command: &pg_sys::AlterTableCmd = &*node.cast();
            match command.subtype {
                A::AT_AddConstraint | A::AT_AddColumn => made_by(command.def, &mut actions),
                A::AT_AlterConstraint | A::AT_ValidateConstraint => {
                    actions.push(Action::on(Verb::Alter, Kind::Constraint));
                }
                A::AT_EnableTrig
                | A::AT_EnableAlwaysTrig
                | A::AT_EnableReplicaTrig
                | A::AT_DisableTrig
                | A::AT_EnableTrigAll
                | A::AT_DisableTrigAll
                | A::AT_EnableTrigUser
                | A::AT_DisableTrigUser => actions.push(Action::on(Verb::Alter, Kind::Trigger)),
                A::AT_EnableRule | A::AT_EnableAlwaysRule | A::AT_EnableReplicaRule | A::AT_DisableRule => {
                    actions.push(Action::on(Verb::Alter, Kind::Rule));
                }
                // Without it no policy of the table holds.
                A::AT_DisableRowSecurity | A::AT_NoForceRowSecurity => {
                    actions.push(Action::on(Verb::Alter, Kind::Policy));
                }
                // The server drops the sequence as a matter of its own, which no hook is told of as one.
                A::AT_DropIdentity => wanted.extend(identity(target, command.name)),
                _ => {}
            }
        }
        wanted.extend(on(target, actions));
        if statement.objtype == pg_sys::ObjectType::OBJECT_TYPE {
            wanted.extend(typed_tables(target));
        }
    }
    swept::not_simply_allowed(wanted)
}

/// The constraints, and indexes of theirs, that come with a new table or domain.
///
/// # Safety
/// `elements` are nodes of CREATE TABLE or CREATE DOMAIN.
pub unsafe fn created(elements: &[*mut pg_sys::Node], target: &Target) -> Vec<Wanted> {
    let mut actions = Vec::new();
    for element in elements {
        // SAFETY: the caller's promise.
        unsafe { made_by(*element, &mut actions) };
    }
    // An index of a new table is made by a statement of its own.
    actions.retain(|action| action.kind == Some(Kind::Constraint));
    swept::not_simply_allowed(on(target, actions).collect())
}

/// A constraint of a domain that comes or is checked anew.
pub fn of_domain(statement: &pg_sys::AlterDomainStmt, target: &Target) -> Vec<Wanted> {
    let verb = match statement.subtype.cast_unsigned() {
        b'C' => Verb::Create,
        b'V' => Verb::Alter,
        _ => return Vec::new(),
    };
    swept::not_simply_allowed(on(target, vec![Action::on(verb, Kind::Constraint)]).collect())
}

/// The tables of a composite type: they change with its attributes.
pub fn typed_tables(of_type: &Target) -> Vec<Wanted> {
    /// Columns of pg_class: oid, reloftype.
    const OID: usize = 1;
    const OF_TYPE: usize = 5;
    let Target::Relation(relation) = *of_type else { return Vec::new() };
    // SAFETY: a syscache look-up.
    let row_type = unsafe { pg_sys::get_rel_type_id(relation) };
    let mut tables = Vec::new();
    if row_type != pg_sys::InvalidOid {
        scan::rows(pg_sys::RelationRelationId, None, |row| {
            if row.column::<pg_sys::Oid>(OF_TYPE) == Some(row_type) {
                tables.extend(row.column::<pg_sys::Oid>(OID));
            }
        });
    }
    let alter = Action::on(Verb::Alter, Kind::Table);
    let each = tables.into_iter().map(|table| on_relation(alter, Target::Relation(table)).by(Voice::View));
    swept::not_simply_allowed(each.collect())
}

/// The tables with columns of an enum whose value gets another name: their rows read otherwise then.
///
/// # Safety
/// `statement` is a valid ALTER TYPE ... ADD or RENAME VALUE statement.
pub unsafe fn renamed_value(statement: &pg_sys::AlterEnumStmt) -> Vec<Wanted> {
    if statement.oldVal.is_null() {
        return Vec::new();
    }
    // SAFETY: a list of String nodes; with missing_ok an unknown type gives InvalidOid.
    let of_type = unsafe {
        let name = pg_sys::makeTypeNameFromNameList(statement.typeName);
        pg_sys::LookupTypeNameOid(std::ptr::null_mut(), name, true)
    };
    let mut tables: Vec<pg_sys::Oid> = match of_type {
        pg_sys::InvalidOid => Vec::new(),
        of_type => evaluated::columns_of(of_type).into_iter().map(|column| column.0).collect(),
    };
    tables.sort_unstable_by_key(|table| table.to_u32());
    tables.dedup();
    let alter = Action::on(Verb::Alter, Kind::Table);
    let each = tables.into_iter().map(|table| on_relation(alter, Target::Relation(table)).by(Voice::View));
    swept::not_simply_allowed(each.collect())
}

/// What starting the sequences of a table anew does to them: TRUNCATE ... RESTART IDENTITY.
pub fn restarted(relation: pg_sys::Oid) -> Vec<Wanted> {
    // SAFETY: a list of OIDs.
    let sequences = unsafe { names::oids(pg_sys::getOwnedSequences(relation)) };
    let update = Action::plain(Verb::Update);
    let each = sequences.into_iter().map(|it| on_relation(update, Target::Relation(it)).by(Voice::View));
    swept::not_simply_allowed(each.collect())
}

fn on(target: &Target, mut actions: Vec<Action>) -> impl Iterator<Item = Wanted> {
    actions.sort_unstable_by_key(|action| (action.verb, action.kind));
    actions.dedup();
    actions.into_iter().map(|action| on_relation(action, target.clone()).by(Voice::View))
}

/// What a constraint, or those of a column, are made of.
unsafe fn made_by(element: *mut pg_sys::Node, actions: &mut Vec<Action>) {
    use pg_sys::ConstrType as C;
    // SAFETY: null or a node of the parse tree; the tag decides the cast.
    unsafe {
        if element.is_null() {
            return;
        }
        match (*element).type_ {
            T::T_Constraint => {
                let constraint: &pg_sys::Constraint = &*element.cast();
                let keyed =
                    matches!(constraint.contype, C::CONSTR_PRIMARY | C::CONSTR_UNIQUE | C::CONSTR_EXCLUSION);
                if keyed || matches!(constraint.contype, C::CONSTR_CHECK | C::CONSTR_FOREIGN) {
                    actions.push(Action::on(Verb::Create, Kind::Constraint));
                }
                if keyed && constraint.indexname.is_null() {
                    actions.push(Action::on(Verb::Create, Kind::Index));
                }
            }
            T::T_ColumnDef => {
                for constraint in names::members((*element.cast::<pg_sys::ColumnDef>()).constraints) {
                    made_by(constraint, actions);
                }
            }
            _ => {}
        }
    }
}

/// Dropping the sequence of an identity column.
unsafe fn identity(target: &Target, column: *const std::os::raw::c_char) -> Vec<Wanted> {
    let Target::Relation(relation) = *target else { return Vec::new() };
    // SAFETY: a name of the parse tree; getOwnedSequences gives a list of OIDs.
    unsafe {
        let number = catalog::text(column).and_then(|name| catalog::column_number(relation, &name));
        let sequences = names::oids(pg_sys::getOwnedSequences(relation)).into_iter();
        let owned = |sequence: &pg_sys::Oid| drops::owned_column(*sequence).map(|owner| owner.1) == number;
        let drop = Action::on(Verb::Drop, Kind::Sequence);
        sequences.filter(owned).map(|it| on_relation(drop, Target::Relation(it)).by(Voice::View)).collect()
    }
}
