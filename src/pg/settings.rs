//! SET, RESET and set_config: which settings an agent may change, and to what.

use std::ffi::CString;

use pgrx::pg_sys;

use super::enforce::{Target, Wanted};
use super::gather::names;
use super::{catalog, session};
use crate::policy::builtin::{self, Setting};
use crate::refusal::{Refusal, SqlState};
use crate::request::{Action, Verb};

/// Whether a name is that of the token's variable; settings are compared without regard to case (guc.c).
pub fn is_token(name: &str) -> bool {
    name.eq_ignore_ascii_case("agent_guard.token")
}

/// Whether a statement sets or resets the token's variable.
///
/// # Safety
/// `statement` is a valid utility statement.
pub unsafe fn sets_token(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag decides the cast.
    unsafe {
        if (*statement).type_ != pg_sys::NodeTag::T_VariableSetStmt {
            return false;
        }
        let set = &*statement.cast::<pg_sys::VariableSetStmt>();
        set.kind == pg_sys::VariableSetKind::VAR_RESET_ALL
            || catalog::text(set.name).is_some_and(|name| is_token(&name))
    }
}

/// Whether a statement gives the token a value that outlives the transaction.
///
/// # Safety
/// `statement` is a valid utility statement that sets the token.
pub unsafe fn outlives_transaction(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: the caller's promise.
    let set = unsafe { &*statement.cast::<pg_sys::VariableSetStmt>() };
    set.kind == pg_sys::VariableSetKind::VAR_SET_VALUE && !set.is_local
}

/// Whether a statement is DISCARD ALL or RESET ALL.
///
/// # Safety
/// `statement` is a valid utility statement.
pub unsafe fn resets_all(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag decides the cast.
    unsafe {
        match (*statement).type_ {
            pg_sys::NodeTag::T_DiscardStmt => {
                (*statement.cast::<pg_sys::DiscardStmt>()).target == pg_sys::DiscardMode::DISCARD_ALL
            }
            pg_sys::NodeTag::T_VariableSetStmt => {
                (*statement.cast::<pg_sys::VariableSetStmt>()).kind == pg_sys::VariableSetKind::VAR_RESET_ALL
            }
            _ => false,
        }
    }
}

/// What a SET or RESET needs; nothing for harmless ones.
///
/// # Errors
/// 42501 for a value that no rule can allow (a higher limit, debug messages to the client).
///
/// # Safety
/// `statement` is a valid VariableSetStmt.
pub unsafe fn set_needs(statement: &pg_sys::VariableSetStmt) -> Result<Vec<Wanted>, Refusal> {
    use pg_sys::VariableSetKind::{VAR_RESET, VAR_RESET_ALL, VAR_SET_DEFAULT, VAR_SET_MULTI, VAR_SET_VALUE};
    // SAFETY: the name is NUL-terminated or null (RESET ALL); args belong to the kind.
    unsafe {
        let name = catalog::text(statement.name).unwrap_or_default();
        match statement.kind {
            VAR_RESET_ALL => Ok(Vec::new()),
            VAR_SET_MULTI if name == "TRANSACTION SNAPSHOT" => Ok(vec![setting(Verb::System, &name)]),
            VAR_SET_MULTI => Ok(transaction_needs(statement.args).into_iter().collect()),
            VAR_RESET | VAR_SET_DEFAULT => Ok(change(&name, None)?.into_iter().collect()),
            VAR_SET_VALUE if is_token(&name) => Ok(Vec::new()),
            VAR_SET_VALUE => {
                let value =
                    catalog::text(pg_sys::ExtractSetVariableArgs(std::ptr::from_ref(statement).cast_mut()));
                Ok(change(&name, value.as_deref())?.into_iter().collect())
            }
            // SET x FROM CURRENT stands only in CREATE FUNCTION.
            _ => Ok(vec![setting(Verb::System, &name)]),
        }
    }
}

