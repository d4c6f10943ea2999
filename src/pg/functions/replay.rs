//! What replay, asciicast, session_report and blast_radius_report make of rows that sql/replay.sql and sql/reach.sql
//! have collected: documents in, order or text out.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::pg::admin_error::{AdminError, AdminResult, given};
use crate::pg::encoding;
use crate::pg::functions::{Untouched, administrator};
use crate::pg::text_datum::Text;
use crate::replay::cast::{self, Cast};
use crate::replay::event::Event;
use crate::replay::order;
use crate::report;

/// Reads a json argument.
pub(super) fn document<T: DeserializeOwned>(argument: Option<Untouched>, name: &str) -> AdminResult<T> {
    let Untouched(datum) = given(argument, name)?;
    // SAFETY: sql/replay.sql, sql/reach.sql and sql/lint.sql declare the parameter as json, which is what json_out takes.
    let text: Option<&std::ffi::CStr> =
        unsafe { pgrx::direct_function_call(pg_sys::json_out, &[Some(datum)]) };
    let text = text.map(encoding::from_server).unwrap_or_default();
    serde_json::from_str(&text)
        .map_err(|error| AdminError::invalid(format!("{name} is not such a document: {error}")))
}

/// The order of a session's events, and what became of each.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn replay_steps(
    events: Option<Untouched>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(step, i32),
            name!(seq, i64),
            name!(depth, i32),
            name!(parent, Option<i64>),
            name!(effect, Option<&'static str>),
        ),
    >,
    ErrorReport,
> {
    let read = || -> AdminResult<Vec<Event>> {
        administrator()?;
        document(events, "events")
    };
    let events = read()?;
    let steps = order::steps(&events);
    let seq = |i: usize| events.get(i).map_or(0, |event| event.seq);
    let rows: Vec<_> = (1..)
        .zip(&steps)
        .map(|(number, step)| {
            let parent = step.parent.and_then(|parent| steps.get(parent)).map(|parent| seq(parent.event));
            let depth = i32::try_from(step.depth).unwrap_or(i32::MAX);
            (number, seq(step.event), depth, parent, step.effect.map(order::Effect::word))
        })
        .collect();
    Ok(TableIterator::new(rows))
}

/// What an asciicast is made of. One document, because texts as such come in the database's encoding.
#[derive(Deserialize)]
struct Recorded {
    title: String,
    database: String,
    events: Vec<Event>,
}

/// A session's events as an asciicast.
#[pg_extern(sql = false)]
fn render_asciicast(data: Option<Untouched>, max_pause: Option<i64>) -> Result<Text, ErrorReport> {
    let render = || -> AdminResult<String> {
        administrator()?;
        let Recorded { title, database, events } = document(data, "data")?;
        let max_pause = given(max_pause, "max_pause")?;
        if max_pause < 0 {
            return Err(AdminError::invalid("max_pause must not be negative")
                .hint("It is the longest pause that is played, such as '2 s'."));
        }
        if events.is_empty() {
            return Err(nothing_recorded());
        }
        Ok(cast::asciicast(&events, Cast { title: &title, database: &database, max_pause }))
    };
    Ok(Text(render()?))
}

/// A session as a page of HTML.
#[pg_extern(sql = false)]
fn render_session_report(data: Option<Untouched>) -> Result<Text, ErrorReport> {
    let render = || -> AdminResult<String> {
        administrator()?;
        let session: report::session::Session = document(data, "data")?;
        if session.events.is_empty() {
            return Err(nothing_recorded());
        }
        Ok(report::session::session(&session))
    };
    Ok(Text(render()?))
}

/// What a role reaches as a page of HTML.
#[pg_extern(sql = false)]
fn render_blast_radius_report(data: Option<Untouched>) -> Result<Text, ErrorReport> {
    let render = || -> AdminResult<String> {
        administrator()?;
        Ok(report::reach::reach(&document(data, "data")?))
    };
    Ok(Text(render()?))
}

fn nothing_recorded() -> AdminError {
    AdminError::undefined("the audit trail holds nothing of this session").hint(
        "SELECT session_id, lineage, bound_at FROM agent_guard.sessions lists the sessions that it knows.",
    )
}
