//! CREATE FUNCTION and CREATE PROCEDURE: the new one, those that it may replace, and the settings that it takes along.

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::enforce::{Target, Wanted};
use super::super::{catalog, settings};
use super::needs::{Needs, on};
use super::{handed, names};
use crate::request::{Action, Kind, ObjectClass, Verb};

/// CREATE FUNCTION and CREATE PROCEDURE.
///
/// # Safety
/// The statement is a valid one of its kind.
pub unsafe fn create_function(statement: &pg_sys::CreateFunctionStmt) -> Needs {
    let kind = if statement.is_procedure { Kind::Procedure } else { Kind::Function };
    // SAFETY: a list of String nodes.
    let target = unsafe { names::new_object(statement.funcname, ObjectClass::Function) };
    let mut needs = on(Verb::Create, kind, target);
    // SAFETY: a list of DefElems.
    needs.wanted.extend(unsafe { setting_clauses(statement.options) });
    if statement.replace {
        // Which overload is replaced is known only when it happens: every one of that name would have to be alterable.
        // SAFETY: as above; candidates are read from the catalogue.
        for function in unsafe { overloads(statement.funcname) } {
            needs.wanted.push(Wanted::named(Action::on(Verb::Alter, kind), Target::Function(function)));
            needs.wanted.extend(handed::to_changed_function(function));
        }
    }
    needs
}

/// A function's SET clauses take effect whenever it runs, past every check of SET.
///
/// # Safety
/// `options` is null or a list of DefElems.
pub unsafe fn setting_clauses(options: *mut pg_sys::List) -> Vec<Wanted> {
    // SAFETY: DefElems; the argument of "set" is a VariableSetStmt (gram.y: FunctionSetResetClause).
    unsafe {
        let mut wanted = Vec::new();
        for node in names::members(options) {
            let option: &pg_sys::DefElem = &*node.cast();
            let is_set = catalog::text(option.defname).as_deref() == Some("set");
            if !is_set || option.arg.is_null() || (*option.arg).type_ != T::T_VariableSetStmt {
                continue;
            }
            match settings::set_needs(&*option.arg.cast()) {
                Ok(needed) => wanted.extend(needed),
                // A value that no rule can allow.
                Err(_) => wanted.push(Wanted {
                    never: true,
                    ..Wanted::named(Action::plain(Verb::System), Target::Nothing)
                }),
            }
        }
        wanted
    }
}

/// The functions of a name that are not built in.
///
/// # Safety
/// `name` is a list of String nodes.
pub unsafe fn overloads(name: *mut pg_sys::List) -> Vec<pg_sys::Oid> {
    // SAFETY: FuncnameGetCandidates returns a palloc'd linked list of all functions of the name in the path.
    unsafe {
        let mut candidate =
            pg_sys::FuncnameGetCandidates(name, -1, std::ptr::null_mut(), false, false, true, true);
        let mut found = Vec::new();
        while let Some(one) = candidate.as_ref() {
            if one.oid.to_u32() >= catalog::FIRST_NORMAL {
                found.push(one.oid);
            }
            candidate = one.next;
        }
        found
    }
}
