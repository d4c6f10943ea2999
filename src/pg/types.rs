//! What the catalogue says of types, operators, collations and columns, as far as masks ask.

use pgrx::pg_sys;

use super::catalog::with_cached;
use super::encoding;
use super::expression::{Place, type_name};
use super::version;
use crate::mask::rule::{Class, ColumnType};

/// What pg_type says of a type.
#[derive(Clone, Copy, Debug)]
pub struct TypeFacts {
    /// The schema.
    pub namespace: pg_sys::Oid,
    /// The owner.
    pub owner: pg_sys::Oid,
    /// typtype: b, c, d, e, m, p or r.
    pub kind: u8,
    /// typcategory.
    pub category: u8,
    /// The elements of an array; invalid for anything else.
    pub element: pg_sys::Oid,
    /// What a domain is made of.
    pub base: pg_sys::Oid,
    /// The modifier that a domain gives it.
    pub base_typmod: i32,
    /// The relation of a composite type.
    pub relation: pg_sys::Oid,
}

/// Reads a type's row of pg_type from the system cache.
pub fn type_facts(oid: pg_sys::Oid) -> Option<TypeFacts> {
    with_cached(pg_sys::SysCacheIdentifier::TYPEOID, oid, |row: &pg_sys::FormData_pg_type| TypeFacts {
        namespace: row.typnamespace,
        owner: row.typowner,
        kind: row.typtype.cast_unsigned(),
        category: row.typcategory.cast_unsigned(),
        // int2vector and oidvector are arrays that nothing but the catalogue makes.
        element: if row.typlen == -1
            && row.typcategory.cast_unsigned() == b'A'
            && !matches!(oid, pg_sys::INT2VECTOROID | pg_sys::OIDVECTOROID)
        {
            row.typelem
        } else {
            pg_sys::InvalidOid
        },
        base: row.typbasetype,
        base_typmod: row.typtypmod,
        relation: row.typrelid,
    })
}

/// Owner, schema and name of an operator.
pub fn operator_facts(oid: pg_sys::Oid) -> Option<(pg_sys::Oid, pg_sys::Oid, String)> {
    with_cached(pg_sys::SysCacheIdentifier::OPEROID, oid, |row: &pg_sys::FormData_pg_operator| {
        (row.oprowner, row.oprnamespace, encoding::name(&row.oprname))
    })
}

/// Owner and schema of a collation.
pub fn collation_facts(oid: pg_sys::Oid) -> Option<(pg_sys::Oid, pg_sys::Oid)> {
    with_cached(pg_sys::SysCacheIdentifier::COLLOID, oid, |row: &pg_sys::FormData_pg_collation| {
        (row.collowner, row.collnamespace)
    })
}

/// A column as it is now.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// The number.
    pub number: i16,
    /// The name.
    pub name: String,
    /// What an expression for it has to be.
    pub place: Place,
}

/// The live columns of a relation, in their order. The caller holds a lock on it.
pub fn attributes(relation: pg_sys::Oid) -> Vec<Attribute> {
    // SAFETY: opened and closed here; the descriptor is only read in between, and the lock stays.
    unsafe {
        let opened = pg_sys::relation_open(relation, pg_sys::AccessShareLock.cast_signed());
        let all = version::attributes((*opened).rd_att);
        let live = all.iter().filter(|attribute| !attribute.attisdropped);
        let found = live
            .map(|attribute| Attribute {
                number: attribute.attnum,
                name: encoding::name(&attribute.attname),
                place: Place {
                    type_oid: attribute.atttypid,
                    typmod: attribute.atttypmod,
                    collation: attribute.attcollation,
                },
            })
            .collect();
        pg_sys::relation_close(opened, pg_sys::NoLock.cast_signed());
        found
    }
}

/// The kind of a column's values; domains count as what they are made of.
pub fn column_type(place: Place) -> ColumnType {
    let name = type_name(place.type_oid);
    let (mut oid, mut typmod) = (place.type_oid, place.typmod);
    let mut array = false;
    // A domain over an array of domains ... ends at a base type; the server lets no type contain itself.
    while let Some(facts) = type_facts(oid) {
        if facts.kind == b'd' {
            (oid, typmod) = (facts.base, facts.base_typmod);
        } else if facts.element != pg_sys::InvalidOid && !array {
            (oid, array) = (facts.element, true);
        } else {
            break;
        }
    }
    let length = match oid {
        pg_sys::VARCHAROID | pg_sys::BPCHAROID => {
            u32::try_from(typmod).ok().and_then(|typmod| typmod.checked_sub(4))
        }
        _ => None,
    };
    ColumnType { class: class(oid), array, length, name }
}

fn class(oid: pg_sys::Oid) -> Class {
    match oid {
        pg_sys::BYTEAOID => Class::Bytes,
        pg_sys::INT2OID => Class::Small,
        pg_sys::INT4OID => Class::Integer,
        pg_sys::INT8OID => Class::Bigint,
        pg_sys::NUMERICOID => Class::Numeric,
        pg_sys::FLOAT4OID => Class::Real,
        pg_sys::FLOAT8OID => Class::Double,
        pg_sys::MONEYOID => Class::Money,
        pg_sys::BOOLOID => Class::Boolean,
        pg_sys::DATEOID => Class::Date,
        pg_sys::TIMESTAMPOID => Class::Timestamp,
        pg_sys::TIMESTAMPTZOID => Class::TimestampTz,
        pg_sys::TIMEOID => Class::Time,
        pg_sys::TIMETZOID => Class::TimeTz,
        pg_sys::INTERVALOID => Class::Interval,
        pg_sys::UUIDOID => Class::Uuid,
        pg_sys::JSONOID => Class::Json,
        pg_sys::JSONBOID => Class::Jsonb,
        pg_sys::INETOID => Class::Inet,
        pg_sys::CIDROID => Class::Cidr,
        pg_sys::MACADDROID => Class::Macaddr,
        pg_sys::MACADDR8OID => Class::Macaddr8,
        pg_sys::BITOID | pg_sys::VARBITOID => Class::Bits,
        oid if type_facts(oid).is_some_and(|facts| facts.category == b'S' && facts.kind == b'b') => {
            Class::Text
        }
        _ => Class::Other,
    }
}
