//! What is a secret in a text and what is not, in every form that a literal has, and arbitrary texts.

use proptest::prelude::*;

use super::*;

#[test]
fn every_pattern_compiles() {
    assert_eq!(SECRETS.len(), 15);
    assert!(OPEN.is_some());
}

#[test]
fn ordinary_statements_are_left_alone() {
    for text in ["select 1", "select password from users where id = 1", "select 'https://example.org/a'"] {
        assert_eq!(redact(text), text);
    }
    assert!(matches!(redact("select 1"), Cow::Borrowed(_)));
}

#[test]
fn secrets_are_taken_out() {
    for (text, clean) in [
        ("ALTER ROLE a PASSWORD 's3cret'", "ALTER ROLE a PASSWORD '<redacted>'"),
        ("alter role a password E's3\\'cret' login", "alter role a password '<redacted>' login"),
        ("alter role a password 's3''cret' login", "alter role a password '<redacted>' login"),
        (
            "alter role a encrypted password /* x */ $a$s3cret$a$",
            "alter role a encrypted password /* x */ '<redacted>'",
        ),
        ("alter role a password $a$x$b$s3cret$a$ login", "alter role a password '<redacted>' login"),
        ("alter role a password 's3cre", "alter role a password '<redacted>'"),
        (
            "create user mapping for a server s options (user 'b', password 's3cret')",
            "create user mapping for a server s options (user 'b', password '<redacted>')",
        ),
        ("set agent_guard.token = 's3cret'", "set agent_guard.token = '<redacted>'"),
        (
            "SET LOCAL \"Agent_Guard\".\"Token\" TO s3cret;",
            "SET LOCAL \"Agent_Guard\".\"Token\" TO <redacted>;",
        ),
        (
            "select set_config('agent_guard.token', 's3cret', false)",
            "select set_config('agent_guard.token', '<redacted>', false)",
        ),
        (
            "select dblink_connect('host=h password=s3cret user=b')",
            "select dblink_connect('host=h password=<redacted> user=b')",
        ),
        (
            "create subscription s connection 'postgresql://u:s3cret@h/d' publication p",
            "create subscription s connection 'postgresql://u:<redacted>@h/d' publication p",
        ),
        ("-- agt1.AAAAAAAAAAAAAAAAAAAAAAAAAAA.s3cret.s3cret", "-- agt1.<redacted>"),
    ] {
        assert_eq!(redact(text), clean);
        assert!(!redact(text).contains("s3cre"));
    }
}

proptest! {
    #[test]
    fn any_text_is_taken(text in "(?s)(.{0,5}|password|agent_guard|token|'|\\$|=|://|@| |;|\\\\|/\\*){0,30}") {
        let once = redact(&text).into_owned();
        prop_assert_eq!(redact(&once).is_empty(), text.is_empty());
    }

    #[test]
    fn tokens_never_pass(before in ".{0,20}", body in "[A-Za-z0-9_-]{20,60}") {
        let text = format!("{before} agt1.{body}");
        prop_assert!(!redact(&text).contains(&body));
    }
}

