//! Statements that would evaluate, store or move raw values of masked or filtered relations: refused whatever the policy
//! allows, because no plan of theirs passes the masks.
//!
//! Only what is known to be harmless passes on such a relation; ALTER TABLE by a closed list of its subcommands.
//!
//! Over 400 lines because the list is one: every statement that stores, moves or evaluates rows outside a plan.

use std::rc::Rc;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::catalog;
use super::super::enforce::Target;
use super::super::masks::{self, Masked};
use super::mentions::mentions;
use super::{names, utility};
use crate::refusal::Refusal;

/// Refuses a utility statement that the masks do not reach.
///
/// # Errors
/// The refusal.
///
/// # Safety
/// `statement` is the utility statement of the hook; it is only read.
pub unsafe fn check(statement: *mut pg_sys::Node) -> Result<(), Refusal> {
    // SAFETY: the caller's promise. In a transaction that has failed only its end gets here, and no table can be read.
    let statement = unsafe { utility::table_made(statement) }.map_or(statement, <*mut _>::cast);
    // SAFETY: as above.
    if !unsafe { concerns((*statement).type_) } || !masks::any() {
        return Ok(());
    }
    // SAFETY: each arm casts to the type of its tag.
    unsafe {
        match (*statement).type_ {
            T::T_AlterTableStmt => alter_table(&*statement.cast()),
            T::T_IndexStmt => index(&*statement.cast()),
            T::T_CreateStatsStmt => statistics(&*statement.cast()),
            T::T_CreateTrigStmt => {
                let create: &pg_sys::CreateTrigStmt = &*statement.cast();
                closed(create.relation, "a trigger would see its rows as they are")
            }
            T::T_RuleStmt => {
                let create: &pg_sys::RuleStmt = &*statement.cast();
                closed(create.relation, "a rule would handle its rows as they are")
            }
            T::T_CreatePolicyStmt => {
                let create: &pg_sys::CreatePolicyStmt = &*statement.cast();
                closed(create.table, "a row security policy would look at its rows as they are")
            }
            T::T_AlterPolicyStmt => {
                let alter: &pg_sys::AlterPolicyStmt = &*statement.cast();
                closed(alter.table, "a row security policy would look at its rows as they are")
            }
            T::T_CreateStmt => create_table(&*statement.cast()),
            T::T_CreateForeignTableStmt => {
                create_table(&(*statement.cast::<pg_sys::CreateForeignTableStmt>()).base)
            }
            T::T_CreateTableAsStmt => create_table_as(&*statement.cast()),
            T::T_RefreshMatViewStmt => refresh((*statement.cast::<pg_sys::RefreshMatViewStmt>()).relation),
            T::T_ViewStmt => {
                let view: &pg_sys::ViewStmt = &*statement.cast();
                if sets_barrier(view.options) { Err(barrier()) } else { Ok(()) }
            }
            T::T_AlterDomainStmt => {
                let alter: &pg_sys::AlterDomainStmt = &*statement.cast();
                match alter.subtype.cast_unsigned() {
                    b'C' | b'V' | b'O' => Err(domain()),
                    _ => Ok(()),
                }
            }
            T::T_CreatePublicationStmt => {
                let create: &pg_sys::CreatePublicationStmt = &*statement.cast();
                published(create.pubobjects, create.for_all_tables)
            }
            T::T_AlterPublicationStmt => {
                let alter: &pg_sys::AlterPublicationStmt = &*statement.cast();
                let removes = alter.action == pg_sys::AlterPublicationAction::AP_DropObjects;
                if removes { Ok(()) } else { published(alter.pubobjects, alter.for_all_tables) }
            }
            T::T_CreateFunctionStmt => {
                let create: &pg_sys::CreateFunctionStmt = &*statement.cast();
                if create.replace { replaced(&super::routines::overloads(create.funcname)) } else { Ok(()) }
            }
            T::T_AlterFunctionStmt => {
                let alter: &pg_sys::AlterFunctionStmt = &*statement.cast();
                match names::existing(alter.objtype, alter.func.cast()) {
                    Target::Function(function) => replaced(&[function]),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// TRUNCATE empties a relation of rows that do not exist for the agent; cascades come here too.
///
/// # Errors
/// The refusal of a filtered relation.
pub fn truncate(relation: pg_sys::Oid) -> Result<(), Refusal> {
    match masks::of(relation)? {
        Some(masked) if masked.filters_rows() => {
            Err(refused(relation, "TRUNCATE would take rows along that a row filter keeps out"))
        }
        _ => Ok(()),
    }
}

/// Whether `check` looks at statements of this tag.
fn concerns(tag: pg_sys::NodeTag) -> bool {
    matches!(
        tag,
        T::T_AlterTableStmt
            | T::T_IndexStmt
            | T::T_CreateStatsStmt
            | T::T_CreateTrigStmt
            | T::T_RuleStmt
            | T::T_CreatePolicyStmt
            | T::T_AlterPolicyStmt
            | T::T_CreateStmt
            | T::T_CreateForeignTableStmt
            | T::T_CreateTableAsStmt
            | T::T_RefreshMatViewStmt
            | T::T_ViewStmt
            | T::T_AlterDomainStmt
            | T::T_CreatePublicationStmt
            | T::T_AlterPublicationStmt
            | T::T_CreateFunctionStmt
            | T::T_AlterFunctionStmt
    )
}

/// What bears on a relation that a statement names.
unsafe fn bearing(range: *mut pg_sys::RangeVar) -> Result<Option<Rc<Masked>>, Refusal> {
    // SAFETY: null or a RangeVar of the parse tree.
    let relation = unsafe { names::relation(range) };
    let masked = masks::of(relation)?;
    Ok(masked.filter(|masked| masked.masks() || masked.filters_rows()))
}

fn refused(relation: pg_sys::Oid, why: &str) -> Refusal {
    masks::refusal(
        "masked_relation",
        relation,
        None,
        |name| format!("this cannot be done to {name}, which has masked columns or filtered rows: {why}"),
        "Masks and row filters hold for queries; this would pass them by.",
        "Leave it to a DBA, whose session is not guarded.",
    )
}

/// No statement of this kind on a masked or filtered relation.
unsafe fn closed(range: *mut pg_sys::RangeVar, why: &str) -> Result<(), Refusal> {
    // SAFETY: as `bearing`.
    match unsafe { bearing(range) }? {
        None => Ok(()),
        Some(masked) => Err(refused(masked.relation, why)),
    }
}

unsafe fn alter_table(statement: &pg_sys::AlterTableStmt) -> Result<(), Refusal> {
    // SAFETY: subcommands are AlterTableCmd nodes.
    unsafe {
        let own = bearing(statement.relation)?;
        for node in names::members(statement.cmds) {
            let command: &pg_sys::AlterTableCmd = &*node.cast();
            if let Some(masked) = &own
                && let Some(why) = unfit(command, masked)
            {
                return Err(refused(masked.relation, why));
            }
            moves(command)?;
            if matches!(
                command.subtype,
                pg_sys::AlterTableType::AT_AddConstraint | pg_sys::AlterTableType::AT_AddColumn
            ) {
                references(command.def)?;
            }
            let options = matches!(
                command.subtype,
                pg_sys::AlterTableType::AT_SetRelOptions | pg_sys::AlterTableType::AT_ReplaceRelOptions
            );
            if options && sets_barrier(command.def.cast()) && own.is_none() {
                return Err(barrier());
            }
        }
        Ok(())
    }
}

/// A foreign key is checked by joining both relations, and would be checked against masked values.
unsafe fn references(element: *mut pg_sys::Node) -> Result<(), Refusal> {
    // SAFETY: the caller's node of a parse tree, and RangeVars of it.
    unsafe {
        names::referenced(element)
            .into_iter()
            .try_for_each(|table| closed(table, "a foreign key would compare its values as they are"))
    }
}

/// Rows that come under another parent's rules, or leave them.
unsafe fn moves(command: &pg_sys::AlterTableCmd) -> Result<(), Refusal> {
    use pg_sys::AlterTableType as A;
    let why = "its rows would come under other masks or none";
    // SAFETY: the definition of these subcommands is a PartitionCmd or a RangeVar (gram.y).
    unsafe {
        match command.subtype {
            A::AT_AttachPartition | A::AT_DetachPartition | A::AT_DetachPartitionFinalize => {
                closed((*command.def.cast::<pg_sys::PartitionCmd>()).name, why)
            }
            A::AT_AddInherit | A::AT_DropInherit => closed(command.def.cast(), why),
            _ => Ok(()),
        }
    }
}

/// Why a subcommand of ALTER TABLE is not known to be harmless; `None` where it is.
unsafe fn unfit(command: &pg_sys::AlterTableCmd, masked: &Masked) -> Option<&'static str> {
    use pg_sys::AlterTableType as A;
    // SAFETY: the definitions have the node types that gram.y gives them.
    unsafe {
        match command.subtype {
            A::AT_ColumnDefault
            | A::AT_DropNotNull
            | A::AT_SetStatistics
            | A::AT_SetOptions
            | A::AT_ResetOptions
            | A::AT_SetStorage
            | A::AT_SetCompression
            | A::AT_DropColumn
            | A::AT_DropConstraint
            | A::AT_ChangeOwner
            | A::AT_ClusterOn
            | A::AT_DropCluster
            | A::AT_SetLogged
            | A::AT_SetUnLogged
            | A::AT_SetTableSpace
            | A::AT_SetRelOptions
            | A::AT_ResetRelOptions
            | A::AT_ReplicaIdentity
            | A::AT_EnableTrig
            | A::AT_EnableTrigAll
            | A::AT_EnableTrigUser
            | A::AT_DisableTrig
            | A::AT_DisableTrigAll
            | A::AT_DisableTrigUser
            | A::AT_EnableRowSecurity
            | A::AT_ForceRowSecurity => None,
            A::AT_SetNotNull => {
                let column = catalog::text(command.name).unwrap_or_default();
                reads_masked(masked, &column).then_some("the check would tell which rows have no value")
            }
            A::AT_AddColumn => new_column(command.def, masked),
            A::AT_AddConstraint => constraint(command.def, masked),
            A::AT_AlterColumnType => Some("the new type would be checked against its values as they are"),
            A::AT_AttachPartition
            | A::AT_DetachPartition
            | A::AT_DetachPartitionFinalize
            | A::AT_AddInherit
            | A::AT_DropInherit => Some("its rows would come under other masks or none"),
            _ => Some("this form of ALTER is not known to keep to the masks"),
        }
    }
}

/// Whether a column reads masked; every column counts where rows are filtered.
fn reads_masked(masked: &Masked, column: &str) -> bool {
    masked.filters_rows()
        || masked
            .columns
            .iter()
            .any(|number| catalog::column_name(masked.relation, *number).as_deref() == Some(column))
}

/// A new column is harmless unless it is computed from others, or checks or references something.
unsafe fn new_column(definition: *mut pg_sys::Node, masked: &Masked) -> Option<&'static str> {
    use pg_sys::ConstrType as C;
    // SAFETY: the definition is a ColumnDef, its constraints are Constraint nodes.
    unsafe {
        if definition.is_null() || (*definition).type_ != T::T_ColumnDef {
            return Some("this form of ALTER is not known to keep to the masks");
        }
        let column = &*definition.cast::<pg_sys::ColumnDef>();
        for node in names::members(column.constraints) {
            match (*node.cast::<pg_sys::Constraint>()).contype {
                C::CONSTR_NULL
                | C::CONSTR_NOTNULL
                | C::CONSTR_DEFAULT
                | C::CONSTR_IDENTITY
                | C::CONSTR_PRIMARY
                | C::CONSTR_UNIQUE
                | C::CONSTR_ATTR_DEFERRABLE
                | C::CONSTR_ATTR_NOT_DEFERRABLE
                | C::CONSTR_ATTR_DEFERRED
                | C::CONSTR_ATTR_IMMEDIATE => {}
                C::CONSTR_GENERATED if masked.filters_rows() => {
                    return Some("the new column would be computed for rows that are filtered");
                }
                C::CONSTR_GENERATED => {
                    let expression = (*node.cast::<pg_sys::Constraint>()).raw_expr;
                    if mentions(expression, masked) {
                        return Some("the new column would be computed from masked ones");
                    }
                }
                _ => return Some("the new column's constraint would look at its rows as they are"),
            }
        }
        None
    }
}

/// A key over columns that are not masked is harmless; every other constraint is checked against raw rows.
unsafe fn constraint(definition: *mut pg_sys::Node, masked: &Masked) -> Option<&'static str> {
    use pg_sys::ConstrType as C;
    let why = Some("the constraint would be checked against its values as they are");
    // SAFETY: the definition is a Constraint; its keys are String nodes.
    unsafe {
        if definition.is_null() || (*definition).type_ != T::T_Constraint {
            return why;
        }
        let constraint = &*definition.cast::<pg_sys::Constraint>();
        match constraint.contype {
            C::CONSTR_PRIMARY | C::CONSTR_UNIQUE => {
                let by_index = !constraint.indexname.is_null();
                let keys = names::strings(constraint.keys);
                let reveals = keys.iter().any(|key| reads_masked(masked, key));
                if by_index || reveals { why } else { None }
            }
            _ => why,
        }
    }
}

unsafe fn index(statement: &pg_sys::IndexStmt) -> Result<(), Refusal> {
    // SAFETY: parameters are IndexElem nodes; expressions are raw parse trees, or analysed ones in a second pass.
    unsafe {
        let Some(masked) = bearing(statement.relation)? else { return Ok(()) };
        let mut unfit = !statement.excludeOpNames.is_null();
        for node in names::members(statement.indexParams) {
            let element = &*node.cast::<pg_sys::IndexElem>();
            if !element.expr.is_null() {
                unfit |= masked.filters_rows() || mentions(element.expr, &masked);
            } else if statement.unique {
                let column = catalog::text(element.name).unwrap_or_default();
                unfit |= reads_masked(&masked, &column);
            }
        }
        if !statement.whereClause.is_null() {
            unfit |= masked.filters_rows() || mentions(statement.whereClause, &masked);
        }
        if unfit {
            return Err(refused(masked.relation, "the index would be built from its values as they are"));
        }
        Ok(())
    }
}

unsafe fn statistics(statement: &pg_sys::CreateStatsStmt) -> Result<(), Refusal> {
    // SAFETY: relations are RangeVars (the server refuses all else), elements are StatsElem nodes.
    unsafe {
        for node in names::members(statement.relations) {
            if (*node).type_ != T::T_RangeVar {
                continue;
            }
            let Some(masked) = bearing(node.cast())? else { continue };
            for node in names::members(statement.exprs) {
                let element = &*node.cast::<pg_sys::StatsElem>();
                let column = catalog::text(element.name).unwrap_or_default();
                let unfit = reads_masked(&masked, &column)
                    || (!element.expr.is_null() && mentions(element.expr, &masked));
                if unfit {
                    return Err(refused(masked.relation, "statistics would hold its values as they are"));
                }
            }
        }
        Ok(())
    }
}

/// A partition or child inherits the masks; what it adds must not look at the rows.
unsafe fn create_table(statement: &pg_sys::CreateStmt) -> Result<(), Refusal> {
    // SAFETY: parents are RangeVars, elements ColumnDefs, constraints and LIKE clauses.
    unsafe {
        for element in
            names::members(statement.tableElts).into_iter().chain(names::members(statement.constraints))
        {
            references(element)?;
        }
        for parent in names::members(statement.inhRelations) {
            let Some(masked) = bearing(parent.cast())? else { continue };
            let elements = names::members(statement.tableElts).into_iter();
            for element in elements.chain(names::members(statement.constraints)) {
                let why = match (*element).type_ {
                    T::T_ColumnDef => new_column(element, &masked),
                    T::T_Constraint => constraint(element, &masked),
                    _ => Some("its definition is not known to keep to the masks"),
                };
                if let Some(why) = why {
                    return Err(refused(masked.relation, why));
                }
            }
        }
        Ok(())
    }
}

unsafe fn create_table_as(statement: &pg_sys::CreateTableAsStmt) -> Result<(), Refusal> {
    // SAFETY: the query of CREATE TABLE AS is analysed when it reaches the hook.
    unsafe {
        if statement.objtype != pg_sys::ObjectType::OBJECT_MATVIEW
            || statement.query.is_null()
            || (*statement.query).type_ != T::T_Query
        {
            return Ok(());
        }
        match masks::read_by(statement.query.cast()) {
            None => Ok(()),
            Some(relation) => Err(refused(
                relation,
                "a materialized view would store its rows as they are when it is refreshed",
            )),
        }
    }
}

unsafe fn refresh(range: *mut pg_sys::RangeVar) -> Result<(), Refusal> {
    // SAFETY: a RangeVar of the parse tree.
    let relation = unsafe { names::relation(range) };
    match masks::stored_by(relation) {
        None => Ok(()),
        Some(read) => {
            Err(refused(read, "refreshing the materialized view here would store masked rows for everybody"))
        }
    }
}

unsafe fn sets_barrier(options: *mut pg_sys::List) -> bool {
    // SAFETY: a list of DefElems.
    unsafe {
        names::members(options).into_iter().any(|node| {
            let name = catalog::text((*node.cast::<pg_sys::DefElem>()).defname);
            name.is_some_and(|name| name.eq_ignore_ascii_case("security_barrier"))
        })
    }
}

fn barrier() -> Refusal {
    Refusal::new(
        crate::refusal::SqlState::InsufficientPrivilege,
        "masked_relation",
        "security_barrier views cannot be made here, because relations are masked or filtered",
        "Changing rows through such a view would evaluate its condition over values as they are.",
        "Make the view without security_barrier, or leave it to a DBA.",
    )
}

fn domain() -> Refusal {
    Refusal::new(
        crate::refusal::SqlState::InsufficientPrivilege,
        "masked_relation",
        "constraints of domains cannot be added or checked here, because relations are masked or filtered",
        "They would be checked against stored values as they are.",
        "Leave it to a DBA, whose session is not guarded.",
    )
}

/// Subscribers get rows as they are. Everything in a schema, or in the database, is refused where anything is masked at all.
unsafe fn published(objects: *mut pg_sys::List, all: bool) -> Result<(), Refusal> {
    // SAFETY: PublicationObjSpec nodes.
    unsafe {
        if all {
            return Err(schemas_published());
        }
        for node in names::members(objects) {
            let object: &pg_sys::PublicationObjSpec = &*node.cast();
            match object.pubtable.as_ref() {
                Some(table) => closed(table.relation, "its rows would be published as they are")?,
                None => return Err(schemas_published()),
            }
        }
        Ok(())
    }
}

fn schemas_published() -> Refusal {
    Refusal::new(
        crate::refusal::SqlState::InsufficientPrivilege,
        "masked_relation",
        "all tables, or those of a schema, cannot be published here, because relations are masked or filtered",
        "Their rows would be published as they are.",
        "Name the tables one by one, or leave it to a DBA.",
    )
}

/// A function that the server calls with raw values: in an index, a constraint, a trigger, a row security policy, a default
/// or a generated column of a masked or filtered relation.
fn replaced(functions: &[pg_sys::Oid]) -> Result<(), Refusal> {
    for function in functions {
        if let Some(relation) = masks::calls_with_raw_values(*function)? {
            return Err(refused(relation, "the function is called with its values as they are"));
        }
    }
    Ok(())
}
