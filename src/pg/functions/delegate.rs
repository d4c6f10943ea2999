//! delegate: a child's token, the same as its parent would derive offline.

use pgrx::datum::Interval;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use super::limits::number;
use super::{optional_texts, window};
use crate::pg::admin_error::{AdminError, AdminResult, given};
use crate::pg::text_datum::{Text, Texts};
use crate::pg::{epoch, handshake, session};
use crate::token::{Act, Claims, RelationPattern, fresh_jti};

#[pg_extern(sql = false)]
#[expect(clippy::too_many_arguments, reason = "the parameters of the SQL function")]
fn delegate(
    agent: Option<Text>,
    ttl: Option<Interval>,
    actions: Option<Texts>,
    objects: Option<Texts>,
    max_depth: Option<i32>,
    require_proof: Option<bool>,
    rows: Option<i64>,
    bytes: Option<i64>,
    statements: Option<i64>,
    uses: Option<i64>,
    sessions: Option<i64>,
) -> Result<String, ErrorReport> {
    let agent = agent.as_deref();
    let derive = || -> AdminResult<String> {
        if !epoch::guarded_session() {
            return Err(AdminError::state("this session has no token: its role is not guarded")
                .hint("An agent delegates what it has; a DBA calls agent_guard.grant_window()."));
        }
        let parent = session::current()?;
        let agent = window::agent_name(given(agent, "agent")?)?;
        let end = parent.token.expires_at();
        let mut child = Claims::new(fresh_jti()?, agent, expiry(given(ttl, "ttl")?, end)?);
        child.act = optional_texts(actions, "actions")?
            .map(|words| words.iter().map(|word| act(word)).collect::<AdminResult<Vec<_>>>())
            .transpose()?;
        child.rel = optional_texts(objects, "objects")?
            .map(|texts| texts.iter().map(|text| relation(text)).collect::<AdminResult<Vec<_>>>())
            .transpose()?;
        child.depth = max_depth.map(depth).transpose()?;
        child.pop = require_proof == Some(true);
        child.rows = number(rows, "rows")?;
        child.bytes = number(bytes, "bytes")?;
        child.stmts = number(statements, "statements")?;
        child.uses = number(uses, "uses")?;
        child.sess = number(sessions, "sessions")?;
        Ok(handshake::delegate(&child)?)
    };
    Ok(derive()?)
}

/// The child's end in unix seconds: `ttl` from now, and not beyond its parent's, as a child may only claim less.
fn expiry(ttl: Interval, parent: i64) -> AdminResult<i64> {
    // A month is thirty days, as in grant_window.
    let days = i64::from(ttl.months()).saturating_mul(30).saturating_add(i64::from(ttl.days()));
    let seconds = days.saturating_mul(86_400).saturating_add(ttl.micros().div_euclid(1_000_000));
    if seconds < 1 {
        return Err(AdminError::invalid("ttl must be at least one second")
            .hint("Pass a short time, such as ttl => '10 minutes'."));
    }
    let wanted = epoch::clock().div_euclid(1_000_000).saturating_add(seconds);
    if wanted > parent {
        AdminError::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            "the child's token ends with its parent's, before its ttl is over",
        )
        .tell(PgLogLevel::NOTICE);
    }
    Ok(wanted.min(parent))
}

fn act(word: &str) -> AdminResult<Act> {
    Act::of_word(word).ok_or_else(|| {
        let words: Vec<_> = Act::all().map(Act::word).collect();
        AdminError::invalid(format!("actions: \"{word}\" is no action of a token"))
            .hint(format!("The actions are {}.", words.join(", ")))
    })
}

fn relation(text: &str) -> AdminResult<RelationPattern> {
    RelationPattern::parse(text).ok_or_else(|| {
        AdminError::invalid(format!("objects: \"{text}\" is no pattern of relations")).hint(
            "Write schema.name, where each part is a name, * or a name that ends in *, such as app.order*.",
        )
    })
}

fn depth(depth: i32) -> AdminResult<u8> {
    u8::try_from(depth).ok().filter(|depth| *depth <= 7).ok_or_else(|| {
        AdminError::invalid("max_depth must be between 0 and 7")
            .hint("Leave it NULL for as much as the parent has left.")
    })
}
