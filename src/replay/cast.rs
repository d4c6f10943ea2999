//! A session as an asciicast v2: played in a terminal as if somebody had typed it in psql.
//!
//! The statements are the agent's words: what is typed and printed passes `visible`, so the only escape sequences in the
//! recording are this file's. Result rows are printed where they are recorded (`table`), else their number alone.

#![forbid(unsafe_code)]

use std::fmt::Write;

use super::event::Event;
use super::order::{self, Effect, Step};
use super::table::{self, Cell};
use crate::ascii_json::push_string;
use crate::visible::{self, Piece};

/// What is played, and how.
#[derive(Clone, Copy, Debug)]
pub struct Cast<'a> {
    /// The title in the header.
    pub title: &'a str,
    /// The database in the prompt.
    pub database: &'a str,
    /// The longest pause, in microseconds: longer ones are cut to it.
    pub max_pause: i64,
}

const WIDTH: u32 = 100;
const HEIGHT: u32 = 32;
/// Typing: microseconds for a keystroke, and at most for a statement.
const KEYSTROKE: i64 = 25_000;
const TYPING_MAX: i64 = 1_500_000;
/// A statement is typed in at most this many pieces.
const STROKES_MAX: usize = 60;

const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const GREEN: &str = "\x1b[32m";
const DIM: &str = "\x1b[2m";
const INVERSE: &str = "\x1b[7m";
const NOT_INVERSE: &str = "\x1b[27m";
const RESET: &str = "\x1b[0m";

/// The recording: a header line, then one line for each piece of output.
pub fn asciicast(events: &[Event], cast: Cast<'_>) -> String {
    let first = events.iter().map(|event| event.at).min().unwrap_or(0);
    let mut player =
        Player { cast, out: String::new(), now: 0, prompt: Prompt::Idle, printed: String::new() };
    let _ = write!(
        player.out,
        "{{\"version\":2,\"width\":{WIDTH},\"height\":{HEIGHT},\"timestamp\":{},\"title\":",
        first.div_euclid(1_000_000)
    );
    push_string(cast.title, &mut player.out);
    player.out.push_str(",\"env\":{\"SHELL\":\"psql\",\"TERM\":\"xterm-256color\"}}\n");
    let mut last_end = first;
    let steps = order::steps(events);
    for (at, step) in steps.iter().enumerate() {
        let Some(event) = events.get(step.event) else { continue };
        if step.depth > 0 {
            continue;
        }
        player.wait(event.at.saturating_sub(last_end));
        last_end = event.ended_at().max(last_end);
        player.typed_statement(event);
        let behind = steps.get(at.saturating_add(1)..).unwrap_or(&[]);
        for one in behind.iter().take_while(|one| one.depth > 0) {
            if let Some(event) = events.get(one.event) {
                player.nested(event, one);
            }
        }
        player.outcome(event, step);
    }
    player.wait(1_000_000);
    player.print(&format!("{DIM}-- end of the recording{RESET}\r\n"));
    player.flush();
    // Whoever writes the text to a file ends its last line.
    player.out.truncate(player.out.trim_end().len());
    player.out
}

/// What psql's prompt tells of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prompt {
    Idle,
    Block,
    Failed,
}

struct Player<'a> {
    cast: Cast<'a>,
    out: String,
    /// Microseconds since the beginning of the recording.
    now: i64,
    prompt: Prompt,
    /// Printed at `now`, not yet written.
    printed: String,
}

