//! The extension's own objects by OID: its schema, tables and the functions that agents may call.

use std::cell::Cell;
use std::ffi::{CStr, CString};

use pgrx::pg_sys;

use super::process::PerProcess;

/// The OIDs of one database's installation.
#[derive(Clone, Copy)]
#[allow(dead_code, reason = "each table has its indexes here, whichever are used")]
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
    /// Table ledger.
    pub ledger: pg_sys::Oid,
    /// Index ledger_pkey.
    pub ledger_pkey: pg_sys::Oid,
    /// Table mask.
    pub mask: pg_sys::Oid,
    /// Index mask_relation_attnum_key, led by relation.
    pub mask_by_relation: pg_sys::Oid,
    /// Table row_filter.
    pub row_filter: pg_sys::Oid,
    /// Index row_filter_policy_id_relation_key, led by policy_id.
    pub row_filter_by_policy: pg_sys::Oid,
    /// Index row_filter_relation_idx.
    pub row_filter_by_relation: pg_sys::Oid,
    /// Table exposed_column.
    pub exposed_column: pg_sys::Oid,
    /// Index exposed_column_pkey, led by policy_id.
    pub exposed_column_pkey: pg_sys::Oid,
    /// Index exposed_column_relation_idx.
    pub exposed_column_by_relation: pg_sys::Oid,
    /// Table masked_view.
    pub masked_view: pg_sys::Oid,
    /// Index masked_view_pkey.
    pub masked_view_pkey: pg_sys::Oid,
    /// Schema agent_guard_masked, which holds the generated views.
    pub masked_schema: pg_sys::Oid,
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

static OWN: PerProcess<Cell<Option<Own>>> = PerProcess::new(Cell::new(None));

/// Forgets the OIDs; called when a schema changed.
pub fn forget() {
    OWN.set(None);
}

/// The installation as far as it is known, without a look-up.
pub fn known() -> Option<Own> {
    OWN.get()
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

/// A table of the extension that no hot path reads. Inside a transaction.
pub fn table(name: &CStr) -> Option<pg_sys::Oid> {
    // SAFETY: catalogue look-ups of names that need not exist.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(c"agent_guard".as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    (oid != pg_sys::InvalidOid).then_some(oid)
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
    // SAFETY: as above.
    let masked_schema = unsafe { pg_sys::get_namespace_oid(c"agent_guard_masked".as_ptr(), true) };
    if masked_schema == pg_sys::InvalidOid {
        return None;
    }
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
        ledger: relation("ledger")?,
        ledger_pkey: relation("ledger_pkey")?,
        mask: relation("mask")?,
        mask_by_relation: relation("mask_relation_attnum_key")?,
        row_filter: relation("row_filter")?,
        row_filter_by_policy: relation("row_filter_policy_id_relation_key")?,
        row_filter_by_relation: relation("row_filter_relation_idx")?,
        exposed_column: relation("exposed_column")?,
        exposed_column_pkey: relation("exposed_column_pkey")?,
        exposed_column_by_relation: relation("exposed_column_relation_idx")?,
        masked_view: relation("masked_view")?,
        masked_view_pkey: relation("masked_view_pkey")?,
        masked_schema,
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
pub const AGENT_FUNCTIONS: [&str; 17] = [
    "my_approvals",
    "mask_partial",
    "mask_email",
    "mask_card",
    "mask_phone",
    "mask_redact",
    "mask_year",
    "mask_month",
    "mask_bucket",
    "mask_json",
    "whoami",
    "session_policy",
    "describe_access",
    "delegate",
    "checked_nextval",
    "checked_currval",
    "checked_setval",
];

/// Every overload of the hash.
pub fn hashes() -> Vec<pg_sys::Oid> {
    let Some(own) = own() else { return Vec::new() };
    let scalars = [pg_sys::TEXTOID, pg_sys::INT4OID, pg_sys::INT8OID, pg_sys::UUIDOID, pg_sys::BYTEAOID];
    let arrays = [pg_sys::TEXTARRAYOID, pg_sys::INT4ARRAYOID, pg_sys::INT8ARRAYOID, pg_sys::UUIDARRAYOID];
    let types = scalars.into_iter().chain(arrays);
    types.filter_map(|argument| function_oid(own.schema, MASK_HASH, &[argument])).collect()
}

/// A function that runs in an agent's plans where a mask brought it, and never where the agent calls it: whoever can
/// hash values of its own choice can tell which value a pseudonym is of.
pub const MASK_HASH: &str = "mask_hash";
