//! What the server is dropping: an object by itself, or a part that belongs to a relation.

use std::os::raw::c_int;

use pgrx::pg_sys;

use super::catalog;
use super::enforce::{Target, Wanted};
use super::hooks::object_access::relation_kind;
use super::scan::{self, Key};
use super::version;
use crate::request::{Action, Kind, Verb};

/// How a drop is decided.
pub enum Drop {
    /// Not at all: an implementation detail of something that is decided.
    Nothing,
    /// By itself.
    Object(Wanted),
    /// With the relation that it belongs to, once it is known whether that goes as well.
    Part(pg_sys::Oid, Wanted),
}

/// A catalogue whose rows are parts of relations: its OID, its index on oid, the column that holds the relation.
struct PartCatalogue {
    class: u32,
    oid_index: u32,
    relation: usize,
    kind: Kind,
}

/// OIDs and columns as in src/include/catalog/pg_{constraint,attrdef,trigger,rewrite,policy,statistic_ext}.h.
const PARTS: [PartCatalogue; 6] = [
    PartCatalogue {
        class: 2606,
        oid_index: 2667,
        relation: version::CONSTRAINT_RELATION,
        kind: Kind::Constraint,
    },
    PartCatalogue { class: 2604, oid_index: 2657, relation: 2, kind: Kind::Table },
    PartCatalogue { class: 2620, oid_index: 2702, relation: 2, kind: Kind::Trigger },
    PartCatalogue { class: 2618, oid_index: 2692, relation: 3, kind: Kind::Rule },
    PartCatalogue { class: 3256, oid_index: 3257, relation: 3, kind: Kind::Policy },
    PartCatalogue { class: 3381, oid_index: 3380, relation: 2, kind: Kind::Statistics },
];

/// What dropping this object needs.
pub fn dropped(class: pg_sys::Oid, object: pg_sys::Oid, sub: c_int) -> Drop {
    match class {
        pg_sys::RelationRelationId => relation(object, sub),
        pg_sys::ProcedureRelationId => {
            let kind = catalog::function_facts(object).map_or(Kind::Function, |facts| match facts.kind {
                b'p' => Kind::Procedure,
                b'a' => Kind::Aggregate,
                _ => Kind::Function,
            });
            object_drop(kind, Target::Function(object))
        }
        pg_sys::NamespaceRelationId => {
            // SAFETY: compares with the session's own temporary schemas.
            if unsafe { pg_sys::isTempNamespace(object) } {
                return Drop::Nothing;
            }
            object_drop(Kind::Schema, Target::Schema(object))
        }
        pg_sys::TypeRelationId => type_drop(object),
        _ => match PARTS.iter().find(|part| part.class == class.to_u32()) {
            Some(part) => part_drop(part, class, object),
            None => other_drop(class, object),
        },
    }
}

fn object_drop(kind: Kind, target: Target) -> Drop {
    Drop::Object(Wanted::named(Action::on(Verb::Drop, kind), target))
}

fn relation(relid: pg_sys::Oid, sub: c_int) -> Drop {
    let Some(facts) = catalog::relation_facts(relid) else {
        return object_drop(Kind::Table, Target::Nothing);
    };
    if facts.temporary || facts.kind == b't' {
        return Drop::Nothing;
    }
    let target = Target::Relation(relid);
    if sub > 0 {
        return Drop::Part(relid, Wanted::named(Action::on(Verb::Alter, Kind::Table), target));
    }
    match facts.kind {
        b'i' | b'I' => {
            let Some(table) = catalog::table_of_index(relid) else { return Drop::Nothing };
            // The index of a TOAST table goes with it.
            let toast = catalog::relation_facts(table).is_none_or(|facts| facts.kind == b't');
            if toast {
                return Drop::Nothing;
            }
            let wanted = Wanted::named(Action::on(Verb::Drop, Kind::Index), Target::Relation(table));
            Drop::Part(table, wanted)
        }
        b'S' => match owner_of_sequence(relid) {
            Some(table) => Drop::Part(table, Wanted::named(Action::on(Verb::Drop, Kind::Sequence), target)),
            None => object_drop(Kind::Sequence, target),
        },
        kind => object_drop(relation_kind(kind), target),
    }
}

/// The table with a column that owns the sequence.
pub fn owner_of_sequence(sequence: pg_sys::Oid) -> Option<pg_sys::Oid> {
    owned_column(sequence).map(|owner| owner.0)
}

/// The table and column that own a sequence (serial, or identity).
pub fn owned_column(sequence: pg_sys::Oid) -> Option<(pg_sys::Oid, i16)> {
    let (mut table, mut column) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads pg_depend; DEPENDENCY_AUTO is 'a', DEPENDENCY_INTERNAL 'i' (dependency.h).
    let owned = unsafe {
        let kind = |letter: u8| std::os::raw::c_char::try_from(letter).unwrap_or(0);
        pg_sys::sequenceIsOwned(sequence, kind(b'a'), &raw mut table, &raw mut column)
            || pg_sys::sequenceIsOwned(sequence, kind(b'i'), &raw mut table, &raw mut column)
    };
    owned.then(|| Some((table, i16::try_from(column).ok()?))).flatten()
}

