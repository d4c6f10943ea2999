//! The tables mask, row_filter, exposed_column and masked_view.

use pgrx::datum::JsonB;
use pgrx::pg_sys::Oid;

use crate::pg::admin_error::AdminResult;
use crate::pg::store::policy::PolicyId;
use crate::pg::store::{row, rows, run};
use crate::pg::text_datum::Document;

/// A masked column as it is stored.
#[derive(Clone, Debug)]
pub struct MaskRow {
    /// The identifier.
    pub id: i64,
    /// The relation.
    pub relation: Oid,
    /// The column's name when the row was last looked after.
    pub column: String,
    /// The column's number.
    pub number: i16,
    /// The masking function's word; `None` for an expression of the DBA's.
    pub mask: Option<String>,
    /// Its options.
    pub options: serde_json::Value,
    /// What agents read.
    pub expression: String,
}

/// A mask about to be stored.
pub struct NewMask<'a> {
    /// The relation.
    pub relation: Oid,
    /// The column's name.
    pub column: &'a str,
    /// The column's number.
    pub number: i16,
    /// The masking function's word.
    pub mask: Option<&'a str>,
    /// Its options.
    pub options: serde_json::Value,
    /// What agents read.
    pub expression: &'a str,
}

/// A row filter as it is stored.
#[derive(Clone, Debug)]
pub struct FilterRow {
    /// The identifier.
    pub id: i64,
    /// The policy.
    pub policy: PolicyId,
    /// The policy's name.
    pub policy_name: String,
    /// The relation.
    pub relation: Oid,
    /// The condition.
    pub predicate: String,
}

/// Stores a mask, in the place of the one that the column has.
pub fn put_mask(mask: NewMask<'_>) -> AdminResult<()> {
    run(
        "INSERT INTO agent_guard.mask (relation, column_name, attnum, mask, options, expression)
         VALUES ($1, $2::pg_catalog.name, $3, $4, $5, $6)
         ON CONFLICT (relation, attnum) DO UPDATE SET column_name = EXCLUDED.column_name, mask = EXCLUDED.mask,
             options = EXCLUDED.options, expression = EXCLUDED.expression, created_by = EXCLUDED.created_by,
             created_at = EXCLUDED.created_at",
        &[
            mask.relation.into(),
            mask.column.into(),
            mask.number.into(),
            mask.mask.into(),
            Document(mask.options).into(),
            mask.expression.into(),
        ],
    )
}

/// Changes what agents read of a masked column.
pub fn rewrite_mask(id: i64, column: &str, mask: Option<&str>, expression: &str) -> AdminResult<()> {
    run(
        "UPDATE agent_guard.mask SET column_name = $2::pg_catalog.name, mask = $3, expression = $4
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[id.into(), column.into(), mask.into(), expression.into()],
    )
}

/// Changes the text of a mask's expression.
pub fn set_expression(id: i64, expression: &str) -> AdminResult<()> {
    run(
        "UPDATE agent_guard.mask SET expression = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        &[id.into(), expression.into()],
    )
}

/// Removes the mask of a column, and the exposures of it; whether there was one.
pub fn remove_mask(relation: Oid, number: i16) -> AdminResult<bool> {
    let removed: Option<i64> = row(
        "DELETE FROM agent_guard.mask WHERE relation OPERATOR(pg_catalog.=) $1 AND attnum OPERATOR(pg_catalog.=) $2
         RETURNING id",
        &[relation.into(), number.into()],
        |row| row.need(1),
    )?;
    run(
        "DELETE FROM agent_guard.exposed_column
         WHERE relation OPERATOR(pg_catalog.=) $1 AND attnum OPERATOR(pg_catalog.=) $2",
        &[relation.into(), number.into()],
    )?;
    Ok(removed.is_some())
}

/// Masks in the order of relation and column: those of one relation, or all.
pub fn masks(relation: Option<Oid>) -> AdminResult<Vec<MaskRow>> {
    rows(
        "SELECT id, relation::pg_catalog.oid, column_name::pg_catalog.text, attnum, mask, options, expression
         FROM agent_guard.mask WHERE $1 IS NULL OR relation OPERATOR(pg_catalog.=) $1 ORDER BY relation, attnum",
        &[relation.into()],
        |row| {
            Ok(MaskRow {
                id: row.need(1)?,
                relation: row.need(2)?,
                column: row.need(3)?,
                number: row.need(4)?,
                mask: row.may(5)?,
                options: row.need::<JsonB>(6)?.0,
                expression: row.need(7)?,
            })
        },
    )
}

