//! Secrets out of statement text, before anything keeps it.
//!
//! Works on text alone, so it may take out too much, never on purpose too little: tokens and proofs of agent_guard
//! wherever they stand (a token in hexadecimal and base64 too), the value of agent_guard.token, what follows the name of a password or of
//! another secret, be it a column's default, passwords in connection strings and for curl and sshpass, the header Authorization, private keys. A text is read as the server reads it (`sql_text`): what a literal says is looked at as a text by itself,
//! so nested statements, bodies, escapes and literals that are put together hide nothing.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::sign;
use super::sql_text::{Kind, Piece, pieces};

/// What stands in a secret's place.
pub const REDACTED: &str = "<redacted>";

/// Texts within texts are looked at so deep; what lies deeper goes as a whole.
const DEPTH: usize = 8;
/// A secret shorter than this is not looked for elsewhere: it would be found in every other word.
const SHORTEST: usize = 3;

/// What is a secret wherever it stands.
static SECRETS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // A token or a proof, whole or cut, in any position; the blocks of one, which are those of other signed tokens too.
        (r"\bag([tp])1\.[A-Za-z0-9_.-]{8,}", "ag${1}1.<redacted>"),
        (r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]{8,})+", REDACTED),
        // postgresql://user:x@host
        (r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s/:@']*:)[^\s@]+@", "${1}<redacted>@"),
        // A token byte by byte, as bytea is written, and in base64, whose letters depend on what stands before.
        (r"(?i)616774312e(?:[0-9a-f]{2}){8,}", REDACTED),
        (r"YWd0MS[4-7](?:[A-Za-z0-9+/_=-]|\n[A-Za-z0-9+/_=-]{16,}){8,}", REDACTED),
        (r"[GWm2]FndDEu(?:[A-Za-z0-9+/_=-]|\n[A-Za-z0-9+/_=-]{16,}){8,}", REDACTED),
        (r"hZ3QxL[g-v](?:[A-Za-z0-9+/_=-]|\n[A-Za-z0-9+/_=-]{16,}){8,}", REDACTED),
        // Authorization: Basic dXNlcjp4, and without a word for how, where it is too long for such a word.
        (
            r#"(?i)(\bauthorization["']*\s*(?::=|=>|[:=])\s*["']*(?:basic|bearer|token|digest|negotiate|apikey)\s+)[^\s"',;<][^\s"',;]*"#,
            "${1}<redacted>",
        ),
        (
            r#"(?i)(\bauthorization["']*\s*(?::=|=>|[:=])\s*["']*)[^\s"',;<][^\s"',;]{11,}"#,
            "${1}<redacted>",
        ),
        (r"(?i)(\bbearer\s+)[A-Za-z0-9+/_.~-]{16,}=*", "${1}<redacted>"),
        // curl -u user:x
        (
            r#"(?i)(\bcurl(?:\.exe)?\b[^\n]*?\s(?:-[a-z]*u|--user|--proxy-user)[\s=]*"[^":\n]*:)[^"<][^"]*"#,
            "${1}<redacted>",
        ),
        (
            r"(?i)(\bcurl(?:\.exe)?\b[^\n]*?\s(?:-[a-z]*u|--user|--proxy-user)[\s=]*'[^':\n]*:)[^'<][^']*",
            "${1}<redacted>",
        ),
        (
            r#"(?i)(\bcurl(?:\.exe)?\b[^\n]*?\s(?:-[a-z]*u|--user|--proxy-user)[\s=]*[^\s:"']+:)[^\s"'<][^\s"']*"#,
            "${1}<redacted>",
        ),
        (r#"(?i)(\bsshpass\s+-p\s*["']*)[^\s"'<][^\s"']*"#, "${1}<redacted>"),
        (r"(?s)(-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----).*?(-----END |\z)", "${1}<redacted>${2}"),
    ]
    .into_iter()
    .filter_map(|(pattern, with)| Regex::new(pattern).ok().map(|regex| (regex, with)))
    .collect()
});

/// Something that is put together behind it, or formatted into it, is a secret.
static OPEN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?i)(?:passw(?:or)?d|passphrase|\bpwd)\s*(?:=\s*)?'*(?:\z|%[0-9$-]*[sLI])").ok()
});