impl Player<'_> {
    fn wait(&mut self, micros: i64) {
        self.flush();
        self.now = self.now.saturating_add(micros.clamp(0, self.cast.max_pause.max(0)));
    }

    fn print(&mut self, text: &str) {
        self.printed.push_str(text);
    }

    /// Writes what was printed at this moment as one line.
    fn flush(&mut self) {
        if self.printed.is_empty() {
            return;
        }
        let (seconds, micros) = (self.now.div_euclid(1_000_000), self.now.rem_euclid(1_000_000));
        let _ = write!(self.out, "[{seconds}.{micros:06},\"o\",");
        push_string(&std::mem::take(&mut self.printed), &mut self.out);
        self.out.push_str("]\n");
    }

    /// The prompt and what the client sent, or a line of news of the session.
    fn typed_statement(&mut self, event: &Event) {
        if !event.is_statement() {
            let colour = if event.is_denied() { RED } else { GREEN };
            let what = event.message.as_deref().unwrap_or(&event.event);
            self.print(&format!("{colour}-- {}: {}{RESET}\r\n", shown(&event.event, ""), shown(what, "")));
            self.results(event);
            return;
        }
        let mark = match self.prompt {
            Prompt::Idle => "=>",
            Prompt::Block => "=*>",
            Prompt::Failed => "=!>",
        };
        let database = shown(self.cast.database, "");
        self.print(&format!("{database}{mark} "));
        let continued = format!("{database}{}> ", mark.replace('>', "").replace('=', "-"));
        self.typed(&shown(event.text(), &continued));
        let parameters = event.parameters.as_deref().unwrap_or(&[]);
        if event.text().is_empty() {
            let command = event.command.as_deref().unwrap_or("(no text)");
            self.print(&format!("{DIM}-- {}{RESET}", shown(command, "")));
        } else if parameters.is_empty() {
            self.print(";");
        } else {
            self.print(" \\bind");
            for value in parameters {
                let value = value.as_ref().map_or("NULL".to_owned(), |value| {
                    format!("'{}'", shown(&value.replace('\'', "''"), ""))
                });
                self.print(&format!(" {value}"));
            }
            self.print(" \\g");
        }
        let truncated = event.truncated.iter().flatten().any(|name| name == "statement");
        if let (true, Some(length)) = (truncated, event.statement_length) {
            self.print(&format!("{DIM} -- {length} bytes, cut here{RESET}"));
        }
        self.print("\r\n");
        self.wait(event.duration.unwrap_or(0));
    }

    /// Types a text that is ready to be printed: in pieces, as a hand would.
    fn typed(&mut self, text: &str) {
        let characters: Vec<char> = text.chars().collect();
        let stroke = characters.len().div_ceil(STROKES_MAX).max(1);
        let strokes = i64::try_from(characters.len().div_ceil(stroke)).unwrap_or(1).max(1);
        let pause = KEYSTROKE.min(TYPING_MAX / strokes);
        for piece in characters.chunks(stroke) {
            self.flush();
            self.now = self.now.saturating_add(pause);
            self.printed.extend(piece);
        }
    }

    /// A statement that ran inside another one.
    fn nested(&mut self, event: &Event, step: &Step) {
        let indent = "  ".repeat(step.depth.min(20));
        let colour = if event.sqlstate.is_some() { RED } else { DIM };
        let command = event.command.as_deref().unwrap_or("").to_owned();
        let text = if event.text().is_empty() { &command } else { event.text() };
        let continued = format!("{indent}   ");
        self.print(&format!("{colour}{indent}-> {}{RESET}\r\n", shown(text, &continued)));
        let came_back = match (&event.sqlstate, &event.message) {
            (Some(code), message) => format!("ERROR:  {code}: {}", message.as_deref().unwrap_or("")),
            (None, _) => event.tag(),
        };
        if !came_back.is_empty() {
            self.print(&format!("{colour}{indent}   {}{RESET}\r\n", shown(&came_back, &continued)));
        }
    }

    /// What psql prints when the statement has ended.
    fn outcome(&mut self, event: &Event, step: &Step) {
        if !event.is_statement() {
            return;
        }
        self.results(event);
        let failed = event.sqlstate.is_some() || event.is_denied();
        if failed {
            let code = event.sqlstate.as_deref().unwrap_or("");
            let message = event.message.as_deref().unwrap_or("");
            self.print(&format!(
                "{RED}ERROR:  {}: {}{RESET}\r\n",
                shown(code, ""),
                shown(message, "        ")
            ));
        } else {
            self.print(&format!("{}\r\n", shown(&event.tag(), "")));
        }
        for line in event.refused_accesses() {
            let (word, colour) =
                if event.is_denied() { ("DETAIL", RED) } else { ("would be denied", YELLOW) };
            self.print(&format!("{colour}{word}:  {}{RESET}\r\n", shown(&line, "")));
        }
        if let Some(micros) = event.duration {
            let _ = write!(
                self.printed,
                "{DIM}Time: {}.{:03} ms{}{RESET}\r\n",
                micros / 1000,
                micros % 1000,
                match step.effect {
                    Some(Effect::RolledBack) => " -- rolled back later",
                    Some(Effect::Open) => " -- not committed yet",
                    _ => "",
                }
            );
        }
        self.prompt = self.prompt_after(event, failed);
    }

    /// The rows that are recorded, as psql prints them.
    fn results(&mut self, event: &Event) {
        let Some(results) = &event.results else { return };
        let cell = |text: &str| Cell { width: visible::width(text, |_| false), shown: shown_in_line(text) };
        let lines = table::lines(results, cell);
        for line in lines {
            self.printed.push_str(&line);
            self.printed.push_str("\r\n");
        }
        if let Some(remark) = results.remark() {
            self.print(&format!("{DIM}-- {}{RESET}\r\n", shown(&remark, "")));
        }
    }

    fn prompt_after(&self, event: &Event, failed: bool) -> Prompt {
        let command = event.command.as_deref().unwrap_or("");
        match (self.prompt, failed) {
            (Prompt::Idle, true) => Prompt::Idle,
            (_, true) if !matches!(command, "COMMIT" | "PREPARE TRANSACTION") => Prompt::Failed,
            (_, true) => Prompt::Idle,
            (before, false) => match command {
                "BEGIN" | "START TRANSACTION" => Prompt::Block,
                "COMMIT" | "ROLLBACK" if chains(event.text()) => Prompt::Block,
                "COMMIT" | "PREPARE TRANSACTION" => Prompt::Idle,
                "ROLLBACK" if rolls_back_to_a_savepoint(event.text()) => Prompt::Block,
                "ROLLBACK" => Prompt::Idle,
                _ => before,
            },
        }
    }
}

