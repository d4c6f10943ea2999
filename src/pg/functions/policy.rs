//! create_policy, drop_policy, allow, deny, require_approval, drop_rule, rebind_policies, apply_policy, export_policy, policy_changed.

use std::collections::HashSet;

use pgrx::datum::Interval;
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::approval::Approval;
use crate::pg::admin_error::{AdminError, AdminResult, given};
use crate::pg::bind::{BoundRule, bind};
use crate::pg::functions::{
    Untouched, administrator, changes_policies, done, mask_document, optional_texts, texts,
};
use crate::pg::store::approval;
use crate::pg::store::policy::{self as store, PolicyId, PolicyRow};
use crate::pg::store::window;
use crate::pg::text_datum::{Document, Text, Texts};
use crate::pg::{encoding, pinned, reconcile};
use crate::policy::document::{Mode, PolicyDocument, policy_name};
use crate::policy::rule::RawRule;
use crate::policy::written::{WrittenRule, difference, no_columns};

#[pg_extern(sql = false)]
fn create_policy(
    name: Option<Text>,
    description: Option<Text>,
    mode: Option<Text>,
) -> Result<(), ErrorReport> {
    let (name, description, mode) = (name.as_deref(), description.as_deref(), mode.as_deref());
    let create = || -> AdminResult<()> {
        administrator()?;
        let name = given(name, "name")?;
        policy_name(name)?;
        let mode = Mode::parse(given(mode, "mode")?)?;
        match store::add_policy(name, given(description, "description")?, mode)? {
            Some(_) => {
                done("create_policy", format!("policy {name}, mode {}", mode.word()));
                Ok(())
            }
            None => Err(AdminError::new(
                PgSqlErrorCode::ERRCODE_DUPLICATE_OBJECT,
                format!("policy \"{name}\" already exists"),
            )
            .hint("Add rules with allow() and deny(), or replace it as a whole with apply_policy().")),
        }
    };
    Ok(create()?)
}

#[pg_extern(sql = false)]
fn drop_policy(name: Option<Text>) -> Result<(), ErrorReport> {
    let name = name.as_deref();
    let remove = || -> AdminResult<()> {
        administrator()?;
        let name = given(name, "name")?;
        let policy = locked(name)?;
        let open = window::open_windows(policy.id)?;
        if open > 0 {
            return Err(AdminError::new(
                PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
                format!("policy \"{name}\" has {open} open window{}", if open == 1 { "" } else { "s" }),
            )
            .hint("Revoke them first: SELECT agent_guard.revoke_window(window_id) FROM agent_guard.windows WHERE policy = '<policy>' AND state = 'active'."));
        }
        let former = approval::approvers(policy.id)?;
        store::remove_policy(policy.id)?;
        approval::let_no_more(&former)?;
        done("drop_policy", format!("policy {name}"));
        Ok(())
    };
    Ok(remove()?)
}

#[pg_extern(sql = false)]
#[expect(clippy::too_many_arguments, reason = "the parameters of the SQL function")]
fn allow(
    policy: Option<Text>,
    actions: Option<Texts>,
    objects: Option<Texts>,
    columns: Option<Texts>,
    require_where: Option<bool>,
    max_rows: Option<i64>,
    statement_pattern: Option<Text>,
    note: Option<Text>,
) -> Result<i64, ErrorReport> {
    let (policy, statement_pattern, note) =
        (policy.as_deref(), statement_pattern.as_deref(), note.as_deref());
    let write = || -> AdminResult<i64> {
        let raw = RawRule {
            id: 0,
            effect: "allow".to_owned(),
            actions: texts(actions, "actions")?,
            objects: texts(objects, "objects")?,
            columns: narrowed(columns)?,
            require_where: given(require_where, "require_where")?,
            max_rows,
            statement_pattern: statement_pattern.map(str::to_owned),
            approval: None,
        };
        write_rule(given(policy, "policy")?, WrittenRule { raw, note: note.map(str::to_owned) })
    };
    Ok(write()?)
}

#[pg_extern(sql = false)]
fn deny(
    policy: Option<Text>,
    actions: Option<Texts>,
    objects: Option<Texts>,
    columns: Option<Texts>,
    statement_pattern: Option<Text>,
    note: Option<Text>,
) -> Result<i64, ErrorReport> {
    let (policy, statement_pattern, note) =
        (policy.as_deref(), statement_pattern.as_deref(), note.as_deref());
    let write = || -> AdminResult<i64> {
        let raw = RawRule {
            effect: "deny".to_owned(),
            actions: texts(actions, "actions")?,
            objects: texts(objects, "objects")?,
            columns: narrowed(columns)?,
            statement_pattern: statement_pattern.map(str::to_owned),
            ..RawRule::default()
        };
        write_rule(given(policy, "policy")?, WrittenRule { raw, note: note.map(str::to_owned) })
    };
    Ok(write()?)
}

