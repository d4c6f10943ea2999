//! Which expressions may stand for a column: nothing that reads elsewhere, nothing that changes from row to row by itself,
//! and no code that an unprivileged role could have written or can still change.
//!
//! A generated view runs its expressions with the rights of whoever reads it, a superuser too. So every function that a
//! node calls is looked at, also those behind operators, casts and domains. A node that is not known here is refused.

use std::collections::HashSet;
use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;
use pgrx::prelude::*;

use super::admin_error::{AdminError, AdminResult};
use super::catalog::{self, FIRST_NORMAL};
use super::expression::type_name;
use super::gather::functions::{self, Execution};
use super::types;
use super::walk;

struct Check<'a> {
    relation: pg_sys::Oid,
    /// A collation that may be named whoever made it: the column's own.
    collation: pg_sys::Oid,
    path: &'a str,
    refusal: Option<AdminError>,
}

/// Checks an analysed expression over `relation`.
///
/// # Errors
/// 42501 for code of an unprivileged role, 0A000 for what no mask may do; the part is named.
pub fn check(
    relation: pg_sys::Oid,
    node: *mut pg_sys::Node,
    collation: pg_sys::Oid,
    path: &str,
) -> AdminResult<()> {
    let mut check = Check { relation, collation, path, refusal: None };
    // SAFETY: a node that parse analysis made; the context is our Check.
    unsafe { visit(node, (&raw mut check).cast()) };
    check.refusal.map_or(Ok(()), Err)
}

unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called by the walker with valid nodes or null; the context is our Check.
    unsafe {
        if node.is_null() {
            return false;
        }
        let check = &mut *context.cast::<Check<'_>>();
        if let Err(refusal) = check.node(node) {
            check.refusal = Some(refusal);
            return true;
        }
        walk::expression(node, visit, context)
    }
}