/// The options of BEGIN and SET TRANSACTION; isolation, read only and deferrable are harmless.
///
/// # Safety
/// `options` is null or a list of DefElems.
pub unsafe fn transaction_needs(options: *mut pg_sys::List) -> Option<Wanted> {
    // SAFETY: the caller's promise.
    unsafe {
        names::members(options).into_iter().find_map(|node| {
            let name = catalog::text((*node.cast::<pg_sys::DefElem>()).defname).unwrap_or_default();
            let harmless = matches!(
                name.as_str(),
                "transaction_isolation" | "transaction_read_only" | "transaction_deferrable"
            );
            (!harmless).then(|| setting(Verb::System, &name))
        })
    }
}

fn setting(verb: Verb, name: &str) -> Wanted {
    Wanted::named(Action::plain(verb), names::named(String::new(), format!("setting {name}")))
}

/// What changing a setting to a value needs; `None` for a value is its default.
///
/// # Errors
/// 42501 for a value that no rule can allow.
pub fn change(name: &str, value: Option<&str>) -> Result<Option<Wanted>, Refusal> {
    match (builtin::setting_class(name), value) {
        (Setting::Harmless, _) | (Setting::OnlyLower | Setting::MessageLevel, None) => Ok(None),
        (Setting::OnlyLower, Some(value)) => only_lower(name, value).map(|()| None),
        (Setting::MessageLevel, Some(value)) if builtin::message_level_is_harmless(value) => Ok(None),
        (Setting::MessageLevel, Some(_)) => Err(refused(
            name,
            "Messages below NOTICE carry plans and values of rows.",
            "Use notice, warning or error.",
        )),
        (Setting::Needs(Verb::Role), value) => {
            let target = match value.filter(|value| !value.eq_ignore_ascii_case("none")) {
                Some(value) => names::role(value),
                // Back to the role that logged in.
                None => Target::Role(session::authenticated_role()),
            };
            Ok(Some(Wanted::named(Action::plain(Verb::Role), target)))
        }
        (Setting::Needs(verb), _) => Ok(Some(setting(verb, name))),
    }
}

fn refused(name: &str, detail: &str, hint: &str) -> Refusal {
    Refusal::new(
        SqlState::InsufficientPrivilege,
        "setting",
        format!("an agent may not set \"{name}\" to this value"),
        format!("action=system object=setting {name} {detail}"),
        hint,
    )
}

/// A limit may only be lowered below what the session got at login; 0 is no limit.
fn only_lower(name: &str, value: &str) -> Result<(), Refusal> {
    let at_login = CString::new(name).ok().and_then(|name| {
        // SAFETY: a NUL-terminated string; the reset value of an integer setting prints in its base unit (guc.c).
        unsafe { catalog::text(pg_sys::GetConfigOptionResetString(name.as_ptr())) }
    });
    no_higher(name, value, at_login.as_deref())
}

/// Whether a limit is not above another one, which is what the session has without it.
///
/// # Errors
/// 42501 where it is, and where the two cannot be compared.
pub fn no_higher(name: &str, value: &str, without: Option<&str>) -> Result<(), Refusal> {
    let unknown =
        || refused(name, "The value cannot be compared with the one at login.", "Use a plain number.");
    let (Some(wanted), Some(at_login)) =
        (whole(name, value), without.and_then(|without| whole(name, without)))
    else {
        return Err(unknown());
    };
    if at_login <= 0 || (wanted > 0 && wanted <= at_login) {
        return Ok(());
    }
    Err(refused(
        name,
        &format!("The session started with {at_login} (in the setting's base unit); it can only be lowered."),
        "Use a smaller value, and not 0.",
    ))
}

/// A setting's value in its base unit, as the server reads it.
fn whole(name: &str, value: &str) -> Option<i32> {
    let unit = match name.to_ascii_lowercase().as_str() {
        "work_mem" => pg_sys::GUC_UNIT_KB,
        "temp_buffers" => pg_sys::GUC_UNIT_BLOCKS,
        _ => pg_sys::GUC_UNIT_MS,
    };
    let value = CString::new(value).ok()?;
    let mut read = 0;
    let flags = i32::try_from(unit).unwrap_or(0);
    // SAFETY: a NUL-terminated string and a place for the number.
    let proper = unsafe { pg_sys::parse_int(value.as_ptr(), &raw mut read, flags, std::ptr::null_mut()) };
    proper.then_some(read)
}
