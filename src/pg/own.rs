//! The extension's own objects by OID: its schema, tables and the functions that agents may call.

use std::cell::Cell;
use std::ffi::CString;

use pgrx::pg_sys;

/// The OIDs of one database's installation.
#[derive(Clone, Copy)]
pub struct Own {
    /// Schema agent_guard.
    pub schema: pg_sys::Oid,
    /// Table policy.
    pub policy: pg_sys::Oid,
    /// Index policy_pkey.
    pub policy_pkey: pg_sys::Oid,
    /// Table rule.
    pub rule: pg_sys::Oid,
    /// Index rule_policy_id_idx.
    pub rule_by_policy: pg_sys::Oid,
    /// Table rule_binding.
    pub rule_binding: pg_sys::Oid,
    /// Index rule_binding_pkey, led by rule_id.
    pub rule_binding_pkey: pg_sys::Oid,
    /// Table window_grant.
    pub window_grant: pg_sys::Oid,
    /// Index window_grant_pkey.
    pub window_grant_pkey: pg_sys::Oid,
    /// Table revoked_block.
    pub revoked_block: pg_sys::Oid,
    /// Index revoked_block_pkey.
    pub revoked_block_pkey: pg_sys::Oid,
    /// Table approval_request.
    pub approval_request: pg_sys::Oid,
    /// Index approval_request_pkey.
    pub approval_request_pkey: pg_sys::Oid,
    /// Index approval_request_key_idx.
    pub approval_request_by_key: pg_sys::Oid,
    /// Index approval_request_window_idx.
    pub approval_request_by_window: pg_sys::Oid,
    /// View session_policy.
    pub session_policy: pg_sys::Oid,
    /// Functions that stand in for set_config, nextval, currval and setval in an agent's plans; see `hooks::planner`.
    pub stand_ins: StandIns,
}

/// The checked functions that replace built-ins whose arguments decide.
#[derive(Clone, Copy)]
pub struct StandIns {
    /// agent_guard.checked_set_config(text, text, boolean)
    pub set_config: pg_sys::Oid,
    /// agent_guard.checked_nextval(regclass)
    pub nextval: pg_sys::Oid,
    /// agent_guard.checked_currval(regclass)
    pub currval: pg_sys::Oid,
    /// agent_guard.checked_setval(regclass, bigint)
    pub setval: pg_sys::Oid,
    /// agent_guard.checked_setval(regclass, bigint, boolean)
    pub setval3: pg_sys::Oid,
}

thread_local! {
    static OWN: Cell<Option<Own>> = const { Cell::new(None) };
}

/// Forgets the OIDs; called when a schema changed.
pub fn forget() {
    OWN.set(None);
}

/// The installation in this database; `None` where the extension is missing or incomplete.
pub fn own() -> Option<Own> {
    if let Some(own) = OWN.get() {
        return Some(own);
    }
    let found = look_up();
    OWN.set(found);
    found
}

fn look_up() -> Option<Own> {
    // SAFETY: catalogue look-ups in a transaction; the strings are NUL-terminated.
    let schema = unsafe { pg_sys::get_namespace_oid(c"agent_guard".as_ptr(), true) };
    if schema == pg_sys::InvalidOid {
        return None;
    }
    let relation = |name: &str| {
        let name = CString::new(name).ok()?;
        // SAFETY: as above.
        let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), schema) };
        (oid != pg_sys::InvalidOid).then_some(oid)
    };
    let function = |name: &str, types: &[pg_sys::Oid]| function_oid(schema, name, types);
    Some(Own {
        schema,
        policy: relation("policy")?,
        policy_pkey: relation("policy_pkey")?,
        rule: relation("rule")?,
        rule_by_policy: relation("rule_policy_id_idx")?,
        rule_binding: relation("rule_binding")?,
        rule_binding_pkey: relation("rule_binding_pkey")?,
        window_grant: relation("window_grant")?,
        window_grant_pkey: relation("window_grant_pkey")?,
        revoked_block: relation("revoked_block")?,
        revoked_block_pkey: relation("revoked_block_pkey")?,
        approval_request: relation("approval_request")?,
        approval_request_pkey: relation("approval_request_pkey")?,
        approval_request_by_key: relation("approval_request_key_idx")?,
        approval_request_by_window: relation("approval_request_window_idx")?,
        session_policy: relation("session_policy")?,
        stand_ins: StandIns {
            set_config: function("checked_set_config", &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::BOOLOID])?,
            nextval: function("checked_nextval", &[pg_sys::REGCLASSOID])?,
            currval: function("checked_currval", &[pg_sys::REGCLASSOID])?,
            setval: function("checked_setval", &[pg_sys::REGCLASSOID, pg_sys::INT8OID])?,
            setval3: function("checked_setval", &[pg_sys::REGCLASSOID, pg_sys::INT8OID, pg_sys::BOOLOID])?,
        },
    })
}

/// Looks a function up by its exact name and argument types, past the search path.
fn function_oid(schema: pg_sys::Oid, name: &str, types: &[pg_sys::Oid]) -> Option<pg_sys::Oid> {
    let name = CString::new(name).ok()?;
    // SAFETY: buildoidvector copies the array; the syscache key is (name, argument types, schema) as in PROCNAMEARGSNSP.
    unsafe {
        let vector = pg_sys::buildoidvector(types.as_ptr(), i32::try_from(types.len()).ok()?);
        let oid = pg_sys::GetSysCacheOid(
            i32::try_from(pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP).ok()?,
            1,
            pg_sys::Datum::from(name.as_ptr()),
            pg_sys::Datum::from(vector),
            pg_sys::Datum::from(schema),
            pg_sys::Datum::from(0),
        );
        (oid != pg_sys::InvalidOid).then_some(oid)
    }
}

/// Functions of the extension that an agent may call; everything else in its schema is out of reach.
pub const AGENT_FUNCTIONS: [&str; 8] = [
    "my_approvals",
    "whoami",
    "session_policy",
    "describe_access",
    "delegate",
    "checked_nextval",
    "checked_currval",
    "checked_setval",
];