/// Each holds `s3cret` where a secret stands, in forms of every kind.
const LEAKS: &[&str] = &[
    "create user mapping for a server s options (user 'b', sslpassword 's3cret')",
    "create user mapping for a server s options (add db_password 's3cret', set passwd 's3cret')",
    "alter user mapping for a server s options (set \"password\" 's3cret')",
    "create user mapping for a server s options (U&\"p\\0061ssword\" 's3cret')",
    "create server s foreign data wrapper f options (secret_access_key 's3cret', api_key 's3cret')",
    "alter role a password 'x'\n  's3cret'",
    "alter role a password U&'s3cret\\0061'",
    "alter role a password 'a\\' valid until 'x', password 's3cret'",
    "create user mapping for a server s options (password 'a\\', sslpassword 's3cret')",
    "alter role a password s3cret",
    "create user a encrypted password \"s3cret\"",
    "do $$begin execute 'alter role a password ''s3cret'''; end$$",
    "do $x$begin execute $y$alter role a password 's3cret'$y$; end$x$",
    "do 'begin execute ''alter role a password ''''s3cret''''''; end'",
    "do $$begin execute E'alter role a password \\'s3cret\\''; end$$",
    "do $$begin execute 'alter role a pass' || 'word ''s3cret'''; end$$",
    "do $$begin execute 'alter role a password ' || quote_literal('s3cret'); end$$",
    "do $$begin execute format('alter role a password %L', 's3cret'); end$$",
    "create function f() returns void language sql as 'alter role a password ''s3cret'''",
    "create function f() returns void language sql as $$select dblink('host=h password=s3cret', 'select 1')$$",
    "select dblink_connect('c', 'host=h password=''s3 s3cret'' user=b')",
    "select dblink_connect('c', E'host=h password=\\'se s3cret\\'')",
    "select dblink_connect('c', $$host=h password='s3\\' s3cret'$$)",
    "select dblink_connect('host=h pass' || 'word=s3cret')",
    "select dblink_connect('host=h password=' || 's3cret')",
    "select dblink_connect(concat('host=h password=', 's3cret'))",
    "select dblink_connect(U&'host=h p\\0061ssword=s3cret')",
    "select dblink_connect(E'host=h p\\x61ssword=s3cret')",
    "select dblink('host=h password=a&s3cret;s3cret', 'select 1')",
    "select dblink('postgresql://u:a''s3cret@h/d?sslpassword=s3cret')",
    "host=h password=a\\ s3cret user=b",
    "host=h password = 'a b s3cret' user=b",
    "host=h password='a\\' s3cret' user=b",
    "host=h password=a'b's3cret user=b",
    "password=s3cret",
    "{\"user\": \"a\", \"password\": \"s3cret\"}",
    "select jsonb_build_object('password', 's3cret', 'api_key', 's3cret')",
    "select connect(password => 's3cret', api_key := 's3cret')",
    "create subscription s connection 'host=h password=s3cret' publication p",
    "alter subscription s connection 'postgres://u:s3cret@h/d'",
    "alter system set primary_conninfo = 'host=h password=s3cret'",
    "alter system set primary_conninfo to 'host=h password=''s3cret'''",
    "select 1 -- password=s3cret",
    "select /* /* x */ password 's3cret' */ 1",
    "set \"app.password\" = 's3cret'",
    "set app.api_key to 's3cret'",
    "select set_config('app.password', 's3cret', false)",
    "set U&\"agent_guard\".U&\"tok\\0065n\" = 's3cret'",
    "select set_config(U&'agent_guard.tok\\0065n', 's3cret', false)",
    "select set_config('agent_guard.' || 'token', 's3cret', false)",
    "comment on role a is 'password: s3cret'",
    "select 1 from users where password <> 's3cret' or password not like 's3cret%' or password in ('s3cret')",
    "select password('s3cret')",
    "raise notice 'PGPASSWORD=s3cret psql'",
    "select dblink_connect('host=h password=s3cr",
    "select 'eyJhbGciOiJIUzI1NiJ9.s3cret-s3cret.abcdefghijk'",
    "copy t from program 'curl -u user:s3cret https://h/x'",
    "copy t from program 'curl -sSu ''user:it s3cret'' https://h/x'",
    "copy t from program $$curl --user \"user:it s3cret\" --proxy-user=p:s3cret -u q:s3cret https://h/x$$",
    "-- curl -o f -u user:s3cret https://h/x",
    "copy t from program 'sshpass -p s3cret ssh h'",
    "select http(('GET', 'https://h', array[http_header('Authorization', 'Bearer s3cret')], null, null))",
    "select net.http_get('https://h', headers := '{\"Authorization\": \"Basic s3cret\"}')",
    "{\"authorization\" : \"Bearer s3cret\"}",
    "select net.http_get('https://h', headers := jsonb_build_object('Proxy-Authorization', 'Basic ' || 's3cret', 'X-Api-Key', 's3cret'))",
    "copy t from program 'curl -H \"Authorization: Basic s3cret\" -H ''Authorization: token s3cret-2'' https://h/x'",
    "select 'Authorization: s3crets3crets3cret'",
    "select call(auth => 'Bearer s3crets3crets3cret')",
    "select $$-----BEGIN RSA PRIVATE KEY-----\ns3cret\n-----END RSA PRIVATE KEY-----$$",
    "select '-----BEGIN PRIVATE KEY-----\ns3cret",
    "create table t (id int, password text not null default 's3cret', n int)",
    "create table t (id int, password varchar(20) default ('s3cret'), n int)",
    "alter table t alter column api_key set default 's3cret'",
    "alter table t add column \"db_password\" text collate \"C\" default E's3cret' || 's3cret'",
    "create function f(n int, password text default 's3cret') returns int language sql as 'select 1'",
    "do $$begin execute 'alter table t alter password set default ''s3cret'''; end$$",
];

