//! The page of a session: who it was, when it did what, what was decided, and what became of it.

#![forbid(unsafe_code)]

use serde::Deserialize;

use super::html::Html;
use super::page::page;
use super::words::{amount, moment, span};
use crate::replay::event::{Access, Event};
use crate::replay::order::{self, Effect, Step};

/// What the page tells of, as sql/replay.sql collects it. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are columns of the views sessions, windows and audit")]
pub struct Session {
    pub session_id: String,
    pub window_id: Option<String>,
    pub lineage: Vec<String>,
    pub block_ids: Vec<String>,
    pub policy: Option<String>,
    pub role: Option<String>,
    pub database: String,
    pub client_addr: Option<String>,
    pub application_name: Option<String>,
    pub pid: Option<i64>,
    pub state: Option<String>,
    pub granted_by: Option<String>,
    pub reason: Option<String>,
    pub expires_at: Option<i64>,
    pub events: Vec<Event>,
    /// Events that the page leaves out because they are too many.
    pub left_out: i64,
    pub made_at: i64,
}

/// How a step is coloured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Allow,
    Deny,
    Fail,
    Observe,
    News,
}

impl Look {
    fn of(event: &Event) -> Look {
        if event.is_denied() {
            Look::Deny
        } else if !event.is_statement() {
            Look::News
        } else if event.sqlstate.is_some() {
            Look::Fail
        } else if event.decision.as_deref() == Some("observe") {
            Look::Observe
        } else {
            Look::Allow
        }
    }

    fn class(self) -> &'static str {
        match self {
            Look::Allow => "allow",
            Look::Deny => "deny",
            Look::Fail => "fail",
            Look::Observe => "observe",
            Look::News => "news",
        }
    }

    fn badge(self) -> &'static str {
        match self {
            Look::Allow => "allowed",
            Look::Deny => "denied",
            Look::Fail => "failed",
            Look::Observe => "would be denied",
            Look::News => "session",
        }
    }
}

/// The page.
pub fn session(session: &Session) -> String {
    let steps = order::steps(&session.events);
    let mut body = Html::default();
    body.raw("<header>\n");
    head(session, &mut body);
    tiles(session, &steps, &mut body);
    body.raw("</header>\n<main>\n");
    timeline(session, &steps, &mut body);
    list(session, &steps, &mut body);
    body.raw("</main>\n<footer>Made by agent_guard from the audit trail of database ")
        .isolated(&session.database)
        .raw(" on ")
        .text(&moment(session.made_at))
        .raw(" UTC.</footer>\n");
    let agent = session.lineage.last().map_or("unknown agent", String::as_str);
    page(&format!("{agent}: session {}", session.session_id), &body)
}

fn lineage(names: &[String], body: &mut Html) {
    for (n, name) in names.iter().enumerate() {
        if n > 0 {
            body.raw("<span class=\"arrow\">&rsaquo;</span>");
        }
        body.isolated(name);
    }
    if names.is_empty() {
        body.raw("unknown agent");
    }
}

fn head(session: &Session, body: &mut Html) {
    body.raw("<div class=\"soft\">Session of an agent</div>\n<h1 class=\"lineage\">");
    lineage(&session.lineage, body);
    body.raw("</h1>\n<dl class=\"facts\">\n");
    let mut fact = |name: &'static str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            body.raw("<div><dt>").raw(name).raw("</dt><dd>").isolated(value).raw("</dd></div>\n");
        }
    };
    fact("session", Some(&session.session_id));
    fact("window", session.window_id.as_deref());
    fact("policy", session.policy.as_deref());
    fact("login role", session.role.as_deref());
    fact("database", Some(&session.database));
    fact("client", Some(session.client_addr.as_deref().unwrap_or("local socket")));
    fact("application", session.application_name.as_deref());
    fact("process", session.pid.map(|pid| pid.to_string()).as_deref());
    fact("state", session.state.as_deref());
    fact("window granted by", session.granted_by.as_deref());
    fact("reason", session.reason.as_deref());
    fact("token ends (UTC)", session.expires_at.map(moment).as_deref());
    fact("token's block", session.block_ids.last().map(String::as_str));
    body.raw("</dl>\n");
}

