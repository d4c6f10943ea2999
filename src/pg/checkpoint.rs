//! Writes the head of the hash chain to the server log at intervals: whoever rewrites the trail in the database does not
//! reach what the log has said, if that is kept elsewhere.

use std::ffi::CStr;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::{encoding, guc_audit};
use crate::audit::chain::{Head, hex};

/// How often the clock is worth looking at.
const LOOK: Duration = Duration::from_secs(1);

/// When the last checkpoint was, and where.
pub struct Checkpoints {
    database: String,
    said: Option<Head>,
    said_at: Instant,
    looked: Instant,
}

impl Checkpoints {
    /// The checkpoints of this database. Inside a transaction.
    pub fn of_database() -> Checkpoints {
        // SAFETY: a catalogue look-up of the database that the process is connected to; a palloc'd name or null.
        let database = unsafe {
            let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
            if name.is_null() { String::new() } else { encoding::from_server(CStr::from_ptr(name)) }
        };
        let now = Instant::now();
        Checkpoints { database, said: None, said_at: now, looked: now }
    }

    /// Whether it is time to look what is due by time.
    pub fn look_again(&mut self) -> bool {
        let due = self.looked.elapsed() >= LOOK;
        if due {
            self.looked = Instant::now();
        }
        due
    }

    /// After a batch.
    pub fn by_events(&mut self, head: Head) {
        let since = head.seq.saturating_sub(self.said.map_or(0, |said| said.seq));
        if self.said.is_none() {
            self.said = Some(head);
        } else if guc_audit::checkpoint_events().is_some_and(|most| since >= most) {
            self.now(head);
        }
    }

    /// After a second or more.
    pub fn by_time(&mut self, head: Head) {
        if guc_audit::checkpoint_interval().is_some_and(|most| self.said_at.elapsed() >= most) {
            self.now(head);
        }
    }

    /// Says it, unless it has been said.
    pub fn now(&mut self, head: Head) {
        self.said_at = Instant::now();
        let off = guc_audit::checkpoint_events().is_none() && guc_audit::checkpoint_interval().is_none();
        if off || head.seq == 0 || self.said == Some(head) {
            return;
        }
        self.said = Some(head);
        // A name in quotes with its control characters escaped: it is a database's owner's choice.
        log!("audit checkpoint of database {:?}: seq {} hash {}", self.database, head.seq, hex(&head.hash));
    }
}
