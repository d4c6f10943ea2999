//! From OIDs to the names, columns, owners and kin that decisions are made of.

use std::ffi::CStr;
use std::os::raw::c_char;
use std::sync::Arc;

use pgrx::pg_sys;

use super::{encoding, scan};
use crate::policy::scope::Column;
use crate::request::{Object, ObjectClass, Oid};

/// OIDs below this one were given out by initdb (FirstNormalObjectId in src/include/access/transam.h).
pub const FIRST_NORMAL: u32 = 16384;
/// pg_shseclabel (src/include/catalog/pg_shseclabel.h).
pub const SHARED_LABELS: pg_sys::Oid = pg_sys::Oid::from_u32(3592);

/// pg_inherits, pg_inherits_relid_seqno_index and pg_inherits_parent_index (src/include/catalog/pg_inherits.h).
const INHERITS: u32 = 2611;
const INHERITS_BY_CHILD: u32 = 2680;
const INHERITS_BY_PARENT: u32 = 2187;

/// A server OID as the core's.
pub fn core_oid(oid: pg_sys::Oid) -> Oid {
    Oid(oid.to_u32())
}

/// A palloc'd or static C string as an owned one; `None` for a null pointer.
///
/// # Safety
/// `text` is null or NUL-terminated.
pub unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: the caller's promise.
    (!text.is_null()).then(|| encoding::from_server(unsafe { CStr::from_ptr(text) }))
}

/// What pg_class says of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationFacts {
    /// The schema.
    pub namespace: pg_sys::Oid,
    /// The owner.
    pub owner: pg_sys::Oid,
    /// relkind as in pg_class.
    pub kind: u8,
    /// Whether it lives in a temporary schema.
    pub temporary: bool,
    /// Whether it has or had children.
    pub has_children: bool,
    /// Whether it has or had rules; every view has one.
    pub has_rules: bool,
    /// The number of attributes, dropped ones included.
    pub attributes: i16,
}

/// Reads a relation's row of pg_class from the system cache.
pub fn relation_facts(relid: pg_sys::Oid) -> Option<RelationFacts> {
    with_cached(pg_sys::SysCacheIdentifier::RELOID, relid, |row: &pg_sys::FormData_pg_class| RelationFacts {
        namespace: row.relnamespace,
        owner: row.relowner,
        kind: row.relkind.cast_unsigned(),
        temporary: row.relpersistence.cast_unsigned() == b't',
        has_children: row.relhassubclass,
        has_rules: row.relhasrules,
        attributes: row.relnatts,
    })
}

/// Whether row security is enabled on a relation.
pub fn has_row_security(relid: pg_sys::Oid) -> bool {
    with_cached(pg_sys::SysCacheIdentifier::RELOID, relid, |row: &pg_sys::FormData_pg_class| {
        row.relrowsecurity
    })
    .unwrap_or(false)
}

/// The table that an index is on; rules about indexes are matched by it.
pub fn table_of_index(index: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up; with missing_ok an index that is going gives InvalidOid.
    let table = unsafe { pg_sys::IndexGetRelation(index, true) };
    (table != pg_sys::InvalidOid).then_some(table)
}

/// Reads one row of a system cache keyed by OID.
pub(super) fn with_cached<F, T>(cache: u32, oid: pg_sys::Oid, read: impl FnOnce(&F) -> T) -> Option<T> {
    // SAFETY: a pinned cache tuple is read and released; F is the catalogue's struct for that cache, which the
    // callers here and in types.rs pair.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(i32::try_from(cache).ok()?, pg_sys::Datum::from(oid));
        if tuple.is_null() {
            return None;
        }
        let value = pg_sys::heap_tuple_get_struct::<F>(tuple).as_ref().map(read);
        pg_sys::ReleaseSysCache(tuple);
        value
    }
}

/// The name of a schema.
pub fn schema_name(oid: pg_sys::Oid) -> Option<String> {
    // SAFETY: returns a palloc'd copy or null.
    unsafe { text(pg_sys::get_namespace_name(oid)) }
}

/// The name of a role.
pub fn role_name(oid: pg_sys::Oid) -> Option<String> {
    // SAFETY: with noerr it returns null for an unknown role.
    unsafe { text(pg_sys::GetUserNameFromId(oid, true)) }
}

/// A relation as an object of decisions.
pub fn relation_object(relid: pg_sys::Oid) -> Option<Object> {
    let facts = relation_facts(relid)?;
    // SAFETY: returns a palloc'd copy or null.
    let name = unsafe { text(pg_sys::get_rel_name(relid)) }?;
    Some(Object {
        class: ObjectClass::Relation,
        oid: core_oid(relid),
        schema: schema_name(facts.namespace)?,
        name,
        args: None,
    })
}

/// The live columns of a relation.
pub fn columns(relid: pg_sys::Oid) -> Vec<Column> {
    let Some(facts) = relation_facts(relid) else { return Vec::new() };
    (1..=facts.attributes).filter_map(|number| Some((number, column_name(relid, number)?))).collect()
}

/// The number of the column of this name; system columns have negative ones.
pub fn column_number(relid: pg_sys::Oid, name: &str) -> Option<i16> {
    let name = encoding::c_string(name);
    // SAFETY: a syscache look-up by a NUL-terminated name; 0 stands for none.
    let number = unsafe { pg_sys::get_attnum(relid, name.as_ptr()) };
    (number != 0).then_some(number)
}

/// The name of a column; `None` when there is none of that number or it was dropped.
pub fn column_name(relid: pg_sys::Oid, number: i16) -> Option<String> {
    // SAFETY: with missing_ok it returns null instead of raising.
    let name = unsafe { text(pg_sys::get_attname(relid, number, true)) }?;
    (!name.starts_with("........pg.dropped.")).then_some(name)
}