fn tile(look: &'static str, value: &str, name: &'static str, body: &mut Html) {
    body.raw("<div class=\"tile ")
        .raw(look)
        .raw("\"><b>")
        .text(value)
        .raw("</b><span>")
        .raw(name)
        .raw("</span></div>\n");
}

fn tiles(session: &Session, steps: &[Step], body: &mut Html) {
    let events = || steps.iter().filter_map(|step| Some((step, session.events.get(step.event)?)));
    let count = |is: &dyn Fn(&Step, &Event) -> bool| {
        let found = events().filter(|(step, event)| is(step, event)).count();
        amount(i64::try_from(found).unwrap_or(i64::MAX))
    };
    let looks = |look: Look| count(&|_, event| event.is_statement() && Look::of(event) == look);
    let top = |step: &Step, event: &Event| step.depth == 0 && event.is_statement();
    let rows = events().filter(|(step, event)| top(step, event)).filter_map(|(_, event)| event.rows);
    let denied = looks(Look::Deny);
    let failed = looks(Look::Fail);
    let observed = looks(Look::Observe);
    body.raw("<div class=\"tiles\">\n");
    tile("", &count(&top), "statements", body);
    tile(if denied == "0" { "" } else { "deny" }, &denied, "denied", body);
    tile(if failed == "0" { "" } else { "fail" }, &failed, "failed", body);
    if observed != "0" {
        tile("observe", &observed, "would be denied", body);
    }
    let became = |effect: Effect| count(&|step, _| step.depth == 0 && step.effect == Some(effect));
    tile("", &became(Effect::Committed), "committed", body);
    tile("", &became(Effect::RolledBack), "rolled back", body);
    tile("", &amount(rows.fold(0, i64::saturating_add)), "rows returned or changed", body);
    if let Some((first, last)) = ends(session) {
        tile("", &span(last.saturating_sub(first)), "from first to last", body);
    }
    body.raw("</div>\n");
}

fn ends(session: &Session) -> Option<(i64, i64)> {
    let first = session.events.iter().map(|event| event.at).min()?;
    let last = session.events.iter().map(Event::ended_at).max()?;
    Some((first, last))
}

/// The width of the timeline in its own units.
const WIDE: i64 = 10_000;
/// The narrowest bar.
const NARROW: i64 = 28;

fn timeline(session: &Session, steps: &[Step], body: &mut Html) {
    let Some((first, last)) = ends(session) else { return };
    let whole = i128::from(last.saturating_sub(first).max(1));
    let scaled = |micros: i64| {
        let part = i128::from(micros.max(0)).saturating_mul(i128::from(WIDE - NARROW)) / whole;
        i64::try_from(part).unwrap_or(0)
    };
    body.raw("<h2>Timeline</h2>\n<div class=\"timeline\">\n<svg viewBox=\"0 0 10000 56\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"statements over time\">\n")
        .raw("<rect class=\"base\" x=\"0\" y=\"27\" width=\"10000\" height=\"2\"></rect>\n");
    for (number, step) in (1_i64..).zip(steps) {
        let Some(event) = session.events.get(step.event) else { continue };
        if step.depth > 0 {
            continue;
        }
        let look = Look::of(event);
        // What ran stands above the line, what was refused or failed hangs below it: told apart without colour.
        let y = if matches!(look, Look::Allow | Look::News | Look::Observe) { 4 } else { 29 };
        let title: String = event.text().chars().take(120).collect();
        body.raw("<a href=\"#s").number(number).raw("\"><rect class=\"").raw(look.class()).raw("\" x=\"");
        body.number(scaled(event.at.saturating_sub(first))).raw("\" y=\"").number(y).raw("\" width=\"");
        body.number(scaled(event.duration.unwrap_or(0)).max(NARROW)).raw("\" height=\"23\"><title>");
        body.text(if title.is_empty() { &event.event } else { &title }).raw("</title></rect></a>\n");
    }
    body.raw("</svg>\n<div class=\"ends\"><span>")
        .text(&moment(first))
        .raw(" UTC</span><span>")
        .text(&moment(last))
        .raw(" UTC, +")
        .text(&span(last.saturating_sub(first)))
        .raw("</span></div>\n<div class=\"legend\">");
    for look in [Look::Allow, Look::Deny, Look::Fail, Look::Observe, Look::News] {
        body.raw("<span><i class=\"").raw(look.class()).raw("\"></i>").raw(look.badge()).raw("</span>");
    }
    body.raw("</div>\n</div>\n");
}

