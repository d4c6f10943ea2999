//! Statements that touch whole schemas, or the whole database: what they touch without naming it.
//!
//! An allow of the schema, or of the action on nothing in particular, stands for what lies in it; a deny of one of the
//! relations or functions follows all the same. Only what is not simply allowed is told: a schema may hold thousands.

use pgrx::pg_sys;

use super::super::enforce::{self, Target, Wanted};
use super::super::scan::Key;
use super::super::{calls, catalog, drops, scan, session};
use super::needs::{on_relation, whole};
use super::{functions, names};
use crate::request::{Action, Columns, Kind, Verb, Voice};

/// The relations of a schema, or of the database: not the server's own, no indexes, no TOAST tables.
fn relations(schema: Option<pg_sys::Oid>) -> Vec<(pg_sys::Oid, catalog::RelationFacts)> {
    let found = lying_in(pg_sys::RelationRelationId, schema);
    let known = found.into_iter().filter_map(|oid| Some((oid, catalog::relation_facts(oid)?)));
    known.filter(|(_, facts)| !matches!(facts.kind, b'i' | b'I' | b't' | b'c')).collect()
}

/// Those of them that the agent's role may do such things to: the server leaves all others out.
fn owned(schema: Option<pg_sys::Oid>) -> impl Iterator<Item = pg_sys::Oid> {
    relations(schema).into_iter().filter(|(_, facts)| calls::is_agents(facts.owner)).map(|(oid, _)| oid)
}

/// The objects of pg_class or pg_proc in a schema: both begin with oid, name and schema.
fn lying_in(class: pg_sys::Oid, schema: Option<pg_sys::Oid>) -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    scan::rows(class, None, |row| {
        let (oid, namespace) = (row.column::<pg_sys::Oid>(1), row.column::<pg_sys::Oid>(3));
        if let (Some(oid), Some(namespace)) = (oid, namespace)
            && oid.to_u32() >= catalog::FIRST_NORMAL
            && schema.is_none_or(|schema| schema == namespace)
        {
            found.push(oid);
        }
    });
    found
}

/// What of this the session is not allowed as it is. Without a session, all of it.
pub fn not_simply_allowed(wanted: Vec<Wanted>) -> Vec<Wanted> {
    let Ok(session) = session::current() else { return wanted };
    wanted.into_iter().filter(|one| !enforce::would_allow(&session, one).unwrap_or(false)).collect()
}

fn schema_of(target: &Target) -> Option<pg_sys::Oid> {
    if let Target::Schema(oid) = target { Some(*oid) } else { None }
}

/// Maintenance of everything in a schema, or in the database.
pub fn maintained(schema: Option<&Target>) -> Vec<Wanted> {
    let place = schema.map(schema_of);
    let Some(place) = place.map_or(Some(None), |found| found.map(Some)) else { return Vec::new() };
    let maintain = Action::plain(Verb::Maintain);
    let each = owned(place).map(|oid| on_relation(maintain, Target::Relation(oid)).by(Voice::View));
    not_simply_allowed(each.collect())
}

/// An action on every relation of the database.
pub fn everywhere(action: Action) -> Vec<Wanted> {
    let each = owned(None).map(|oid| on_relation(action, Target::Relation(oid)).by(Voice::View));
    not_simply_allowed(each.collect())
}

/// pg_shdepend and its index by the role (src/include/catalog/pg_shdepend.h).
const SHARED_DEPEND: u32 = 1214;
const BY_ROLE: u32 = 1233;

/// What in this database hangs on a role: each object's class and OID, and how (`o` owns it, `a` has privileges on it, `r` is
/// named by a row policy).
fn of_role(role: pg_sys::Oid) -> Vec<(pg_sys::Oid, pg_sys::Oid, u8)> {
    let mut found = Vec::new();
    // SAFETY: a plain value of this process.
    let here = unsafe { pg_sys::MyDatabaseId };
    let keys = [(5, Key::Oid(pg_sys::AuthIdRelationId)), (6, Key::Oid(role))];
    scan::tuples(pg_sys::Oid::from(SHARED_DEPEND), Some((pg_sys::Oid::from(BY_ROLE), &keys)), |_, row| {
        let ours = row.column::<pg_sys::Oid>(1).is_some_and(|it| it == here || it == pg_sys::InvalidOid);
        if let (true, Some(class), Some(object), Some(how)) =
            (ours, row.column(2), row.column(3), row.column::<i8>(7))
        {
            found.push((class, object, how.cast_unsigned()));
        }
    });
    found
}

