//! CREATE, ALTER, DROP, COMMENT and RENAME of objects.
//!
//! A statement that could move data out from under a rule (rename, another schema, another parent) also needs what
//! it would take to read that data.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::enforce::{Target, Wanted};
use super::super::{catalog, settings};
use super::utility::{Needs, all, creation, new_function, on, on_relation, whole};
use super::{evaluated, functions, handed, names, parts, swept};
use crate::request::{Action, Kind, ObjectClass, Verb, Voice};

/// What a DDL statement needs; `None` for a tag that is not in the list.
///
/// # Safety
/// `statement` is a utility statement with this tag.
pub unsafe fn needs(tag: pg_sys::NodeTag, statement: *mut pg_sys::Node) -> Option<Needs> {
    // SAFETY: each arm casts to the type of its tag; lists hold what gram.y puts there.
    unsafe {
        Some(match tag {
            T::T_CreateStmt => create_table(&*statement.cast(), Kind::Table),
            T::T_CreateForeignTableStmt => {
                let mut needs = create_table(
                    &(*statement.cast::<pg_sys::CreateForeignTableStmt>()).base,
                    Kind::ForeignTable,
                );
                needs.wanted.push(Wanted::named(Action::plain(Verb::Foreign), Target::Nothing));
                needs
            }
            T::T_CreateTableAsStmt => {
                let create: &pg_sys::CreateTableAsStmt = &*statement.cast();
                let materialized = create.objtype == pg_sys::ObjectType::OBJECT_MATVIEW;
                let kind = if materialized { Kind::MaterializedView } else { Kind::Table };
                all(vec![creation(kind, (*create.into).rel)])
            }
            T::T_ViewStmt => {
                let view: &pg_sys::ViewStmt = &*statement.cast();
                let mut needs = all(vec![creation(Kind::View, view.view)]);
                let existing = names::relation(view.view);
                if view.replace && existing != pg_sys::InvalidOid {
                    needs
                        .wanted
                        .push(on_relation(Action::on(Verb::Alter, Kind::View), Target::Relation(existing)));
                }
                needs
            }
            T::T_CreateSeqStmt => {
                all(vec![creation(Kind::Sequence, (*statement.cast::<pg_sys::CreateSeqStmt>()).sequence)])
            }
            T::T_AlterSeqStmt => {
                alter_relation(Kind::Sequence, (*statement.cast::<pg_sys::AlterSeqStmt>()).sequence)
            }
            T::T_IndexStmt => {
                let create: &pg_sys::IndexStmt = &*statement.cast();
                let mut needs = on_its_table(Verb::Create, Kind::Index, create.relation);
                needs.wanted.extend(evaluated::index(create, &names::relation_target(create.relation)));
                needs
            }
            T::T_CreateTrigStmt => {
                let create: &pg_sys::CreateTrigStmt = &*statement.cast();
                let mut needs = on_its_table(Verb::Create, Kind::Trigger, create.relation);
                needs.wanted.extend(handed::to_trigger(create, &names::relation_target(create.relation)));
                needs
            }
            T::T_RuleStmt => {
                let create: &pg_sys::RuleStmt = &*statement.cast();
                let mut needs = on_its_table(Verb::Create, Kind::Rule, create.relation);
                needs.wanted.extend(handed::to_rule(create, &names::relation_target(create.relation)));
                needs
            }
            T::T_CreatePolicyStmt => {
                let create: &pg_sys::CreatePolicyStmt = &*statement.cast();
                row_policy(Verb::Create, create.table, [create.qual, create.with_check])
            }
            T::T_AlterPolicyStmt => {
                let alter: &pg_sys::AlterPolicyStmt = &*statement.cast();
                row_policy(Verb::Alter, alter.table, [alter.qual, alter.with_check])
            }
            T::T_CreateStatsStmt => create_statistics(&*statement.cast()),
            T::T_AlterStatsStmt => on(
                Verb::Alter,
                Kind::Statistics,
                names::existing(
                    pg_sys::ObjectType::OBJECT_STATISTIC_EXT,
                    (*statement.cast::<pg_sys::AlterStatsStmt>()).defnames.cast(),
                ),
            ),
            T::T_AlterTableStmt => alter_table(&*statement.cast()),
            T::T_AlterTableMoveAllStmt => {
                let mut needs = on(Verb::Alter, Kind::Table, Target::Nothing);
                needs.wanted.extend(swept::everywhere(Action::on(Verb::Alter, Kind::Table)));
                needs
            }
            T::T_CreateFunctionStmt => create_function(&*statement.cast()),
            T::T_AlterFunctionStmt => {
                let alter: &pg_sys::AlterFunctionStmt = &*statement.cast();
                let mut needs = on(
                    Verb::Alter,
                    routine_kind(alter.objtype),
                    names::existing(alter.objtype, alter.func.cast()),
                );
                needs.wanted.extend(setting_clauses(alter.actions));
                if let Target::Function(function) = names::existing(alter.objtype, alter.func.cast()) {
                    needs.wanted.extend(handed::to_changed_function(function));
                }
                needs
            }
            T::T_CreateSchemaStmt => create_schema(&*statement.cast()),
            T::T_DefineStmt => {
                let define: &pg_sys::DefineStmt = &*statement.cast();
                on(
                    Verb::Create,
                    names::kind(define.kind)?,
                    names::new_object(define.defnames, ObjectClass::Other),
                )
            }
            T::T_CompositeTypeStmt => {
                let range = (*statement.cast::<pg_sys::CompositeTypeStmt>()).typevar;
                all(vec![creation(Kind::Type, range)])
            }
            T::T_CreateEnumStmt => on(
                Verb::Create,
                Kind::Type,
                names::new_object((*statement.cast::<pg_sys::CreateEnumStmt>()).typeName, ObjectClass::Other),
            ),
            T::T_CreateRangeStmt => {
                let create: &pg_sys::CreateRangeStmt = &*statement.cast();
                let target = names::new_object(create.typeName, ObjectClass::Other);
                let mut needs = on(Verb::Create, Kind::Type, target);
                needs.wanted.extend(handed::to_range(create));
                needs
            }
            T::T_AlterEnumStmt => {
                let alter: &pg_sys::AlterEnumStmt = &*statement.cast();
                let mut needs = on(Verb::Alter, Kind::Type, by_names(alter.typeName));
                needs.wanted.extend(parts::renamed_value(alter));
                needs
            }
            T::T_AlterTypeStmt => {
                on(Verb::Alter, Kind::Type, by_names((*statement.cast::<pg_sys::AlterTypeStmt>()).typeName))
            }
            T::T_CreateDomainStmt => {
                let create: &pg_sys::CreateDomainStmt = &*statement.cast();
                let target = names::new_object(create.domainname, ObjectClass::Other);
                let mut needs = on(Verb::Create, Kind::Domain, target.clone());
                needs.wanted.extend(parts::created(&names::members(create.constraints), &target));
                needs
            }
            T::T_AlterDomainStmt => {
                let alter: &pg_sys::AlterDomainStmt = &*statement.cast();
                let target = by_names(alter.typeName);
                let mut needs = on(Verb::Alter, Kind::Domain, target.clone());
                needs.wanted.extend(parts::of_domain(alter, &target));
                needs.wanted.extend(evaluated::domain(alter));
                needs
            }
            T::T_CreateConversionStmt => on(
                Verb::Create,
                Kind::Conversion,
                names::new_object(
                    (*statement.cast::<pg_sys::CreateConversionStmt>()).conversion_name,
                    ObjectClass::Other,
                ),
            ),
            T::T_CreateCastStmt => on(Verb::Create, Kind::Cast, Target::Nothing),
            T::T_CreateTransformStmt => on(Verb::Create, Kind::Transform, Target::Nothing),
            T::T_CreateOpClassStmt => on(
                Verb::Create,
                Kind::OperatorClass,
                names::new_object(
                    (*statement.cast::<pg_sys::CreateOpClassStmt>()).opclassname,
                    ObjectClass::Other,
                ),
            ),
            T::T_CreateOpFamilyStmt => on(
                Verb::Create,
                Kind::OperatorFamily,
                names::new_object(
                    (*statement.cast::<pg_sys::CreateOpFamilyStmt>()).opfamilyname,
                    ObjectClass::Other,
                ),
            ),
            T::T_AlterOpFamilyStmt => on(
                Verb::Alter,
                Kind::OperatorFamily,
                by_names((*statement.cast::<pg_sys::AlterOpFamilyStmt>()).opfamilyname),
            ),
            T::T_AlterOperatorStmt => on(
                Verb::Alter,
                Kind::Operator,
                names::existing(
                    pg_sys::ObjectType::OBJECT_OPERATOR,
                    (*statement.cast::<pg_sys::AlterOperatorStmt>()).opername.cast(),
                ),
            ),
            T::T_AlterCollationStmt => on(
                Verb::Alter,
                Kind::Collation,
                by_names((*statement.cast::<pg_sys::AlterCollationStmt>()).collname),
            ),
            T::T_AlterTSDictionaryStmt => on(
                Verb::Alter,
                Kind::TextSearchDictionary,
                by_names((*statement.cast::<pg_sys::AlterTSDictionaryStmt>()).dictname),
            ),
            T::T_AlterTSConfigurationStmt => on(
                Verb::Alter,
                Kind::TextSearchConfiguration,
                by_names((*statement.cast::<pg_sys::AlterTSConfigurationStmt>()).cfgname),
            ),
            T::T_CreateTableSpaceStmt => on(Verb::Create, Kind::Tablespace, Target::Nothing),
            T::T_DropTableSpaceStmt => on(Verb::Drop, Kind::Tablespace, Target::Nothing),
            T::T_AlterTableSpaceOptionsStmt => on(Verb::Alter, Kind::Tablespace, Target::Nothing),
            T::T_CreatedbStmt => {
                on(Verb::Create, Kind::Database, database((*statement.cast::<pg_sys::CreatedbStmt>()).dbname))
            }
            T::T_DropdbStmt => {
                on(Verb::Drop, Kind::Database, database((*statement.cast::<pg_sys::DropdbStmt>()).dbname))
            }
            T::T_AlterDatabaseStmt => on(
                Verb::Alter,
                Kind::Database,
                database((*statement.cast::<pg_sys::AlterDatabaseStmt>()).dbname),
            ),
            T::T_AlterDatabaseSetStmt => on(
                Verb::Alter,
                Kind::Database,
                database((*statement.cast::<pg_sys::AlterDatabaseSetStmt>()).dbname),
            ),
            T::T_AlterDatabaseRefreshCollStmt => on(
                Verb::Alter,
                Kind::Database,
                database((*statement.cast::<pg_sys::AlterDatabaseRefreshCollStmt>()).dbname),
            ),
            T::T_DropStmt => drop(&*statement.cast())?,
            T::T_RenameStmt => rename(&*statement.cast())?,
            T::T_AlterObjectSchemaStmt => set_schema(&*statement.cast())?,
            T::T_AlterObjectDependsStmt => {
                let alter: &pg_sys::AlterObjectDependsStmt = &*statement.cast();
                let target = if alter.relation.is_null() {
                    names::existing(alter.objectType, alter.object)
                } else {
                    names::relation_target(alter.relation)
                };
                on(Verb::Alter, names::kind(alter.objectType)?, target)
            }
            T::T_CommentStmt => {
                let comment: &pg_sys::CommentStmt = &*statement.cast();
                on(Verb::Comment, names::kind(comment.objtype)?, whole_of(comment.objtype, comment.object))
            }
            _ => return None,
        })
    }
}

