//! The SQL text of the view that shows what agents read of a masked relation, and its name.
//!
//! The expressions in it are the server's own spelling of what was parsed and checked before.

#![forbid(unsafe_code)]

use crate::mask::quote::identifier;
use crate::pattern::quoted;

/// The schema of the generated views.
pub const SCHEMA: &str = "agent_guard_masked";

/// The most bytes of a name (NAMEDATALEN - 1).
const LONGEST_NAME: usize = 63;

/// The view's name: schema and relation as they are written in SQL. Where that is too long its beginning, `#` and the
/// relation's OID. No two relations have the same: names that need quotes are quoted, so that a dot between the two is
/// the only one outside quotes, and no name ends in `#` and digits outside quotes.
pub fn name(schema: &str, relation: &str, oid: u32) -> String {
    let full = format!("{}.{}", quoted(schema), quoted(relation));
    if full.len() <= LONGEST_NAME {
        return full;
    }
    let suffix = format!("#{oid}");
    let mut end = LONGEST_NAME - suffix.len();
    while !full.is_char_boundary(end) {
        end -= 1;
    }
    let (beginning, _) = full.split_at(end);
    format!("{beginning}{suffix}")
}

/// One column of the view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The column's name.
    pub column: String,
    /// What agents read in its place; `None` for the column itself.
    pub expression: Option<String>,
}

/// The statement that makes the view.
pub fn definition(view: &str, schema: &str, relation: &str, entries: &[Entry]) -> String {
    let list: Vec<_> = entries
        .iter()
        .map(|entry| {
            let column = identifier(&entry.column);
            match &entry.expression {
                // The parentheses keep the name from becoming part of the expression.
                Some(expression) => format!("    ({expression}) AS {column}"),
                None => format!("    {column}"),
            }
        })
        .collect();
    format!(
        "CREATE VIEW {}.{} AS SELECT\n{}\nFROM {}.{}",
        identifier(SCHEMA),
        identifier(view),
        list.join(",\n"),
        identifier(schema),
        identifier(relation)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_reads_like_the_relation() {
        assert_eq!(name("shop", "customer", 5), "shop.customer");
        assert_eq!(name("a.b", "c", 5), "\"a.b\".c");
        assert_eq!(name("a", "b.c", 6), "a.\"b.c\"");
        let long = "\u{e9}".repeat(31);
        let made = name("shop", &long, 4_294_967_295);
        assert!(made.len() <= 63 && made.ends_with("#4294967295"), "{made}");
    }

    #[test]
    fn a_column_of_any_name_stays_one_column() {
        let entries = [
            Entry { column: "id".to_owned(), expression: None },
            Entry { column: "x\"; drop table t; --".to_owned(), expression: Some("'a'::text".to_owned()) },
        ];
        assert_eq!(
            definition("s.t", "s", "t", &entries),
            "CREATE VIEW \"agent_guard_masked\".\"s.t\" AS SELECT\n    \"id\",\n    ('a'::text) AS \
             \"x\"\"; drop table t; --\"\nFROM \"s\".\"t\""
        );
    }

    proptest! {
        #[test]
        fn two_relations_never_share_a_name(
            a in "[a.\"#1]{1,40}", b in "[a.\"#1]{1,40}", c in "[a.\"#1]{1,40}", d in "[a.\"#1]{1,40}"
        ) {
            prop_assume!((&a, &b) != (&c, &d));
            prop_assert_ne!(name(&a, &b, 11), name(&c, &d, 12));
        }

        #[test]
        fn a_name_is_never_too_long(schema in "\\PC{1,63}", relation in "\\PC{1,63}", oid in any::<u32>()) {
            prop_assert!(name(&schema, &relation, oid).len() <= LONGEST_NAME);
        }
    }
}