fn list(session: &Session, steps: &[Step], body: &mut Html) {
    body.raw("<h2>Statements</h2>\n<div class=\"bar\"><input type=\"search\" id=\"search\" placeholder=\"Search statements, objects, errors\" aria-label=\"search\">");
    for (kind, label) in
        [("deny", "denied"), ("fail", "failed"), ("changes", "changes"), ("top", "the client's own")]
    {
        body.raw("<label><input type=\"checkbox\" data-kind=\"")
            .raw(kind)
            .raw("\"> ")
            .raw(label)
            .raw("</label>");
    }
    body.raw("<output id=\"found\"></output></div>\n");
    if session.left_out > 0 {
        body.raw("<p class=\"soft\">")
            .text(&amount(session.left_out))
            .raw(" later events are not on this page.</p>\n");
    }
    let first = ends(session).map_or(0, |(first, _)| first);
    for (number, step) in (1_i64..).zip(steps) {
        if let Some(event) = session.events.get(step.event) {
            article(number, step, event, event.at.saturating_sub(first), body);
        }
    }
    if steps.is_empty() {
        body.raw("<p>The audit trail holds nothing of this session.</p>\n");
    }
}

fn article(number: i64, step: &Step, event: &Event, since: i64, body: &mut Html) {
    let look = Look::of(event);
    let undone = step.effect == Some(Effect::RolledBack);
    let changes = matches!(step.effect, Some(Effect::Committed | Effect::RolledBack | Effect::Open));
    body.raw("<article id=\"s").number(number).raw("\" class=\"step ").raw(look.class());
    body.raw(match step.depth {
        0 => "",
        1 => " d1",
        2 => " d2",
        3 => " d3",
        _ => " d4",
    });
    body.raw(if undone { " undone" } else { "" }).raw("\" data-is=\"").raw(look.class());
    body.raw(if step.depth == 0 { " top" } else { "" }).raw(if changes { " changes" } else { "" });
    body.raw("\">\n<div class=\"what\"><a class=\"no\" href=\"#s")
        .number(number)
        .raw("\">")
        .number(number)
        .raw("</a>");
    body.raw("<span class=\"badge\">").raw(look.badge()).raw("</span><span class=\"mono\">");
    body.isolated(event.command.as_deref().unwrap_or(&event.event)).raw("</span>");
    if let Some(rule) = event.rule_id {
        body.raw("<span class=\"soft\">rule ").number(rule).raw("</span>");
    }
    body.raw("<span class=\"when\">+").text(&span(since)).raw("</span></div>\n");
    if event.is_statement() && !event.text().is_empty() {
        body.raw("<pre dir=\"ltr\">").text(event.text()).raw("</pre>\n");
    }
    parameters(event, body);
    error(event, body);
    came_back(step, event, body);
    results(event, body);
    accesses(event, body);
    body.raw("</article>\n");
}

fn parameters(event: &Event, body: &mut Html) {
    let Some(values) = event.parameters.as_deref().filter(|values| !values.is_empty()) else { return };
    body.raw("<div class=\"came\">").raw(if event.is_statement() { "parameters" } else { "blocks" });
    for (n, value) in (1_i64..).zip(values) {
        body.raw(" ");
        if event.is_statement() {
            body.raw("$").number(n).raw(" = ");
        }
        match value {
            Some(value) => body.raw("<code>").isolated(value).raw("</code>"),
            None => body.raw("NULL"),
        };
    }
    body.raw("</div>\n");
}

fn error(event: &Event, body: &mut Html) {
    if let Some(message) = event.message.as_deref() {
        let failed = event.sqlstate.is_some() || event.is_denied();
        body.raw("<div class=").raw(if failed { "\"error\">" } else { "\"came\">" });
        if let Some(code) = &event.sqlstate {
            body.raw("<b>").isolated(code).raw("</b> ");
        }
        body.isolated(message).raw("</div>\n");
    }
    for line in event.refused_accesses() {
        body.raw("<div class=\"error\">").isolated(&line).raw("</div>\n");
    }
}

