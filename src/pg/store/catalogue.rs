//! PostgreSQL's catalogue, as far as rules name objects in it.
//!
//! Patterns come as LIKE patterns made of `Part`s, so that a name with `%` or `_` stands for itself.

use pgrx::pg_sys::Oid;

use crate::pattern::Part;
use crate::pg::admin_error::AdminResult;
use crate::pg::store::{row, rows};

/// The most names that a hint is looked for among.
const LOOKED_AT: i64 = 5000;

/// One column of a relation.
#[derive(Clone, Debug)]
pub struct Column {
    /// The name.
    pub name: String,
    /// The attribute number; negative for system columns.
    pub number: i16,
}

fn like(part: &Part) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    match part {
        Part::Any => "%".to_owned(),
        Part::Literal(name) => escape(name),
        Part::Glob(glob) => escape(glob).replace('*', "%"),
    }
}

fn exists(sql: &str, parts: &[&Part]) -> AdminResult<bool> {
    let args: Vec<_> = parts.iter().map(|part| like(part).into()).collect();
    Ok(row(sql, &args, |row| row.need(1))?.unwrap_or(false))
}

/// Whether a schema has such a name.
pub fn schema_exists(schema: &Part) -> AdminResult<bool> {
    exists(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.~~) $1)",
        &[schema],
    )
}

/// Whether a role has such a name.
pub fn role_exists(role: &Part) -> AdminResult<bool> {
    exists(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.~~) $1)",
        &[role],
    )
}

/// Whether a function has such a name.
pub fn function_exists(schema: &Part, name: &Part) -> AdminResult<bool> {
    exists(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
             WHERE n.nspname OPERATOR(pg_catalog.~~) $1 AND p.proname OPERATOR(pg_catalog.~~) $2)",
        &[schema, name],
    )
}

/// Whether a relation, or another object that lives in a schema and is no function, has such a name.
pub fn relation_exists(schema: &Part, name: &Part) -> AdminResult<bool> {
    // Most patterns name relations, and this is asked for each rule of a document: the cheap question first.
    let among_relations = exists(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
             WHERE n.nspname OPERATOR(pg_catalog.~~) $1 AND c.relname OPERATOR(pg_catalog.~~) $2)",
        &[schema, name],
    )?;
    if among_relations {
        return Ok(true);
    }
    exists(
        "SELECT EXISTS (
             SELECT FROM pg_catalog.pg_namespace n
             CROSS JOIN LATERAL (
                 SELECT t.typname FROM pg_catalog.pg_type t WHERE t.typnamespace OPERATOR(pg_catalog.=) n.oid
                 UNION ALL
                 SELECT o.oprname FROM pg_catalog.pg_operator o WHERE o.oprnamespace OPERATOR(pg_catalog.=) n.oid
                 UNION ALL
                 SELECT c.collname FROM pg_catalog.pg_collation c WHERE c.collnamespace OPERATOR(pg_catalog.=) n.oid
                 UNION ALL
                 SELECT c.conname FROM pg_catalog.pg_conversion c WHERE c.connamespace OPERATOR(pg_catalog.=) n.oid
                 UNION ALL
                 SELECT s.stxname FROM pg_catalog.pg_statistic_ext s WHERE s.stxnamespace OPERATOR(pg_catalog.=) n.oid
                 UNION ALL
                 SELECT t.cfgname FROM pg_catalog.pg_ts_config t WHERE t.cfgnamespace OPERATOR(pg_catalog.=) n.oid
                 UNION ALL
                 SELECT t.dictname FROM pg_catalog.pg_ts_dict t WHERE t.dictnamespace OPERATOR(pg_catalog.=) n.oid
             ) object (name)
             WHERE n.nspname OPERATOR(pg_catalog.~~) $1 AND object.name OPERATOR(pg_catalog.~~) $2)",
        &[schema, name],
    )
}

/// The relation of this name, if any.
pub fn relation(schema: &str, name: &str) -> AdminResult<Option<Oid>> {
    row(
        "SELECT c.oid FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.text AND c.relname OPERATOR(pg_catalog.=) $2::pg_catalog.text",
        &[schema.into(), name.into()],
        |row| row.need(1),
    )
}

/// The schema of this name, if any.
pub fn schema(name: &str) -> AdminResult<Option<Oid>> {
    row(
        "SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.text",
        &[name.into()],
        |row| row.need(1),
    )
}

/// The role of this name, if any.
pub fn role(name: &str) -> AdminResult<Option<Oid>> {
    row(
        "SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) $1::pg_catalog.text",
        &[name.into()],
        |row| row.need(1),
    )
}

