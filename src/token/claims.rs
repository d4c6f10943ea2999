//! One block: what it says about the agent and what it leaves of the scope before it.
//!
//! A block that parses is well-formed by itself; whether it claims more than its parent is for `attenuate`, whether
//! it holds here and at this time for `verify`. Absent keys inherit.

use std::fmt;

use serde_json::{Map, Value};

use super::act::Act;
use super::json::{self, Malformed, Raw};
use super::network::Network;
use super::value::{count, depth, each, jti, name, names, sub, time, why};
use super::wire;
use crate::pattern::BlockPattern;

/// The keys of version 1, in the order in which they are written. `cnf` is reserved, hence unknown.
const KEYS: [&str; 20] = [
    "jti", "sub", "exp", "nbf", "pol", "act", "rel", "rows", "bytes", "stmts", "role", "db", "cidr", "auth",
    "depth", "uses", "sess", "appr", "pop", "why",
];

/// What one block says. Times are unix seconds; `None` inherits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// 16 random bytes in base64url, which make the block's id unique.
    pub jti: String,
    /// The agent's name, as its parent gives it.
    pub sub: String,
    /// The token is refused from here on.
    pub exp: i64,
    /// The token is refused before this, with five seconds of leeway.
    pub nbf: Option<i64>,
    /// Policies.
    pub pol: Option<Vec<String>>,
    /// Actions.
    pub act: Option<Vec<Act>>,
    /// Relations.
    pub rel: Option<Vec<RelationPattern>>,
    /// Rows, in total.
    pub rows: Option<u64>,
    /// Bytes of results, in total.
    pub bytes: Option<u64>,
    /// Statements, in total.
    pub stmts: Option<u64>,
    /// The session's role.
    pub role: Option<String>,
    /// The database.
    pub db: Option<String>,
    /// Where the client may be.
    pub cidr: Option<Vec<Network>>,
    /// SYSTEM_USER, exactly.
    pub auth: Option<String>,
    /// Further derivations allowed below this block.
    pub depth: Option<u8>,
    /// Activations, in total.
    pub uses: Option<u64>,
    /// Sessions at one time.
    pub sess: Option<u64>,
    /// Groups that must have approved.
    pub appr: Option<Vec<String>>,
    /// Only proofs are accepted, for this block and all below it.
    pub pop: bool,
    /// The purpose, for the audit trail; no authority.
    pub why: Option<String>,
}

impl Claims {
    /// A block that narrows nothing but the expiry.
    pub fn new(jti: impl Into<String>, sub: impl Into<String>, exp: i64) -> Claims {
        Claims {
            jti: jti.into(),
            sub: sub.into(),
            exp,
            nbf: None,
            pol: None,
            act: None,
            rel: None,
            rows: None,
            bytes: None,
            stmts: None,
            role: None,
            db: None,
            cidr: None,
            auth: None,
            depth: None,
            uses: None,
            sess: None,
            appr: None,
            pop: false,
            why: None,
        }
    }

