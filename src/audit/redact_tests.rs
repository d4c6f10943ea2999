//! What is a secret in a text and what is not, in every form that a literal has, and arbitrary texts.

use proptest::prelude::*;

use super::*;

#[test]
fn every_pattern_compiles() {
    assert_eq!(SECRETS.len(), 3);
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
            2 => format!("$q${secret} $q$"),
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
    fn any_mixture_is_taken(text in "(?s)(.{0,3}|password|token|'|''|E'|U&'|\"|\\$|\\$a\\$|=|,|://|@| |;|\\\\|\\|\\||/\\*|--|\n){0,40}") {
        let once = redact(&text).into_owned();
        prop_assert_eq!(once.is_empty(), text.is_empty());
        let _ = redact_beside(&once, &text);
    }
}
