//! What exactly an approval is good for, as one hash: who asks, under which policy and settings, the statement with its
//! parameters and what it was called from, and the bodies of the functions, views and triggers that it brings along.
//!
//! What a cascade takes along is compared object by object beside it (`approval::Known`).

use std::ffi::CStr;

use pgrx::pg_sys;
use sha2::{Digest, Sha256};

use super::super::policies::Policy;
use super::super::scan::{self, Key};
use super::super::session::{self, Session};
use super::super::statement;
use super::super::{calls, catalog, rows, secrets, withhold};
use super::Asked;
use crate::approval::Fingerprint;
use crate::request::ObjectClass;
use crate::token::hex;

/// Settings that change what a text means, or which names it finds.
const SETTINGS: [&CStr; 9] = [
    c"search_path",
    c"standard_conforming_strings",
    c"backslash_quote",
    c"DateStyle",
    c"IntervalStyle",
    c"TimeZone",
    c"session_replication_role",
    c"row_security",
    c"transform_null_equals",
];

/// pg_rewrite and pg_trigger with their indexes on the relation (src/include/catalog/pg_rewrite.h, pg_trigger.h).
const REWRITE: u32 = 2618;
const REWRITE_BY_RELATION: u32 = 2693;
const TRIGGER: u32 = 2620;
const TRIGGER_BY_RELATION: u32 = 2701;

/// Whether texts and parameters are what they are, for people and for the hash: inside a trigger of a masked table they are
/// withheld, and tokens are masked, in the place of which another text could stand.
pub fn printable(chain: &[Asked], own: Option<&[Option<String>]>) -> bool {
    let fine = |list: &[Option<String>]| list.iter().all(|value| value.as_deref() != Some(rows::UNPRINTABLE));
    let shown = |asked: &Asked| {
        &*asked.text != withhold::TEXT
            && !secrets::was_masked(&asked.text)
            && asked.parameters.as_deref().is_none_or(fine)
    };
    chain.iter().all(shown) && own.is_none_or(fine)
}

/// The hash.
pub fn fingerprint(
    session: &Session,
    policy: &Policy,
    chain: &[Asked],
    parameters: Option<&[Option<String>]>,
) -> [u8; 32] {
    // SAFETY: plain values of this process.
    let (database, user) = unsafe { (pg_sys::MyDatabaseId, pg_sys::GetUserId()) };
    let role = session::authenticated_role();
    let mut sum = Fingerprint::begin()
        .with(&database.to_u32().to_le_bytes())
        .with(&role.to_u32().to_le_bytes())
        .with(&user.to_u32().to_le_bytes())
        .with(session.token.window())
        .with_list(session.token.block_ids())
        .with(&policy.id.to_le_bytes())
        .with(&policy.version.to_le_bytes());
    for name in SETTINGS {
        sum = sum.with(setting(name).as_bytes());
    }
    sum = sum.with(&chain.len().to_le_bytes());
    for asked in chain {
        sum = sum.with(asked.command.as_bytes()).with(asked.text.as_bytes());
        sum = with_parameters(sum, asked.parameters.as_deref());
    }
    sum = with_parameters(sum, parameters);
    for function in calls::running() {
        sum = sum.with(&function.to_u32().to_le_bytes()).with(&function_body(function));
    }
    sum.with_list(&bodies()).end()
}

fn with_parameters(sum: Fingerprint, list: Option<&[Option<String>]>) -> Fingerprint {
    let Some(list) = list else { return sum.with_optional(None) };
    list.iter().fold(sum.with_optional(Some(&list.len().to_le_bytes())), |sum, value| {
        sum.with_optional(value.as_ref().map(String::as_bytes))
    })
}

/// The value of a setting of the server; empty where there is none of that name.
pub fn setting(name: &CStr) -> String {
    // SAFETY: looks a setting up by a NUL-terminated name; null where there is none of it or it may not be read.
    unsafe { catalog::text(pg_sys::GetConfigOption(name.as_ptr(), true, false)) }.unwrap_or_default()
}

