//! DDL that computes from rows: expressions of generated columns, new types, constraints, indexes, statistics and row policies read
//! the columns that they mention, and what comes of it is stored, shown by an error, or handed to a function. So do keys, whose
//! errors quote values.
//!
//! It takes reading those columns. Names are looked up as columns of the table; whatever is not understood is the whole row.
//! What gets whole rows (triggers, rules, publications) is in `handed`.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::enforce::{Target, Wanted};
use super::super::masks::dependents;
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
                // An error of the conversion quotes the value. The expression is that of USING.
                A::AT_AlterColumnType => {
                    let name = catalog::text(command.name);
                    if !column(command.def).is_some_and(|new| keeps_values(&mentioned, name.as_deref(), new))
                    {
                        mentioned.column(name);
                    }
                    if let Some(column) = column(command.def) {
                        mentioned.expression(column.raw_default);
                    }
                }
                A::AT_SetNotNull => mentioned.column(catalog::text(command.name)),
                // What it is made of is not looked up.
                A::AT_ValidateConstraint => mentioned.whole = true,
                #[cfg(not(any(feature = "pg15", feature = "pg16")))]
                A::AT_SetExpression => mentioned.expression(command.def),
                _ => {}
            }
        }
        mentioned.wanted()
    }
}

/// What CREATE INDEX reads of the table: its expressions, and the keys that it compares.
///
/// # Safety
/// `statement` is a valid CREATE INDEX statement.
pub unsafe fn index(statement: &pg_sys::IndexStmt, target: &Target) -> Option<Wanted> {
    // SAFETY: parameters are IndexElem nodes.
    unsafe {
        let mut mentioned = Mentioned::of(target, Vec::new())?;
        let compares = statement.unique || !statement.excludeOpNames.is_null();
        for node in names::members(statement.indexParams) {
            mentioned.element(&*node.cast(), compares);
        }
        mentioned.expression(statement.whereClause);
        mentioned.wanted()
    }
}

/// What the expressions of CREATE STATISTICS read of the table.
///
/// # Safety
/// `statement` is a valid CREATE STATISTICS statement.
pub unsafe fn statistics(statement: &pg_sys::CreateStatsStmt, target: &Target) -> Option<Wanted> {
    // SAFETY: elements are StatsElem nodes.
    unsafe {
        let mut mentioned = Mentioned::of(target, Vec::new())?;
        for node in names::members(statement.exprs) {
            mentioned.expression((*node.cast::<pg_sys::StatsElem>()).expr);
        }
        mentioned.wanted()
    }
}

/// What conditions on the rows of a table read of it.
///
/// # Safety
/// Each is null or an expression.
pub unsafe fn conditions(conditions: &[*mut pg_sys::Node], target: &Target) -> Option<Wanted> {
    let mut mentioned = Mentioned::of(target, Vec::new())?;
    for condition in conditions {
        // SAFETY: the caller's promise.
        unsafe { mentioned.expression(*condition) };
    }
    mentioned.wanted()
}

/// The columns that a new constraint of a domain is checked against: an error tells of them, and a function of the check is
/// called with their values.
///
/// # Safety
/// `statement` is a valid ALTER DOMAIN statement.
pub unsafe fn domain(statement: &pg_sys::AlterDomainStmt) -> Vec<Wanted> {
    if !matches!(statement.subtype.cast_unsigned(), b'C' | b'V' | b'O') {
        return Vec::new();
    }
    // SAFETY: a list of String nodes; with missing_ok an unknown type gives InvalidOid.
    let domain = unsafe {
        let name = pg_sys::makeTypeNameFromNameList(statement.typeName);
        pg_sys::LookupTypeNameOid(std::ptr::null_mut(), name, true)
    };
    if domain == pg_sys::InvalidOid { Vec::new() } else { columns_of_type(domain) }
}

/// The columns of a type, and of domains over it: relation and number.
pub fn columns_of(of_type: pg_sys::Oid) -> Vec<(pg_sys::Oid, i16)> {
    let mut types = vec![of_type];
    let mut columns: Vec<(pg_sys::Oid, i16)> = Vec::new();
    let mut next = 0;
    while let Some(one) = types.get(next).copied() {
        next += 1;
        for (class, object, sub) in dependents::using_type(one) {
            if class == pg_sys::TypeRelationId && !types.contains(&object) {
                types.push(object);
            } else if class == pg_sys::RelationRelationId && sub > 0 {
                columns.extend(i16::try_from(sub).ok().map(|sub| (object, sub)));
            }
        }
    }
    columns
}

/// Reading the columns of a type.
fn columns_of_type(of_type: pg_sys::Oid) -> Vec<Wanted> {
    let columns = columns_of(of_type);
    let mut relations: Vec<pg_sys::Oid> = columns.iter().map(|column| column.0).collect();
    relations.sort_unstable_by_key(|relation| relation.to_u32());
    relations.dedup();
    let read = relations.into_iter().filter_map(|relation| {
        let mut mentioned = Mentioned::of(&Target::Relation(relation), Vec::new())?;
        let holds_rows =
            catalog::relation_facts(relation).is_some_and(|facts| matches!(facts.kind, b'r' | b'm'));
        mentioned.columns =
            columns.iter().filter(|column| column.0 == relation).map(|column| column.1).collect();
        holds_rows.then(|| mentioned.wanted()).flatten()
    });
    read.collect()
}

/// Whether a new type takes the values as they are, so that none can be unfit.
unsafe fn keeps_values(mentioned: &Mentioned, name: Option<&str>, new: &pg_sys::ColumnDef) -> bool {
    let old = name.and_then(|name| catalog::column_number(mentioned.relation, name));
    // SAFETY: look-ups of catalogue rows; with missing_ok an unknown type gives InvalidOid.
    unsafe {
        let (Some(old), Some(written)) = (old, new.typeName.as_ref()) else { return false };
        if !(new.raw_default.is_null() && new.collClause.is_null() && written.typmods.is_null()) {
            return false;
        }
        let old = pg_sys::get_atttype(mentioned.relation, old);
        let new = pg_sys::LookupTypeNameOid(std::ptr::null_mut(), written, true);
        let domain = pg_sys::get_typtype(new).cast_unsigned() == b'd';
        new != pg_sys::InvalidOid && !domain && pg_sys::IsBinaryCoercible(old, new)
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
            for key in names::strings(constraint.keys).into_iter().chain(names::strings(constraint.fk_attrs))
            {
                self.column(Some(key));
            }
            for pair in names::members(constraint.exclusions) {
                if let Some(element) = names::members(pair.cast()).first() {
                    self.element(&*element.cast(), true);
                }
            }
        }
    }

    /// An element of an index, whose plain column counts where values are compared and an error quotes them.
    unsafe fn element(&mut self, element: &pg_sys::IndexElem, compares: bool) {
        // SAFETY: the fields of a node of the parse tree.
        unsafe {
            self.expression(element.expr);
            if compares && !element.name.is_null() {
                self.column(catalog::text(element.name));
            }
        }
    }

    /// A column by its name.
    fn column(&mut self, name: Option<String>) {
        match name {
            Some(name) if self.new.contains(&name) => {}
            Some(name) => match catalog::column_number(self.relation, &name) {
                Some(number) => self.columns.push(number),
                None => self.whole = true,
            },
            None => self.whole = true,
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
        self.column(last);
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
