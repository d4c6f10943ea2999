//! DDL that computes from rows: expressions of generated columns, new types, constraints and indexes read the columns that they
//! mention, and what comes of it is stored, shown by an error, or handed to a function.
//!
//! It takes reading those columns. Names are looked up as columns of the table; whatever is not understood is the whole row.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::enforce::{Target, Wanted};
use super::super::{catalog, walk};
use super::names;
use crate::request::{Action, Columns, Verb};

/// The columns of a relation that expressions mention.
struct Mentioned {
    relation: pg_sys::Oid,
    /// Columns that the statement adds: nothing is stored in them yet.
    new: Vec<String>,
    columns: Vec<i16>,
    whole: bool,
}

/// What the expressions of ALTER TABLE read of the table.
///
/// # Safety
/// `statement` is a valid ALTER TABLE statement.
pub unsafe fn alter_table(statement: &pg_sys::AlterTableStmt, target: &Target) -> Option<Wanted> {
    use pg_sys::AlterTableType as A;
    // SAFETY: subcommands are AlterTableCmd nodes, whose definitions have the types that gram.y gives them.
    unsafe {
        let commands = names::members(statement.cmds);
        let commands = || commands.iter().map(|node| &*node.cast::<pg_sys::AlterTableCmd>());
        let added = commands().filter(|command| command.subtype == A::AT_AddColumn);
        let new = added.filter_map(|command| catalog::text(column(command.def)?.colname)).collect();
        let mut mentioned = Mentioned::of(target, new)?;
        for command in commands() {
            match command.subtype {
                A::AT_AddColumn => {
                    for node in
                        column(command.def).map_or_else(Vec::new, |new| names::members(new.constraints))
                    {
                        mentioned.constraint(node);
                    }
                }
                A::AT_AddConstraint => mentioned.constraint(command.def),
                // The expression of USING.
                A::AT_AlterColumnType => {
                    if let Some(column) = column(command.def) {
                        mentioned.expression(column.raw_default);
                    }
                }
                #[cfg(not(any(feature = "pg15", feature = "pg16")))]
                A::AT_SetExpression => mentioned.expression(command.def),
                _ => {}
            }
        }
        mentioned.wanted()
    }
}

/// What the expressions of CREATE INDEX read of the table.
///
/// # Safety
/// `statement` is a valid CREATE INDEX statement.
pub unsafe fn index(statement: &pg_sys::IndexStmt, target: &Target) -> Option<Wanted> {
    // SAFETY: parameters are IndexElem nodes.
    unsafe {
        let mut mentioned = Mentioned::of(target, Vec::new())?;
        for node in names::members(statement.indexParams) {
            mentioned.expression((*node.cast::<pg_sys::IndexElem>()).expr);
        }
        mentioned.expression(statement.whereClause);
        mentioned.wanted()
    }
}

unsafe fn column<'a>(definition: *mut pg_sys::Node) -> Option<&'a pg_sys::ColumnDef> {
    // SAFETY: null or a node of the parse tree; the tag is checked before the cast.
    unsafe {
        (!definition.is_null() && (*definition).type_ == T::T_ColumnDef)
            .then(|| &*definition.cast::<pg_sys::ColumnDef>())
    }
}

impl Mentioned {
    /// `None` where the table does not exist, or holds what is the session's own.
    fn of(target: &Target, new: Vec<String>) -> Option<Mentioned> {
        let Target::Relation(relation) = *target else { return None };
        let own = catalog::relation_facts(relation).is_some_and(|facts| facts.temporary);
        (!own).then_some(Mentioned { relation, new, columns: Vec::new(), whole: false })
    }

    unsafe fn constraint(&mut self, node: *mut pg_sys::Node) {
        // SAFETY: a Constraint of the parse tree; exclusions are pairs of an IndexElem and an operator's name.
        unsafe {
            if node.is_null() || (*node).type_ != T::T_Constraint {
                return;
            }
            let constraint = &*node.cast::<pg_sys::Constraint>();
            if constraint.contype == pg_sys::ConstrType::CONSTR_DEFAULT {
                return;
            }
            self.expression(constraint.raw_expr);
            self.expression(constraint.where_clause);
            for pair in names::members(constraint.exclusions) {
                if let Some(element) = names::members(pair.cast()).first() {
                    self.expression((*element.cast::<pg_sys::IndexElem>()).expr);
                }
            }
        }
    }

    unsafe fn expression(&mut self, expression: *mut pg_sys::Node) {
        // SAFETY: null or an expression, raw or analysed; the context is this.
        unsafe {
            visit(expression, std::ptr::from_mut(self).cast());
        }
    }

    fn wanted(mut self) -> Option<Wanted> {
        if !self.whole && self.columns.is_empty() {
            return None;
        }
        self.columns.sort_unstable();
        self.columns.dedup();
        let columns = if self.whole { Columns::Whole } else { Columns::Of(self.columns) };
        Some(Wanted {
            columns,
            ..Wanted::named(Action::plain(Verb::Select), Target::Relation(self.relation))
        })
    }

    /// A reference by names: its last one is the column's, or it is the whole row.
    unsafe fn name(&mut self, reference: &pg_sys::ColumnRef) {
        // SAFETY: fields are String nodes or a star.
        let last = unsafe { names::members(reference.fields).last().and_then(|field| names::string(*field)) };
        match last {
            Some(name) if self.new.contains(&name) => {}
            Some(name) => match catalog::column_number(self.relation, &name) {
                Some(number) => self.columns.push(number),
                None => self.whole = true,
            },
            None => self.whole = true,
        }
    }
}

unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the casts; the context is our Mentioned.
    unsafe {
        if node.is_null() {
            return false;
        }
        let mentioned = &mut *context.cast::<Mentioned>();
        match (*node).type_ {
            T::T_ColumnRef => mentioned.name(&*node.cast()),
            T::T_A_Expr
            | T::T_BoolExpr
            | T::T_NullTest
            | T::T_BooleanTest
            | T::T_FuncCall
            | T::T_TypeCast
            | T::T_TypeName
            | T::T_A_Const
            | T::T_A_Indirection
            | T::T_A_Indices
            | T::T_A_ArrayExpr
            | T::T_RowExpr
            | T::T_CollateClause
            | T::T_CaseExpr
            | T::T_CaseWhen
            | T::T_CoalesceExpr
            | T::T_MinMaxExpr
            | T::T_SQLValueFunction
            | T::T_List
            | T::T_String
            | T::T_Integer
            | T::T_Float
            | T::T_Boolean => return walk::parsed(node, visit, context),
            // Analysed already, or of a kind that is not known here.
            _ => mentioned.whole = true,
        }
        false
    }
}
