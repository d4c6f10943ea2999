//! From the names in a utility statement's parse tree to objects, without taking locks.

use std::sync::Arc;

use pgrx::pg_sys;

use super::super::enforce::Target;
use super::super::walk;
use super::super::{catalog, drops, encoding};
use crate::request::{Kind, Object, ObjectClass, Oid};

/// The members of a List as node pointers.
///
/// # Safety
/// `list` is null or a pointer list that outlives the result's use.
pub unsafe fn members(list: *mut pg_sys::List) -> Vec<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; length and elements belong together.
    unsafe {
        if list.is_null() {
            return Vec::new();
        }
        let length = usize::try_from((*list).length).unwrap_or(0);
        (0..length).map(|i| (*(*list).elements.add(i)).ptr_value.cast()).collect()
    }
}

/// The members of a List of OIDs.
///
/// # Safety
/// `list` is null or a list of OIDs.
pub unsafe fn oids(list: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: the caller's promise; length and elements belong together.
    unsafe {
        if list.is_null() {
            return Vec::new();
        }
        let length = usize::try_from((*list).length).unwrap_or(0);
        (0..length).map(|i| (*(*list).elements.add(i)).oid_value).collect()
    }
}

/// A list of String nodes as text parts.
///
/// # Safety
/// `list` is null or a list of String nodes.
pub unsafe fn strings(list: *mut pg_sys::List) -> Vec<String> {
    // SAFETY: the caller's promise.
    unsafe { members(list).into_iter().filter_map(|node| string(node)).collect() }
}

/// The text of a String node; `None` for any other node.
///
/// # Safety
/// `node` is null or a valid node.
pub unsafe fn string(node: *mut pg_sys::Node) -> Option<String> {
    // SAFETY: the tag says that it is a String.
    unsafe {
        if node.is_null() || (*node).type_ != pg_sys::NodeTag::T_String {
            return None;
        }
        catalog::text((*node.cast::<pg_sys::String>()).sval)
    }
}

/// The OID that a RangeVar names, without a lock; invalid when there is none.
///
/// # Safety
/// `range` is null or a valid RangeVar.
pub unsafe fn relation(range: *mut pg_sys::RangeVar) -> pg_sys::Oid {
    const NO_LOCK: i32 = 0;
    if range.is_null() {
        return pg_sys::InvalidOid;
    }
    // SAFETY: RVR_MISSING_OK: no error for a missing relation, and no lock to wait for.
    unsafe {
        pg_sys::RangeVarGetRelidExtended(
            range,
            NO_LOCK,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    }
}

/// The relation that a list of String nodes names.
///
/// # Safety
/// `names` is a list of one to three String nodes.
pub unsafe fn relation_by_names(names: *mut pg_sys::List) -> pg_sys::Oid {
    // SAFETY: makeRangeVarFromNameList builds a palloc'd RangeVar from such a list.
    unsafe { relation(pg_sys::makeRangeVarFromNameList(names)) }
}

/// The relations that a view reads, through other views too; nothing for what is no view.
pub fn read_by_view(view: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    let mut open = vec![view];
    while let Some(next) = open.pop() {
        if catalog::relation_facts(next).is_none_or(|facts| facts.kind != b'v') {
            continue;
        }
        let mut read: Vec<pg_sys::Oid> = Vec::new();
        // SAFETY: the relation is open while its rule's query, which belongs to the relation's cache entry, is read.
        unsafe {
            let lock = i32::try_from(pg_sys::AccessShareLock).unwrap_or(1);
            let relation = pg_sys::relation_open(next, lock);
            note_relations(pg_sys::get_view_query(relation).cast(), (&raw mut read).cast());
            pg_sys::relation_close(relation, lock);
        }
        for relid in read {
            if relid != view && !found.contains(&relid) {
                found.push(relid);
                open.push(relid);
            }
        }
    }
    found
}

/// The relations that a query names at any depth; views are not looked into.
///
/// # Safety
/// `query` is a valid query.
pub unsafe fn read_by_query(query: *mut pg_sys::Query) -> Vec<pg_sys::Oid> {
    let mut read: Vec<pg_sys::Oid> = Vec::new();
    // SAFETY: the caller's promise; the context is our Vec.
    unsafe { note_relations(query.cast(), (&raw mut read).cast()) };
    read
}

unsafe extern "C-unwind" fn note_relations(node: *mut pg_sys::Node, context: *mut std::ffi::c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the casts; the context is the caller's Vec.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ != pg_sys::NodeTag::T_Query {
            return walk::expression(node, note_relations, context);
        }
        let query = node.cast::<pg_sys::Query>();
        for entry in members((*query).rtable) {
            let entry = &*entry.cast::<pg_sys::RangeTblEntry>();
            if entry.rtekind == pg_sys::RTEKind::RTE_RELATION {
                (*context.cast::<Vec<pg_sys::Oid>>()).push(entry.relid);
            }
        }
        walk::query(query, note_relations, context, 0)
    }
}

