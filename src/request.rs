//! What a statement needs: the closed list of actions, the objects, and the accesses made of them.
//!
//! This module names things; it decides nothing and knows nothing of PostgreSQL's catalogues. Object
//! identifiers are PostgreSQL's 32-bit OIDs, attribute numbers its 16-bit ones.

#![forbid(unsafe_code)]

use std::fmt;

/// A PostgreSQL object identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(pub u32);

/// One entry of the closed list of actions (docs/policies.md): what may be done, without the kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verb {
    /// Read a relation or its columns.
    Select = 0,
    /// Add rows.
    Insert,
    /// Change rows.
    Update,
    /// Remove rows.
    Delete,
    /// Empty a table.
    Truncate,
    /// LOCK TABLE, and row locks on what may not be updated.
    Lock,
    /// Run a function or procedure.
    Execute,
    /// Use a sequence.
    Usage,
    /// Create, fill, read, index and drop the session's own temporary tables.
    Temporary,
    /// CREATE of some kind of object.
    Create,
    /// ALTER of some kind of object.
    Alter,
    /// DROP of some kind of object, by name or by a cascade.
    Drop,
    /// COMMENT ON.
    Comment,
    /// VACUUM, ANALYZE, REINDEX, CLUSTER, REFRESH.
    Maintain,
    /// GRANT, REVOKE, default privileges, owner changes.
    Grant,
    /// CREATE, ALTER, DROP ROLE, membership, SET ROLE, SET SESSION AUTHORIZATION.
    Role,
    /// LISTEN, UNLISTEN, NOTIFY.
    Notify,
    /// Server files and programs.
    File,
    /// Foreign tables and servers.
    Foreign,
    /// What reveals others or the server.
    Inspect,
    /// Everything else that reaches beyond the session.
    System,
}

impl Verb {
    /// Every verb, in the order of the list in the documentation.
    pub const ALL: [Verb; 21] = [
        Verb::Select,
        Verb::Insert,
        Verb::Update,
        Verb::Delete,
        Verb::Truncate,
        Verb::Lock,
        Verb::Execute,
        Verb::Usage,
        Verb::Temporary,
        Verb::Create,
        Verb::Alter,
        Verb::Drop,
        Verb::Comment,
        Verb::Maintain,
        Verb::Grant,
        Verb::Role,
        Verb::Notify,
        Verb::File,
        Verb::Foreign,
        Verb::Inspect,
        Verb::System,
    ];

    /// The word used in SQL, tokens and the audit trail.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Select => "select",
            Verb::Insert => "insert",
            Verb::Update => "update",
            Verb::Delete => "delete",
            Verb::Truncate => "truncate",
            Verb::Lock => "lock",
            Verb::Execute => "execute",
            Verb::Usage => "usage",
            Verb::Temporary => "temporary",
            Verb::Create => "create",
            Verb::Alter => "alter",
            Verb::Drop => "drop",
            Verb::Comment => "comment",
            Verb::Maintain => "maintain",
            Verb::Grant => "grant",
            Verb::Role => "role",
            Verb::Notify => "notify",
            Verb::File => "file",
            Verb::Foreign => "foreign",
            Verb::Inspect => "inspect",
            Verb::System => "system",
        }
    }

    /// The verb of a word, in lower case.
    pub fn of_word(word: &str) -> Option<Verb> {
        Verb::ALL.into_iter().find(|verb| verb.word() == word)
    }

    /// The verb of a stored byte; `None` for a byte that no verb has.
    pub fn of_byte(byte: u8) -> Option<Verb> {
        Verb::ALL.get(usize::from(byte)).copied()
    }

    /// Whether the action is narrowed by an object kind (`drop table`).
    pub fn takes_kind(self) -> bool {
        matches!(self, Verb::Create | Verb::Alter | Verb::Drop | Verb::Comment)
    }
}

macro_rules! kinds {
    ($($variant:ident = $word:literal),+ $(,)?) => {
        /// The kind of object of a DDL action, worded as in PostgreSQL's command tags (src/include/tcop/cmdtaglist.h).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[expect(missing_docs, reason = "each variant is documented by its word below")]
        pub enum Kind { $($variant),+ }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Kind] = &[$(Kind::$variant),+];

            /// The words of the command tag, in lower case.
            pub fn word(self) -> &'static str {
                match self { $(Kind::$variant => $word),+ }
            }
        }
    };
}

