//! The page of a blast radius: what a role reaches without the guard, what is left of it under a policy, and the agents
//! that have worked under that policy.

#![forbid(unsafe_code)]

use serde::Deserialize;

use super::html::Html;
use super::page::page;
use super::words::{amount, moment};

/// What the page tells of, as sql/reach.sql collects it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Reach {
    /// The role.
    pub role: String,
    /// The policy; `None` for the role alone.
    pub policy: Option<String>,
    /// The database.
    pub database: String,
    /// Whether the role is guarded.
    pub guarded: bool,
    /// Microseconds since the Unix epoch.
    pub made_at: i64,
    /// Each kind of thing that can be reached.
    pub kinds: Vec<Kind>,
    /// Windows of the role under the policy, each with its agents as indented lines.
    pub windows: Vec<Window>,
}

/// One kind.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Kind {
    /// Its name.
    pub kind: String,
    /// How many the role reaches by its privileges.
    pub without_guard: i64,
    /// How many of them the policy leaves.
    pub with_policy: Option<i64>,
    /// The objects, each once for each action; at most so many as the SQL function gives.
    pub objects: Vec<Object>,
    /// How many more there are.
    pub more: i64,
}

/// One object that can be reached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are the columns of agent_guard.reach")]
pub struct Object {
    pub object: String,
    pub action: String,
    pub rows: Option<i64>,
    pub with_policy: Option<bool>,
    pub rule_id: Option<i64>,
    pub reason: Option<String>,
}

/// A window and its agents.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the fields are columns of the view windows")]
pub struct Window {
    pub window_id: String,
    pub agent: String,
    pub state: String,
    pub tree: Vec<String>,
}

/// The page.
pub fn reach(reach: &Reach) -> String {
    let mut body = Html::default();
    body.raw("<header>\n<div class=\"soft\">Blast radius</div>\n<h1>").isolated(&reach.role);
    match &reach.policy {
        Some(policy) => body.raw("<span class=\"arrow\">under</span>").isolated(policy),
        None => body.raw("<span class=\"arrow\">by its own privileges</span>"),
    };
    body.raw("</h1>\n<p>What the role can reach in database ").isolated(&reach.database);
    body.raw(" by the privileges that it has");
    body.raw(match (&reach.policy, reach.guarded) {
        (Some(_), _) => ", and what is left of it for an agent whose token is bound to the policy",
        (None, true) => ". It is guarded: without a token it reaches nothing of this",
        (None, false) => ". It is not guarded: whoever logs in as it reaches all of this",
    });
    body.raw(". Rows are the server's estimates.</p>\n");
    if reach.policy.is_some() && !reach.guarded {
        body.raw(
            "<p class=\"error\">The role is not guarded: no policy holds it until guard_role is run.</p>\n",
        );
    }
    body.raw("</header>\n<main>\n");
    summary(reach, &mut body);
    agents(reach, &mut body);
    objects(reach, &mut body);
    body.raw("</main>\n<footer>Made by agent_guard in database ").isolated(&reach.database);
    body.raw(" on ").text(&moment(reach.made_at)).raw(" UTC.</footer>\n");
    page(&format!("Blast radius of {}", reach.role), &body)
}

/// The width of a meter in its own units.
const WIDE: i64 = 1000;

fn summary(reach: &Reach, body: &mut Html) {
    let compared = reach.policy.is_some();
    body.raw("<div class=\"scroll\"><table><tr><th>what</th><th class=\"num\">without the guard</th>");
    if compared {
        body.raw("<th class=\"num\">with the policy</th><th></th>");
    }
    body.raw("</tr>\n");
    for kind in &reach.kinds {
        body.raw("<tr><td class=\"short\">")
            .isolated(&kind.kind)
            .raw("</td><td class=\"num\">")
            .text(&amount(kind.without_guard));
        body.raw("</td>");
        if let Some(with) = kind.with_policy {
            body.raw("<td class=\"num\"><b>").text(&amount(with)).raw("</b></td><td>");
            meter(with, kind.without_guard, body);
            body.raw("</td>");
        } else if compared {
            body.raw("<td></td><td></td>");
        }
        body.raw("</tr>\n");
    }
    body.raw("</table></div>\n");
}

fn meter(with: i64, without: i64, body: &mut Html) {
    let part = i128::from(with.max(0)).saturating_mul(i128::from(WIDE)) / i128::from(without.max(1));
    let part = i64::try_from(part).unwrap_or(WIDE).min(WIDE);
    // What is left at all is seen.
    let width = if with > 0 { part.max(12) } else { 0 };
    body.raw("<svg class=\"meter\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"without\" x=\"0\" y=\"0\" height=\"10\" width=\"");
    body.number(if without > 0 { WIDE } else { 0 }).raw("\"></rect><rect class=\"");
    body.raw(if with >= without { "same" } else { "with" }).raw("\" x=\"0\" y=\"0\" height=\"10\" width=\"");
    body.number(width).raw("\"></rect></svg>");
}