/// What pg_proc says of a function.
#[derive(Clone, Debug)]
pub struct FunctionFacts {
    /// The schema.
    pub namespace: pg_sys::Oid,
    /// The owner.
    pub owner: pg_sys::Oid,
    /// The name.
    pub name: String,
    /// provolatile: i, s or v.
    pub volatility: u8,
    /// prokind: f, p, a or w.
    pub kind: u8,
    /// Whether a parameter has the pseudo-type internal.
    pub takes_internal: bool,
    /// The input types in PostgreSQL's names, separated by `, `.
    pub args: String,
}

/// Reads a function's row of pg_proc from the system cache.
pub fn function_facts(oid: pg_sys::Oid) -> Option<FunctionFacts> {
    let (mut facts, types) =
        with_cached(pg_sys::SysCacheIdentifier::PROCOID, oid, |row: &pg_sys::FormData_pg_proc| {
            // SAFETY: proargtypes is the first variable-length column and always there (pg_proc.h).
            let types = unsafe {
                let count = usize::try_from(row.pronargs).unwrap_or(0);
                row.proargtypes.values.as_slice(count).to_vec()
            };
            let facts = FunctionFacts {
                namespace: row.pronamespace,
                owner: row.proowner,
                name: encoding::name(&row.proname),
                volatility: row.provolatile.cast_unsigned(),
                kind: row.prokind.cast_unsigned(),
                takes_internal: types.contains(&pg_sys::INTERNALOID),
                args: String::new(),
            };
            (facts, types)
        })?;
    let named = types.iter().filter_map(|oid| {
        // SAFETY: format_type_be returns a palloc'd text for every OID.
        unsafe { text(pg_sys::format_type_be(*oid)) }
    });
    facts.args = named.collect::<Vec<_>>().join(", ");
    Some(facts)
}

/// The schema of a function.
pub fn function_namespace(oid: pg_sys::Oid) -> Option<pg_sys::Oid> {
    with_cached(pg_sys::SysCacheIdentifier::PROCOID, oid, |row: &pg_sys::FormData_pg_proc| row.pronamespace)
}

/// A function as an object of decisions.
pub fn function_object(oid: pg_sys::Oid) -> Option<Object> {
    let facts = function_facts(oid)?;
    Some(Object {
        class: ObjectClass::Function,
        oid: core_oid(oid),
        schema: schema_name(facts.namespace)?,
        name: facts.name,
        args: Some(facts.args),
    })
}

/// A schema as an object of decisions.
pub fn schema_object(oid: pg_sys::Oid) -> Option<Object> {
    named(ObjectClass::Schema, oid, schema_name(oid)?)
}

/// A role as an object of decisions.
pub fn role_object(oid: pg_sys::Oid) -> Option<Object> {
    named(ObjectClass::Role, oid, role_name(oid)?)
}

fn named(class: ObjectClass, oid: pg_sys::Oid, name: String) -> Option<Object> {
    Some(Object { class, oid: core_oid(oid), schema: String::new(), name, args: None })
}

/// Any other object by its catalogue address, named as PostgreSQL identifies it (getObjectIdentity).
pub fn other_object(class: pg_sys::Oid, oid: pg_sys::Oid) -> Object {
    let address = pg_sys::ObjectAddress { classId: class, objectId: oid, objectSubId: 0 };
    // SAFETY: the address is complete; with missing_ok a vanished object gives null. The identity is palloc'd.
    let (identity, namespace) = unsafe {
        let identity = text(pg_sys::getObjectIdentity(&raw const address, true));
        (identity, object_namespace(&raw const address))
    };
    let schema = namespace.and_then(schema_name).unwrap_or_default();
    let identity = identity.unwrap_or_else(|| format!("{}/{}", class.to_u32(), oid.to_u32()));
    let name = identity.strip_prefix(&format!("{}.", crate::pattern::quoted(&schema))).unwrap_or(&identity);
    Object { class: ObjectClass::Other, oid: core_oid(oid), name: name.to_owned(), schema, args: None }
}

/// # Safety
/// `address` points to a complete address.
unsafe fn object_namespace(address: *const pg_sys::ObjectAddress) -> Option<pg_sys::Oid> {
    // SAFETY: reads the object's own catalogue row through its cache, where there is one (objectaddress.c).
    unsafe {
        if !pg_sys::is_objectclass_supported((*address).classId) {
            return None;
        }
        let namespace = pg_sys::get_object_namespace(address);
        (namespace != pg_sys::InvalidOid).then_some(namespace)
    }
}

/// All ancestors of a relation through partitioning and inheritance.
pub fn ancestors(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    kin(relid, INHERITS_BY_CHILD, 1, 2)
}

/// All descendants of a relation.
pub fn descendants(relid: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    kin(relid, INHERITS_BY_PARENT, 2, 1)
}

/// Follows pg_inherits from `from` to `to` (column numbers: 1 inhrelid, 2 inhparent) until nothing new is found.
fn kin(relid: pg_sys::Oid, index: u32, from: i16, to: usize) -> Vec<pg_sys::Oid> {
    let mut found: Vec<pg_sys::Oid> = Vec::new();
    let mut open = vec![relid];
    while let Some(next) = open.pop() {
        let key = (pg_sys::Oid::from(index), from, scan::Key::Oid(next));
        scan::rows(pg_sys::Oid::from(INHERITS), Some(key), |row| {
            let relative = row.column::<pg_sys::Oid>(to);
            if let Some(oid) = relative.filter(|oid| *oid != relid && !found.contains(oid)) {
                found.push(oid);
                open.push(oid);
            }
        });
    }
    found
}

/// Shares an object between the compiled scope and the accesses that name it.
pub fn shared(object: Object) -> Arc<Object> {
    Arc::new(object)
}