#[pg_extern(sql = false)]
#[expect(clippy::too_many_arguments, reason = "the parameters of the SQL function")]
fn require_approval(
    policy: Option<Text>,
    actions: Option<Texts>,
    objects: Option<Texts>,
    approvers: Option<Untouched>,
    approvals: Option<i32>,
    approval_ttl: Option<Interval>,
    columns: Option<Texts>,
    max_rows: Option<i64>,
    statement_pattern: Option<Text>,
    note: Option<Text>,
    allow_granter: Option<bool>,
    max_wait: Option<Interval>,
) -> Result<i64, ErrorReport> {
    let (policy, statement_pattern, note) =
        (policy.as_deref(), statement_pattern.as_deref(), note.as_deref());
    let write = || -> AdminResult<i64> {
        administrator()?;
        let raw = RawRule {
            effect: "approve".to_owned(),
            actions: texts(actions, "actions")?,
            objects: texts(objects, "objects")?,
            columns: narrowed(columns)?,
            max_rows,
            statement_pattern: statement_pattern.map(str::to_owned),
            approval: Some(Approval {
                approvers: approval::role_names(Untouched::parameter(approvers, pg_sys::REGROLEARRAYOID))?,
                approvals: given(approvals, "approvals")?,
                ttl: approval::whole_seconds(given(approval_ttl, "approval_ttl")?)?,
                granter: given(allow_granter, "allow_granter")?,
                wait: max_wait.map(approval::whole_seconds).transpose()?,
            }),
            ..RawRule::default()
        };
        write_rule(given(policy, "policy")?, WrittenRule { raw, note: note.map(str::to_owned) })
    };
    Ok(write()?)
}

#[pg_extern(sql = false)]
fn drop_rule(id: Option<i64>) -> Result<(), ErrorReport> {
    let remove = || -> AdminResult<()> {
        administrator()?;
        let id = given(id, "id")?;
        let unknown = || {
            AdminError::undefined(format!("rule {id} does not exist"))
                .hint("The view agent_guard.rules lists the rules with their ids.")
        };
        // The policy first, as everywhere: two changes that lock in different orders would wait for each other.
        let policy = store::policy_of_rule(id)?.ok_or_else(unknown)?;
        let former = approval::approvers(locked(&policy)?.id)?;
        let changed = store::remove_rule(id)?.ok_or_else(unknown)?;
        approval::let_no_more(&former)?;
        store::policy_changed(changed)?;
        done("drop_rule", format!("rule {id} of policy {policy}"));
        Ok(())
    };
    Ok(remove()?)
}

#[pg_extern(sql = false)]
fn rebind_policies() -> Result<i64, ErrorReport> {
    let rebind = || -> AdminResult<i64> {
        administrator()?;
        let mut bound = 0;
        for (policy, name) in store::lock_every_policy()? {
            for rule in store::rules(policy)? {
                match bind(&rule)? {
                    Ok(found) => {
                        bound += i64::try_from(found.bindings.len()).unwrap_or(0);
                        store::bind_rule(rule.raw.id, &found.bindings)?;
                    }
                    Err(error) => {
                        let text = format!(
                            "rule {} of policy \"{name}\" is left as it was: {}: {}",
                            rule.raw.id, error.path, error.message
                        );
                        AdminError::undefined(text).hint(error.hint).tell(PgLogLevel::WARNING);
                    }
                }
            }
            store::policy_changed(policy)?;
        }
        let _settings = pinned::Settings::begin();
        reconcile::rebuild()?;
        done("rebind_policies", format!("{bound} patterns bound"));
        Ok(bound)
    };
    Ok(rebind()?)
}

#[pg_extern(sql = false)]
fn apply_policy(
    doc: Option<Untouched>,
) -> Result<TableIterator<'static, (name!(change, String), name!(item, Text))>, ErrorReport> {
    let apply = || -> AdminResult<Vec<(String, String)>> {
        administrator()?;
        let _settings = pinned::Settings::begin();
        let document = PolicyDocument::parse(&json_text(given(doc, "doc")?))?;
        let changes = apply_document(&document)?;
        for (change, item) in &changes {
            done("apply_policy", format!("policy {}: {change} {item}", document.name));
        }
        Ok(changes)
    };
    Ok(TableIterator::new(apply()?.into_iter().map(|(change, item)| (change, Text(item)))))
}

#[pg_extern(sql = false)]
fn export_policy(name: Option<Text>) -> Result<Document, ErrorReport> {
    let name = name.as_deref();
    let export = || -> AdminResult<Document> {
        administrator()?;
        let name = given(name, "name")?;
        let policy = store::find_policy(name)?.ok_or_else(|| store::unknown_policy(name))?;
        let document = PolicyDocument {
            name: name.to_owned(),
            description: policy.description,
            mode: Mode::parse(&policy.mode)?,
            limits: store::limits(policy.id)?,
            recording: store::recording(policy.id)?,
            rules: store::rules(policy.id)?,
            row_filters: mask_document::filters(policy.id)?,
            exposed: mask_document::exposures(policy.id)?,
        };
        Ok(Document(document.to_json()))
    };
    Ok(export()?)
}

