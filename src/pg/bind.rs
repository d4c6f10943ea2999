//! Holds a rule against the catalogue: what it names must exist, and a pattern without `*` is bound to its object.
//!
//! It does not judge whether the rule is wise; `policy::rule` has proven its form before.

use pgrx::pg_sys::Oid;

use crate::pattern::{ObjectPattern, Part, quoted};
use crate::pg::admin_error::AdminResult;
use crate::pg::store::catalogue::{self, Column};
use crate::pg::store::policy::{BoundClass, NewBinding, listed};
use crate::policy::near::nearest;
use crate::policy::rule::{Rule, RuleError};
use crate::policy::written::WrittenRule;
use crate::request::{Kind, Verb};

/// A rule that the catalogue bears out, spelt as the server spells it, with its bindings.
pub struct BoundRule {
    /// The rule.
    pub rule: WrittenRule,
    /// The bindings of its literal patterns.
    pub bindings: Vec<NewBinding>,
}

/// Proves a rule, form and objects.
///
/// # Errors
/// 22023 with the path of the part and a hint.
pub fn bind(written: &WrittenRule) -> AdminResult<Result<BoundRule, RuleError>> {
    let mut rule = match written.canonical() {
        Ok(rule) => rule,
        Err(error) => return Ok(Err(error)),
    };
    let parsed = match Rule::parse(&rule.raw) {
        Ok(parsed) => parsed,
        Err(error) => return Ok(Err(error)),
    };
    for (i, name) in rule.raw.approval.iter().flat_map(|approval| approval.approvers.iter().enumerate()) {
        if catalogue::role(name)?.is_none() {
            let near = nearest(name, &catalogue::role_names()?);
            return Ok(Err(RuleError {
                path: format!("approvers[{i}]"),
                message: format!("role \"{name}\" does not exist"),
                hint: match near.is_empty() {
                    true => "Create it first, or name a role that exists.".to_owned(),
                    false => format!("Similar names: {}.", listed(&near)),
                },
            }));
        }
    }
    let mut bindings = Vec::new();
    for (i, object) in parsed.objects.iter().enumerate() {
        let subject = Subject { rule: &parsed, index: i, pattern: &object.pattern };
        let found = match subject.find()? {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        if let Some(slot) = rule.raw.objects.get_mut(i) {
            *slot = found.text;
        }
        if let (Some((class, oid, attributes)), Ok(ord)) = (found.bound, i32::try_from(i)) {
            bindings.push(NewBinding { ord, class, oid, attributes });
        }
    }
    Ok(Ok(BoundRule { rule, bindings }))
}

/// What the catalogue says of one pattern.
struct Found {
    text: String,
    bound: Option<(BoundClass, Oid, Vec<i16>)>,
}

/// One object of a rule under examination.
struct Subject<'a> {
    rule: &'a Rule,
    index: usize,
    pattern: &'a ObjectPattern,
}

type Verdict<T> = AdminResult<Result<T, RuleError>>;