#[test]
fn secrets_of_every_form_are_taken_out() {
    for text in LEAKS {
        let clean = redact(text);
        assert!(!clean.contains("s3cr"), "{text}\n{clean}");
        assert!(clean.contains(REDACTED), "{clean}");
        assert_eq!(redact(&clean), clean, "{text}");
    }
}

#[test]
fn a_token_is_taken_out_byte_by_byte_and_in_base64() {
    use base64::Engine;
    let token =
        "agt1.AAAAAQABAgMEBQYHCAkKCwwNDg8.eyJq-_xAAAAAQABAgMEBQYHCAkKCwwNDg8AAAAAQABAgMEBQYHCAkKCwwNDg8.T2FF";
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (lower, upper) = (hex(token), hex(token).to_uppercase());
    let mut texts = vec![
        format!("select convert_from('\\x{lower}', 'utf8')"),
        format!("select E'\\\\x{upper}'::bytea"),
        format!("select decode('{lower}', 'hex')"),
    ];
    for before in ["", "a", "ab", "abc", "set t to '"] {
        let whole = base64::engine::general_purpose::STANDARD.encode(format!("{before}{token}"));
        // As encode() writes it: a line is 76 characters.
        let lines: Vec<&str> =
            (0..whole.len()).step_by(76).filter_map(|at| whole.get(at..whole.len().min(at + 76))).collect();
        texts.push(format!("select decode('{whole}', 'base64')"));
        texts.push(format!("select decode('{}', 'base64')", lines.join("\n")));
    }
    for text in texts {
        let clean = redact(&text);
        assert!(clean.contains(REDACTED), "{text}\n{clean}");
        let longest = clean.split(|c: char| !c.is_ascii_alphanumeric()).map(str::len).max();
        assert!(longest < Some(20), "{text}\n{clean}");
    }
    assert_eq!(redact("select '\\x616774312e6161'"), "select '\\x616774312e6161'");
}

#[test]
fn nothing_is_hidden_behind_a_secret() {
    for (text, kept) in [
        ("select /* password $x$ */ 1; drop table t", "drop table t"),
        ("select /* password ' */ 1; drop table t", "drop table t"),
        ("-- password $$\ndrop table t", "drop table t"),
        ("select 'password ''', 'kept'; drop table t", "drop table t"),
        ("alter role a password ''; drop table t", "drop table t"),
        (
            "select password, token from t where a = 'kept' and secret in ('kept')",
            "'kept' and secret in ('kept')",
        ),
        ("select dblink_connect('password=x'); drop table t", "drop table t"),
        ("do $$ begin execute 'alter role a password ''x'''; drop table t; end $$", "drop table t"),
        (
            "select t.password from t where password is null and password = $1",
            "password is null and password = $1",
        ),
        ("alter role a password null", "password null"),
        ("create table t (role text, password text, user_id int)", "password text, user_id int"),
        ("update t set password = lower(password) where id = 7", "where id = 7"),
        ("set session authorization 'bob'", "authorization 'bob'"),
        ("create schema authorization \"bob\"", "authorization \"bob\""),
        ("insert into t (password, n) values (default, 'kept')", "default, 'kept'"),
        ("update t set password = default where n = 'kept'", "'kept'"),
        ("create table t (password text, n text default 'kept')", "default 'kept'"),
        ("copy t from program 'curl -s https://h:8080/kept'", "curl -s https://h:8080/kept"),
        ("copy t from program 'curl -u a:b https://h/kept'", "https://h/kept"),
        ("select 'the bearer of this'", "the bearer of this"),
        ("select password::text, 'a' || 'b', E'\\n' from t", "password::text, 'a' || 'b', E'\\n' from t"),
    ] {
        let clean = redact(text);
        assert!(clean.contains(kept), "{text}\n{clean}");
    }
    let plain =
        "select 'a' || b, E'it\\'s', u&'\\0061' from tokens where path = 'c:\\' and url = 'https://h/a'";
    assert!(matches!(redact(plain), Cow::Borrowed(_)), "{}", redact(plain));
}

