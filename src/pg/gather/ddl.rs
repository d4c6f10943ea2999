//! CREATE, ALTER, DROP, COMMENT and RENAME of objects.
//!
//! A statement that could move data out from under a rule (rename, another schema, another parent) also needs what
//! it would take to read that data.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::catalog;
use super::super::enforce::{Target, Wanted};
use super::needs::{Needs, creation, on, on_relation};
use super::{evaluated, handed, names, parts, renamed, routines, swept, tables};
use crate::request::{Action, Kind, ObjectClass, Verb};

/// What a DDL statement needs; `None` for a tag that is not in the list.
///
/// # Safety
/// `statement` is a utility statement with this tag.
pub unsafe fn needs(tag: pg_sys::NodeTag, statement: *mut pg_sys::Node) -> Option<Needs> {
    // SAFETY: each arm casts to the type of its tag; lists hold what gram.y puts there.
    unsafe {
        Some(match tag {
            T::T_CreateStmt => tables::create_table(&*statement.cast(), Kind::Table),
            T::T_CreateForeignTableStmt => {
                let mut needs = tables::create_table(
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
                Needs::of(vec![creation(kind, (*create.into).rel)])
            }
            T::T_ViewStmt => {
                let view: &pg_sys::ViewStmt = &*statement.cast();
                let mut needs = Needs::of(vec![creation(Kind::View, view.view)]);
                let existing = names::relation(view.view);
                if view.replace && existing != pg_sys::InvalidOid {
                    needs
                        .wanted
                        .push(on_relation(Action::on(Verb::Alter, Kind::View), Target::Relation(existing)));
                }
                needs
            }
            T::T_CreateSeqStmt => Needs::of(vec![creation(
                Kind::Sequence,
                (*statement.cast::<pg_sys::CreateSeqStmt>()).sequence,
            )]),
            T::T_AlterSeqStmt => tables::on_its_table(
                Verb::Alter,
                Kind::Sequence,
                (*statement.cast::<pg_sys::AlterSeqStmt>()).sequence,
            ),
            T::T_IndexStmt => {
                let create: &pg_sys::IndexStmt = &*statement.cast();
                let mut needs = tables::on_its_table(Verb::Create, Kind::Index, create.relation);
                needs.wanted.extend(evaluated::index(create, &names::relation_target(create.relation)));
                needs
            }
            T::T_CreateTrigStmt => {
                let create: &pg_sys::CreateTrigStmt = &*statement.cast();
                let mut needs = tables::on_its_table(Verb::Create, Kind::Trigger, create.relation);
                needs.wanted.extend(handed::to_trigger(create, &names::relation_target(create.relation)));
                needs
            }
            T::T_RuleStmt => {
                let create: &pg_sys::RuleStmt = &*statement.cast();
                let mut needs = tables::on_its_table(Verb::Create, Kind::Rule, create.relation);
                needs.wanted.extend(handed::to_rule(create, &names::relation_target(create.relation)));
                needs
            }
            T::T_CreatePolicyStmt => {
                let create: &pg_sys::CreatePolicyStmt = &*statement.cast();
                tables::row_policy(Verb::Create, create.table, [create.qual, create.with_check])
            }
            T::T_AlterPolicyStmt => {
                let alter: &pg_sys::AlterPolicyStmt = &*statement.cast();
                tables::row_policy(Verb::Alter, alter.table, [alter.qual, alter.with_check])
            }
            T::T_CreateStatsStmt => tables::create_statistics(&*statement.cast()),
            T::T_AlterStatsStmt => on(
                Verb::Alter,
                Kind::Statistics,
                names::existing(
                    pg_sys::ObjectType::OBJECT_STATISTIC_EXT,
                    (*statement.cast::<pg_sys::AlterStatsStmt>()).defnames.cast(),
                ),
            ),
            T::T_AlterTableStmt => tables::alter_table(&*statement.cast()),
            T::T_AlterTableMoveAllStmt => {
                let mut needs = on(Verb::Alter, Kind::Table, Target::Nothing);
                needs.wanted.extend(swept::everywhere(Action::on(Verb::Alter, Kind::Table)));
                needs
            }
            T::T_CreateFunctionStmt => routines::create_function(&*statement.cast()),
            T::T_AlterFunctionStmt => {
                let alter: &pg_sys::AlterFunctionStmt = &*statement.cast();
                let mut needs = on(
                    Verb::Alter,
                    routine_kind(alter.objtype),
                    names::existing(alter.objtype, alter.func.cast()),
                );
                needs.wanted.extend(routines::setting_clauses(alter.actions));
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
                Needs::of(vec![creation(Kind::Type, range)])
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
            T::T_RenameStmt => renamed::rename(&*statement.cast())?,
            T::T_AlterObjectSchemaStmt => renamed::set_schema(&*statement.cast())?,
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
            return Some(Needs::of(vec![Wanted::named(Action::plain(Verb::System), Target::Nothing)]));
        }
        Kind::ForeignDataWrapper | Kind::Server | Kind::UserMapping => {
            return Some(Needs::of(vec![Wanted::named(Action::plain(Verb::Foreign), Target::Nothing)]));
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
    Some(Needs::of(wanted.collect()))
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