impl Subject<'_> {
    fn refused<T>(&self, message: String, hint: String) -> Verdict<T> {
        Ok(Err(RuleError { path: format!("objects[{}]", self.index), message, hint }))
    }

    fn unbound<T>(&self, bound: Option<(BoundClass, Oid, Vec<i16>)>) -> Result<Found, T> {
        Ok(Found { text: self.pattern.to_string(), bound })
    }

    /// Whether the rule's actions only create, so that its objects may be yet to come.
    fn only_creates(&self) -> bool {
        self.rule.actions.iter().all(|action| action.verb == Some(Verb::Create))
    }

    fn only_creates_kind(&self, kind: Kind) -> bool {
        self.only_creates() && self.rule.actions.iter().all(|action| action.kind == Some(kind))
    }

    fn find(&self) -> Verdict<Found> {
        let wants_columns = !self.rule.columns.is_empty();
        match self.pattern {
            ObjectPattern::Everything => {
                if let Err(error) = self.columns_somewhere(&Part::Any, &Part::Any)? {
                    return Ok(Err(error));
                }
                Ok(self.unbound(None))
            }
            ObjectPattern::Relation { schema, name, columns } => {
                if wants_columns && !columns.is_empty() {
                    return self.refused(
                        "columns are given in the pattern and for the whole rule".to_owned(),
                        "Name the columns in one of the two places.".to_owned(),
                    );
                }
                self.find_relation(schema, name)
            }
            _ if wants_columns => self.refused(
                format!("\"{}\" has no columns, but the rule names some", self.pattern),
                "Columns narrow relations; put this object into a rule of its own.".to_owned(),
            ),
            ObjectPattern::Function { schema, name, args } => {
                self.find_function(schema, name, args.as_deref())
            }
            ObjectPattern::Schema(part) => self.find_schema(part),
            ObjectPattern::Role(part) => self.find_role(part),
        }
    }

    /// The columns that narrow this object.
    fn columns(&self) -> &[String] {
        let own = self.pattern.columns();
        if own.is_empty() { &self.rule.columns } else { own }
    }

    fn find_relation(&self, schema: &Part, name: &Part) -> Verdict<Found> {
        if let (Part::Literal(schema), Part::Literal(name)) = (schema, name)
            && let Some(oid) = catalogue::relation(schema, name)?
        {
            let known = catalogue::columns(oid)?;
            return match self.attributes(&known) {
                Ok(attributes) => Ok(self.unbound(Some((BoundClass::Relation, oid, attributes)))),
                Err(error) => Ok(Err(error)),
            };
        }
        if !catalogue::relation_exists(schema, name)? {
            return self.missing(schema, name, &catalogue::relation_names(schema, name)?, "relation");
        }
        if let Err(error) = self.columns_somewhere(schema, name)? {
            return Ok(Err(error));
        }
        Ok(self.unbound(None))
    }

    fn attributes(&self, known: &[Column]) -> Result<Vec<i16>, RuleError> {
        let mut attributes = Vec::new();
        for (i, wanted) in self.columns().iter().enumerate() {
            match known.iter().find(|column| column.name == *wanted) {
                Some(column) => attributes.push(column.number),
                None => {
                    let names: Vec<String> = known
                        .iter()
                        .filter(|column| column.number > 0)
                        .map(|column| column.name.clone())
                        .collect();
                    return Err(self.unknown_column(i, wanted, &names));
                }
            }
        }
        Ok(attributes)
    }

    fn unknown_column(&self, i: usize, wanted: &str, names: &[String]) -> RuleError {
        let path = if self.pattern.columns().is_empty() {
            format!("columns[{i}]")
        } else {
            format!("objects[{}]", self.index)
        };
        let meant = match nearest(wanted, names).first() {
            Some(near) => format!("Perhaps \"{near}\" is meant; the columns are: {}.", listed(names)),
            None => format!("The columns are: {}.", listed(names)),
        };
        let of = match self.pattern {
            ObjectPattern::Relation { schema, name, .. } => format!("{schema}.{name}"),
            other => other.to_string(),
        };
        RuleError { path, message: format!("column \"{wanted}\" does not exist in \"{of}\""), hint: meant }
    }

    /// A pattern with `*` that is narrowed to columns must meet each of them in at least one relation.
    fn columns_somewhere(&self, schema: &Part, name: &Part) -> Verdict<()> {
        for (i, wanted) in self.columns().iter().enumerate() {
            if !catalogue::column_exists(schema, name, wanted)? {
                let names = match schema {
                    Part::Any => Vec::new(),
                    _ => catalogue::column_names(schema, name)?,
                };
                let mut error = self.unknown_column(i, wanted, &names);
                if names.is_empty() {
                    error.hint = "Name each column as the catalogue spells it.".to_owned();
                }
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    fn find_function(&self, schema: &Part, name: &Part, args: Option<&str>) -> Verdict<Found> {
        if !catalogue::function_exists(schema, name)? {
            return self.missing(schema, name, &catalogue::function_names(schema, name)?, "function");
        }
        let (Part::Literal(schema_name), Part::Literal(own_name), Some(args)) = (schema, name, args) else {
            if args.is_some() {
                return self.refused(
                    "argument types after a name with \"*\"".to_owned(),
                    "Leave the argument types out, or name one function.".to_owned(),
                );
            }
            return Ok(self.unbound(None));
        };
        let mut types = Vec::new();
        for arg in args.split(", ").filter(|arg| !arg.is_empty()) {
            match type_of_argument(arg)? {
                Some(name) => types.push(name),
                None => {
                    return self.refused(
                        format!("type \"{arg}\" does not exist"),
                        "Name argument types as in \"function app.total(integer, text)\"; types outside pg_catalog with their schema, no argument names.".to_owned(),
                    );
                }
            }
        }
        let types = types.join(", ");
        let overloads = catalogue::overloads(schema_name, own_name)?;
        match overloads.iter().find(|(_, args)| *args == types) {
            Some((oid, _)) => Ok(Ok(Found {
                text: format!("function {schema}.{name}({types})"),
                bound: Some((BoundClass::Function, *oid, Vec::new())),
            })),
            None if self.only_creates() => {
                Ok(Ok(Found { text: format!("function {schema}.{name}({types})"), bound: None }))
            }
            None => {
                let known: Vec<String> =
                    overloads.iter().map(|(_, args)| format!("{schema}.{name}({args})")).collect();
                self.refused(
                    format!("function {schema}.{name}({types}) does not exist"),
                    format!("The functions of this name are: {}.", listed(&known)),
                )
            }
        }
    }

    fn find_schema(&self, part: &Part) -> Verdict<Found> {
        if let Part::Literal(name) = part
            && let Some(oid) = catalogue::schema(name)?
        {
            return Ok(self.unbound(Some((BoundClass::Schema, oid, Vec::new()))));
        }
        if self.only_creates_kind(Kind::Schema) || catalogue::schema_exists(part)? {
            return Ok(self.unbound(None));
        }
        self.no_such(format!("no schema matches \"{part}\""), part, &catalogue::schema_names()?, "schemas")
    }

    fn find_role(&self, part: &Part) -> Verdict<Found> {
        if let Part::Literal(name) = part
            && let Some(oid) = catalogue::role(name)?
        {
            return Ok(self.unbound(Some((BoundClass::Role, oid, Vec::new()))));
        }
        if self.only_creates_kind(Kind::Role) || catalogue::role_exists(part)? {
            return Ok(self.unbound(None));
        }
        self.no_such(format!("no role matches \"{part}\""), part, &catalogue::role_names()?, "roles")
    }

    /// Nothing in the catalogue matches `schema.name`: refused, unless it is to be created in a schema that exists.
    fn missing(&self, schema: &Part, name: &Part, near: &[(String, String)], class: &str) -> Verdict<Found> {
        if !catalogue::schema_exists(schema)? {
            return self.no_such(
                format!("no schema matches \"{schema}\" of \"{}\"", self.pattern),
                schema,
                &catalogue::schema_names()?,
                "schemas",
            );
        }
        if self.only_creates() && self.columns().is_empty() {
            return Ok(self.unbound(None));
        }
        let message = format!("no {class} matches \"{}\"", self.pattern);
        let wanted = match name {
            Part::Any => "",
            Part::Literal(text) | Part::Glob(text) => text,
        };
        let names: Vec<String> = near.iter().map(|(_, name)| name.clone()).collect();
        let close = nearest(wanted, &names);
        let full: Vec<String> = near
            .iter()
            .filter(|(_, name)| close.contains(name))
            .map(|(schema, name)| format!("{}.{}", quoted(schema), quoted(name)))
            .collect();
        if full.is_empty() {
            let hint = format!(
                "Create the {class} first, or correct the pattern; names fold to lower case unless quoted."
            );
            return self.refused(message, hint);
        }
        self.refused(message, format!("Similar names: {}.", listed(&full)))
    }

    fn no_such<T>(&self, message: String, part: &Part, names: &[String], class: &str) -> Verdict<T> {
        let wanted = match part {
            Part::Any => "",
            Part::Literal(text) | Part::Glob(text) => text,
        };
        let near = nearest(wanted, names);
        if near.is_empty() {
            return self.refused(message, format!("Create it first, or name one of the {class} that exist."));
        }
        self.refused(message, format!("Similar names: {}.", listed(&near)))
    }
}

/// The server's name of an argument type. What cannot be a type's name is not shown to its parser, whose syntax
/// errors would come without the path.
fn type_of_argument(text: &str) -> AdminResult<Option<String>> {
    let plausible = text.chars().all(|c| c.is_alphanumeric() || " _$.\"[]".contains(c))
        && text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_' || c == '"')
        && text.matches('"').count().is_multiple_of(2);
    if plausible { catalogue::type_name(text) } else { Ok(None) }
}
