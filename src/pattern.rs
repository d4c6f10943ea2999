//! Object patterns: how a rule or a token's block names objects. Parsed once, matched on resolved names.
//!
//! Rules write identifiers as SQL does (unquoted ones fold to lower case, quoted ones are kept). A pattern never
//! sees the text of a statement.

#![forbid(unsafe_code)]

use std::fmt;

use crate::request::{Object, ObjectClass, Verb};

/// One part of a qualified name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// `*`: any name.
    Any,
    /// This name, byte for byte.
    Literal(String),
    /// A name with `*` inside, each standing for any run of characters.
    Glob(String),
}

impl Part {
    fn new(text: String, quoted: bool) -> Part {
        if quoted || !text.contains('*') {
            Part::Literal(text)
        } else if text == "*" {
            Part::Any
        } else {
            Part::Glob(text)
        }
    }

    /// Whether the part covers `name`.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Part::Any => true,
            Part::Literal(literal) => literal == name,
            Part::Glob(glob) => glob_matches(glob, name),
        }
    }
}

/// Matches a glob with `*` as its only special character, in time linear in the product of the lengths.
fn glob_matches(glob: &str, name: &str) -> bool {
    let mut pieces = glob.split('*');
    let Some(rest) = name.strip_prefix(pieces.next().unwrap_or("")) else {
        return false;
    };
    let mut rest = rest;
    let mut pieces: Vec<&str> = pieces.collect();
    let last = pieces.pop().unwrap_or("");
    for piece in pieces {
        match rest.find(piece) {
            Some(at) => rest = rest.get(at + piece.len()..).unwrap_or(""),
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What a rule's object names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectPattern {
    /// `*`: every object of every class, and actions that have no object.
    Everything,
    /// `schema.name`, optionally with columns; also matches types and other objects that live in a schema.
    Relation {
        /// The schema.
        schema: Part,
        /// The relation.
        name: Part,
        /// The columns; empty for the whole relation.
        columns: Vec<String>,
    },
    /// `function schema.name(argument types)`; without parentheses every overload.
    Function {
        /// The schema.
        schema: Part,
        /// The function.
        name: Part,
        /// The argument types, separated by `, `; `None` for any.
        args: Option<String>,
    },
    /// `schema name`: the schema itself, and what is created in it.
    Schema(Part),
    /// `role name`.
    Role(Part),
}

/// Why a pattern does not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternError {
    /// A lower-case fact.
    pub message: String,
    /// What to write instead.
    pub hint: &'static str,
}

const FORMS: &str = "Write \"schema.name\", \"schema.name(column, ...)\", \"function schema.name(type, ...)\", \"schema name\", \"role name\" or \"*\".";

fn bad(message: impl Into<String>) -> PatternError {
    PatternError { message: message.into(), hint: FORMS }
}

/// One identifier of a pattern, `*` allowed in it while unquoted.
struct Identifier {
    text: String,
    quoted: bool,
}

/// Reads identifiers and punctuation off the front of a pattern.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, symbol: char) -> bool {
        self.skip_space();
        match self.rest.strip_prefix(symbol) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn identifier(&mut self) -> Result<Identifier, PatternError> {
        self.skip_space();
        if let Some(mut rest) = self.rest.strip_prefix('"') {
            let mut text = String::new();
            loop {
                let Some(at) = rest.find('"') else {
                    return Err(bad("a quoted name in the pattern is not closed"));
                };
                text.push_str(rest.get(..at).unwrap_or(""));
                rest = rest.get(at + 1..).unwrap_or("");
                match rest.strip_prefix('"') {
                    Some(after) => {
                        text.push('"');
                        rest = after;
                    }
                    None => break,
                }
            }
            self.rest = rest;
            if text.is_empty() {
                return Err(bad("an empty name in the pattern"));
            }
            return Ok(Identifier { text, quoted: true });
        }
        let end = self
            .rest
            .find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '$' | '*') || !c.is_ascii()))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        if word.is_empty() {
            return Err(bad("a name is missing in the pattern"));
        }
        self.rest = rest;
        Ok(Identifier { text: word.to_lowercase(), quoted: false })
    }

    fn at_end(&mut self) -> bool {
        self.skip_space();
        self.rest.is_empty()
    }

    fn part(&mut self) -> Result<Part, PatternError> {
        let identifier = self.identifier()?;
        Ok(Part::new(identifier.text, identifier.quoted))
    }

    /// The text up to the closing parenthesis that ends the pattern.
    fn parenthesised(&mut self) -> Result<Option<&'a str>, PatternError> {
        if !self.take('(') {
            return Ok(None);
        }
        let inner =
            self.rest.trim_end().strip_suffix(')').ok_or_else(|| bad("a parenthesis is not closed"))?;
        self.rest = "";
        Ok(Some(inner))
    }
}

