//! Expressions over the columns of one relation, as a DBA writes them for masks and row filters: parsed and analysed by the
//! server, and written out again by it.
//!
//! Which expressions are let is `expression_check`'s. Everything here runs while `pinned::Settings` lives: a text means the
//! same when it is read back.

use std::ffi::CString;
use std::panic::AssertUnwindSafe;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::admin_error::{AdminError, AdminResult};
use super::gather::names;
use super::{encoding, expression_check};

/// An analysed expression over the columns of a relation. Lives in the memory that was current when it was made.
#[derive(Clone, Copy)]
pub struct Expression {
    node: *mut pg_sys::Node,
    relation: pg_sys::Oid,
    /// The column's own, which may be anybody's.
    collation: pg_sys::Oid,
}

/// The column that an expression is to stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The column's type.
    pub type_oid: pg_sys::Oid,
    /// Its modifier.
    pub typmod: i32,
    /// Its collation.
    pub collation: pg_sys::Oid,
}

/// What an expression is called in error texts: the parameter that it came by.
pub type Path<'a> = &'a str;

/// Reads an expression for a column; what it gives is of the column's very type.
///
/// # Errors
/// For whatever is not one expression over the relation's own columns that may stand there.
pub fn for_column(
    relation: pg_sys::Oid,
    text: &str,
    place: Place,
    path: Path<'_>,
) -> AdminResult<Expression> {
    let made = caught(path, || {
        let node = analysed(relation, text, path)?;
        // SAFETY: a node that the server made.
        let node = unsafe { placed(node, place, path)? };
        expression_check::check(relation, node, place.collation, path)?;
        Ok(Expression { node, relation, collation: place.collation })
    })?;
    reads_back(made, path)
}

/// Reads a condition.
///
/// # Errors
/// As `for_column`.
pub fn condition(relation: pg_sys::Oid, text: &str, path: Path<'_>) -> AdminResult<Expression> {
    let boolean = Place { type_oid: pg_sys::BOOLOID, typmod: -1, collation: pg_sys::InvalidOid };
    for_column(relation, text, boolean, path)
}

impl Expression {
    /// The server's own spelling.
    pub fn text(self) -> String {
        // SAFETY: the node's variables are those of the relation, which is the only one of the context.
        unsafe {
            let context = pg_sys::deparse_context_for(pg_sys::get_rel_name(self.relation), self.relation);
            let text = pg_sys::deparse_expression(self.node, context, false, false);
            encoding::from_server(std::ffi::CStr::from_ptr(text))
        }
    }

    /// The analysed tree; its variables have the number 1.
    pub fn node(self) -> *mut pg_sys::Node {
        self.node
    }

    /// As a text that outlives the memory that the tree is in.
    pub fn kept(self) -> Kept {
        // SAFETY: a valid node.
        let text = unsafe { std::ffi::CStr::from_ptr(pg_sys::nodeToString(self.node.cast())) };
        Kept { tree: text.to_owned(), relation: self.relation, collation: self.collation }
    }

    /// Checks it once more, against the catalogue as it is now.
    ///
    /// # Errors
    /// As for one that is new.
    pub fn check(self, path: Path<'_>) -> AdminResult<()> {
        expression_check::check(self.relation, self.node, self.collation, path)
    }
}

/// An analysed expression in the server's own form, which no rename changes.
#[derive(Clone)]
pub struct Kept {
    tree: CString,
    relation: pg_sys::Oid,
    collation: pg_sys::Oid,
}

impl Kept {
    /// The expression again.
    pub fn expression(&self) -> Expression {
        // SAFETY: a text that nodeToString made in this process; the reader copies what it keeps.
        let node = unsafe { pg_sys::stringToNode(self.tree.as_ptr().cast_mut()) };
        Expression { node: node.cast(), relation: self.relation, collation: self.collation }
    }
}

