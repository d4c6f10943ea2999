//! Judges tokens from standard input under one window's key; the suite `clients` asks it about what the clients made.
//!
//! The first line has, separated by tabs: the window's key in hexadecimal, the time in unix seconds, role, database,
//! SYSTEM_USER, policy and agent. Every other line has a text and, behind a tab, the open challenge or nothing. For each
//! of these one line is printed: `accepted`, the ids of the blocks separated by commas and what the last block says as
//! JSON, or `refused`, the reason and the detail; separated by tabs.

use std::io::{self, BufRead, Error, ErrorKind, Write};

use agent_guard::refusal::Refusal;
use agent_guard::token::{ActiveToken, Circumstance, Peer, PresentedToken, WindowFacts, WindowKey};

/// What all texts are judged by.
struct Setting {
    key: WindowKey,
    now: i64,
    role: String,
    database: String,
    system_user: String,
    policy: String,
    agent: String,
}

impl Setting {
    fn parse(line: &str) -> Option<Setting> {
        let mut fields = line.split('\t');
        let mut next = || fields.next().map(str::to_owned);
        Some(Setting {
            key: WindowKey::from_bytes(unhex(&next()?)?),
            now: next()?.parse().ok()?,
            role: next()?,
            database: next()?,
            system_user: next()?,
            policy: next()?,
            agent: next()?,
        })
    }

    fn judge(&self, text: &str, challenge: Option<&str>) -> Result<ActiveToken, Refusal> {
        let window = WindowFacts {
            agent: self.agent.clone(),
            policy: self.policy.clone(),
            role: self.role.clone(),
            max_depth: 7,
            expires_at: i64::MAX,
            require_proof: false,
            client_addr: None,
            revoked: false,
        };
        let here = Circumstance {
            now: self.now,
            role: &self.role,
            database: &self.database,
            peer: Peer::Local,
            system_user: Some(&self.system_user),
            proof_only: false,
            at_connect: false,
            depth_ceiling: 7,
            is_revoked: &|_| false,
            utf8: true,
        };
        PresentedToken::parse(text)?.authenticate(&self.key, challenge)?.activate(&window, &here)
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    (text.len() == 64).then_some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    let mut lines = io::stdin().lock().lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let setting =
        Setting::parse(&first).ok_or_else(|| Error::new(ErrorKind::InvalidInput, "the first line"))?;
    for line in lines {
        let line = line?;
        let (text, challenge) = line.split_once('\t').unwrap_or((&line, ""));
        match setting.judge(text, Some(challenge).filter(|challenge| !challenge.is_empty())) {
            Ok(token) => {
                let ids: Vec<String> = token.block_ids().iter().map(|id| hex(id)).collect();
                let last = token.claims().last().map(|claims| claims.to_json()).unwrap_or_default();
                writeln!(out, "accepted\t{}\t{last}", ids.join(","))?;
            }
            Err(refusal) => writeln!(out, "refused\t{}\t{}", refusal.reason, refusal.detail)?,
        }
    }
    Ok(())
}