impl ObjectPattern {
    /// Parses one pattern of a rule.
    ///
    /// # Errors
    /// `PatternError` with what is wrong and the forms that exist.
    pub fn parse(text: &str) -> Result<ObjectPattern, PatternError> {
        let mut reader = Reader { rest: text.trim() };
        if reader.rest == "*" {
            return Ok(ObjectPattern::Everything);
        }
        if text.chars().any(char::is_control) {
            return Err(bad("a control character in the pattern"));
        }
        let first = reader.identifier()?;
        reader.skip_space();
        if !first.quoted && !reader.rest.is_empty() && !reader.rest.starts_with(['.', '(']) {
            return ObjectPattern::parse_classed(&first.text, &mut reader);
        }
        let schema = Part::new(first.text, first.quoted);
        if !reader.take('.') {
            return Err(bad(format!("the pattern \"{}\" names no schema", text.trim())));
        }
        let name = reader.part()?;
        let columns = match reader.parenthesised()? {
            None => Vec::new(),
            Some(inner) => columns(inner)?,
        };
        ObjectPattern::ended(&mut reader, ObjectPattern::Relation { schema, name, columns })
    }

    fn parse_classed(class: &str, reader: &mut Reader<'_>) -> Result<ObjectPattern, PatternError> {
        match class {
            "schema" => {
                let part = reader.part()?;
                ObjectPattern::ended(reader, ObjectPattern::Schema(part))
            }
            "role" => {
                let part = reader.part()?;
                ObjectPattern::ended(reader, ObjectPattern::Role(part))
            }
            "function" | "procedure" | "routine" => {
                let schema = reader.part()?;
                if !reader.take('.') {
                    return Err(bad("the function pattern names no schema"));
                }
                let name = reader.part()?;
                let args = reader.parenthesised()?.map(normal_args);
                ObjectPattern::ended(reader, ObjectPattern::Function { schema, name, args })
            }
            "table" | "view" | "relation" => {
                let relation = ObjectPattern::parse(reader.rest)?;
                reader.rest = "";
                Ok(relation)
            }
            other => Err(bad(format!("\"{other}\" is no class of objects that a pattern can name"))),
        }
    }

    fn ended(reader: &mut Reader<'_>, pattern: ObjectPattern) -> Result<ObjectPattern, PatternError> {
        if reader.at_end() {
            Ok(pattern)
        } else {
            Err(bad(format!("\"{}\" after the end of the pattern", reader.rest)))
        }
    }

    /// Whether the pattern names exactly one object (no `*` in it), so that it can be bound to that object's OID.
    pub fn is_literal(&self) -> bool {
        let literal = |part: &Part| matches!(part, Part::Literal(_));
        match self {
            ObjectPattern::Everything => false,
            ObjectPattern::Relation { schema, name, .. } => literal(schema) && literal(name),
            ObjectPattern::Function { schema, name, args } => {
                literal(schema) && literal(name) && args.is_some()
            }
            ObjectPattern::Schema(part) | ObjectPattern::Role(part) => literal(part),
        }
    }