fn came_back(step: &Step, event: &Event, body: &mut Html) {
    let Some(effect) = step.effect else { return };
    body.raw("<div class=\"came\">");
    let tag = event.tag();
    if event.sqlstate.is_none() && !tag.is_empty() {
        body.isolated(&tag).raw(" &middot; ");
    }
    if let Some(duration) = event.duration {
        body.text(&span(duration)).raw(" &middot; ");
    }
    body.raw(effect.word());
    if let Some(cut) = event.truncated.as_deref().filter(|cut| !cut.is_empty()) {
        body.raw(" &middot; not whole: ").isolated(&cut.join(", "));
    }
    if let Some(length) = event.statement_length.filter(|length| {
        i64::try_from(event.statement.as_deref().unwrap_or("").len()).is_ok_and(|kept| kept < *length)
    }) {
        body.raw(" &middot; ").text(&amount(length)).raw(" bytes of text in all");
    }
    body.raw("</div>\n");
}

/// More rows of one statement than these are left out of the page.
const ROWS_MAX: usize = 200;

fn results(event: &Event, body: &mut Html) {
    let Some(results) = &event.results else { return };
    let remark = results.remark();
    body.raw("<details class=\"result\"><summary>").text(&amount(results.row_count));
    body.raw(if results.row_count == 1 { " row received" } else { " rows received" });
    if let Some(remark) = &remark {
        body.raw(": ").isolated(remark);
    }
    body.raw("</summary>\n<div class=\"scroll\"><table>");
    let columns = results.columns.as_deref().unwrap_or(&[]);
    if !columns.is_empty() {
        body.raw("<tr>");
        for column in columns {
            body.raw(if column.is_number() { "<th class=\"num\">" } else { "<th>" });
            body.isolated(&column.name).raw("</th>");
        }
        body.raw("</tr>\n");
    }
    let kept = results.rows.as_ref().map_or(0, Vec::len);
    for values in results.rows().take(ROWS_MAX) {
        body.raw("<tr>");
        for (n, value) in values.iter().enumerate() {
            let number = columns.get(n).is_some_and(crate::replay::event::Column::is_number);
            body.raw(if number { "<td class=\"mono num\">" } else { "<td class=\"mono\">" });
            match value {
                Some(value) => body.isolated(value),
                None => body.raw("<span class=\"soft\">NULL</span>"),
            };
            body.raw("</td>");
        }
        body.raw("</tr>\n");
    }
    body.raw("</table></div>");
    if let Some(more) = kept.checked_sub(ROWS_MAX).filter(|more| *more > 0) {
        body.raw("<p class=\"soft\">")
            .text(&amount(i64::try_from(more).unwrap_or(i64::MAX)))
            .raw(" more rows are in the trail.</p>");
    }
    body.raw("</details>\n");
}

fn accesses(event: &Event, body: &mut Html) {
    let Some(accesses) = event.accesses.as_deref().filter(|accesses| !accesses.is_empty()) else { return };
    body.raw("<details><summary>").text(&amount(i64::try_from(accesses.len()).unwrap_or(i64::MAX)));
    body.raw(if accesses.len() == 1 { " access" } else { " accesses" });
    body.raw("</summary>\n<div class=\"scroll\"><table><tr><th>decision</th><th>action</th><th>object</th><th>columns</th><th class=\"num\">rule</th></tr>\n");
    for access in accesses {
        row(access, body);
    }
    body.raw("</table></div></details>\n");
}

fn row(access: &Access, body: &mut Html) {
    let class = match access.decision.as_deref() {
        Some("deny") => "deny",
        Some("allow") => "allow",
        _ => "",
    };
    body.raw("<tr><td class=\"").raw(class).raw("\">").isolated(access.decision.as_deref().unwrap_or(""));
    body.raw("</td><td>").isolated(&access.action);
    body.raw("</td><td class=\"mono\">").isolated(access.object.as_deref().unwrap_or(""));
    body.raw("</td><td class=\"mono\">")
        .isolated(access.columns.as_deref().unwrap_or(""))
        .raw("</td><td class=\"num\">");
    if let Some(rule) = access.rule {
        body.number(rule);
    }
    body.raw("</td></tr>\n");
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