/// What is written down has to mean what was read: it is read once more and compared.
fn reads_back(made: Expression, path: Path<'_>) -> AdminResult<Expression> {
    let text = made.text();
    let again = caught(path, || analysed(made.relation, &text, path))?;
    // SAFETY: two valid nodes.
    if unsafe { pg_sys::equal(made.node.cast(), again.cast()) } {
        return Ok(made);
    }
    Err(AdminError::invalid(format!(
        "{path}: the server writes the expression in a way that reads differently"
    ))
    .detail(format!("It becomes {text}."))
    .hint("Write the casts and operators out, with their schemas."))
}

/// The text as an expression of the server's grammar, which ends where the expression does: nothing can follow it.
fn analysed(relation: pg_sys::Oid, text: &str, path: Path<'_>) -> AdminResult<*mut pg_sys::Node> {
    let invalid = |message: &str, hint: &str| AdminError::invalid(format!("{path}: {message}")).hint(hint);
    let source = encoding::c_string(text);
    // SAFETY: a NUL-terminated text; the trees are palloc'd. The relation stays open for this transaction only by its
    // lock, like in parse analysis.
    unsafe {
        let list =
            names::members(pg_sys::raw_parser(source.as_ptr(), pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR));
        let [statement] = list.as_slice() else {
            return Err(invalid(
                "this is not one expression",
                "Write one SQL expression over the relation's columns.",
            ));
        };
        let select = (*statement.cast::<pg_sys::RawStmt>()).stmt.cast::<pg_sys::SelectStmt>();
        let target = only_target(select).ok_or_else(|| {
            invalid(
                "this is not one expression",
                "Write one SQL expression over the relation's columns: no list, no alias, no FROM or WHERE.",
            )
        })?;
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        (*state).p_sourcetext = pg_sys::pstrdup(source.as_ptr());
        let lock = pg_sys::AccessShareLock.cast_signed();
        let opened = pg_sys::relation_open(relation, lock);
        let item =
            pg_sys::addRangeTableEntryForRelation(state, opened, lock, std::ptr::null_mut(), false, true);
        pg_sys::addNSItemToQuery(state, item, false, true, true);
        let node = pg_sys::transformExpr(state, target, pg_sys::ParseExprKind::EXPR_KIND_OTHER);
        pg_sys::assign_expr_collations(state, node);
        pg_sys::relation_close(opened, pg_sys::NoLock.cast_signed());
        Ok(node)
    }
}

/// The one expression of a select that is nothing else.
unsafe fn only_target(select: *mut pg_sys::SelectStmt) -> Option<*mut pg_sys::Node> {
    // SAFETY: the parser gives a SelectStmt for an expression (gram.y, PLpgSQL_Expr).
    unsafe {
        if (*select).type_ != pg_sys::NodeTag::T_SelectStmt {
            return None;
        }
        let select = &*select;
        let lists = [
            select.distinctClause,
            select.fromClause,
            select.groupClause,
            select.windowClause,
            select.valuesLists,
            select.sortClause,
            select.lockingClause,
        ];
        let nodes = [select.whereClause, select.havingClause, select.limitOffset, select.limitCount];
        let bare = lists.iter().all(|list| list.is_null())
            && nodes.iter().all(|node| node.is_null())
            && select.withClause.is_null()
            && select.intoClause.is_null()
            && select.op == pg_sys::SetOperation::SETOP_NONE;
        let targets = names::members(select.targetList);
        let [target] = targets.as_slice() else { return None };
        let target = &*target.cast::<pg_sys::ResTarget>();
        if is_star(target.val) {
            return None;
        }
        (bare && target.name.is_null() && target.indirection.is_null()).then_some(target.val)
    }
}

