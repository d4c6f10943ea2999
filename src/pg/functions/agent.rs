//! What agents may ask: who am I, what may I do, what of a table.

use pgrx::datum::{JsonB, TimestampWithTimeZone, Uuid};
use pgrx::iter::TableIterator;
use pgrx::prelude::*;

use super::super::enforce::{self, Target, Wanted};
use super::super::scan::POSTGRES_EPOCH_MICROS;
use super::super::session::{self, Session};
use super::super::text_datum::{Text, Texts};
use super::super::{catalog, meter, policies};
use crate::policy::rule::Rule;
use crate::request::{Action, Columns, Form, Verb};

/// Microseconds since the Unix epoch as a timestamptz.
pub(super) fn timestamp(micros: i64) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(micros.checked_sub(POSTGRES_EPOCH_MICROS)?).ok()
}

fn bound() -> Option<std::rc::Rc<Session>> {
    session::current().ok()
}

/// The session's identity; one row, or none in a session without a token.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn whoami() -> TableIterator<
    'static,
    (
        name!(session_id, Option<Uuid>),
        name!(window_id, Option<Uuid>),
        name!(agent, Option<Text>),
        name!(lineage, Option<Texts>),
        name!(policy, Option<Text>),
        name!(mode, Option<String>),
        name!(role, Option<Text>),
        name!(expires_at, Option<TimestampWithTimeZone>),
        name!(remaining_depth, Option<i32>),
        name!(token, Option<String>),
        name!(left, Option<JsonB>),
    ),
> {
    let row = bound().map(|session| {
        let token = &session.token;
        let observes = policies::policy(session.policy_id).is_ok_and(|policy| enforce::observes(&policy));
        (
            Some(Uuid::from_bytes(session.id)),
            Some(Uuid::from_bytes(*token.window())),
            token.lineage().last().cloned().map(Text),
            Some(token.lineage().to_vec().into()),
            Some(Text(session.policy.clone())),
            Some(if observes { "observe" } else { "enforce" }.to_owned()),
            Some(Text(session.role.clone())),
            timestamp(token.expires_at().saturating_mul(1_000_000)),
            Some(i32::from(token.remaining_depth())),
            Some(token.public_id()),
            meter::left().map(|left| JsonB(serde_json::Value::Object(left))),
        )
    });
    TableIterator::new(row)
}

/// The rules of the session's policy.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn session_policy() -> TableIterator<
    'static,
    (
        name!(rule_id, i64),
        name!(effect, String),
        name!(actions, Vec<String>),
        name!(objects, Texts),
        name!(columns, Texts),
        name!(require_where, bool),
        name!(max_rows, Option<i64>),
        name!(statement_pattern, Option<Text>),
    ),
> {
    let policy = bound().and_then(|session| policies::policy(session.policy_id).ok());
    let row = |rule: &Rule| {
        (
            rule.id,
            rule.effect.word().to_owned(),
            rule.actions.iter().map(|action| action.text()).collect(),
            rule.objects.iter().map(|object| object.pattern.to_string()).collect::<Vec<_>>().into(),
            rule.columns.clone().into(),
            rule.require_where,
            rule.max_rows,
            rule.statement_pattern.as_ref().map(|pattern| Text::from(pattern.as_str())),
        )
    };
    let rows: Vec<_> = policy.map(|policy| policy.rules.iter().map(row).collect()).unwrap_or_default();
    TableIterator::new(rows)
}

/// What the session may do with a relation: a row for each action, with the columns that are left out.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn describe_access(
    relation: pg_sys::Oid,
) -> TableIterator<
    'static,
    (
        name!(action, String),
        name!(allowed, bool),
        name!(denied_columns, Texts),
        name!(require_where, bool),
        name!(max_rows, Option<i64>),
        name!(reason, Option<Text>),
    ),
> {
    let rows = bound()
        .and_then(|session| {
            let policy = policies::policy(session.policy_id).ok()?;
            Some(describe(&session, &policy, relation))
        })
        .unwrap_or_default();
    TableIterator::new(rows)
}

type Described = (String, bool, Texts, bool, Option<i64>, Option<Text>);

fn describe(session: &Session, policy: &policies::Policy, relation: pg_sys::Oid) -> Vec<Described> {
    let columns = catalog::columns(relation);
    let verbs = [Verb::Select, Verb::Insert, Verb::Update, Verb::Delete, Verb::Truncate, Verb::Lock];
    let each = |verb: Verb| {
        let wanted = Wanted::named(Action::plain(verb), Target::Relation(relation));
        let outcome = enforce::decide(session, policy, &wanted, Form::Plain, "");
        let by_column =
            matches!(verb, Verb::Select | Verb::Insert | Verb::Update) && outcome.refusal.is_none();
        let denied = columns.iter().filter(|_| by_column).filter(|(number, _)| {
            let one = Wanted { columns: Columns::Of(vec![*number]), ..wanted.clone() };
            enforce::decide(session, policy, &one, Form::Plain, "").refusal.is_some()
        });
        (
            verb.word().to_owned(),
            outcome.refusal.is_none(),
            denied.map(|(_, name)| name.clone()).collect::<Vec<_>>().into(),
            outcome.obligations.require_where.is_some(),
            outcome.obligations.max_rows.map(|limit| limit.0),
            outcome.refusal.map(|refusal| Text(refusal.message)),
        )
    };
    verbs.into_iter().map(each).collect()
}