/// Exposures follow their columns: under the names that they have now, and away with them.
pub fn tidy_exposures(relation: Oid) -> AdminResult<()> {
    for sql in [
        "UPDATE agent_guard.exposed_column e SET column_name = a.attname FROM pg_catalog.pg_attribute a
         WHERE e.relation OPERATOR(pg_catalog.=) $1 AND a.attrelid OPERATOR(pg_catalog.=) e.relation
           AND a.attnum OPERATOR(pg_catalog.=) e.attnum AND NOT a.attisdropped
           AND a.attname OPERATOR(pg_catalog.<>) e.column_name",
        "DELETE FROM agent_guard.exposed_column e WHERE e.relation OPERATOR(pg_catalog.=) $1
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) e.relation
               AND a.attnum OPERATOR(pg_catalog.=) e.attnum AND NOT a.attisdropped)",
    ] {
        run(sql, &[relation.into()])?;
    }
    Ok(())
}

/// Everything that is stored of a relation that is gone.
pub fn forget_relation(relation: Oid) -> AdminResult<()> {
    for sql in [
        "DELETE FROM agent_guard.mask WHERE relation OPERATOR(pg_catalog.=) $1",
        "DELETE FROM agent_guard.row_filter WHERE relation OPERATOR(pg_catalog.=) $1",
        "DELETE FROM agent_guard.exposed_column WHERE relation OPERATOR(pg_catalog.=) $1",
        "DELETE FROM agent_guard.masked_view WHERE relation OPERATOR(pg_catalog.=) $1",
    ] {
        run(sql, &[relation.into()])?;
    }
    Ok(())
}

/// The generated view of a relation.
pub fn view_of(relation: Oid) -> AdminResult<Option<Oid>> {
    row(
        "SELECT view FROM agent_guard.masked_view WHERE relation OPERATOR(pg_catalog.=) $1",
        &[relation.into()],
        |row| row.need(1),
    )
}

/// Notes the generated view of a relation, or that it has none.
pub fn set_view(relation: Oid, view: Option<Oid>) -> AdminResult<()> {
    match view {
        Some(view) => run(
            "INSERT INTO agent_guard.masked_view (relation, view) VALUES ($1, $2)
             ON CONFLICT (relation) DO UPDATE SET view = EXCLUDED.view",
            &[relation.into(), view.into()],
        ),
        None => run(
            "DELETE FROM agent_guard.masked_view WHERE relation OPERATOR(pg_catalog.=) $1",
            &[relation.into()],
        ),
    }
}

/// The statements that give a view's privileges anew, with the names of roles and the schema quoted by the server;
/// `view` is how the new one is named.
pub fn grants(of: Oid, view: &str) -> AdminResult<Vec<String>> {
    rows(
        "SELECT pg_catalog.format('GRANT %s ON TABLE %s TO %s%s', a.privilege_type, $2::pg_catalog.text,
             CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC'
                 ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END,
             CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
         FROM pg_catalog.pg_class c CROSS JOIN LATERAL pg_catalog.aclexplode(c.relacl) a
         WHERE c.oid OPERATOR(pg_catalog.=) $1 AND a.grantee OPERATOR(pg_catalog.<>) c.relowner",
        &[of.into(), view.into()],
        |row| row.need(1),
    )
}

/// Runs what `grants` wrote.
pub fn grant(statement: &str) -> AdminResult<()> {
    run(statement, &[])
}

/// The view of this name among the generated ones.
pub fn view_named(name: &str) -> AdminResult<Option<Oid>> {
    row(
        "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
             ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) 'agent_guard_masked'
           AND c.relname OPERATOR(pg_catalog.=) $1::pg_catalog.name",
        &[name.into()],
        |row| row.need(1),
    )
}

