//! check_statement: decides a statement under a policy without running it.
//!
//! The statement is parsed, analysed and rewritten, not planned: nothing of it is evaluated. What only running can tell
//! (what a cascade takes along, what functions do inside) is not in the answer.

use std::ffi::CString;

use pgrx::iter::TableIterator;
use pgrx::pg_sys::NodeTag as T;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::super::enforce::{self, Target, Wanted};
use super::super::gather::{names, query, sequences, utility};
use super::super::policies::Policy;
use super::super::text_datum::{Text, Texts};
use super::super::{encoding, redecide, session};
use super::administrator;
use crate::pg::admin_error::{AdminResult, given};
use crate::refusal::Refusal;
use crate::request::{Action, Columns, Form, Verb, Voice};

/// decision, rule_id, action, object, masked_columns, reason.
type Checked = (String, Option<i64>, String, Option<Text>, Texts, Option<Text>);

#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn check_statement(
    policy: Option<Text>,
    statement: Option<Text>,
    as_role: Option<pg_sys::Oid>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(decision, String),
            name!(rule_id, Option<i64>),
            name!(action, String),
            name!(object, Option<Text>),
            name!(masked_columns, Texts),
            name!(reason, Option<Text>),
        ),
    >,
    ErrorReport,
> {
    let rows = || -> AdminResult<Vec<Checked>> {
        administrator()?;
        let (policy, statement) = (given(policy, "policy")?, given(statement, "statement")?);
        let policy = redecide::stored(&policy)?;
        session::decide_for(Some(as_role.unwrap_or(pg_sys::InvalidOid)));
        let rows = check(&policy, &statement, as_role);
        session::decide_for(None);
        rows
    };
    Ok(TableIterator::new(rows()?))
}

fn check(policy: &Policy, statement: &str, as_role: Option<pg_sys::Oid>) -> AdminResult<Vec<Checked>> {
    let text = encoding::c_string(statement);
    let mut user = pg_sys::InvalidOid;
    let mut context = 0;
    // SAFETY: the user id is switched while names are resolved, as the role would resolve them; an error puts it back
    // with the transaction (xact.c), the end of this block without one. Parse trees are valid until the function ends.
    let wanted = unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        if let Some(role) = as_role {
            let local = context | i32::try_from(pg_sys::SECURITY_LOCAL_USERID_CHANGE).unwrap_or(0);
            pg_sys::SetUserIdAndSecContext(role, local);
        }
        let mut wanted: Vec<(Wanted, Form)> = Vec::new();
        let mut refusal = None;
        for raw in names::members(pg_sys::pg_parse_query(text.as_ptr())) {
            match statement_wants(raw.cast(), &text, policy) {
                Ok(more) => wanted.extend(more),
                Err(found) => refusal = Some(found),
            }
        }
        pg_sys::SetUserIdAndSecContext(user, context);
        match refusal {
            Some(refusal) => return Ok(vec![refused_row(refusal)]),
            None => wanted,
        }
    };
    if wanted.is_empty() {
        return Ok(vec![(
            "allow".to_owned(),
            None,
            "none".to_owned(),
            None,
            Vec::new().into(),
            Some("ordinary: needs no rule".into()),
        )]);
    }
    Ok(wanted.iter().map(|(one, form)| row(policy, one, *form, statement)).collect())
}

fn refused_row(refusal: Refusal) -> Checked {
    (
        "deny".to_owned(),
        refusal.rule,
        "system".to_owned(),
        None,
        Vec::new().into(),
        Some(Text(refusal.message)),
    )
}

fn row(policy: &Policy, wanted: &Wanted, form: Form, statement: &str) -> Checked {
    let outcome = enforce::decide_under(None, policy, wanted, form, statement);
    let name = (!outcome.decided.name.is_empty()).then(|| Text::from(&*outcome.decided.name));
    let obligations = {
        let mut words = Vec::new();
        if outcome.obligations.require_where.is_some() {
            words.push("needs a WHERE that restricts it".to_owned());
        }
        if let Some((limit, _)) = outcome.obligations.max_rows {
            words.push(format!("at most {limit} rows"));
        }
        (!words.is_empty()).then(|| words.join("; "))
    };
    (
        outcome.decided.decision.word().unwrap_or("allow").to_owned(),
        outcome.decided.rule,
        wanted.action.to_string(),
        name,
        Vec::new().into(),
        outcome.refusal.map(|refusal| refusal.message).or(obligations).map(Text),
    )
}