impl Check<'_> {
    fn refuse(&self, what: &str, hint: &str) -> AdminError {
        AdminError::new(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED, format!("{}: {what}", self.path))
            .hint(hint)
    }

    fn foreign(&self, what: &str) -> AdminError {
        AdminError::forbidden(format!("{}: {what} belongs to a role that is no superuser", self.path)).hint(
            "Use what the server or a superuser provides: whoever owns code in a mask could run it as anyone who reads.",
        )
    }

    /// # Safety
    /// A valid node of an analysed expression.
    unsafe fn node(&self, node: *mut pg_sys::Node) -> AdminResult<()> {
        // SAFETY: the tag decides each cast; nodes are only read.
        unsafe {
            match (*node).type_ {
                T::T_List => return Ok(()),
                T::T_Var => self.variable(&*node.cast::<pg_sys::Var>())?,
                T::T_FuncExpr => {
                    let call = &*node.cast::<pg_sys::FuncExpr>();
                    if call.funcretset {
                        return Err(self.several());
                    }
                    self.function(call.funcid)?;
                }
                T::T_OpExpr | T::T_DistinctExpr | T::T_NullIfExpr => {
                    let call = &*node.cast::<pg_sys::OpExpr>();
                    if call.opretset {
                        return Err(self.several());
                    }
                    self.operator(call.opno)?;
                }
                T::T_ScalarArrayOpExpr => self.operator((*node.cast::<pg_sys::ScalarArrayOpExpr>()).opno)?,
                T::T_RowCompareExpr => {
                    let numbers = (*node.cast::<pg_sys::RowCompareExpr>()).opnos;
                    let length = if numbers.is_null() { 0 } else { (*numbers).length };
                    for i in 0..usize::try_from(length).unwrap_or(0) {
                        self.operator((*(*numbers).elements.add(i)).oid_value)?;
                    }
                }
                T::T_CollateExpr => self.collation((*node.cast::<pg_sys::CollateExpr>()).collOid)?,
                // Types with code of their own are looked at below, by the type of what each node gives.
                T::T_Const
                | T::T_NamedArgExpr
                | T::T_BoolExpr
                | T::T_RelabelType
                | T::T_CoerceViaIO
                | T::T_ArrayCoerceExpr
                | T::T_CaseExpr
                | T::T_CaseTestExpr
                | T::T_ArrayExpr
                | T::T_RowExpr
                | T::T_CoalesceExpr
                | T::T_MinMaxExpr
                | T::T_SQLValueFunction
                | T::T_XmlExpr
                | T::T_NullTest
                | T::T_BooleanTest
                | T::T_CoerceToDomain
                | T::T_FieldSelect
                | T::T_SubscriptingRef => {}
                T::T_CaseWhen => return Ok(()),
                T::T_SubLink => {
                    return Err(self.refuse(
                        "a subquery, where only the row's own columns can be read",
                        "Use the row's own columns; what needs other tables belongs into a view.",
                    ));
                }
                T::T_Aggref | T::T_WindowFunc | T::T_GroupingFunc => {
                    return Err(self.refuse(
                        "an aggregate or window function, where there is one row",
                        "Use functions of a single row.",
                    ));
                }
                tag => {
                    return Err(self.refuse(
                        &format!("a construct that masks and filters do not know (node {})", tag as u32),
                        "Write it with functions, operators, casts and CASE.",
                    ));
                }
            }
            // A stored value, or none: nothing makes one of this type here.
            let given = (*node).type_ == T::T_Var
                || ((*node).type_ == T::T_Const && (*node.cast::<pg_sys::Const>()).constisnull);
            let mut seen = HashSet::new();
            self.type_(pg_sys::exprType(node), given, &mut seen)
        }
    }

    fn several(&self) -> AdminError {
        self.refuse(
            "a function that returns rows, where one value is wanted",
            "Use functions that return one value.",
        )
    }

    fn variable(&self, variable: &pg_sys::Var) -> AdminResult<()> {
        if variable.varattno > 0 && variable.varlevelsup == 0 {
            return Ok(());
        }
        let name =
            catalog::relation_object(self.relation).map(|object| object.to_string()).unwrap_or_default();
        Err(self.refuse(
            &format!("the whole row or a system column of {name}"),
            "Name the ordinary columns that are needed one by one.",
        ))
    }

    fn function(&self, oid: pg_sys::Oid) -> AdminResult<()> {
        let Some(facts) = catalog::function_facts(oid) else {
            return Err(self.refuse("a function that does not exist", "Name a function that does."));
        };
        let name = &facts.name;
        if facts.volatility == b'v' {
            return Err(self.refuse(
                &format!("the function {name} is volatile"),
                "Use functions that are immutable or stable: what agents read must not change by being read.",
            ));
        }
        if facts.takes_internal {
            return Err(
                self.refuse(&format!("the function {name} is for the server's own calls"), "Use another.")
            );
        }
        if oid.to_u32() < FIRST_NORMAL {
            return match functions::execution(oid) {
                Execution::Free => Ok(()),
                _ => Err(self.refuse(
                    &format!("the function {name} reaches beyond the row"),
                    "Agents may not run it, so no mask can; use functions that only compute.",
                )),
            };
        }
        if functions::is_own(oid) {
            return if name.starts_with("mask_") && name != "mask_column" {
                Ok(())
            } else {
                Err(self.refuse(
                    &format!("the function agent_guard.{name} is no mask"),
                    "Use mask_... functions.",
                ))
            };
        }
        self.owned(facts.owner, facts.namespace, &format!("the function {name}"))
    }

    fn operator(&self, oid: pg_sys::Oid) -> AdminResult<()> {
        if oid.to_u32() >= FIRST_NORMAL {
            let facts = types::operator_facts(oid);
            let Some((owner, namespace, name)) = facts else {
                return Err(self.refuse("an operator that does not exist", "Name an operator that does."));
            };
            self.owned(owner, namespace, &format!("the operator {name}"))?;
        }
        // SAFETY: a catalogue look-up.
        self.function(unsafe { pg_sys::get_opcode(oid) })
    }

    fn collation(&self, oid: pg_sys::Oid) -> AdminResult<()> {
        if oid == self.collation || oid.to_u32() < FIRST_NORMAL {
            return Ok(());
        }
        match types::collation_facts(oid) {
            Some((owner, namespace)) => self.owned(owner, namespace, "a collation"),
            None => Err(self.refuse("a collation that does not exist", "Name a collation that does.")),
        }
    }

    /// Values of a type may run code: a domain's constraints, also as an element or attribute; a base type's own functions.
    fn type_(&self, oid: pg_sys::Oid, given: bool, seen: &mut HashSet<pg_sys::Oid>) -> AdminResult<()> {
        if oid.to_u32() < FIRST_NORMAL || !seen.insert(oid) {
            return Ok(());
        }
        let Some(facts) = types::type_facts(oid) else {
            return Err(self.refuse("a type that does not exist", "Name a type that does."));
        };
        if facts.element != pg_sys::InvalidOid {
            return self.type_(facts.element, given, seen);
        }
        match facts.kind {
            b'd' => {
                // SAFETY: a catalogue look-up.
                if unsafe { pg_sys::DomainHasConstraints(oid) } {
                    self.owned(facts.owner, facts.namespace, &format!("the domain {}", type_name(oid)))?;
                }
                self.type_(facts.base, given, seen)
            }
            b'c' => {
                // A type of its own tells when it changes; a table gets columns of any type unasked.
                let alone =
                    catalog::relation_facts(facts.relation).is_some_and(|relation| relation.kind == b'c');
                if !given && !alone {
                    return Err(self.refuse(
                        &format!("a row of {}, which is the type of a table", type_name(oid)),
                        "Name the columns, or make a composite type for it.",
                    ));
                }
                for attribute in types::attributes(facts.relation) {
                    self.type_(attribute.place.type_oid, given, seen)?;
                }
                Ok(())
            }
            // Labels are the server's own business.
            b'e' => Ok(()),
            b'r' => {
                // SAFETY: a catalogue look-up.
                self.type_(unsafe { pg_sys::get_range_subtype(oid) }, given, seen)?;
                self.owned(facts.owner, facts.namespace, &format!("the range type {}", type_name(oid)))
            }
            b'm' => {
                // SAFETY: a catalogue look-up.
                self.type_(unsafe { pg_sys::get_multirange_range(oid) }, given, seen)
            }
            _ => self.owned(facts.owner, facts.namespace, &format!("the type {}", type_name(oid))),
        }
    }

    /// Whether code is in trusted hands: a superuser's, and not in a schema that ends with the session.
    fn owned(&self, owner: pg_sys::Oid, namespace: pg_sys::Oid, what: &str) -> AdminResult<()> {
        // SAFETY: catalogue look-ups.
        let (trusted, temporary) =
            unsafe { (pg_sys::superuser_arg(owner), pg_sys::isAnyTempNamespace(namespace)) };
        if temporary {
            return Err(self.refuse(&format!("{what} is temporary"), "Make it in a schema that stays."));
        }
        if trusted { Ok(()) } else { Err(self.foreign(what)) }
    }
}