/// What REASSIGN OWNED takes to another owner, and of what DROP OWNED takes privileges and row policies away. What the latter
/// drops is decided as it goes.
pub fn of_roles(roles: &[Wanted], drops_owned: bool) -> Vec<Wanted> {
    let grant = |target| Some(Wanted::named(Action::plain(Verb::Grant), target));
    let mut wanted = Vec::new();
    for role in roles {
        let Target::Role(role) = role.target else { continue };
        let each = of_role(role).into_iter().filter_map(|(class, object, how)| match (how, class) {
            (b'r', class) if drops_owned => {
                let table = drops::table_of(class, object)?;
                Some(Wanted::named(Action::on(Verb::Alter, Kind::Policy), Target::Relation(table)))
            }
            (how, _) if how != if drops_owned { b'a' } else { b'o' } => None,
            (_, pg_sys::RelationRelationId) => grant(Target::Relation(object)),
            (_, pg_sys::ProcedureRelationId) => grant(Target::Function(object)),
            (_, pg_sys::NamespaceRelationId) => grant(Target::Schema(object)),
            (_, class) => grant(Target::Named(catalog::shared(catalog::other_object(class, object)))),
        });
        wanted.extend(each.map(|one| one.by(Voice::View)));
    }
    not_simply_allowed(wanted)
}

/// The tables of a schema, or of the database, as subscribers get them: read as a whole.
pub fn published(schema: Option<&Target>) -> Vec<Wanted> {
    let place = schema.map(schema_of);
    let Some(place) = place.map_or(Some(None), |found| found.map(Some)) else { return Vec::new() };
    let tables = relations(place)
        .into_iter()
        .filter(|(_, facts)| matches!(facts.kind, b'r' | b'p') && !facts.temporary);
    not_simply_allowed(tables.map(|(oid, _)| whole(oid).by(Voice::View)).collect())
}

/// GRANT and REVOKE on everything of a kind in schemas.
///
/// # Safety
/// `statement` is a GrantStmt whose objects are schemas.
pub unsafe fn granted(statement: &pg_sys::GrantStmt) -> Vec<Wanted> {
    use pg_sys::ObjectType::{OBJECT_FUNCTION, OBJECT_PROCEDURE, OBJECT_ROUTINE};
    let grant = Action::plain(Verb::Grant);
    let of_functions = matches!(statement.objtype, OBJECT_FUNCTION | OBJECT_PROCEDURE | OBJECT_ROUTINE);
    let mut wanted = Vec::new();
    // SAFETY: the caller's promise: String nodes.
    for name in unsafe { names::strings(statement.objects) } {
        let Some(schema) = schema_of(&names::schema(&name)) else { continue };
        if of_functions {
            let each = lying_in(pg_sys::ProcedureRelationId, Some(schema)).into_iter();
            wanted.extend(each.map(|oid| Wanted::named(grant, Target::Function(oid)).by(Voice::View)));
        } else {
            let each = relations(Some(schema)).into_iter();
            wanted.extend(each.map(|(oid, _)| Wanted::named(grant, Target::Relation(oid)).by(Voice::View)));
        }
    }
    not_simply_allowed(wanted)
}

/// A schema that gets another name: rules with `*` and the token's patterns go by name, so everything in it takes what it
/// would take to use it.
pub fn renamed(schema: &Target) -> Vec<Wanted> {
    let Some(schema) = schema_of(schema) else { return Vec::new() };
    let mut wanted = Vec::new();
    for (oid, facts) in relations(Some(schema)) {
        if facts.kind == b'S' {
            wanted.push(Wanted::named(Action::plain(Verb::Usage), Target::Relation(oid)));
            continue;
        }
        wanted.push(whole(oid));
        wanted.extend(changed(oid));
    }
    let functions = lying_in(pg_sys::ProcedureRelationId, Some(schema)).into_iter();
    wanted.extend(functions.filter_map(|function| functions::wanted(function, Voice::Named)));
    not_simply_allowed(wanted)
}

/// The changes of a relation's rows that a rule may forbid.
fn changed(relation: pg_sys::Oid) -> impl Iterator<Item = Wanted> {
    [Verb::Insert, Verb::Update, Verb::Delete, Verb::Truncate].into_iter().map(move |verb| Wanted {
        columns: Columns::Unnamed,
        ..Wanted::named(Action::plain(verb), Target::Relation(relation)).by(Voice::View)
    })
}

/// A relation that comes under another name: what a rule forbids to be done to its rows.
pub fn forbidden_changes(relation: pg_sys::Oid) -> Vec<Wanted> {
    not_simply_allowed(changed(relation).collect())
}