unsafe fn by_names(list: *mut pg_sys::List) -> Target {
    // SAFETY: a list of String nodes.
    unsafe { names::existing(pg_sys::ObjectType::OBJECT_TYPE, list.cast()) }
}

unsafe fn database(name: *mut std::os::raw::c_char) -> Target {
    // SAFETY: a NUL-terminated name of the parse tree.
    unsafe { catalog::text(name) }.map_or(Target::Nothing, |name| names::named(String::new(), name))
}

fn routine_kind(kind: pg_sys::ObjectType::Type) -> Kind {
    match kind {
        pg_sys::ObjectType::OBJECT_PROCEDURE => Kind::Procedure,
        pg_sys::ObjectType::OBJECT_ROUTINE => Kind::Routine,
        pg_sys::ObjectType::OBJECT_AGGREGATE => Kind::Aggregate,
        _ => Kind::Function,
    }
}

unsafe fn alter_relation(kind: Kind, range: *mut pg_sys::RangeVar) -> Needs {
    // SAFETY: a RangeVar of the parse tree.
    all(vec![on_relation(Action::on(Verb::Alter, kind), unsafe { names::relation_target(range) })])
}

/// Indexes, triggers, rules and row policies are matched by the table that they are on.
unsafe fn on_its_table(verb: Verb, kind: Kind, range: *mut pg_sys::RangeVar) -> Needs {
    // SAFETY: a RangeVar of the parse tree.
    all(vec![on_relation(Action::on(verb, kind), unsafe { names::relation_target(range) })])
}