/// How much is a secret behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Named {
    /// A password, the token: whatever follows.
    Password,
    /// Anything else that is called a secret: literals.
    Secret,
    /// A header or member of that name, which is a word of SQL as well: a literal behind `:`, `=` or a comma.
    Member,
}

fn named(name: &str, before: &str) -> Option<Named> {
    let name = name.trim().to_ascii_lowercase();
    let (owner, name) = name.rsplit_once('.').unwrap_or((before, &name));
    let is = |words: &[&str]| words.iter().any(|word| name.contains(word));
    if is(&["passw", "passphrase"]) || name == "pwd" || name.ends_with("_pwd") {
        return Some(Named::Password);
    }
    if name == "token" && owner.trim_matches('"').eq_ignore_ascii_case("agent_guard") {
        return Some(Named::Password);
    }
    let secret = is(&[
        "secret",
        "api_key",
        "api-key",
        "apikey",
        "access_key",
        "accesskey",
        "private_key",
        "credential",
    ]);
    if secret || name == "token" || name.ends_with("_token") {
        return Some(Named::Secret);
    }
    matches!(name, "authorization" | "proxy-authorization").then_some(Named::Member)
}

/// The text without secrets; borrowed where it has none.
pub fn redact(text: &str) -> Cow<'_, str> {
    redacted(text, &mut Vec::new())
}

/// A message about a statement, without its secrets: the server quotes what it stumbles over.
pub fn redact_beside<'a>(message: &'a str, statement: &str) -> Cow<'a, str> {
    let secrets = secrets_of(statement);
    match redacted(message, &mut Vec::new()) {
        Cow::Borrowed(message) => without(message, &secrets),
        Cow::Owned(clean) => Cow::Owned(without(&clean, &secrets).into_owned()),
    }
}

/// The secrets that a text names, as they stand in it and as they are meant.
pub fn secrets_of(text: &str) -> Vec<String> {
    let mut secrets = Vec::new();
    let _ = redacted(text, &mut secrets);
    secrets.retain(|secret| secret.len() >= SHORTEST);
    secrets
}

/// A text without what is known to be secret from elsewhere.
pub fn without<'a>(text: &'a str, secrets: &[String]) -> Cow<'a, str> {
    let mut clean = Cow::Borrowed(text);
    let mut by_length: Vec<_> = secrets.iter().collect();
    by_length.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in by_length {
        if clean.contains(secret.as_str()) {
            clean = Cow::Owned(clean.replace(secret.as_str(), REDACTED));
        }
    }
    clean
}

fn redacted<'a>(text: &'a str, secrets: &mut Vec<String>) -> Cow<'a, str> {
    if !sign::any(text) {
        return Cow::Borrowed(text);
    }
    let mut clean = Cow::Borrowed(text);
    if let Some(read) = Reader::new(text, 0, false).read(secrets) {
        clean = Cow::Owned(read);
    }
    // Which of both the session means is not known here.
    if clean.contains("\\'")
        && let Some(read) = Reader::new(&clean, 0, true).read(secrets)
    {
        clean = Cow::Owned(read);
    }
    match anywhere(&clean, secrets) {
        Some(replaced) => Cow::Owned(replaced),
        None => clean,
    }
}

/// Takes out what is a secret wherever it stands; `None` where there is nothing.
fn anywhere(text: &str, secrets: &mut Vec<String>) -> Option<String> {
    let mut clean = Cow::Borrowed(text);
    for (regex, with) in SECRETS.iter() {
        // Again, because what was found may reach over a second one. What is put in is not found again, so this ends.
        while let Some(replaced) = replaced(regex, with, &clean, secrets) {
            clean = Cow::Owned(replaced);
        }
    }
    match clean {
        Cow::Owned(clean) if clean != text => Some(clean),
        _ => None,
    }
}

