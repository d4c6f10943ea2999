//! DDL on tables and on what is theirs: parents, partitions, references, row policies, statistics.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::catalog;
use super::super::enforce::{Target, Wanted};
use super::needs::{Needs, creation, on_relation, whole};
use super::{evaluated, names, parts, swept};
use crate::request::{Action, Kind, Verb};

/// DDL on one relation. Indexes, triggers, rules and row policies are matched by the table that they are on.
///
/// # Safety
/// `range` is null or a valid RangeVar.
pub unsafe fn on_its_table(verb: Verb, kind: Kind, range: *mut pg_sys::RangeVar) -> Needs {
    // SAFETY: a RangeVar of the parse tree.
    Needs::of(vec![on_relation(Action::on(verb, kind), unsafe { names::relation_target(range) })])
}

/// A row security policy is evaluated over the rows of its table.
///
/// # Safety
/// `table` is a valid RangeVar, the conditions are null or expressions of the parse tree.
pub unsafe fn row_policy(
    verb: Verb,
    table: *mut pg_sys::RangeVar,
    conditions: [*mut pg_sys::Node; 2],
) -> Needs {
    // SAFETY: a RangeVar and expressions of the parse tree.
    unsafe {
        let mut needs = on_its_table(verb, Kind::Policy, table);
        needs.wanted.extend(evaluated::conditions(&conditions, &names::relation_target(table)));
        needs
    }
}

/// CREATE STATISTICS.
///
/// # Safety
/// The statement is a valid one of its kind.
pub unsafe fn create_statistics(statement: &pg_sys::CreateStatsStmt) -> Needs {
    // SAFETY: a list of RangeVars (the grammar takes any FROM item; the server refuses all others later).
    let relations = unsafe { names::members(statement.relations) };
    let mut wanted = Vec::new();
    for node in relations {
        // SAFETY: the tag is checked before the cast.
        let target = unsafe {
            if (*node).type_ == T::T_RangeVar { names::relation_target(node.cast()) } else { Target::Nothing }
        };
        // SAFETY: parse tree of CREATE STATISTICS.
        wanted.extend(unsafe { evaluated::statistics(statement, &target) });
        wanted.push(on_relation(Action::on(Verb::Create, Kind::Statistics), target));
    }
    Needs::of(wanted)
}

/// CREATE TABLE.
///
/// # Safety
/// The statement is a valid one of its kind.
pub unsafe fn create_table(statement: &pg_sys::CreateStmt, kind: Kind) -> Needs {
    // SAFETY: parse tree of CREATE TABLE.
    unsafe {
        let mut wanted = vec![creation(kind, statement.relation)];
        for parent in names::members(statement.inhRelations) {
            wanted.push(on_relation(
                Action::on(Verb::Alter, Kind::Table),
                names::relation_target(parent.cast()),
            ));
            // Rows that are to come lie under another name.
            if let (false, Target::Relation(parent)) =
                (statement.partbound.is_null(), names::relation_target(parent.cast()))
            {
                wanted.extend(usable(parent));
            }
        }
        let elements: Vec<*mut pg_sys::Node> = names::members(statement.tableElts)
            .into_iter()
            .chain(names::members(statement.constraints))
            .collect();
        for element in &elements {
            wanted.extend(references(*element));
        }
        let (target, temporary) = names::new_relation(statement.relation);
        if !temporary {
            wanted.extend(parts::created(&elements, &target));
        }
        Needs::of(wanted)
    }
}

/// A foreign key tells which values exist in the table that it references: it takes reading that table.
unsafe fn references(element: *mut pg_sys::Node) -> impl Iterator<Item = Wanted> {
    // SAFETY: the caller's node of a parse tree.
    let tables = unsafe { names::referenced(element) }.into_iter();
    // SAFETY: a RangeVar of the parse tree.
    let target = |table| unsafe { names::relation_target(table) };
    tables.map(move |table| Wanted::named(Action::plain(Verb::Select), target(table)))
}

fn table_kind(kind: pg_sys::ObjectType::Type) -> Kind {
    names::kind(kind).unwrap_or(Kind::Table)
}

/// ALTER TABLE.
///
/// # Safety
/// The statement is a valid one of its kind.
pub unsafe fn alter_table(statement: &pg_sys::AlterTableStmt) -> Needs {
    use pg_sys::AlterTableType as A;
    // SAFETY: parse tree of ALTER TABLE; subcommands are AlterTableCmd nodes.
    unsafe {
        let target = names::relation_target(statement.relation);
        let mut wanted =
            vec![on_relation(Action::on(Verb::Alter, table_kind(statement.objtype)), target.clone())];
        for node in names::members(statement.cmds) {
            let command: &pg_sys::AlterTableCmd = &*node.cast();
            match command.subtype {
                A::AT_ChangeOwner => wanted.push(Wanted::named(Action::plain(Verb::Grant), target.clone())),
                A::AT_AttachPartition | A::AT_DetachPartition | A::AT_DetachPartitionFinalize => {
                    let partition: &pg_sys::PartitionCmd = &*command.def.cast();
                    moves(&names::relation_target(partition.name), &mut wanted);
                    moves(&target, &mut wanted);
                }
                A::AT_AddInherit | A::AT_DropInherit => {
                    moves(&names::relation_target(command.def.cast()), &mut wanted);
                    moves(&target, &mut wanted);
                }
                A::AT_AddConstraint | A::AT_AddColumn => wanted.extend(references(command.def)),
                _ => {}
            }
        }
        wanted.extend(parts::altered(statement, &target));
        wanted.extend(evaluated::alter_table(statement, &target));
        Needs::of(wanted)
    }
}

/// A relation whose data comes under other names: to be altered, and to be readable as a whole.
fn moves(target: &Target, wanted: &mut Vec<Wanted>) {
    wanted.push(on_relation(Action::on(Verb::Alter, Kind::Table), target.clone()));
    if let Target::Relation(relid) = target {
        wanted.extend(usable(*relid));
    }
}

/// Reading all of a relation that holds or shows rows, and whatever a rule forbids to be done to them; nothing for temporary
/// ones, indexes and sequences.
pub fn usable(relid: pg_sys::Oid) -> Vec<Wanted> {
    let shows_rows = catalog::relation_facts(relid)
        .is_some_and(|facts| !facts.temporary && matches!(facts.kind, b'r' | b'p' | b'v' | b'm' | b'f'));
    if !shows_rows {
        return Vec::new();
    }
    let mut wanted = vec![whole(relid)];
    wanted.extend(swept::forbidden_changes(relid));
    wanted
}