/// A row security policy is evaluated over the rows of its table.
unsafe fn row_policy(verb: Verb, table: *mut pg_sys::RangeVar, conditions: [*mut pg_sys::Node; 2]) -> Needs {
    // SAFETY: a RangeVar and expressions of the parse tree.
    unsafe {
        let mut needs = on_its_table(verb, Kind::Policy, table);
        needs.wanted.extend(evaluated::conditions(&conditions, &names::relation_target(table)));
        needs
    }
}

unsafe fn create_statistics(statement: &pg_sys::CreateStatsStmt) -> Needs {
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
    all(wanted)
}

unsafe fn create_table(statement: &pg_sys::CreateStmt, kind: Kind) -> Needs {
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
            references(*element, &mut wanted);
        }
        let (target, temporary) = names::new_relation(statement.relation);
        if !temporary {
            wanted.extend(parts::created(&elements, &target));
        }
        all(wanted)
    }
}

/// A foreign key tells which values exist in the table that it references: it takes reading that table.
unsafe fn references(element: *mut pg_sys::Node, wanted: &mut Vec<Wanted>) {
    // SAFETY: the tag decides the cast.
    unsafe {
        match (*element).type_ {
            T::T_Constraint => {
                let constraint: &pg_sys::Constraint = &*element.cast();
                if constraint.contype == pg_sys::ConstrType::CONSTR_FOREIGN && !constraint.pktable.is_null() {
                    wanted.push(Wanted::named(
                        Action::plain(Verb::Select),
                        names::relation_target(constraint.pktable),
                    ));
                }
            }
            T::T_ColumnDef => {
                for constraint in names::members((*element.cast::<pg_sys::ColumnDef>()).constraints) {
                    references(constraint, wanted);
                }
            }
            _ => {}
        }
    }
}