/// A text with what the pattern finds replaced; `None` where that changes nothing.
fn replaced(regex: &Regex, with: &str, text: &str, secrets: &mut Vec<String>) -> Option<String> {
    let replaced = regex.replace_all(text, |captures: &Captures| {
        let mut replacement = String::new();
        captures.expand(with, &mut replacement);
        if let Some(all) = captures.get(0).filter(|all| all.as_str() != replacement) {
            secrets.push(all.as_str().to_owned());
        }
        replacement
    });
    match replaced {
        Cow::Owned(replaced) if replaced != text => Some(replaced),
        _ => None,
    }
}

/// What the pieces before lead to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Nothing.
    Anything,
    /// A secret's name: a literal, or what leads to one.
    Name(Named),
    /// A literal that says a secret's name: an argument.
    Said(Named),
    /// What was to come between: now the value.
    Value(Named),
}

/// Reads one text.
struct Reader<'a> {
    text: &'a str,
    escapes: bool,
    depth: usize,
    clean: String,
    changed: bool,
    expected: Expected,
    /// The word before, for names in two parts.
    before: &'a str,
    /// CREATE or ALTER has just come, and then ROLE, USER or GROUP: the word behind PASSWORD is one, however wrong.
    defines: bool,
    of_role: bool,
    /// Something that ends in a password is being put together.
    open: bool,
    /// The column or parameter that is being described holds a secret: its default is one.
    holds: Option<Named>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, depth: usize, escapes: bool) -> Reader<'a> {
        Reader {
            text,
            escapes,
            depth,
            clean: String::new(),
            changed: false,
            expected: Expected::Anything,
            before: "",
            defines: false,
            of_role: false,
            open: false,
            holds: None,
        }
    }

    /// The text without secrets; `None` where it has none.
    fn read(mut self, secrets: &mut Vec<String>) -> Option<String> {
        let all = pieces(self.text, self.escapes);
        let mut at = 0;
        while let Some(piece) = all.get(at) {
            at = at.saturating_add(self.take(piece, all.get(at..).unwrap_or(&[]), secrets).max(1));
        }
        self.changed.then_some(self.clean)
    }

    /// Takes a piece and perhaps some of those behind it; how many.
    fn take(&mut self, piece: &Piece<'_>, all: &[Piece<'a>], secrets: &mut Vec<String>) -> usize {
        if let Expected::Value(named) = self.expected
            && let Some(taken) = self.value(named, all, secrets)
        {
            return taken;
        }
        if piece.is_literal() {
            return self.literal(all, secrets);
        }
        match piece.kind {
            Kind::Blank => self.keep(piece.whole),
            Kind::Comment => match self.inner(piece.within, secrets) {
                Some(clean) => {
                    let (front, back) = piece.whole.split_once(piece.within).unwrap_or((piece.whole, ""));
                    self.put(&format!("{front}{clean}{back}"));
                }
                None => self.keep(piece.whole),
            },
            Kind::Word | Kind::Name | Kind::Unicode => return self.word(piece, all, secrets),
            _ => {
                self.mark(piece.whole, all);
                self.keep(piece.whole);
            }
        }
        1
    }

    fn keep(&mut self, text: &str) {
        self.clean.push_str(text);
    }

    fn put(&mut self, text: &str) {
        self.clean.push_str(text);
        self.changed = true;
    }

    /// A text within this one.
    fn inner(&self, text: &str, secrets: &mut Vec<String>) -> Option<String> {
        if !sign::any(text) {
            return None;
        }
        if self.depth >= DEPTH {
            return Some(REDACTED.to_owned());
        }
        let read = Reader::new(text, self.depth.saturating_add(1), false).read(secrets);
        let twice = read.as_deref().unwrap_or(text);
        let again = twice
            .contains("\\'")
            .then(|| Reader::new(twice, self.depth.saturating_add(1), true).read(secrets));
        let read = again.flatten().or(read);
        anywhere(read.as_deref().unwrap_or(text), secrets).or(read)
    }

    /// A name or a word that is not expected to be a secret.
    fn word(&mut self, piece: &Piece<'_>, all: &[Piece<'a>], secrets: &mut Vec<String>) -> usize {
        let said = piece.said();
        let is = |words: &[&str]| {
            piece.kind == Kind::Word && words.iter().any(|word| said.eq_ignore_ascii_case(word))
        };
        if let Expected::Name(named) = self.expected {
            if is(&["to"]) {
                self.expected = Expected::Value(named);
                self.keep(piece.whole);
                return 1;
            }
            if named == Named::Password && is(&["in", "like", "ilike", "not", "similar"]) {
                self.keep(piece.whole);
                return 1;
            }
            // A syntax error, and still a password.
            let none = is(&[
                "null",
                "valid",
                "login",
                "nologin",
                "superuser",
                "nosuperuser",
                "inherit",
                "connection",
                "in",
                "user",
            ]);
            if named == Named::Password && self.of_role && !none {
                return self.bare(all, secrets);
            }
        }
        self.of_role |= self.defines && is(&["role", "user", "group"]);
        self.defines = is(&["create", "alter"]);
        self.of_role &= !is(&["mapping"]);
        let name = named(&said, self.before);
        self.holds = name.filter(|name| *name != Named::Member).or(self.holds);
        self.expected = match name.or_else(|| self.holds.filter(|_| is(&["default"]))) {
            Some(name) => Expected::Name(name),
            None => Expected::Anything,
        };
        self.before = all.first().map_or("", |piece| piece.within);
        if piece.kind != Kind::Word
            && let Some(clean) = self.inner(piece.within, secrets)
        {
            self.put(&piece.whole.replacen(piece.within, &clean, 1));
            return 1;
        }
        self.keep(piece.whole);
        1
    }

    /// A character between words.
    fn mark(&mut self, mark: &str, all: &[Piece<'_>]) {
        let next = all.get(1).map_or("", |piece| piece.whole);
        self.expected = match (mark, self.expected) {
            ("=", Expected::Name(named) | Expected::Said(named)) => Expected::Value(named),
            // `:=`, and the key of a JSON object; `::` is a cast.
            (":", Expected::Name(_) | Expected::Said(_)) if next == ":" => Expected::Anything,
            (":", Expected::Name(named) | Expected::Said(named)) if next != "=" => Expected::Value(named),
            (":", expected) if next == "=" => expected,
            // Compared otherwise, or an argument.
            ("<" | ">" | "!" | "~" | "*" | "(", Expected::Name(Named::Password)) if !self.of_role => {
                self.expected
            }
            // `=>`
            (">", Expected::Value(named)) => Expected::Value(named),
            (",", Expected::Said(named)) => Expected::Value(named),
            _ => Expected::Anything,
        };
        match mark {
            ";" => (self.defines, self.of_role, self.open, self.holds) = (false, false, false, None),
            "," => self.holds = None,
            "." => return,
            _ => {}
        }
        self.before = "";
    }

    /// What stands where a secret is expected; `None` where it is none.
    fn value(&mut self, named: Named, all: &[Piece<'a>], secrets: &mut Vec<String>) -> Option<usize> {
        let piece = all.first()?;
        match piece.kind {
            Kind::Blank | Kind::Comment => None,
            Kind::Parameter => {
                self.expected = Expected::Anything;
                None
            }
            Kind::Name => {
                secrets.push(piece.said().into_owned());
                self.put(&format!("\"{REDACTED}\""));
                self.expected = Expected::Anything;
                Some(1)
            }
            _ if piece.is_literal() => Some(self.literal(all, secrets)),
            _ if named != Named::Password => None,
            // An expression; within a literal it is not SQL that says what a password may begin with.
            Kind::Other if matches!(piece.whole, "(" | ")" | "," | ";" | ">" | "[") && self.depth == 0 => {
                None
            }
            Kind::Other if piece.whole == ">" => None,
            Kind::Word if ["null", "default"].iter().any(|word| piece.whole.eq_ignore_ascii_case(word)) => {
                None
            }
            _ => Some(self.bare(all, secrets)),
        }
    }

    /// Takes out a value without quotes: up to a blank that no backslash stands before.
    fn bare(&mut self, all: &[Piece<'a>], secrets: &mut Vec<String>) -> usize {
        let start = all.first().map_or(0, |piece| piece.start);
        let rest = self.text.get(start..).unwrap_or("");
        let mut escaped = false;
        let ends = |c: char| match c {
            _ if std::mem::take(&mut escaped) => false,
            '\\' => {
                escaped = true;
                false
            }
            ';' | ',' | ')' if self.depth == 0 => true,
            c => c.is_ascii_whitespace(),
        };
        let length = rest.find(ends).unwrap_or(rest.len());
        let end = start.saturating_add(length);
        secrets.push(rest.get(..length).unwrap_or(rest).to_owned());
        // What the last piece has behind the end stays, unless it is a literal.
        let taken = all.iter().take_while(|piece| piece.start < end).count();
        let last = all.get(taken.saturating_sub(1));
        let whole_end = last.map_or(end, |piece| piece.start.saturating_add(piece.whole.len()));
        self.put(REDACTED);
        if last.is_some_and(|piece| !piece.is_literal()) {
            let behind = self.text.get(end..whole_end).unwrap_or("").to_owned();
            self.keep(&behind);
        }
        self.expected = Expected::Anything;
        taken
    }

    /// A literal, with those that are put together with it.
    fn literal(&mut self, all: &[Piece<'a>], secrets: &mut Vec<String>) -> usize {
        let (taken, joined, said) = chain(all);
        let whole: String = all.iter().take(taken).map(|piece| piece.whole).collect();
        let secret = match self.expected {
            Expected::Name(named) => named != Named::Member,
            Expected::Value(_) => true,
            Expected::Anything | Expected::Said(_) => false,
        } || self.open;
        if secret {
            let parts = all.iter().take(taken).filter(|piece| piece.is_literal());
            secrets.extend(parts.flat_map(|piece| [piece.said().into_owned(), piece.within.to_owned()]));
            secrets.push(said);
            self.put(&format!("'{REDACTED}'"));
            self.expected = Expected::Anything;
            // Where a connection string is quoted so, or with standard_conforming_strings = off, it goes on: nobody knows to where.
            let goes_on =
                all.iter().take(taken).any(|piece| piece.kind == Kind::Plain && piece.within.ends_with('\\'));
            return if goes_on { all.len() } else { taken };
        }
        self.open = OPEN.as_ref().is_some_and(|open| open.is_match(&said));
        self.expected = named(&said, "")
            .filter(|_| !said.contains(char::is_whitespace))
            .map_or(Expected::Anything, Expected::Said);
        match (self.inner(&said, secrets), all.first()) {
            (Some(clean), Some(piece)) if piece.kind == Kind::Dollar && !joined => {
                let quotes = piece.whole.split_once(piece.within).filter(|_| !piece.within.is_empty());
                let (open, close) = quotes.unwrap_or(("$$", "$$"));
                self.put(&format!("{open}{clean}{close}"));
            }
            (Some(clean), Some(piece)) => {
                let ended = all
                    .get(taken.saturating_sub(1))
                    .is_none_or(|last| last.kind == Kind::Dollar || last.whole.ends_with('\''));
                let close = if ended || joined { "'" } else { "" };
                let unicode = if piece.kind == Kind::Plain && !joined {
                    piece.whole.get(..piece.whole.find('\'').unwrap_or(0))
                } else {
                    None
                };
                self.put(&format!("{}'{}{close}", unicode.unwrap_or(""), clean.replace('\'', "''")));
            }
            _ => self.keep(&whole),
        }
        taken
    }
}

/// The literals that are one value: goes on in the next line, or is put together by `||`. How many pieces they are, whether they are more
/// than one, and what they say.
fn chain(all: &[Piece<'_>]) -> (usize, bool, String) {
    let mut said = all.first().map_or_else(String::new, |piece| piece.said().into_owned());
    let mut taken = 1;
    loop {
        let behind = |from: usize| {
            let rest = all.iter().enumerate().skip(from);
            rest.into_iter().find(|(_, piece)| !matches!(piece.kind, Kind::Blank | Kind::Comment))
        };
        let mut next = behind(taken);
        for _ in 0..2 {
            next = match next {
                Some((at, piece)) if piece.whole == "|" => behind(at.saturating_add(1)),
                other => other,
            };
        }
        match next {
            Some((at, piece)) if piece.is_literal() => {
                said.push_str(&piece.said());
                taken = at.saturating_add(1);
            }
            _ => return (taken, taken > 1, said),
        }
    }
}

#[cfg(test)]
#[path = "redact_tests.rs"]
mod tests;