/// The bodies of the functions, views and triggers that the current statement's accesses bring along, in the order of the
/// objects.
fn bodies() -> Vec<[u8; 32]> {
    let mut objects = statement::with_current(|open| {
        let named = open.noted().filter_map(|access| access.object.as_ref());
        named.map(|object| (object.class as u8, object.class, object.oid.0)).collect::<Vec<_>>()
    })
    .unwrap_or_default();
    objects.sort_unstable_by_key(|object| (object.0, object.2));
    objects.dedup_by_key(|object| (object.0, object.2));
    let mut bodies = Vec::new();
    for (_, class, oid) in objects {
        match class {
            ObjectClass::Function => bodies.push(function_body(pg_sys::Oid::from(oid))),
            ObjectClass::Relation => bodies.extend(relation_bodies(pg_sys::Oid::from(oid))),
            _ => {}
        }
    }
    bodies
}

/// The hash of a function's whole row: source, settings, owner, security.
fn function_body(function: pg_sys::Oid) -> [u8; 32] {
    // SAFETY: the tuple belongs to the cache until it is released; its data lie behind the header, t_len bytes in all.
    unsafe {
        let cache = i32::try_from(pg_sys::SysCacheIdentifier::PROCOID).unwrap_or(0);
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(function));
        if tuple.is_null() {
            return [0; 32];
        }
        let header = usize::from((*(*tuple).t_data).t_hoff);
        let length = usize::try_from((*tuple).t_len).unwrap_or(0).saturating_sub(header);
        let data = std::slice::from_raw_parts((*tuple).t_data.cast::<u8>().add(header), length);
        let sum = Sha256::digest(data).into();
        pg_sys::ReleaseSysCache(tuple);
        sum
    }
}

/// The rules of a relation (a view's query among them) and its triggers with their functions.
fn relation_bodies(relid: pg_sys::Oid) -> Vec<[u8; 32]> {
    let mut bodies = Vec::new();
    let rules = (pg_sys::Oid::from(REWRITE_BY_RELATION), 3, Key::Oid(relid));
    scan::rows(pg_sys::Oid::from(REWRITE), Some(rules), |row| {
        let parts = [row.column::<String>(7), row.column::<String>(8)];
        let parts = parts.map(Option::unwrap_or_default);
        let enabled = row.column::<i8>(5).unwrap_or(0).to_le_bytes();
        bodies.push(Fingerprint::begin().with(&enabled).with_list(&parts).end());
    });
    let mut functions = Vec::new();
    let triggers = (pg_sys::Oid::from(TRIGGER_BY_RELATION), 2, Key::Oid(relid));
    scan::rows(pg_sys::Oid::from(TRIGGER), Some(triggers), |row| {
        if row.column::<bool>(8) == Some(false) {
            functions.push((
                row.column::<pg_sys::Oid>(1).unwrap_or(pg_sys::InvalidOid),
                row.column::<pg_sys::Oid>(5).unwrap_or(pg_sys::InvalidOid),
                row.column::<i16>(6).unwrap_or(0),
                row.column::<i8>(7).unwrap_or(0),
            ));
        }
    });
    functions.sort_unstable_by_key(|one| one.0.to_u32());
    for (trigger, function, kind, enabled) in functions {
        let sum = Fingerprint::begin()
            .with(&trigger.to_u32().to_le_bytes())
            .with(&kind.to_le_bytes())
            .with(&enabled.to_le_bytes())
            .with(&function_body(function));
        bodies.push(sum.end());
    }
    bodies
}

/// The functions and statements around the current one, in words.
pub fn context(chain: &[Asked]) -> Vec<String> {
    const SHOWN: usize = 500;
    let around = chain.split_last().map_or(&[][..], |(_, around)| around);
    let mut words: Vec<String> = around
        .iter()
        .map(|asked| format!("{}: {}", asked.level, crate::audit::event::prefix(&asked.text, SHOWN)))
        .collect();
    for function in calls::running() {
        let name = catalog::function_object(function).map(|object| object.to_string()).unwrap_or_default();
        words.push(format!(
            "function {name} {}",
            hex(function_body(function).first_chunk::<16>().unwrap_or(&[0; 16]))
        ));
    }
    words
}