fn table_kind(kind: pg_sys::ObjectType::Type) -> Kind {
    names::kind(kind).unwrap_or(Kind::Table)
}

unsafe fn alter_table(statement: &pg_sys::AlterTableStmt) -> Needs {
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
                A::AT_AddConstraint | A::AT_AddColumn => references(command.def, &mut wanted),
                _ => {}
            }
        }
        wanted.extend(parts::altered(statement, &target));
        wanted.extend(evaluated::alter_table(statement, &target));
        all(wanted)
    }
}

/// A relation whose data comes under other names: to be altered, and to be readable as a whole.
fn moves(target: &Target, wanted: &mut Vec<Wanted>) {
    wanted.push(on_relation(Action::on(Verb::Alter, Kind::Table), target.clone()));
    if let Target::Relation(relid) = target {
        wanted.extend(usable(*relid));
    }
}

unsafe fn create_function(statement: &pg_sys::CreateFunctionStmt) -> Needs {
    let kind = if statement.is_procedure { Kind::Procedure } else { Kind::Function };
    // SAFETY: a list of String nodes.
    let target = unsafe { new_function(statement.funcname) };
    let mut needs = on(Verb::Create, kind, target);
    // SAFETY: a list of DefElems.
    needs.wanted.extend(unsafe { setting_clauses(statement.options) });
    if statement.replace {
        // Which overload is replaced is known only when it happens: every one of that name would have to be alterable.
        // SAFETY: as above; candidates are read from the catalogue.
        for function in unsafe { overloads(statement.funcname) } {
            needs.wanted.push(Wanted::named(Action::on(Verb::Alter, kind), Target::Function(function)));
            needs.wanted.extend(handed::to_changed_function(function));
        }
    }
    needs
}