/// The target for an existing relation, or for its name where there is none.
///
/// # Safety
/// `range` is null or a valid RangeVar.
pub unsafe fn relation_target(range: *mut pg_sys::RangeVar) -> Target {
    // SAFETY: the caller's promise.
    unsafe {
        let oid = relation(range);
        if oid != pg_sys::InvalidOid {
            return Target::Relation(oid);
        }
        match range.as_ref() {
            None => Target::Nothing,
            Some(range) => named(
                catalog::text(range.schemaname).unwrap_or_default(),
                catalog::text(range.relname).unwrap_or_default(),
            ),
        }
    }
}

/// An object of no class of its own, or one that does not exist yet.
pub fn named(schema: String, name: String) -> Target {
    Target::Named(Arc::new(Object { class: ObjectClass::Other, oid: Oid(0), schema, name, args: None }))
}

/// A relation that is about to be created, and whether it is a temporary one.
///
/// # Safety
/// `range` is a valid RangeVar.
pub unsafe fn new_relation(range: *mut pg_sys::RangeVar) -> (Target, bool) {
    // SAFETY: the caller's promise; RangeVarGetCreationNamespace raises what CREATE itself would raise.
    unsafe {
        let Some(fields) = range.as_ref() else { return (Target::Nothing, false) };
        let name = catalog::text(fields.relname).unwrap_or_default();
        let schema = catalog::text(fields.schemaname);
        let persistence = fields.relpersistence.cast_unsigned();
        let in_temporary = schema.as_deref() == Some("pg_temp")
            || schema.as_deref().is_some_and(|schema| schema.starts_with("pg_temp_"));
        if persistence == b't' || in_temporary {
            return (named("pg_temp".to_owned(), name), true);
        }
        let namespace = pg_sys::RangeVarGetCreationNamespace(range);
        let temporary = pg_sys::isTempNamespace(namespace);
        let schema = catalog::schema_name(namespace).unwrap_or_default();
        let object = Object { class: ObjectClass::Relation, oid: Oid(0), schema, name, args: None };
        (Target::Named(Arc::new(object)), temporary)
    }
}

/// An object other than a relation that is about to be created under a possibly qualified name.
///
/// # Safety
/// `names` is a list of String nodes.
pub unsafe fn new_object(names: *mut pg_sys::List, class: ObjectClass) -> Target {
    // SAFETY: the caller's promise; the schema is only looked up where the name gives none.
    unsafe {
        let parts = strings(names);
        let Some((name, qualifiers)) = parts.split_last() else { return Target::Nothing };
        let schema = match qualifiers.last() {
            Some(schema) => schema.clone(),
            None => {
                let mut bare: *mut std::os::raw::c_char = std::ptr::null_mut();
                let namespace = pg_sys::QualifiedNameGetCreationNamespace(names, &raw mut bare);
                catalog::schema_name(namespace).unwrap_or_default()
            }
        };
        let args = (class == ObjectClass::Function).then(String::new);
        Target::Named(Arc::new(Object { class, oid: Oid(0), schema, name: name.clone(), args }))
    }
}