kinds! {
    AccessMethod = "access method",
    Aggregate = "aggregate",
    Cast = "cast",
    Collation = "collation",
    Constraint = "constraint",
    Conversion = "conversion",
    Database = "database",
    DefaultPrivileges = "default privileges",
    Domain = "domain",
    EventTrigger = "event trigger",
    Extension = "extension",
    ForeignDataWrapper = "foreign data wrapper",
    ForeignTable = "foreign table",
    Function = "function",
    Index = "index",
    Language = "language",
    LargeObject = "large object",
    MaterializedView = "materialized view",
    Operator = "operator",
    OperatorClass = "operator class",
    OperatorFamily = "operator family",
    Policy = "policy",
    Procedure = "procedure",
    Publication = "publication",
    Role = "role",
    Routine = "routine",
    Rule = "rule",
    Schema = "schema",
    Sequence = "sequence",
    Server = "server",
    Statistics = "statistics",
    Subscription = "subscription",
    Table = "table",
    Tablespace = "tablespace",
    TextSearchConfiguration = "text search configuration",
    TextSearchDictionary = "text search dictionary",
    TextSearchParser = "text search parser",
    TextSearchTemplate = "text search template",
    Transform = "transform",
    Trigger = "trigger",
    Type = "type",
    UserMapping = "user mapping",
    View = "view",
}

impl Kind {
    /// The kind of a word, in lower case.
    pub fn of_word(word: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.word() == word)
    }

    /// The kind of a stored byte; `None` for a byte that no kind has.
    pub fn of_byte(byte: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(byte)).copied()
    }
}

/// What an access does: a verb, for DDL with the kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    /// The verb.
    pub verb: Verb,
    /// The kind of object; always `Some` for an access whose verb takes a kind.
    pub kind: Option<Kind>,
}

impl Action {
    /// An action without an object kind.
    pub const fn plain(verb: Verb) -> Action {
        Action { verb, kind: None }
    }

    /// A DDL action on a kind of object.
    pub const fn on(verb: Verb, kind: Kind) -> Action {
        Action { verb, kind: Some(kind) }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb.word())?;
        match self.kind {
            Some(kind) => write!(f, " {}", kind.word()),
            None => Ok(()),
        }
    }
}

/// The classes of objects that a pattern can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectClass {
    /// Anything in pg_class: tables, views, sequences, indexes, foreign tables.
    Relation = 0,
    /// Functions, procedures, aggregates.
    Function,
    /// Schemas.
    Schema,
    /// Roles.
    Role,
    /// Everything else (types, operators, ...), matched by schema and name like a relation.
    Other,
}

/// One resolved object. Names are those of the catalogue at the time of resolution.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// The class.
    pub class: ObjectClass,
    /// The OID; 0 for an object that is only about to be created.
    pub oid: Oid,
    /// The schema's name; empty for schemas, roles and other objects that live in none.
    pub schema: String,
    /// The object's name.
    pub name: String,
    /// For functions the identity arguments as pg_get_function_identity_arguments gives the types, e.g. `integer, text`.
    pub args: Option<String>,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.schema.is_empty() {
            write!(f, "{}.", self.schema)?;
        }
        f.write_str(&self.name)?;
        match &self.args {
            Some(args) => write!(f, "({args})"),
            None => Ok(()),
        }
    }
}

/// Which columns of a relation an access touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Columns {
    /// No particular column (`count(*)`, DELETE without a condition, anything that is no relation).
    Unnamed,
    /// These attribute numbers; negative ones are system columns.
    Of(Vec<i16>),
    /// The whole row, hence every column.
    Whole,
}

/// Who asks for an access, which tells whether it needs an allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Voice {
    /// The agent's own statement names the object: it needs an allow.
    Named = 0,
    /// A view that the agent may read reaches it: only denies (and holds) apply.
    View,
    /// A function that the agent may run reaches it: denies apply, and what the token's blocks leave.
    Function,
}

/// The form of statement through which an access comes; tokens can tell some apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// SELECT, INSERT, UPDATE, DELETE and utility statements.
    Plain,
    /// COPY.
    Copy,
    /// MERGE.
    Merge,
    /// DO.
    Do,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_bytes_round_trip() {
        for (i, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(Verb::of_word(verb.word()), Some(verb));
            assert_eq!(Verb::of_byte(u8::try_from(i).unwrap()), Some(verb));
            assert_eq!(verb as usize, i);
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::of_word(kind.word()), Some(*kind));
            assert_eq!(Kind::of_byte(*kind as u8), Some(*kind));
        }
        assert_eq!(Verb::of_word("SELECT"), None);
        assert_eq!(Kind::of_byte(200), None);
    }
}