/// What one parsed statement wants.
///
/// # Safety
/// `raw` is a RawStmt of `text`.
unsafe fn statement_wants(
    raw: *mut pg_sys::RawStmt,
    text: &CString,
    policy: &Policy,
) -> Result<Vec<(Wanted, Form)>, Refusal> {
    // SAFETY: the caller's promise; parameters get the types that the analysis infers.
    unsafe {
        let mut types: *mut pg_sys::Oid = std::ptr::null_mut();
        let mut count = 0;
        let queries = pg_sys::pg_analyze_and_rewrite_varparams(
            raw,
            text.as_ptr(),
            &raw mut types,
            &raw mut count,
            std::ptr::null_mut(),
        );
        let mut wanted = Vec::new();
        for node in names::members(queries) {
            let rewritten = node.cast::<pg_sys::Query>();
            if (*rewritten).commandType != pg_sys::CmdType::CMD_UTILITY {
                let form = if (*rewritten).commandType == pg_sys::CmdType::CMD_MERGE {
                    Form::Merge
                } else {
                    Form::Plain
                };
                wanted.extend(query::wanted(rewritten, policy).into_iter().map(|one| (one, form)));
                continue;
            }
            let statement = (*rewritten).utilityStmt;
            let needs = utility::needs(statement)?;
            let form = needs.form;
            wanted.extend(needs.wanted.into_iter().map(|one| (one, form)));
            wanted.extend(copied(statement).map(|one| (one, form)));
            wanted.extend(by_default(statement, policy).into_iter().map(|one| (one, form)));
            if let Some(inner) = inner_query(statement) {
                for node in names::members(pg_sys::QueryRewrite(pg_sys::copyObjectImpl(inner.cast()).cast()))
                {
                    wanted.extend(query::wanted(node.cast(), policy).into_iter().map(|one| (one, form)));
                }
            } else if let Some(inner) = inner_raw(statement) {
                wanted.extend(statement_wants(inner, text, policy)?);
            }
        }
        Ok(wanted)
    }
}

/// COPY of a relation: every column of it, as the server checks when it runs.
unsafe fn copied(statement: *mut pg_sys::Node) -> Option<Wanted> {
    // SAFETY: the tag decides the cast.
    unsafe {
        if (*statement).type_ != T::T_CopyStmt {
            return None;
        }
        let copy = &*statement.cast::<pg_sys::CopyStmt>();
        let target = names::relation_target(copy.relation);
        let verb = if copy.is_from { Verb::Insert } else { Verb::Select };
        match target {
            Target::Nothing => None,
            target => Some(Wanted { columns: Columns::Whole, ..Wanted::named(Action::plain(verb), target) }),
        }
    }
}

/// The sequences that COPY FROM draws from for the columns that it does not name; one that only running it would tell is none.
unsafe fn by_default(statement: *mut pg_sys::Node, policy: &Policy) -> Vec<Wanted> {
    // SAFETY: the tag decides the cast; the list holds String nodes.
    unsafe {
        if (*statement).type_ != T::T_CopyStmt {
            return Vec::new();
        }
        let copy = &*statement.cast::<pg_sys::CopyStmt>();
        let relation = names::relation(copy.relation);
        if !copy.is_from || copy.attlist.is_null() || relation == pg_sys::InvalidOid {
            return Vec::new();
        }
        let number = |name: &String| pg_sys::get_attnum(relation, encoding::c_string(name).as_ptr());
        let named: Vec<i16> = names::strings(copy.attlist).iter().map(number).collect();
        let filled = sequences::filled_by_default(relation, &named);
        let mut wanted = sequences::filled_identities(relation, &filled, policy);
        let uses = filled.into_iter().flat_map(|column| sequences::of_default(relation, column));
        wanted.extend(
            uses.flatten()
                .filter_map(|(sequence, verb)| sequences::wanted(policy, sequence, verb, Voice::Named)),
        );
        wanted
    }
}

/// The analysed query inside EXPLAIN, DECLARE CURSOR and CREATE TABLE AS.
unsafe fn inner_query(statement: *mut pg_sys::Node) -> Option<*mut pg_sys::Query> {
    // SAFETY: the tag decides the cast; parse analysis has put a Query there (transformExplainStmt and its like).
    unsafe {
        let inner = match (*statement).type_ {
            T::T_ExplainStmt => {
                let explain = &*statement.cast::<pg_sys::ExplainStmt>();
                if let Some(explained) = utility::utility_explained(explain) {
                    return inner_query(explained);
                }
                explain.query
            }
            T::T_DeclareCursorStmt => (*statement.cast::<pg_sys::DeclareCursorStmt>()).query,
            T::T_CreateTableAsStmt => (*statement.cast::<pg_sys::CreateTableAsStmt>()).query,
            _ => return None,
        };
        (!inner.is_null() && (*inner).type_ == T::T_Query).then(|| inner.cast())
    }
}

/// The raw query inside COPY and PREPARE.
unsafe fn inner_raw(statement: *mut pg_sys::Node) -> Option<*mut pg_sys::RawStmt> {
    // SAFETY: the tag decides the cast; a copy is wrapped, because analysis scribbles on its input.
    unsafe {
        let inner = match (*statement).type_ {
            T::T_CopyStmt => (*statement.cast::<pg_sys::CopyStmt>()).query,
            T::T_PrepareStmt => (*statement.cast::<pg_sys::PrepareStmt>()).query,
            _ => return None,
        };
        if inner.is_null() {
            return None;
        }
        let raw = pg_sys::palloc0(size_of::<pg_sys::RawStmt>()).cast::<pg_sys::RawStmt>();
        (*raw).type_ = T::T_RawStmt;
        (*raw).stmt = pg_sys::copyObjectImpl(inner.cast()).cast();
        Some(raw)
    }
}