/// The target of a statement that names an existing object by object type and node (COMMENT, ALTER ... RENAME).
///
/// # Safety
/// `object` is the node that the grammar builds for the object type.
pub unsafe fn existing(kind: pg_sys::ObjectType::Type, object: *mut pg_sys::Node) -> Target {
    use pg_sys::ObjectType::{
        OBJECT_AGGREGATE, OBJECT_FUNCTION, OBJECT_PROCEDURE, OBJECT_ROLE, OBJECT_ROUTINE, OBJECT_SCHEMA,
        OBJECT_STATISTIC_EXT,
    };
    // SAFETY: the grammar's node types for each object type (gram.y, objectaddress.c: get_object_address).
    unsafe {
        match kind {
            kind if is_relation(kind) => {
                if object.is_null() || (*object).type_ != pg_sys::NodeTag::T_List {
                    return loose(object);
                }
                let oid = relation_by_names(object.cast());
                if oid == pg_sys::InvalidOid {
                    by_parts(&strings(object.cast()))
                } else {
                    Target::Relation(oid)
                }
            }
            OBJECT_FUNCTION | OBJECT_PROCEDURE | OBJECT_ROUTINE | OBJECT_AGGREGATE => {
                if object.is_null() || (*object).type_ != pg_sys::NodeTag::T_ObjectWithArgs {
                    return loose(object);
                }
                let oid = pg_sys::LookupFuncWithArgs(kind, object.cast(), true);
                if oid == pg_sys::InvalidOid { Target::Nothing } else { Target::Function(oid) }
            }
            OBJECT_STATISTIC_EXT => {
                table_of_statistics(object).map_or_else(|| loose(object), Target::Relation)
            }
            OBJECT_SCHEMA => string(object).map_or(Target::Nothing, |name| schema(&name)),
            OBJECT_ROLE => string(object).map_or(Target::Nothing, |name| role(&name)),
            _ => loose(object),
        }
    }
}

/// Whether objects of this type are relations.
pub fn is_relation(kind: pg_sys::ObjectType::Type) -> bool {
    use pg_sys::ObjectType as T;
    matches!(
        kind,
        T::OBJECT_TABLE
            | T::OBJECT_VIEW
            | T::OBJECT_MATVIEW
            | T::OBJECT_INDEX
            | T::OBJECT_SEQUENCE
            | T::OBJECT_FOREIGN_TABLE
    )
}

/// The names of the relation that COMMENT and the like name, or a part of it; `None` where the object is neither.
///
/// # Safety
/// `object` is the node that the grammar builds for the object type.
pub unsafe fn of_relation(
    kind: pg_sys::ObjectType::Type,
    object: *mut pg_sys::Node,
) -> Option<*mut pg_sys::List> {
    use pg_sys::ObjectType as T;
    let names: *mut pg_sys::List = match kind {
        kind if is_relation(kind) => object.cast(),
        T::OBJECT_COLUMN
        | T::OBJECT_POLICY
        | T::OBJECT_RULE
        | T::OBJECT_TABCONSTRAINT
        | T::OBJECT_TRIGGER => {
            // SAFETY: a list of String nodes, the last of them the part's name.
            unsafe {
                let parts = pg_sys::list_copy(object.cast());
                pg_sys::list_truncate(parts, (*parts).length - 1)
            }
        }
        _ => std::ptr::null_mut(),
    };
    (!names.is_null()).then_some(names)
}

/// The tables that a foreign key references, or those of a column.
///
/// # Safety
/// `element` is null or a node of CREATE TABLE or ALTER TABLE.
pub unsafe fn referenced(element: *mut pg_sys::Node) -> Vec<*mut pg_sys::RangeVar> {
    // SAFETY: the caller's promise; the tag decides the cast; only foreign keys have such a table (gram.y).
    unsafe {
        if element.is_null() {
            return Vec::new();
        }
        match (*element).type_ {
            pg_sys::NodeTag::T_Constraint => {
                let table = (*element.cast::<pg_sys::Constraint>()).pktable;
                if table.is_null() { Vec::new() } else { vec![table] }
            }
            pg_sys::NodeTag::T_ColumnDef => members((*element.cast::<pg_sys::ColumnDef>()).constraints)
                .into_iter()
                .flat_map(|constraint| referenced(constraint))
                .collect(),
            _ => Vec::new(),
        }
    }
}

