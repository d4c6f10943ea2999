//! simulated_decisions and document_exposures: recorded accesses decided again under another policy, for simulate_policy.
//!
//! What was recorded is decided, not run: of a statement that was refused, what it would have needed further on is not
//! known; a condition that a rule asks for cannot be seen in an access.

use std::collections::HashMap;

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::decision::{Obligations, RuleId};
use crate::pg::admin_error::{AdminError, AdminResult};
use crate::pg::enforce;
use crate::pg::functions::mask::{exposed_by_name, named_columns};
use crate::pg::functions::policy::json_text;
use crate::pg::functions::{Untouched, administrator};
use crate::pg::policies::{self, Policy};
use crate::pg::redecide::{self, Told};
use crate::pg::store::trail::{self, RecordedStatement};
use crate::pg::text_datum::Text;
use crate::policy::document::PolicyDocument;
use crate::replay::event::Access;
use crate::request::{Form, Voice};

/// seq, number of the access, change, rule now, reason.
type Changed = (i64, i32, &'static str, Option<RuleId>, Option<Text>);

#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn simulated_decisions(
    policy: Option<Text>,
    document: Option<Untouched>,
    since: Option<Untouched>,
    until: Option<Untouched>,
    session_id: Option<Untouched>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(seq, i64),
            name!(access, i32),
            name!(change, &'static str),
            name!(rule_id, Option<i64>),
            name!(reason, Option<Text>),
        ),
    >,
    ErrorReport,
> {
    let policy = policy.as_deref();
    let simulate = || -> AdminResult<Vec<Changed>> {
        administrator()?;
        let bounds = [
            Untouched::parameter(since, pg_sys::TIMESTAMPTZOID),
            Untouched::parameter(until, pg_sys::TIMESTAMPTZOID),
            Untouched::parameter(session_id, pg_sys::UUIDOID),
        ];
        match (policy, document) {
            (Some(name), None) => changes(&*redecide::stored(name)?, bounds),
            (None, Some(document)) => changes(&redecide::of_document(&json_text(document))?, bounds),
            _ => Err(AdminError::invalid("give a policy's name or a document, and only one of them")
                .hint("simulate_policy('name'), or simulate_policy(NULL, document => '{...}').")),
        }
    };
    let rows = simulate();
    // What was compiled of a policy that may not even be stored is nobody else's.
    policies::forget();
    Ok(TableIterator::new(rows?))
}

/// The columns that a document exposes; none for NULL.
#[pg_extern(sql = false)]
fn document_exposures(
    document: Option<Untouched>,
) -> Result<TableIterator<'static, (name!(relation, pg_sys::Oid), name!(attnum, i16))>, ErrorReport> {
    let exposures = || -> AdminResult<Vec<(pg_sys::Oid, i16)>> {
        administrator()?;
        let Some(document) = document else { return Ok(Vec::new()) };
        exposed(&PolicyDocument::parse(&json_text(document))?.exposed.unwrap_or_default())
    };
    Ok(TableIterator::new(exposures()?))
}

fn exposed(patterns: &[String]) -> AdminResult<Vec<(pg_sys::Oid, i16)>> {
    let mut exposed = Vec::new();
    for (i, pattern) in patterns.iter().enumerate() {
        let at = |error: AdminError| error.at(&format!("exposed[{i}]"));
        let (relation, columns) = named_columns(pattern).map_err(at)?;
        for column in columns {
            exposed.push((relation, exposed_by_name(relation, &column).map_err(at)?.number));
        }
    }
    Ok(exposed)
}

/// What the policy says of an access, apart from what the statement adds to it.
#[derive(Clone)]
struct Now {
    rule: Option<RuleId>,
    refusal: Option<String>,
    obligations: Obligations,
}