/// `*` alone: a list of columns that only a target list can hold. The server's own transformation of expressions trusts its
/// grammar not to let it through.
unsafe fn is_star(node: *mut pg_sys::Node) -> bool {
    // SAFETY: a raw node; the tag decides the cast.
    unsafe {
        (*node).type_ == pg_sys::NodeTag::T_ColumnRef && {
            let fields = names::members((*node.cast::<pg_sys::ColumnRef>()).fields);
            matches!(fields.as_slice(), [only] if (**only).type_ == pg_sys::NodeTag::T_A_Star)
        }
    }
}

/// The expression as a value of the column's type, modifier and collation.
unsafe fn placed(node: *mut pg_sys::Node, place: Place, path: Path<'_>) -> AdminResult<*mut pg_sys::Node> {
    // SAFETY: the caller's promise; the server makes new nodes around it.
    unsafe {
        let given = pg_sys::exprType(node);
        let mut input = given;
        let mut target = place.type_oid;
        let fits = pg_sys::can_coerce_type(
            1,
            &raw mut input,
            &raw mut target,
            pg_sys::CoercionContext::COERCION_ASSIGNMENT,
        );
        let coerced = if fits {
            pg_sys::coerce_to_target_type(
                std::ptr::null_mut(),
                node,
                given,
                place.type_oid,
                place.typmod,
                pg_sys::CoercionContext::COERCION_EXPLICIT,
                pg_sys::CoercionForm::COERCE_EXPLICIT_CAST,
                -1,
            )
        } else {
            std::ptr::null_mut()
        };
        if coerced.is_null() {
            return Err(AdminError::new(
                PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
                format!(
                    "{path}: the expression is of type {}, not {}",
                    type_name(given),
                    type_name(place.type_oid)
                ),
            )
            .hint(format!("Cast it: (...)::{}.", type_name(place.type_oid))));
        }
        pg_sys::assign_expr_collations(std::ptr::null_mut(), coerced);
        if place.collation == pg_sys::InvalidOid || pg_sys::exprCollation(coerced) == place.collation {
            return Ok(coerced);
        }
        let collate = pg_sys::palloc0(size_of::<pg_sys::CollateExpr>()).cast::<pg_sys::CollateExpr>();
        (*collate).xpr.type_ = pg_sys::NodeTag::T_CollateExpr;
        (*collate).arg = coerced.cast();
        (*collate).collOid = place.collation;
        (*collate).location = -1;
        Ok(collate.cast())
    }
}

/// A type as the server writes it.
pub fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: returns palloc'd text for every OID.
    unsafe { encoding::from_server(std::ffi::CStr::from_ptr(pg_sys::format_type_be(oid))) }
}

/// Runs what may raise an error of the server, and turns it into a refusal that names the parameter. Whoever gets it has to
/// end the statement or the subtransaction with it: nothing was cleaned up.
fn caught<T>(path: Path<'_>, body: impl FnOnce() -> AdminResult<T>) -> AdminResult<T> {
    let told = |caught: CaughtError| match caught {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => {
            let mut error = AdminError::new(report.sql_error_code(), format!("{path}: {}", report.message()));
            if let Some(detail) = report.detail() {
                error = error.detail(detail);
            }
            Err(error.hint(report.hint().unwrap_or(
                "Write one SQL expression over the relation's columns, with the names of functions schema-qualified.",
            )))
        }
    };
    PgTryBuilder::new(AssertUnwindSafe(body)).catch_others(told).execute()
}

/// Runs `body` in a subtransaction: what it refuses leaves nothing behind, and the transaction goes on.
pub fn attempt<T>(body: impl FnOnce() -> AdminResult<T>) -> AdminResult<T> {
    // SAFETY: as plpgsql runs a block with exceptions (pl_exec.c): memory and resources of the caller are put back.
    // INVARIANT: `body` turns errors into refusals by `caught`; what it does not turn goes on to the top.
    unsafe {
        let memory = pg_sys::CurrentMemoryContext;
        let owner = pg_sys::CurrentResourceOwner;
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        let result = body();
        if result.is_ok() {
            pg_sys::ReleaseCurrentSubTransaction();
        } else {
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = owner;
        result
    }
}