fn agents(reach: &Reach, body: &mut Html) {
    if reach.windows.is_empty() {
        return;
    }
    body.raw("<h2>Windows and their agents</h2>\n");
    for window in &reach.windows {
        body.raw("<pre class=\"tree\" dir=\"ltr\">")
            .text(&window.agent)
            .raw("  <span class=\"soft\">window ");
        body.text(&window.window_id).raw(", ").text(&window.state).raw("</span>");
        for line in &window.tree {
            body.raw("\n  ").text(line);
        }
        body.raw("</pre>\n");
    }
}

fn objects(reach: &Reach, body: &mut Html) {
    body.raw("<h2>Objects</h2>\n<div class=\"bar\"><input type=\"search\" id=\"search\" placeholder=\"Search objects, actions, reasons\" aria-label=\"search\">");
    if reach.policy.is_some() {
        body.raw("<label><input type=\"checkbox\" data-kind=\"left\"> still reached</label><label><input type=\"checkbox\" data-kind=\"cut\"> cut off</label>");
    }
    body.raw("<output id=\"found\"></output></div>\n");
    for kind in reach.kinds.iter().filter(|kind| !kind.objects.is_empty()) {
        body.raw("<h2>").isolated(&kind.kind).raw("</h2>\n<div class=\"scroll\"><table><tr><th>object</th><th>action</th><th class=\"num\">rows</th>");
        body.raw(if reach.policy.is_some() { "<th>with the policy</th></tr>\n" } else { "</tr>\n" });
        for object in &kind.objects {
            row(object, reach.policy.is_some(), body);
        }
        body.raw("</table></div>\n");
        if kind.more > 0 {
            body.raw("<p class=\"soft\">and ").text(&amount(kind.more)).raw(" more</p>\n");
        }
    }
}

fn row(object: &Object, compared: bool, body: &mut Html) {
    body.raw("<tr data-is=\"").raw(if object.with_policy == Some(true) { "left" } else { "cut" });
    body.raw("\"><td class=\"mono\">")
        .isolated(&object.object)
        .raw("</td><td class=\"short\">")
        .isolated(&object.action);
    body.raw("</td><td class=\"num\">");
    if let Some(rows) = object.rows {
        body.text(&amount(rows));
    }
    body.raw("</td>");
    if compared {
        match object.with_policy {
            Some(true) => body.raw("<td class=\"deny\">reached"),
            Some(false) => body.raw("<td class=\"allow\">cut off"),
            None => body.raw("<td>"),
        };
        let masked = object.reason.as_deref() == Some("masked");
        match (object.rule_id, object.with_policy) {
            (Some(rule), _) => body.raw(", rule ").number(rule),
            (None, Some(false)) if !masked => body.raw(", no rule allows it"),
            (None, _) => body,
        };
        // Of what no rule allows the reason says no more than that.
        if let Some(reason) = object.reason.as_ref().filter(|_| masked || object.rule_id.is_some()) {
            body.raw(" <span class=\"soft\">").isolated(reason).raw("</span>");
        }
        body.raw("</td>");
    }
    body.raw("</tr>\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with(text: &str) -> Reach {
        let object = |left: bool| Object {
            object: text.into(),
            action: text.into(),
            rows: Some(1_234_567),
            with_policy: Some(left),
            rule_id: Some(3),
            reason: Some(text.into()),
        };
        Reach {
            role: text.into(),
            policy: Some(text.into()),
            database: text.into(),
            guarded: true,
            made_at: 0,
            kinds: vec![Kind {
                kind: text.into(),
                without_guard: 9,
                with_policy: Some(1),
                objects: vec![object(true), object(false)],
                more: 7,
            }],
            windows: vec![Window {
                window_id: text.into(),
                agent: text.into(),
                state: text.into(),
                tree: vec![text.into()],
            }],
        }
    }

    fn tags(page: &str) -> Vec<&str> {
        let tags = page.split('<').skip(1).map(|tag| tag.split_once('>').unwrap().0);
        tags.filter(|tag| *tag != "span class=\"h\"" && *tag != "/span").collect()
    }

    #[test]
    fn the_page_compares() {
        let page = reach(&with("app.t"));
        for words in ["with the policy", "reached, rule 3", "cut off", "1,234,567", "and 7 more"] {
            assert!(page.contains(words), "{words}");
        }
        let alone = reach(&Reach { policy: None, ..with("app.t") });
        assert!(!alone.contains("with the policy") && alone.contains("without a token it reaches nothing"));
        let open = reach(&Reach { guarded: false, ..with("app.t") });
        assert!(open.contains("no policy holds it until guard_role"));
    }

    proptest! {
        #[test]
        fn no_text_changes_the_page(text in "(?s)(.|[<>&\"'/=!\\-]|</?script>|\u{202e}|\u{0}){0,30}") {
            let (hostile, plain) = (reach(&with(&text)), reach(&with("plain")));
            prop_assert_eq!(tags(&hostile), tags(&plain));
        }

        #[test]
        fn any_amounts_can_be_drawn(with in any::<i64>(), without in any::<i64>()) {
            let mut html = Html::default();
            meter(with, without, &mut html);
            prop_assert!(!html.into_string().contains("width=\"-"));
        }
    }
}