/// Row types and array types go with what they are made for.
fn type_drop(oid: pg_sys::Oid) -> Drop {
    let (mut category, mut preferred) = (0, false);
    // SAFETY: syscache look-ups of one type.
    let (relation, kind) = unsafe {
        pg_sys::get_type_category_preferred(oid, &raw mut category, &raw mut preferred);
        (pg_sys::get_typ_typrelid(oid), pg_sys::get_typtype(oid))
    };
    if relation != pg_sys::InvalidOid || category.cast_unsigned() == b'A' {
        return Drop::Nothing;
    }
    let kind = if kind.cast_unsigned() == b'd' { Kind::Domain } else { Kind::Type };
    let object = catalog::other_object(pg_sys::TypeRelationId, oid);
    if object.schema.starts_with("pg_temp") {
        return Drop::Nothing;
    }
    object_drop(kind, Target::Named(catalog::shared(object)))
}

/// The relation that a constraint, trigger, statistics object and the like is a part of.
pub fn table_of(class: pg_sys::Oid, oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let part = PARTS.iter().find(|part| part.class == class.to_u32())?;
    let mut relation = None;
    let key = (pg_sys::Oid::from(part.oid_index), 1, Key::Oid(oid));
    scan::rows(class, Some(key), |row| relation = row.column::<pg_sys::Oid>(part.relation));
    relation.filter(|relid| *relid != pg_sys::InvalidOid)
}

fn part_drop(part: &PartCatalogue, class: pg_sys::Oid, oid: pg_sys::Oid) -> Drop {
    match table_of(class, oid) {
        Some(relid) => {
            if catalog::relation_facts(relid).is_some_and(|facts| facts.temporary) {
                return Drop::Nothing;
            }
            // A column's default is no object of its own: dropping it alters the table.
            let action = if part.kind == Kind::Table {
                Action::on(Verb::Alter, Kind::Table)
            } else {
                Action::on(Verb::Drop, part.kind)
            };
            Drop::Part(relid, Wanted::named(action, Target::Relation(relid)))
        }
        // A constraint of a domain.
        _ => object_drop(part.kind, Target::Named(catalog::shared(catalog::other_object(class, oid)))),
    }
}

fn other_drop(class: pg_sys::Oid, oid: pg_sys::Oid) -> Drop {
    if class == pg_sys::AuthIdRelationId {
        return Drop::Object(Wanted::named(Action::plain(Verb::Role), Target::Role(oid)));
    }
    let target = Target::Named(catalog::shared(catalog::other_object(class, oid)));
    let action = match kind_of_class(class) {
        Some(Kind::ForeignDataWrapper | Kind::Server | Kind::UserMapping) => Action::plain(Verb::Foreign),
        Some(Kind::DefaultPrivileges) => Action::plain(Verb::Grant),
        Some(
            Kind::Extension
            | Kind::EventTrigger
            | Kind::Publication
            | Kind::Subscription
            | Kind::Language
            | Kind::AccessMethod,
        )
        | None => Action::plain(Verb::System),
        Some(kind) => Action::on(Verb::Drop, kind),
    };
    Drop::Object(Wanted::named(action, target))
}

/// The kind of object that a catalogue holds, by its OID (src/include/catalog/pg_*.h).
pub fn kind_of_class(class: pg_sys::Oid) -> Option<Kind> {
    Some(match class.to_u32() {
        1259 => Kind::Table,
        1255 => Kind::Function,
        1247 => Kind::Type,
        2615 => Kind::Schema,
        1260 => Kind::Role,
        1262 => Kind::Database,
        1213 => Kind::Tablespace,
        2606 => Kind::Constraint,
        2620 => Kind::Trigger,
        2618 => Kind::Rule,
        3256 => Kind::Policy,
        3381 => Kind::Statistics,
        2617 => Kind::Operator,
        2616 => Kind::OperatorClass,
        2753 => Kind::OperatorFamily,
        2605 => Kind::Cast,
        2607 => Kind::Conversion,
        3456 => Kind::Collation,
        3576 => Kind::Transform,
        2613 => Kind::LargeObject,
        3602 => Kind::TextSearchConfiguration,
        3600 => Kind::TextSearchDictionary,
        3601 => Kind::TextSearchParser,
        3764 => Kind::TextSearchTemplate,
        826 => Kind::DefaultPrivileges,
        2328 => Kind::ForeignDataWrapper,
        1417 => Kind::Server,
        1418 => Kind::UserMapping,
        3079 => Kind::Extension,
        3466 => Kind::EventTrigger,
        6104 | 6106 | 6237 => Kind::Publication,
        6100 => Kind::Subscription,
        2612 => Kind::Language,
        2601 => Kind::AccessMethod,
        _ => return None,
    })
}