#[test]
fn messages_about_a_statement_do_not_tell_its_secrets() {
    for (message, statement) in [
        ("syntax error at or near \"s3cret\"", "alter role a password s3cret"),
        ("syntax error at or near \"'s3cret'\"", "alter role a login password 's3cret' 's3cret'"),
        ("invalid connection option \"s3cret\"", "select dblink_connect('host=h password=s3cret')"),
    ] {
        let clean = redact_beside(message, statement);
        assert!(
            !clean.contains("s3cret") && (clean.contains("at or near") || clean.contains("option")),
            "{clean}"
        );
    }
    assert_eq!(redact_beside("syntax error at or near \"x\"", "select x"), "syntax error at or near \"x\"");
}

/// Pieces of texts that hold no secret, in whichever order they stand; each kind of quotation, closed and open.
#[rustfmt::skip]
const PLAIN: &[&str] = &[
    "select ", "default ", " ", ", ", "(", ")", "; ", "\n", "'it''s'", "E'a\\'b'", "U&'\\0061'", "$$x$$", "$a$ y $a$",
    "\"Name\"", "'open", "/* c */", "/* ", "-- d\n", " || ", "\\", "https://h/x", "curl -s ", "-u ", " user", "authority ",
    "bear ", "eyj", "6167", "||", ":", "=", "é", "$1",
];
/// What secrets are known by, and what stands around it.
#[rustfmt::skip]
const LEADS: &[&str] = &[
    "curl ", "-u ", "--user=", "user:", "authorization", ": ", "basic ", "bearer ", "'", "\"", "default ", "password ", "api_key ",
    "x", "=", ",", "(", ")", " ", "\n", "616774312e", "YWd0MS5", "hZ3QxLk", "GFndDEu", "A1b2C3d4E5f6G7h8",
    "-----BEGIN PRIVATE KEY-----", "-----END ", "\\", "||", "sshpass -p ", "<redacted>", "$$", "/*", "://", "@", ";",
];

proptest! {
    #[test]
    fn a_literal_behind_password_never_passes(
        before in "(select|alter role a|'x'|/\\* y \\*/|-- z\n|\\(|,| |;){0,6}",
        quotes in 0_usize..6, inner in "[a-z' $\\\\]{0,6}", around in 0_usize..5,
    ) {
        let secret = format!("{inner}s3cret{inner}");
        let literal = match quotes {
            0 => format!("'{}'", secret.replace('\'', "''")),
            1 => format!("E'{}'", secret.replace('\\', "\\\\").replace('\'', "\\'")),
            2 => format!("$q9${secret} $q9$"),
            3 => format!("U&'{}'", secret.replace('\\', "\\\\").replace('\'', "''")),
            4 => format!("E'{}'", secret.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>()),
            _ => format!("'{}", secret.replace('\'', "''")),
        };
        let mut text = format!("{before} password {literal}");
        for _ in 0..around {
            text = format!("do '{}'", text.replace('\'', "''"));
        }
        let clean = redact(&text).into_owned();
        prop_assert!(!clean.contains("s3cret") && !clean.contains("\\x73"), "{}\n{}", text, clean);
    }

    #[test]
    fn a_text_without_secrets_stays_as_it_is(parts in proptest::collection::vec(0_usize..PLAIN.len(), 0..24)) {
        let text: String = parts.iter().filter_map(|at| PLAIN.get(*at)).copied().collect();
        // What curl is given by -u is a user and a password, whatever it looks like.
        prop_assume!(!(text.contains("curl ") && text.contains("-u ")));
        prop_assert_eq!(redact(&text), text.as_str());
    }

    #[test]
    fn what_leads_to_secrets_is_taken_in_any_mixture(parts in proptest::collection::vec(0_usize..LEADS.len(), 0..24)) {
        let text: String = parts.iter().filter_map(|at| LEADS.get(*at)).copied().collect();
        let once = redact(&text).into_owned();
        prop_assert_eq!(once.is_empty(), text.is_empty());
    }

    #[test]
    fn any_mixture_is_taken(text in "(?s)(.{0,3}|password|token|'|''|E'|U&'|\"|\\$|\\$a\\$|=|,|://|@| |;|\\\\|\\|\\||/\\*|--|\n){0,40}") {
        let once = redact(&text).into_owned();
        prop_assert_eq!(once.is_empty(), text.is_empty());
        let _ = redact_beside(&once, &text);
    }
}