/// The value of a boolean option, the last of several (as ExplainQuery and ExecVacuum read them); false without one.
///
/// # Safety
/// `options` is null or a list of DefElems.
pub unsafe fn is_set(options: *mut pg_sys::List, name: &str) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let option = members(options).into_iter().rev().find(|option| {
            catalog::text((*option.cast::<pg_sys::DefElem>()).defname).as_deref() == Some(name)
        });
        option.is_some_and(|option| pg_sys::defGetBoolean(option.cast()))
    }
}

/// pg_statistic_ext (catalog/pg_statistic_ext.h), for which pgrx has no name on 18.
const STATISTICS: u32 = 3381;

/// The table of a statistics object, by which rules about those are matched.
unsafe fn table_of_statistics(object: *mut pg_sys::Node) -> Option<pg_sys::Oid> {
    // SAFETY: the tag says that it is a list, of String nodes as the grammar builds it; a missing object gives InvalidOid.
    unsafe {
        if object.is_null() || (*object).type_ != pg_sys::NodeTag::T_List {
            return None;
        }
        let statistics = pg_sys::get_statistics_object_oid(object.cast(), true);
        drops::table_of(pg_sys::Oid::from(STATISTICS), statistics)
    }
}

/// Names of any other kind of object, as far as the node shows them: a string, a list of strings, a type name.
unsafe fn loose(object: *mut pg_sys::Node) -> Target {
    // SAFETY: the tag decides the cast.
    unsafe {
        if object.is_null() {
            return Target::Nothing;
        }
        match (*object).type_ {
            pg_sys::NodeTag::T_String => {
                string(object).map_or(Target::Nothing, |name| named(String::new(), name))
            }
            pg_sys::NodeTag::T_List => by_parts(&strings(object.cast())),
            pg_sys::NodeTag::T_TypeName => by_parts(&strings((*object.cast::<pg_sys::TypeName>()).names)),
            pg_sys::NodeTag::T_ObjectWithArgs => {
                by_parts(&strings((*object.cast::<pg_sys::ObjectWithArgs>()).objname))
            }
            _ => Target::Nothing,
        }
    }
}

fn by_parts(parts: &[String]) -> Target {
    match parts.split_last() {
        None => Target::Nothing,
        Some((name, qualifiers)) => named(qualifiers.last().cloned().unwrap_or_default(), name.clone()),
    }
}

/// A schema by name; by name only where there is none.
pub fn schema(name: &str) -> Target {
    let text = encoding::c_string(name);
    // SAFETY: a NUL-terminated name; missing schemas give InvalidOid.
    let oid = unsafe { pg_sys::get_namespace_oid(text.as_ptr(), true) };
    if oid != pg_sys::InvalidOid {
        return Target::Schema(oid);
    }
    let (class, name) = (ObjectClass::Schema, name.to_owned());
    Target::Named(Arc::new(Object { class, oid: Oid(0), schema: String::new(), name, args: None }))
}

/// A role by name; by name only where there is none.
pub fn role(name: &str) -> Target {
    let text = encoding::c_string(name);
    // SAFETY: a NUL-terminated name; missing roles give InvalidOid.
    let oid = unsafe { pg_sys::get_role_oid(text.as_ptr(), true) };
    if oid != pg_sys::InvalidOid {
        return Target::Role(oid);
    }
    let (class, name) = (ObjectClass::Role, name.to_owned());
    Target::Named(Arc::new(Object { class, oid: Oid(0), schema: String::new(), name, args: None }))
}