    /// The block's JSON, without the keys that inherit.
    pub fn to_json(&self) -> String {
        let mut object = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                object.insert(key.to_owned(), value);
            }
        };
        let text = |text: &Option<String>| text.clone().map(Value::from);
        put("jti", Some(self.jti.clone().into()));
        put("sub", Some(self.sub.clone().into()));
        put("exp", Some(self.exp.into()));
        put("nbf", self.nbf.map(Value::from));
        put("pol", self.pol.clone().map(Value::from));
        put("act", self.act.as_ref().map(|acts| acts.iter().map(|act| act.word()).collect()));
        put("rel", self.rel.as_ref().map(|rel| rel.iter().map(RelationPattern::as_str).collect()));
        put("rows", self.rows.map(Value::from));
        put("bytes", self.bytes.map(Value::from));
        put("stmts", self.stmts.map(Value::from));
        put("role", text(&self.role));
        put("db", text(&self.db));
        put("cidr", self.cidr.as_ref().map(|cidr| cidr.iter().map(Network::to_string).collect()));
        put("auth", text(&self.auth));
        put("depth", self.depth.map(Value::from));
        put("uses", self.uses.map(Value::from));
        put("sess", self.sess.map(Value::from));
        put("appr", self.appr.clone().map(Value::from));
        put("pop", self.pop.then_some(Value::Bool(true)));
        put("why", text(&self.why));
        Value::Object(object).to_string()
    }

    /// Reads a block's JSON.
    pub(super) fn parse(json: &[u8]) -> Result<Claims, Malformed> {
        if json.len() > wire::MAX_JSON {
            return Err(Malformed::block("is longer than 1024 bytes"));
        }
        let pairs = json::read(json, &KEYS)?;
        let mut claims = Claims::new("", "", 0);
        let required = ["jti", "sub", "exp"];
        if let Some(key) = required.iter().find(|key| !pairs.iter().any(|(other, _)| other == *key)) {
            return Err(Malformed::at(key, "is missing"));
        }
        for (key, raw) in pairs {
            claims.set(&key, raw).map_err(|fact| Malformed { key: Some(key), fact })?;
        }
        Ok(claims)
    }

    fn set(&mut self, key: &str, raw: Raw) -> Result<(), &'static str> {
        match key {
            "jti" => self.jti = jti(raw)?,
            "sub" => self.sub = sub(raw)?,
            "exp" => self.exp = time(raw)?,
            "nbf" => self.nbf = Some(time(raw)?),
            "pol" => self.pol = Some(names(raw)?),
            "act" => self.act = Some(each(raw, "has an item that is no action", Act::of_word)?),
            "rel" => {
                let fact =
                    "has an item that is not of the form schema.name with a * at most at the end of either";
                self.rel = Some(each(raw, fact, RelationPattern::parse)?);
            }
            "rows" => self.rows = Some(count(raw)?),
            "bytes" => self.bytes = Some(count(raw)?),
            "stmts" => self.stmts = Some(count(raw)?),
            "role" => self.role = Some(name(raw)?),
            "db" => self.db = Some(name(raw)?),
            "cidr" => {
                let fact = "has an item that is neither \"local\" nor a network without host bits";
                self.cidr = Some(each(raw, fact, Network::parse)?);
            }
            "auth" => self.auth = Some(name(raw)?),
            "depth" => self.depth = Some(depth(raw)?),
            "uses" => self.uses = Some(count(raw)?),
            "sess" => self.sess = Some(count(raw)?),
            "appr" => self.appr = Some(names(raw)?),
            "pop" => self.pop = if raw == Raw::True { true } else { return Err("can only be true") },
            "why" => self.why = Some(why(raw)?),
            _ => return Err("is not a key of version 1"),
        }
        Ok(())
    }

    /// The first key whose value is not ASCII: a server in another encoding than UTF8 cannot compare it.
    pub(super) fn first_beyond_ascii(&self) -> Option<&'static str> {
        let list = |list: &Option<Vec<String>>| list.iter().flatten().all(|item| item.is_ascii());
        let one = |text: &Option<String>| text.as_ref().is_none_or(|text| text.is_ascii());
        [
            ("pol", list(&self.pol)),
            ("rel", self.rel.iter().flatten().all(|pattern| pattern.as_str().is_ascii())),
            ("role", one(&self.role)),
            ("db", one(&self.db)),
            ("auth", one(&self.auth)),
            ("appr", list(&self.appr)),
            ("why", one(&self.why)),
        ]
        .into_iter()
        .find_map(|(key, ascii)| (!ascii).then_some(key))
    }
}

/// A pattern of `rel` with the text that it was read from.
#[derive(Clone, PartialEq, Eq)]
pub struct RelationPattern {
    text: String,
    pattern: BlockPattern,
}

impl RelationPattern {
    /// Parses `schema.name`, each side literal, `*` or `prefix*`; `None` when it is not of the form.
    pub fn parse(text: &str) -> Option<RelationPattern> {
        Some(RelationPattern { text: text.to_owned(), pattern: BlockPattern::parse(text)? })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern covers the relation.
    pub fn matches(&self, schema: &str, name: &str) -> bool {
        self.pattern.matches(schema, name)
    }
}

impl fmt::Debug for RelationPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::value::MAX_INT;

    const JTI: &str = "AAAAAAAAAAAAAAAAAAAAAA";

    fn block(more: &str) -> String {
        format!("{{\"jti\":\"{JTI}\",\"sub\":\"a\",\"exp\":9{more}}}")
    }

    fn fault(json: &str) -> Malformed {
        Claims::parse(json.as_bytes()).expect_err(json)
    }

    #[test]
    fn every_key_reads_back_as_written() {
        let mut claims = Claims::new(JTI, "importer/csv:1@x-y_z.0", (1 << 53) - 1);
        claims.nbf = Some(0);
        claims.pol = Some(vec!["a".into(), "\u{e4}".into()]);
        claims.act = Some(Act::all().collect());
        claims.rel = Some(vec![RelationPattern::parse("app.*").unwrap()]);
        claims.rows = Some(1);
        claims.bytes = Some(MAX_INT);
        claims.stmts = Some(2);
        claims.role = Some("r".into());
        claims.db = Some("d".into());
        claims.cidr = Some(vec![Network::Local, Network::parse("10.0.0.0/8").unwrap()]);
        claims.auth = Some("oauth:x".into());
        claims.depth = Some(7);
        claims.uses = Some(3);
        claims.sess = Some(4);
        claims.appr = Some(vec!["dba".into()]);
        claims.pop = true;
        claims.why = Some("say \"why\"".into());
        let json = claims.to_json();
        assert_eq!(Claims::parse(json.as_bytes()), Ok(claims));
        for key in KEYS {
            assert!(json.contains(&format!("\"{key}\":")), "{key}");
        }
    }