fn changes(policy: &Policy, bounds: [pgrx::datum::DatumWithOid<'_>; 3]) -> AdminResult<Vec<Changed>> {
    let mut changed = Vec::new();
    // The same accesses come again and again; the text matters only to rules that look at it.
    let mut known: HashMap<String, Vec<(Access, Now)>> = HashMap::new();
    trail::each_statement(bounds, |statement| {
        if policy.has_patterns {
            compare(&statement, &decided(policy, &statement)?, &mut changed);
            return Ok(());
        }
        let key = format!("{} {}", i32::from(statement.level > 0), statement.accesses);
        if !known.contains_key(&key) {
            if known.len() >= KNOWN_MAX {
                known.clear();
            }
            known.insert(key.clone(), decided(policy, &statement)?);
        }
        if let Some(accesses) = known.get(&key) {
            compare(&statement, accesses, &mut changed);
        }
        Ok(())
    })?;
    Ok(changed)
}

/// A bound on memory: beyond it what was decided is forgotten.
const KNOWN_MAX: usize = 10_000;

fn decided(policy: &Policy, statement: &RecordedStatement) -> AdminResult<Vec<(Access, Now)>> {
    let accesses: Vec<Access> = serde_json::from_str(&statement.accesses)
        .map_err(|error| AdminError::state(format!("event {} cannot be read: {error}", statement.seq)))?;
    let text = statement.statement.as_deref().unwrap_or("");
    let decide = |access: Access| {
        let told = Told {
            action: &access.action,
            class: access.class.as_deref().unwrap_or(""),
            oid: access.oid.unwrap_or(0),
            name: access.object.as_deref().unwrap_or(""),
            columns: access.columns.as_deref().unwrap_or(""),
            voice: voice(&access, statement.level),
        };
        let now = match redecide::wanted(&told, policy) {
            None => Now { rule: None, refusal: None, obligations: Obligations::default() },
            Some(wanted) => {
                let outcome = enforce::decide_under(None, policy, &wanted, Form::Plain, text);
                Now {
                    rule: outcome.decided.rule,
                    refusal: outcome.refusal.map(|refusal| refusal.message),
                    obligations: outcome.obligations,
                }
            }
        };
        (access, now)
    };
    Ok(accesses.into_iter().map(decide).collect())
}

/// Who asked is not recorded, but what needed no allow got none: then a view or a function lent it, and it still does.
fn voice(access: &Access, level: i32) -> Voice {
    match (access.decision.as_deref(), access.rule, level) {
        (Some("allow"), None, 0) => Voice::View,
        (Some("allow"), None, _) => Voice::Function,
        _ => Voice::Named,
    }
}

/// What cannot be seen in an access: whether the statement meets it.
const CONDITION: &str = "needs a WHERE that restricts it";

fn compare(statement: &RecordedStatement, accesses: &[(Access, Now)], changed: &mut Vec<Changed>) {
    for (number, (access, now)) in (1_i32..).zip(accesses) {
        let ran = matches!(access.decision.as_deref(), Some("allow" | "observe"));
        let was_allowed = access.decision.as_deref() == Some("allow");
        let too_many = now.obligations.max_rows.filter(|(limit, _)| {
            ran && statement.level == 0 && statement.rows.is_some_and(|rows| rows > *limit)
        });
        let refusal = match (&now.refusal, too_many) {
            (Some(refusal), _) => Some((now.rule, refusal.clone())),
            (None, Some((limit, rule))) => Some((Some(rule), format!("more than {limit} rows"))),
            (None, None) => None,
        };
        let condition = now.obligations.require_where.filter(|rule| access.rule != Some(*rule));
        let (change, rule, reason) = match (was_allowed, refusal, condition) {
            (true, Some((rule, reason)), _) => ("newly denied", rule, Some(reason)),
            (true, None, Some(rule)) => ("newly conditional", Some(rule), Some(CONDITION.to_owned())),
            (false, None, _) => {
                ("newly allowed", now.rule, now.obligations.require_where.map(|_| CONDITION.to_owned()))
            }
            _ => continue,
        };
        changed.push((statement.seq, number, change, rule, reason.map(Text)));
    }
}