/// The role that a RoleSpec names, also CURRENT_ROLE, CURRENT_USER and SESSION_USER.
///
/// # Safety
/// `spec` is null or a valid RoleSpec.
pub unsafe fn role_spec(spec: *mut pg_sys::RoleSpec) -> Target {
    // SAFETY: the caller's promise; get_rolespec_oid is asked only where it cannot mean PUBLIC.
    unsafe {
        let Some(fields) = spec.as_ref() else { return Target::Nothing };
        match fields.roletype {
            pg_sys::RoleSpecType::ROLESPEC_CSTRING => {
                catalog::text(fields.rolename).map_or(Target::Nothing, |name| role(&name))
            }
            pg_sys::RoleSpecType::ROLESPEC_PUBLIC => Target::Nothing,
            _ => Target::Role(pg_sys::get_rolespec_oid(spec, true)),
        }
    }
}

/// The kind of object that the grammar's object type stands for.
pub fn kind(kind: pg_sys::ObjectType::Type) -> Option<Kind> {
    use pg_sys::ObjectType as T;
    Some(match kind {
        T::OBJECT_ACCESS_METHOD => Kind::AccessMethod,
        T::OBJECT_AGGREGATE => Kind::Aggregate,
        T::OBJECT_CAST => Kind::Cast,
        T::OBJECT_COLLATION => Kind::Collation,
        T::OBJECT_TABCONSTRAINT | T::OBJECT_DOMCONSTRAINT => Kind::Constraint,
        T::OBJECT_CONVERSION => Kind::Conversion,
        T::OBJECT_DATABASE => Kind::Database,
        T::OBJECT_DEFACL => Kind::DefaultPrivileges,
        T::OBJECT_DOMAIN => Kind::Domain,
        T::OBJECT_EVENT_TRIGGER => Kind::EventTrigger,
        T::OBJECT_EXTENSION => Kind::Extension,
        T::OBJECT_FDW => Kind::ForeignDataWrapper,
        T::OBJECT_FOREIGN_TABLE => Kind::ForeignTable,
        T::OBJECT_FUNCTION => Kind::Function,
        T::OBJECT_INDEX => Kind::Index,
        T::OBJECT_LANGUAGE => Kind::Language,
        T::OBJECT_LARGEOBJECT => Kind::LargeObject,
        T::OBJECT_MATVIEW => Kind::MaterializedView,
        T::OBJECT_OPCLASS => Kind::OperatorClass,
        T::OBJECT_OPERATOR => Kind::Operator,
        T::OBJECT_OPFAMILY => Kind::OperatorFamily,
        T::OBJECT_POLICY => Kind::Policy,
        T::OBJECT_PROCEDURE => Kind::Procedure,
        T::OBJECT_PUBLICATION | T::OBJECT_PUBLICATION_REL | T::OBJECT_PUBLICATION_NAMESPACE => {
            Kind::Publication
        }
        T::OBJECT_ROLE => Kind::Role,
        T::OBJECT_ROUTINE => Kind::Routine,
        T::OBJECT_RULE => Kind::Rule,
        T::OBJECT_SCHEMA => Kind::Schema,
        T::OBJECT_SEQUENCE => Kind::Sequence,
        T::OBJECT_FOREIGN_SERVER => Kind::Server,
        T::OBJECT_STATISTIC_EXT => Kind::Statistics,
        T::OBJECT_SUBSCRIPTION => Kind::Subscription,
        T::OBJECT_TABLE | T::OBJECT_COLUMN => Kind::Table,
        T::OBJECT_TABLESPACE => Kind::Tablespace,
        T::OBJECT_TRANSFORM => Kind::Transform,
        T::OBJECT_TRIGGER => Kind::Trigger,
        T::OBJECT_TSCONFIGURATION => Kind::TextSearchConfiguration,
        T::OBJECT_TSDICTIONARY => Kind::TextSearchDictionary,
        T::OBJECT_TSPARSER => Kind::TextSearchParser,
        T::OBJECT_TSTEMPLATE => Kind::TextSearchTemplate,
        T::OBJECT_TYPE | T::OBJECT_ATTRIBUTE => Kind::Type,
        T::OBJECT_USER_MAPPING => Kind::UserMapping,
        T::OBJECT_VIEW => Kind::View,
        _ => return None,
    })
}