/// A function's SET clauses take effect whenever it runs, past every check of SET.
unsafe fn setting_clauses(options: *mut pg_sys::List) -> Vec<Wanted> {
    // SAFETY: DefElems; the argument of "set" is a VariableSetStmt (gram.y: FunctionSetResetClause).
    unsafe {
        let mut wanted = Vec::new();
        for node in names::members(options) {
            let option: &pg_sys::DefElem = &*node.cast();
            let is_set = catalog::text(option.defname).as_deref() == Some("set");
            if !is_set || option.arg.is_null() || (*option.arg).type_ != T::T_VariableSetStmt {
                continue;
            }
            match settings::set_needs(&*option.arg.cast()) {
                Ok(needed) => wanted.extend(needed),
                // A value that no rule can allow.
                Err(_) => wanted.push(Wanted {
                    never: true,
                    ..Wanted::named(Action::plain(Verb::System), Target::Nothing)
                }),
            }
        }
        wanted
    }
}

/// The functions of a name that are not built in.
///
/// # Safety
/// `name` is a list of String nodes.
pub unsafe fn overloads(name: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: FuncnameGetCandidates returns a palloc'd linked list of all functions of the name in the path.
    unsafe {
        let mut candidate =
            pg_sys::FuncnameGetCandidates(name, -1, std::ptr::null_mut(), false, false, true, true);
        let mut found = Vec::new();
        while let Some(one) = candidate.as_ref() {
            if one.oid.to_u32() >= catalog::FIRST_NORMAL {
                found.push(one.oid);
            }
            candidate = one.next;
        }
        found
    }
}

unsafe fn create_schema(statement: &pg_sys::CreateSchemaStmt) -> Needs {
    // SAFETY: parse tree of CREATE SCHEMA; without a name the role's is taken.
    unsafe {
        let name = match catalog::text(statement.schemaname) {
            Some(name) => names::schema(&name),
            None => Target::Nothing,
        };
        let mut needs = on(Verb::Create, Kind::Schema, name);
        if !statement.authrole.is_null() {
            needs
                .wanted
                .push(Wanted::named(Action::plain(Verb::Grant), names::role_spec(statement.authrole)));
        }
        needs
    }
}

/// Drops of what belongs to `system` and `foreign` are decided here, all others object by object where the server drops
/// them. Named relations are decided here as well, before the server waits for their locks.
unsafe fn drop(statement: &pg_sys::DropStmt) -> Option<Needs> {
    let kind = names::kind(statement.removeType)?;
    match kind {
        Kind::AccessMethod | Kind::EventTrigger | Kind::Extension | Kind::Language | Kind::Publication => {
            return Some(all(vec![Wanted::named(Action::plain(Verb::System), Target::Nothing)]));
        }
        Kind::ForeignDataWrapper | Kind::Server | Kind::UserMapping => {
            return Some(all(vec![Wanted::named(Action::plain(Verb::Foreign), Target::Nothing)]));
        }
        _ => {}
    }
    let by_relation = matches!(
        kind,
        Kind::Table | Kind::View | Kind::MaterializedView | Kind::Index | Kind::Sequence | Kind::ForeignTable
    );
    // SAFETY: the objects of a DROP of relations are lists of String nodes.
    let objects = if by_relation { unsafe { names::members(statement.objects) } } else { Vec::new() };
    let wanted = objects.into_iter().filter_map(|object| {
        // SAFETY: as above.
        let relid = unsafe { names::relation_by_names(object.cast()) };
        let facts = catalog::relation_facts(relid)?;
        let actual = super::super::hooks::object_access::relation_kind(facts.kind);
        let matched = if actual == Kind::Index { catalog::table_of_index(relid)? } else { relid };
        Some(on_relation(Action::on(Verb::Drop, actual), Target::Relation(matched)))
    });
    Some(all(wanted.collect()))
}

