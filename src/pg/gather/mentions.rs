//! Whether an expression in a statement mentions masked columns, before or after the server has analysed it.
//!
//! Names are compared as names: a column of the same name elsewhere counts. A kind of node that is not known here counts too.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::catalog;
use super::super::masks::Masked;
use super::super::walk;
use super::names;

struct Mention<'a> {
    columns: Vec<String>,
    relation: String,
    masked: &'a Masked,
}

/// Whether an expression mentions a masked column or the whole row. Raw parse trees tell names, analysed ones numbers.
///
/// # Safety
/// `expression` is null or a valid expression, raw or analysed.
pub unsafe fn mentions(expression: *mut pg_sys::Node, masked: &Masked) -> bool {
    // SAFETY: the walkers visit valid nodes; the context is our Mention.
    unsafe {
        let mut mention = Mention {
            columns: masked
                .columns
                .iter()
                .filter_map(|number| catalog::column_name(masked.relation, *number))
                .collect(),
            relation: catalog::text(pg_sys::get_rel_name(masked.relation)).unwrap_or_default(),
            masked,
        };
        mentioned(expression, (&raw mut mention).cast())
    }
}

unsafe extern "C-unwind" fn mentioned(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the casts; the context is our Mention.
    unsafe {
        if node.is_null() {
            return false;
        }
        let mention = &*context.cast::<Mention<'_>>();
        match (*node).type_ {
            T::T_ColumnRef => {
                let parts = names::members((*node.cast::<pg_sys::ColumnRef>()).fields);
                parts.iter().any(|part| match names::string(*part) {
                    Some(name) => name == mention.relation || mention.columns.contains(&name),
                    // A star.
                    None => true,
                })
            }
            T::T_Var => {
                let number = (*node.cast::<pg_sys::Var>()).varattno;
                number == 0 || mention.masked.columns.contains(&number)
            }
            // Expressions come raw from the grammar; already analysed ones are of other kinds of nodes.
            T::T_FuncExpr
            | T::T_OpExpr
            | T::T_BoolExpr
            | T::T_RelabelType
            | T::T_CoerceViaIO
            | T::T_ScalarArrayOpExpr
            | T::T_CaseExpr
            | T::T_CoalesceExpr
            | T::T_NullTest => walk::expression(node, mentioned, context),
            T::T_A_Expr
            | T::T_FuncCall
            | T::T_TypeCast
            | T::T_A_Const
            | T::T_List
            | T::T_A_Indirection
            | T::T_A_ArrayExpr
            | T::T_RowExpr
            | T::T_CollateClause
            | T::T_TypeName
            | T::T_String
            | T::T_Integer
            | T::T_Float
            | T::T_A_Star
            | T::T_A_Indices
            | T::T_BooleanTest
            | T::T_MinMaxExpr
            | T::T_SQLValueFunction
            | T::T_Const
            | T::T_CaseWhen => walk::parsed(node, mentioned, context),
            // A kind that is not known here.
            _ => true,
        }
    }
}