    #[test]
    fn jti_sub_and_exp_are_required() {
        for key in ["jti", "sub", "exp"] {
            let mut value: Map<String, Value> = serde_json::from_str(&block("")).unwrap();
            value.remove(key);
            assert_eq!(fault(&Value::Object(value).to_string()), Malformed::at(key, "is missing"));
        }
        assert!(Claims::parse(block("").as_bytes()).is_ok());
    }

    #[test]
    fn each_key_takes_its_own_values_only() {
        let long = format!("\"{}\"", "x".repeat(129));
        let cases: [(&str, &[&str]); 18] = [
            ("nbf", &["\"9\"", "9007199254740992", "true", "[\"1\"]"]),
            ("pol", &["\"a\"", "true", "1", "[\"\"]"]),
            ("act", &["[\"SELECT\"]", "[\"select \"]", "[\"*\"]", "\"select\""]),
            ("rel", &["[\"orders\"]", "[\"a.b.c\"]", "[\"a*b.c\"]", "[\"\"]", "\"app.*\""]),
            ("rows", &["0", "\"1\"", "true", "9007199254740992"]),
            ("bytes", &["0", "9007199254740992"]),
            ("stmts", &["0", "[\"1\"]"]),
            ("role", &["\"\"", "1", "[\"r\"]", &long]),
            ("db", &["\"\"", "true", &long]),
            ("cidr", &["\"local\"", "[\"10.0.0.1/8\"]", "[\"host\"]"]),
            ("auth", &["\"\"", "true", &long]),
            ("depth", &["8", "256", "\"1\"", "true"]),
            ("uses", &["0", "true"]),
            ("sess", &["0", "\"1\""]),
            ("appr", &["\"dba\"", "true", "[\"\"]"]),
            ("pop", &["1", "\"true\"", "[\"true\"]", "false"]),
            ("why", &["1", "true", "[\"x\"]"]),
            ("cnf", &["\"x\"", "{}"]),
        ];
        for (key, values) in cases {
            for value in values {
                let json = block(&format!(",\"{key}\":{value}"));
                assert_eq!(fault(&json).key.as_deref(), Some(key), "{json}");
            }
        }
    }

    #[test]
    fn the_required_keys_take_their_own_values_only() {
        for (from, to) in [
            (JTI, "AAAAAAAAAAAAAAAAAAAAAB"),
            (JTI, "AAAAAAAAAAAAAAAAAAAAA"),
            (JTI, "AAAAAAAAAAAAAAAAAAAAA="),
            ("\"a\"", "\"\""),
            ("\"a\"", "\"a b\""),
            ("\"a\"", "\"a>b\""),
            ("\"a\"", "\"\u{e4}\""),
            (":9", ":\"9\""),
            (":9", ":9007199254740992"),
            ("exp", "EXP"),
        ] {
            fault(&block("").replace(from, to));
        }
    }

    #[test]
    fn strings_end_at_their_sizes() {
        let why = |count: usize| block(&format!(",\"why\":\"{}\"", "x".repeat(count)));
        assert!(Claims::parse(why(200).as_bytes()).is_ok());
        assert_eq!(fault(&why(201)).key.as_deref(), Some("why"));
        let role = block(&format!(",\"role\":\"{}\"", "x".repeat(128)));
        assert!(Claims::parse(role.as_bytes()).is_ok());
        let spaced = block(&" ".repeat(1024 - block("").len()));
        assert!(Claims::parse(spaced.as_bytes()).is_ok());
        assert_eq!(fault(&block(&" ".repeat(1025 - block("").len()))).key, None);
    }

    #[test]
    fn the_first_key_beyond_ascii_is_named() {
        let claims = Claims::parse(block(",\"pol\":[\"a\"],\"role\":\"\u{e4}\"").as_bytes()).unwrap();
        assert_eq!(claims.first_beyond_ascii(), Some("role"));
        let claims = Claims::parse(block(",\"pol\":[\"a\"],\"role\":\"r\"").as_bytes()).unwrap();
        assert_eq!(claims.first_beyond_ascii(), None);
    }
}