    /// Whether the pattern covers `object` under `verb`, by name. `None` is an action without an object.
    pub fn matches(&self, object: Option<&Object>, verb: Verb) -> bool {
        let Some(object) = object else {
            return matches!(self, ObjectPattern::Everything);
        };
        match self {
            ObjectPattern::Everything => true,
            ObjectPattern::Relation { schema, name, .. } => {
                matches!(object.class, ObjectClass::Relation | ObjectClass::Other)
                    && schema.matches(&object.schema)
                    && name.matches(&object.name)
            }
            ObjectPattern::Function { schema, name, args } => {
                object.class == ObjectClass::Function
                    && schema.matches(&object.schema)
                    && name.matches(&object.name)
                    && args
                        .as_deref()
                        .is_none_or(|args| object.args.as_deref().map(normal_args).as_deref() == Some(args))
            }
            ObjectPattern::Schema(part) => match object.class {
                ObjectClass::Schema => part.matches(&object.name),
                _ => verb == Verb::Create && !object.schema.is_empty() && part.matches(&object.schema),
            },
            ObjectPattern::Role(part) => object.class == ObjectClass::Role && part.matches(&object.name),
        }
    }

    /// Whether the pattern names functions of the server itself: pg_catalog is written out, not covered by a `*`.
    pub fn names_built_ins(&self) -> bool {
        matches!(self, ObjectPattern::Function { schema: Part::Literal(schema), .. } if schema == "pg_catalog")
    }

    /// The columns that the pattern is narrowed to; empty for none.
    pub fn columns(&self) -> &[String] {
        match self {
            ObjectPattern::Relation { columns, .. } => columns,
            _ => &[],
        }
    }
}

fn columns(inner: &str) -> Result<Vec<String>, PatternError> {
    let mut reader = Reader { rest: inner };
    let mut columns = Vec::new();
    loop {
        let column = reader.identifier()?;
        if !column.quoted && column.text.contains('*') {
            return Err(bad("\"*\" among the columns of a pattern"));
        }
        if columns.contains(&column.text) {
            return Err(bad(format!("the column \"{}\" stands twice in the pattern", column.text)));
        }
        columns.push(column.text);
        if reader.take(',') {
            continue;
        }
        return if reader.at_end() {
            Ok(columns)
        } else {
            Err(bad("the columns are to be separated by commas"))
        };
    }
}

/// Argument types with single spaces, separated by `, `.
fn normal_args(args: &str) -> String {
    args.split(',')
        .map(|arg| arg.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Quotes an identifier where PostgreSQL's lexer needs it, and where `*` would read as a wildcard.
pub fn quoted(name: &str) -> String {
    let plain = name.chars().next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Any => f.write_str("*"),
            Part::Literal(name) => f.write_str(&quoted(name)),
            Part::Glob(glob) => f.write_str(glob),
        }
    }
}

impl fmt::Display for ObjectPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectPattern::Everything => f.write_str("*"),
            ObjectPattern::Relation { schema, name, columns } => {
                write!(f, "{schema}.{name}")?;
                if columns.is_empty() {
                    return Ok(());
                }
                let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
                write!(f, "({})", columns.join(", "))
            }
            ObjectPattern::Function { schema, name, args } => {
                write!(f, "function {schema}.{name}")?;
                match args {
                    Some(args) => write!(f, "({args})"),
                    None => Ok(()),
                }
            }
            ObjectPattern::Schema(part) => write!(f, "schema {part}"),
            ObjectPattern::Role(part) => write!(f, "role {part}"),
        }
    }
}

/// A relation pattern of a token's block: `schema.name`, each side literal, `*` or `prefix*`; names are compared as
/// bytes, nothing is folded or quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPattern {
    schema: Part,
    name: Part,
}

impl BlockPattern {
    /// Parses one pattern of a block; `None` when it is not of the form.
    pub fn parse(text: &str) -> Option<BlockPattern> {
        let (schema, name) = text.split_once('.')?;
        Some(BlockPattern { schema: BlockPattern::part(schema)?, name: BlockPattern::part(name)? })
    }

    fn part(text: &str) -> Option<Part> {
        let body = text.strip_suffix('*');
        let literal = body.unwrap_or(text);
        if text.is_empty() || literal.contains(['*', '.', '"']) || literal.chars().any(char::is_control) {
            return None;
        }
        Some(match body {
            Some("") => Part::Any,
            Some(_) => Part::Glob(text.to_owned()),
            None => Part::Literal(text.to_owned()),
        })
    }

    /// Whether the pattern covers the relation `schema.name`.
    pub fn matches(&self, schema: &str, name: &str) -> bool {
        self.schema.matches(schema) && self.name.matches(name)
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