/// ROLLBACK [WORK | TRANSACTION] TO …; the tag does not tell.
fn rolls_back_to_a_savepoint(text: &str) -> bool {
    let words = words(text);
    let second = words
        .iter()
        .skip(1)
        .find(|word| !word.eq_ignore_ascii_case("work") && !word.eq_ignore_ascii_case("transaction"));
    second.is_some_and(|word| word.eq_ignore_ascii_case("to"))
}

/// COMMIT or ROLLBACK … AND CHAIN: another transaction has begun.
fn chains(text: &str) -> bool {
    let words = words(text);
    let last = |n: usize| words.iter().rev().nth(n).map_or("", String::as_str);
    last(0).eq_ignore_ascii_case("chain") && last(1).eq_ignore_ascii_case("and")
}

/// The words of a statement without its comments.
fn words(text: &str) -> Vec<String> {
    let mut rest = text;
    let mut plain = String::new();
    while let Some(at) = rest.find("/*") {
        let (before, comment) = rest.split_at_checked(at).unwrap_or((rest, ""));
        plain.push_str(before);
        plain.push(' ');
        rest = comment.split_once("*/").map_or("", |(_, behind)| behind);
    }
    plain.push_str(rest);
    let words = plain.lines().flat_map(|line| line.split("--").next().unwrap_or("").split_whitespace());
    words.map(str::to_owned).collect()
}

/// A recorded text as it is printed: lines end as a terminal needs it and go on behind `continued`, and whatever would
/// drive the terminal is shown by name.
fn shown(text: &str, continued: &str) -> String {
    let mut out = String::with_capacity(text.len().saturating_add(16));
    for piece in visible::pieces(text, |c| c == '\n' || c == '\t') {
        match piece {
            Piece::Plain(plain) => {
                for (n, line) in plain.split('\n').enumerate() {
                    if n > 0 {
                        out.push_str("\r\n");
                        out.push_str(continued);
                    }
                    out.push_str(&line.replace('\t', "    "));
                }
            }
            Piece::Hidden(c) => {
                let _ = write!(out, "{INVERSE}{}{NOT_INVERSE}", visible::name(c));
            }
        }
    }
    out
}

/// A recorded text as it is printed within a line.
fn shown_in_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in visible::pieces(text, |_| false) {
        match piece {
            Piece::Plain(plain) => out.push_str(plain),
            Piece::Hidden(c) => {
                let _ = write!(out, "{INVERSE}{}{NOT_INVERSE}", visible::name(c));
            }
        }
    }
    out
}

#[cfg(test)]
#[path = "cast_tests.rs"]
mod tests;
