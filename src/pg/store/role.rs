//! Roles: what makes one too mighty to be guarded, and the two places that say it is guarded.

use pgrx::pg_sys::Oid;
use pgrx::spi::quote_identifier;

use crate::pg::admin_error::{AdminError, AdminResult};
use crate::pg::store::{row, run};

/// The provider of the label, and the setting's prefix.
pub const PROVIDER: &str = "agent_guard";

/// A role as guard_role sees it.
pub struct RoleRow {
    /// The name.
    pub name: String,
    /// Whether it is a superuser.
    pub superuser: bool,
    /// Whether it may log in.
    pub login: bool,
    /// Whether it carries the label.
    pub guarded: bool,
}

/// A privilege that the guard alone would stand before.
pub struct Might {
    /// What it is, in words.
    pub what: String,
    /// The SQL that takes it away.
    pub remedy: String,
}

/// The role, or `None` when there is none of this OID.
pub fn find(role: Oid) -> AdminResult<Option<RoleRow>> {
    row(
        "SELECT r.rolname::pg_catalog.text, r.rolsuper, r.rolcanlogin,
             EXISTS (SELECT FROM pg_catalog.pg_shseclabel l
                 WHERE l.objoid OPERATOR(pg_catalog.=) r.oid
                   AND l.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_authid'::pg_catalog.regclass
                   AND l.provider OPERATOR(pg_catalog.=) $2 AND l.label OPERATOR(pg_catalog.=) 'guarded')
         FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) $1",
        &[role.into(), PROVIDER.into()],
        |row| {
            Ok(RoleRow {
                name: row.need(1)?,
                superuser: row.need(2)?,
                login: row.need(3)?,
                guarded: row.need(4)?,
            })
        },
    )
}

/// The role of a parameter, which may hold any number.
pub fn existing(role: Oid, hint: &str) -> AdminResult<RoleRow> {
    find(role)?.ok_or_else(|| {
        AdminError::undefined(format!("role with OID {} does not exist", role.to_u32())).hint(hint)
    })
}

/// What a role has, or can have by SET ROLE, that reaches past ordinary privileges.
pub fn mights(role: Oid) -> AdminResult<Vec<Might>> {
    super::rows(
        "WITH RECURSIVE reach (oid, first) AS (
             SELECT m.roleid, m.roleid FROM pg_catalog.pg_auth_members m WHERE m.member OPERATOR(pg_catalog.=) $1
             UNION
             SELECT m.roleid, r.first FROM pg_catalog.pg_auth_members m
             JOIN reach r ON m.member OPERATOR(pg_catalog.=) r.oid
         ), attribute (name, word) AS (
             VALUES ('BYPASSRLS', 'NOBYPASSRLS'), ('REPLICATION', 'NOREPLICATION'), ('CREATEROLE', 'NOCREATEROLE')
         ), holder (oid, name, super, bypassrls, replication, createrole, first) AS (
             SELECT r.oid, r.rolname, r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolcreaterole, reach.first
             FROM pg_catalog.pg_roles r JOIN reach ON reach.oid OPERATOR(pg_catalog.=) r.oid
             UNION ALL
             SELECT r.oid, r.rolname, false, r.rolbypassrls, r.rolreplication, r.rolcreaterole, NULL
             FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) $1
         ), might (what, remedy) AS (
             SELECT pg_catalog.format('%s%s', a.name,
                        CASE WHEN h.first IS NULL THEN '' ELSE pg_catalog.format(' through role %I', h.name) END),
                    CASE WHEN h.first IS NULL THEN pg_catalog.format('ALTER ROLE %I %s;', self.rolname, a.word)
                         ELSE pg_catalog.format('REVOKE %I FROM %I;', first.rolname, self.rolname) END
             FROM holder h CROSS JOIN attribute a
             JOIN pg_catalog.pg_roles self ON self.oid OPERATOR(pg_catalog.=) $1
             LEFT JOIN pg_catalog.pg_roles first ON first.oid OPERATOR(pg_catalog.=) h.first
             WHERE CASE a.name WHEN 'BYPASSRLS' THEN h.bypassrls WHEN 'REPLICATION' THEN h.replication
                       ELSE h.createrole END
             UNION
             SELECT pg_catalog.format('membership in %s%I%s', CASE WHEN h.super THEN 'the superuser role ' ELSE '' END,
                        h.name,
                        CASE WHEN h.first OPERATOR(pg_catalog.<>) h.oid
                             THEN pg_catalog.format(' through role %I', first.rolname) ELSE '' END),
                    pg_catalog.format('REVOKE %I FROM %I;', first.rolname, self.rolname)
             FROM holder h JOIN pg_catalog.pg_roles first ON first.oid OPERATOR(pg_catalog.=) h.first
             JOIN pg_catalog.pg_roles self ON self.oid OPERATOR(pg_catalog.=) $1
             WHERE h.super OR h.name OPERATOR(pg_catalog.=) ANY (ARRAY['pg_read_server_files', 'pg_write_server_files',
                 'pg_execute_server_program', 'pg_signal_backend', 'pg_signal_autovacuum_worker',
                 'pg_create_subscription']::pg_catalog.name[])
         )
         SELECT what, remedy FROM might ORDER BY what, remedy",
        &[role.into()],
        |row| Ok(Might { what: row.need(1)?, remedy: row.need(2)? }),
    )
}

/// How many sessions of the role are open.
pub fn open_sessions(role: Oid) -> AdminResult<i64> {
    let count = row(
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a
         WHERE a.usesysid OPERATOR(pg_catalog.=) $1 AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()",
        &[role.into()],
        |row| row.need(1),
    )?;
    Ok(count.unwrap_or(0))
}

/// How many windows of the role are open in this database.
pub fn open_windows(role: Oid) -> AdminResult<i64> {
    let count = row(
        "SELECT pg_catalog.count(*) FROM agent_guard.window_grant w
         WHERE w.role_oid OPERATOR(pg_catalog.=) $1 AND w.revoked_at IS NULL
           AND w.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()",
        &[role.into()],
        |row| row.need(1),
    )?;
    Ok(count.unwrap_or(0))
}

/// Guards the role: the setting makes every new session of it guarded, in every database; the label says the same to
/// the login hook, which cannot read role settings.
pub fn guard(name: &str) -> AdminResult<()> {
    let role = quote_identifier(name);
    run(&format!("ALTER ROLE {role} SET agent_guard.guarded = 'on'"), &[])?;
    run(&format!("SECURITY LABEL FOR agent_guard ON ROLE {role} IS 'guarded'"), &[])
}

/// Takes both away.
pub fn unguard(name: &str) -> AdminResult<()> {
    let role = quote_identifier(name);
    run(&format!("ALTER ROLE {role} RESET agent_guard.guarded"), &[])?;
    run(&format!("SECURITY LABEL FOR agent_guard ON ROLE {role} IS NULL"), &[])
}
