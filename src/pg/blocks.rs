//! Which blocks a session's token has, as the audit writer knows it: an event of a session does not repeat them.
//!
//! The event of the binding tells them. A writer that began later finds them with the bindings, where a session stays
//! known until its backend binds another one.

use rustc_hash::FxHashMap;

use super::bindings;
use crate::audit::event::EventKind;
use crate::audit::record::OwnedEvent;
use crate::token::hex;

/// Sessions remembered at a time; beyond that all are forgotten and asked for again.
const REMEMBERED: usize = 4096;

/// The blocks of the sessions that a writer has seen.
#[derive(Default)]
pub struct Blocks {
    known: FxHashMap<[u8; 16], Vec<String>>,
    /// Those of an event that is about a token of no session.
    alone: Vec<String>,
}

impl Blocks {
    /// The ids of the blocks that an event belongs to, the root's first; none where there is no token.
    pub fn of(&mut self, event: &OwnedEvent) -> &[String] {
        let told = || event.parameters().into_iter().flatten().flatten().map(str::to_owned).collect();
        match event.kind {
            EventKind::HandshakeRefused => {
                self.alone = told();
                return &self.alone;
            }
            EventKind::Fault | EventKind::ChainBegin | EventKind::Admin => return &[],
            EventKind::Statement
            | EventKind::Begun
            | EventKind::Text
            | EventKind::Bind
            | EventKind::Unbind
            | EventKind::ApprovalRequest
            | EventKind::Approval
            | EventKind::Results => {}
        }
        if event.session_id == [0; 16] {
            return &[];
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.entry(event.session_id).or_insert_with(|| match event.kind {
            EventKind::Bind => told(),
            _ => of_binding(&event.session_id),
        })
    }
}

fn of_binding(session: &[u8; 16]) -> Vec<String> {
    let mut found = Vec::new();
    bindings::each(|slot| {
        if slot.session == *session {
            found = slot.hold.blocks().to_vec();
        }
    });
    found.iter().map(|id| hex(id)).collect()
}