unsafe fn rename(statement: &pg_sys::RenameStmt) -> Option<Needs> {
    // SAFETY: parse tree of ALTER ... RENAME.
    unsafe {
        let kind = names::kind(statement.renameType)?;
        if kind == Kind::Role {
            let target = catalog::text(statement.subname).map_or(Target::Nothing, |name| names::role(&name));
            return Some(all(vec![Wanted::named(Action::plain(Verb::Role), target)]));
        }
        if statement.relation.is_null() {
            let target = match catalog::text(statement.subname) {
                Some(name) if kind == Kind::Schema => names::schema(&name),
                Some(name) if statement.object.is_null() => names::named(String::new(), name),
                _ => names::existing(statement.renameType, statement.object),
            };
            let mut needs = on(Verb::Alter, kind, target.clone());
            needs.wanted.extend(swept::renamed(&target));
            needs.wanted.extend(callable(&target));
            return Some(needs);
        }
        let target = names::relation_target(statement.relation);
        let mut wanted = vec![on_relation(Action::on(Verb::Alter, kind), target.clone())];
        if statement.renameType == pg_sys::ObjectType::OBJECT_ATTRIBUTE {
            wanted.extend(parts::typed_tables(&target));
        }
        if let Target::Relation(relid) = target {
            // Rules with * and the token's patterns go by name: a new name must not show what the old one did not.
            wanted.extend(usable(relid));
        }
        Some(all(wanted))
    }
}

/// Reading all of a relation that holds or shows rows, and whatever a rule forbids to be done to them; nothing for temporary
/// ones, indexes and sequences.
fn usable(relid: pg_sys::Oid) -> Vec<Wanted> {
    let shows_rows = catalog::relation_facts(relid)
        .is_some_and(|facts| !facts.temporary && matches!(facts.kind, b'r' | b'p' | b'v' | b'm' | b'f'));
    if !shows_rows {
        return Vec::new();
    }
    let mut wanted = vec![whole(relid)];
    wanted.extend(swept::forbidden_changes(relid));
    wanted
}

/// Running a function that comes under another name.
fn callable(target: &Target) -> Option<Wanted> {
    match target {
        Target::Function(function) => functions::wanted(*function, Voice::Named),
        _ => None,
    }
}

unsafe fn set_schema(statement: &pg_sys::AlterObjectSchemaStmt) -> Option<Needs> {
    // SAFETY: parse tree of ALTER ... SET SCHEMA.
    unsafe {
        let kind = names::kind(statement.objectType)?;
        let schema = catalog::text(statement.newschema).map_or(Target::Nothing, |name| names::schema(&name));
        let target = if statement.relation.is_null() {
            names::existing(statement.objectType, statement.object)
        } else {
            names::relation_target(statement.relation)
        };
        let mut wanted = vec![
            on_relation(Action::on(Verb::Alter, kind), target.clone()),
            Wanted::named(Action::on(Verb::Create, kind), schema),
        ];
        wanted.extend(callable(&target));
        if let Target::Relation(relid) = target {
            wanted.extend(usable(relid));
        }
        Some(all(wanted))
    }
}

/// The object that COMMENT and SECURITY LABEL name; parts of a relation are matched by the relation.
///
/// # Safety
/// `object` is the node that the grammar builds for the object type.
pub unsafe fn whole_of(kind: pg_sys::ObjectType::Type, object: *mut pg_sys::Node) -> Target {
    // SAFETY: the caller's promise.
    unsafe {
        match names::of_relation(kind, object) {
            Some(relation) => names::existing(pg_sys::ObjectType::OBJECT_TABLE, relation.cast()),
            None => names::existing(kind, object),
        }
    }
}