/// Generated views that belong to no masked relation: those that a restore made.
pub fn stray_views() -> AdminResult<Vec<Oid>> {
    rows(
        "SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n
             ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
         WHERE n.nspname OPERATOR(pg_catalog.=) 'agent_guard_masked' AND c.relkind OPERATOR(pg_catalog.=) 'v'
           AND NOT EXISTS (SELECT FROM agent_guard.masked_view v WHERE v.view OPERATOR(pg_catalog.=) c.oid)",
        &[],
        |row| row.need(1),
    )
}

/// Relations with masks, filters or exposures, in the order in which they are locked.
pub fn kept_relations() -> AdminResult<Vec<Oid>> {
    rows(
        "SELECT relation::pg_catalog.oid FROM agent_guard.mask
         UNION SELECT relation::pg_catalog.oid FROM agent_guard.row_filter
         UNION SELECT relation::pg_catalog.oid FROM agent_guard.exposed_column ORDER BY 1",
        &[],
        |row| row.need(1),
    )
}

/// Masked and exposed columns of a relation, by the names stored, that it does not have.
pub fn missing_columns(relation: Oid) -> AdminResult<Vec<String>> {
    rows(
        "SELECT c.column_name::pg_catalog.text FROM (
             SELECT relation, column_name FROM agent_guard.mask
             UNION SELECT relation, column_name FROM agent_guard.exposed_column) c
         WHERE c.relation OPERATOR(pg_catalog.=) $1
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid OPERATOR(pg_catalog.=) c.relation
               AND a.attname OPERATOR(pg_catalog.=) c.column_name AND a.attnum OPERATOR(pg_catalog.>) 0)",
        &[relation.into()],
        |row| row.need(1),
    )
}

/// Finds the columns of a restored relation by their names.
pub fn renumber(relation: Oid) -> AdminResult<()> {
    // Out of the way first: two columns may have changed places.
    for sql in [
        "UPDATE agent_guard.mask SET attnum = (attnum OPERATOR(pg_catalog.+) 10000)::pg_catalog.int2
         WHERE relation OPERATOR(pg_catalog.=) $1",
        "UPDATE agent_guard.exposed_column SET attnum = (attnum OPERATOR(pg_catalog.+) 10000)::pg_catalog.int2
         WHERE relation OPERATOR(pg_catalog.=) $1",
        "UPDATE agent_guard.mask m SET attnum = a.attnum FROM pg_catalog.pg_attribute a
         WHERE m.relation OPERATOR(pg_catalog.=) $1 AND a.attrelid OPERATOR(pg_catalog.=) m.relation
           AND a.attname OPERATOR(pg_catalog.=) m.column_name AND a.attnum OPERATOR(pg_catalog.>) 0",
        "UPDATE agent_guard.exposed_column e SET attnum = a.attnum FROM pg_catalog.pg_attribute a
         WHERE e.relation OPERATOR(pg_catalog.=) $1 AND a.attrelid OPERATOR(pg_catalog.=) e.relation
           AND a.attname OPERATOR(pg_catalog.=) e.column_name AND a.attnum OPERATOR(pg_catalog.>) 0",
    ] {
        run(sql, &[relation.into()])?;
    }
    Ok(())
}

/// Removes the mask and exposures that are stored under a column's name; whether there was a mask.
pub fn remove_mask_named(relation: Oid, column: &str) -> AdminResult<bool> {
    let removed: Option<i64> = row(
        "DELETE FROM agent_guard.mask WHERE relation OPERATOR(pg_catalog.=) $1
           AND column_name OPERATOR(pg_catalog.=) $2::pg_catalog.name RETURNING id",
        &[relation.into(), column.into()],
        |row| row.need(1),
    )?;
    run(
        "DELETE FROM agent_guard.exposed_column WHERE relation OPERATOR(pg_catalog.=) $1
           AND column_name OPERATOR(pg_catalog.=) $2::pg_catalog.name",
        &[relation.into(), column.into()],
    )?;
    Ok(removed.is_some())
}

/// Relations that are named in the tables and are not there.
pub fn gone_relations() -> AdminResult<Vec<Oid>> {
    rows(
        "SELECT t.relation FROM (SELECT relation::pg_catalog.oid FROM agent_guard.mask
             UNION SELECT relation::pg_catalog.oid FROM agent_guard.row_filter
             UNION SELECT relation::pg_catalog.oid FROM agent_guard.exposed_column
             UNION SELECT relation FROM agent_guard.masked_view) t (relation)
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid OPERATOR(pg_catalog.=) t.relation)",
        &[],
        |row| row.need(1),
    )
}