/// The columns that a rule is narrowed to; none where the parameter was left out.
fn narrowed(columns: Option<Texts>) -> AdminResult<Vec<String>> {
    match optional_texts(columns, "columns")? {
        Some(columns) if columns.is_empty() => Err(no_columns("columns").into()),
        columns => Ok(columns.unwrap_or_default()),
    }
}

/// The policy, locked.
pub(super) fn locked(name: &str) -> AdminResult<PolicyRow> {
    store::lock_policy(name)?.ok_or_else(|| store::unknown_policy(name))
}

fn write_rule(policy: &str, rule: WrittenRule) -> AdminResult<i64> {
    administrator()?;
    let name = policy;
    let policy = locked(policy)?.id;
    let BoundRule { rule, bindings } = bind(&rule)??;
    let id = store::add_rule(policy, &rule, &bindings)?;
    store::policy_changed(policy)?;
    // The functions are named after the effects, but for this one: approve is what people do with a request.
    let action = if rule.raw.effect == "approve" { "require_approval" } else { rule.raw.effect.as_str() };
    done(action, format!("rule {id} of policy {name}: {}", rule.summary()));
    Ok(id)
}

/// Makes the policy what the document says; what was changed.
fn apply_document(document: &PolicyDocument) -> AdminResult<Vec<(String, String)>> {
    let mut changes = Vec::new();
    let mut told = |change: &str, item: String| changes.push((change.to_owned(), item));
    let created = store::add_policy(&document.name, &document.description, document.mode)?;
    let policy = locked(&document.name)?;
    mask_document::lock_named(document);
    if created.is_some() {
        told("created policy", document.name.clone());
    }
    if policy.description != document.description {
        told("changed description", document.description.clone());
    }
    if policy.mode != document.mode.word() {
        told("changed mode", document.mode.word().to_owned());
    }
    if policy.description != document.description || policy.mode != document.mode.word() {
        store::describe_policy(policy.id, &document.description, document.mode)?;
    }
    if store::limits(policy.id)? != document.limits {
        store::set_limits(policy.id, &document.limits)?;
        told("changed limits", document.limits_text());
    }
    if store::recording(policy.id)? != document.recording {
        store::set_recording(policy.id, &document.recording)?;
        told("changed recording", document.recording.text());
    }
    let present = store::rules(policy.id)?;
    // A rule that stands as it is written is not held against the catalogue again: its object may have been renamed,
    // and it is bound to the object.
    let mut wanted = document.rules.clone();
    let mut bindings: Vec<_> = wanted.iter().map(|_| Vec::new()).collect();
    for i in difference(&present, &wanted).missing {
        let (Some(rule), Some(slot)) = (wanted.get_mut(i), bindings.get_mut(i)) else {
            continue;
        };
        let bound = bind(rule)?.map_err(|mut error| {
            error.path = format!("rules[{i}].{}", error.path);
            error
        })?;
        *rule = bound.rule;
        *slot = bound.bindings;
    }
    let change = difference(&present, &wanted);
    let former = approval::approvers(policy.id)?;
    if !change.superfluous.is_empty() {
        store::remove_rules(&change.superfluous)?;
    }
    let superfluous: HashSet<_> = change.superfluous.iter().collect();
    for rule in present.iter().filter(|rule| superfluous.contains(&rule.raw.id)) {
        told("dropped rule", format!("{}: {}", rule.raw.id, rule.summary()));
    }
    for i in change.missing {
        if let (Some(rule), Some(bound)) = (wanted.get(i), bindings.get(i)) {
            let id = store::add_rule(policy.id, rule, bound)?;
            told("added rule", format!("{id}: {}", rule.summary()));
        }
    }
    approval::let_no_more(&former)?;
    if let Some(filters) = &document.row_filters {
        changes.extend(mask_document::apply_filters(policy.id, filters)?);
    }
    if let Some(exposed) = &document.exposed {
        changes.extend(mask_document::apply_exposures(policy.id, exposed)?);
    }
    if !changes.is_empty() {
        count_change(created, policy.id)?;
    }
    Ok(changes)
}

/// A policy that has just been made is at its first version.
fn count_change(created: Option<PolicyId>, policy: PolicyId) -> AdminResult<()> {
    if created.is_some() { Ok(()) } else { store::policy_changed(policy) }
}

/// jsonb as text: the core reads it with its own limits of depth and size of numbers.
pub(super) fn json_text(doc: Untouched) -> String {
    // SAFETY: sql/functions.sql declares the parameter as jsonb, which is what jsonb_out takes.
    let text: Option<&std::ffi::CStr> =
        unsafe { pgrx::direct_function_call(pg_sys::jsonb_out, &[Some(doc.0)]) };
    text.map(encoding::from_server).unwrap_or_default()
}

/// The record that the function manager asks a C function for.
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_policy_changed_trigger() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// The statement triggers on policy, rule and rule_binding: however a row changed, also by hand or by a restore.
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn policy_changed_trigger(_call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    changes_policies();
    // AFTER triggers return nothing; a NULL pointer without the NULL flag says so.
    pg_sys::Datum::null()
}