/// The name of a type as the server writes it in identities; `None` where there is none of that name.
pub fn type_name(text: &str) -> AdminResult<Option<String>> {
    row(
        "SELECT pg_catalog.format_type(t::pg_catalog.oid, NULL) FROM pg_catalog.to_regtype($1) t",
        &[text.into()],
        |row| row.may(1),
    )
    .map(Option::flatten)
}

/// The overloads of a function with their argument types.
pub fn overloads(schema: &str, name: &str) -> AdminResult<Vec<(Oid, String)>> {
    rows(
        "SELECT p.oid, pg_catalog.oidvectortypes(p.proargtypes) FROM pg_catalog.pg_proc p
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) $1::pg_catalog.text AND p.proname OPERATOR(pg_catalog.=) $2::pg_catalog.text
         ORDER BY 2",
        &[schema.into(), name.into()],
        |row| Ok((row.need(1)?, row.need(2)?)),
    )
}

/// The columns of a relation, system columns too, in their order.
pub fn columns(relation: Oid) -> AdminResult<Vec<Column>> {
    rows(
        "SELECT a.attname::pg_catalog.text, a.attnum FROM pg_catalog.pg_attribute a
         WHERE a.attrelid OPERATOR(pg_catalog.=) $1 AND NOT a.attisdropped ORDER BY a.attnum",
        &[relation.into()],
        |row| Ok(Column { name: row.need(1)?, number: row.need(2)? }),
    )
}

/// Whether a relation of this pattern has such a column.
pub fn column_exists(schema: &Part, name: &Part, column: &str) -> AdminResult<bool> {
    exists(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute a
             JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
             JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
             WHERE n.nspname OPERATOR(pg_catalog.~~) $1 AND c.relname OPERATOR(pg_catalog.~~) $2
               AND a.attname OPERATOR(pg_catalog.~~) $3 AND NOT a.attisdropped)",
        &[schema, name, &Part::Literal(column.to_owned())],
    )
}

/// The columns that relations of this pattern have, for a hint.
pub fn column_names(schema: &Part, name: &Part) -> AdminResult<Vec<String>> {
    rows(
        "SELECT DISTINCT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
         JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE n.nspname OPERATOR(pg_catalog.~~) $1 AND c.relname OPERATOR(pg_catalog.~~) $2
           AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
         ORDER BY 1 LIMIT $3",
        &[like(schema).into(), like(name).into(), LOOKED_AT.into()],
        |row| row.need(1),
    )
}

/// Names of schemas, for a hint.
pub fn schema_names() -> AdminResult<Vec<String>> {
    rows(
        "SELECT n.nspname::pg_catalog.text FROM pg_catalog.pg_namespace n ORDER BY 1 LIMIT $1",
        &[LOOKED_AT.into()],
        |row| row.need(1),
    )
}

/// Names of roles, for a hint.
pub fn role_names() -> AdminResult<Vec<String>> {
    rows(
        "SELECT r.rolname::pg_catalog.text FROM pg_catalog.pg_roles r ORDER BY 1 LIMIT $1",
        &[LOOKED_AT.into()],
        |row| row.need(1),
    )
}

/// Schema and name of relations in schemas that match or with the name, for a hint.
pub fn relation_names(schema: &Part, name: &Part) -> AdminResult<Vec<(String, String)>> {
    rows(
        "SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE (n.nspname OPERATOR(pg_catalog.~~) $1 OR c.relname OPERATOR(pg_catalog.~~) $2)
           AND c.relkind OPERATOR(pg_catalog.<>) ALL (ARRAY['i', 'I', 't']::pg_catalog.\"char\"[])
         ORDER BY 1, 2 LIMIT $3",
        &[like(schema).into(), like(name).into(), LOOKED_AT.into()],
        |row| Ok((row.need(1)?, row.need(2)?)),
    )
}

/// Schema and name of functions in schemas that match or with the name, for a hint.
pub fn function_names(schema: &Part, name: &Part) -> AdminResult<Vec<(String, String)>> {
    rows(
        "SELECT DISTINCT n.nspname::pg_catalog.text, p.proname::pg_catalog.text FROM pg_catalog.pg_proc p
         JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
         WHERE n.nspname OPERATOR(pg_catalog.~~) $1 OR p.proname OPERATOR(pg_catalog.~~) $2
         ORDER BY 1, 2 LIMIT $3",
        &[like(schema).into(), like(name).into(), LOOKED_AT.into()],
        |row| Ok((row.need(1)?, row.need(2)?)),
    )
}