/// Stores a row filter, in the place of the one that the policy has for the relation.
pub fn put_filter(policy: PolicyId, relation: Oid, predicate: &str) -> AdminResult<()> {
    run(
        "INSERT INTO agent_guard.row_filter (policy_id, relation, predicate) VALUES ($1, $2, $3)
         ON CONFLICT (policy_id, relation) DO UPDATE SET predicate = EXCLUDED.predicate,
             created_by = EXCLUDED.created_by, created_at = EXCLUDED.created_at",
        &[policy.0.into(), relation.into(), predicate.into()],
    )
}

/// Changes the text of a row filter.
pub fn rewrite_filter(id: i64, predicate: &str) -> AdminResult<()> {
    run(
        "UPDATE agent_guard.row_filter SET predicate = $2 WHERE id OPERATOR(pg_catalog.=) $1",
        &[id.into(), predicate.into()],
    )
}

/// Removes a row filter; whether there was one.
pub fn remove_filter(policy: PolicyId, relation: Oid) -> AdminResult<bool> {
    let removed: Option<i64> = row(
        "DELETE FROM agent_guard.row_filter
         WHERE policy_id OPERATOR(pg_catalog.=) $1 AND relation OPERATOR(pg_catalog.=) $2 RETURNING id",
        &[policy.0.into(), relation.into()],
        |row| row.need(1),
    )?;
    Ok(removed.is_some())
}

/// Row filters: those on one relation, or all.
pub fn filters(relation: Option<Oid>) -> AdminResult<Vec<FilterRow>> {
    rows(
        "SELECT f.id, f.policy_id, p.name, f.relation::pg_catalog.oid, f.predicate FROM agent_guard.row_filter f
         JOIN agent_guard.policy p ON p.id OPERATOR(pg_catalog.=) f.policy_id
         WHERE $1 IS NULL OR f.relation OPERATOR(pg_catalog.=) $1 ORDER BY f.id",
        &[relation.into()],
        |row| {
            Ok(FilterRow {
                id: row.need(1)?,
                policy: PolicyId(row.need(2)?),
                policy_name: row.need(3)?,
                relation: row.need(4)?,
                predicate: row.need(5)?,
            })
        },
    )
}

/// Exposes a column to a policy; whether it was not yet.
pub fn expose(policy: PolicyId, relation: Oid, number: i16, column: &str) -> AdminResult<bool> {
    let added: Option<bool> = row(
        "INSERT INTO agent_guard.exposed_column (policy_id, relation, attnum, column_name)
         VALUES ($1, $2, $3, $4::pg_catalog.name) ON CONFLICT DO NOTHING RETURNING true",
        &[policy.0.into(), relation.into(), number.into(), column.into()],
        |row| row.need(1),
    )?;
    Ok(added.is_some())
}

/// What a policy reads unmasked: relation, number and name of each column.
pub fn exposures(policy: PolicyId) -> AdminResult<Vec<(Oid, i16, String)>> {
    rows(
        "SELECT relation::pg_catalog.oid, attnum, column_name::pg_catalog.text FROM agent_guard.exposed_column
         WHERE policy_id OPERATOR(pg_catalog.=) $1 ORDER BY relation, attnum",
        &[policy.0.into()],
        |row| Ok((row.need(1)?, row.need(2)?, row.need(3)?)),
    )
}

/// Takes an exposure back; whether there was one.
pub fn hide(policy: PolicyId, relation: Oid, number: i16) -> AdminResult<bool> {
    let removed: Option<bool> = row(
        "DELETE FROM agent_guard.exposed_column WHERE policy_id OPERATOR(pg_catalog.=) $1
           AND relation OPERATOR(pg_catalog.=) $2 AND attnum OPERATOR(pg_catalog.=) $3 RETURNING true",
        &[policy.0.into(), relation.into(), number.into()],
        |row| row.need(1),
    )?;
    Ok(removed.is_some())
}

/// The role that the extension belongs to.
pub fn extension() -> AdminResult<Option<(Oid, Oid)>> {
    row(
        "SELECT e.oid, e.extowner FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'agent_guard'",
        &[],
        |row| Ok((row.need(1)?, row.need(2)?)),
    )
}
