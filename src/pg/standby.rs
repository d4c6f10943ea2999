//! What is different on a hot standby, where nothing can be written: the trail is the journal alone, what others change comes by
//! replication, and what has to be stored is refused.
//!
//! The primary's shared memory is out of reach. So revocations are looked up at every statement, and `look_around`, which the
//! standby's writer calls, ends what still runs; a change of policies comes as an invalidation of the relation `policy`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;
use sha2::{Digest, Sha256};

use super::handshake::{window_row, with_revoked_blocks};
use super::{bindings, epoch, guc_audit, own, warden};

/// Why something is refused that would have to be stored.
pub const STORES_NOTHING: &str = "a standby stores nothing; use the token on the primary server";

/// Whether the server was one when this process last looked. It may stop being one, and does not become one.
static STANDBY: AtomicBool = AtomicBool::new(true);

/// Whether the server is a standby.
#[inline]
pub fn is_one() -> bool {
    STANDBY.load(Ordering::Relaxed) && look()
}

#[cold]
fn look() -> bool {
    // SAFETY: reads shared memory only; the process is attached to it.
    let standby = unsafe { pg_sys::RecoveryInProgress() };
    STANDBY.store(standby, Ordering::Relaxed);
    standby
}

/// A relation was invalidated: policies may have changed on the primary. Nothing is looked up: a callback may not.
pub fn relation_changed(relation: pg_sys::Oid) {
    if !is_one() {
        return;
    }
    let policy = own::known().map(|own| own.policy);
    if relation == pg_sys::InvalidOid || policy.is_none_or(|policy| policy == relation) {
        epoch::policies_changed();
    }
}

/// On the primary: lets standbys know that the policies change with this transaction.
pub fn tell() {
    if let Some(own) = own::own() {
        // SAFETY: a relation of the extension, which exists; the message goes with the commit.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(own.policy) };
    }
}

/// Ends what is bound to a token of this database that was revoked on the primary. Inside a transaction, whose beginning has taken
/// in what was invalidated.
pub fn look_around(database: u32) {
    // So that an invalidation of its tables is known for what it is.
    own::own();
    let (mut windows, mut blocks) = (Vec::new(), Vec::new());
    bindings::each(|slot| {
        if slot.pid().is_some() && slot.database == database && slot.ended().is_none() {
            windows.push(slot.hold.window);
            blocks.extend_from_slice(slot.hold.blocks());
        }
    });
    for ids in [&mut windows, &mut blocks] {
        ids.sort_unstable();
        ids.dedup();
    }
    for window in windows {
        if window_row(&window).is_none_or(|row| row.revoked) {
            epoch::revoke(&window);
            warden::revoked(|hold| hold.window == window);
        }
    }
    with_revoked_blocks(|in_table| blocks.retain(in_table));
    for block in blocks {
        epoch::revoke(&block);
        warden::revoked(|hold| hold.blocks().contains(&block));
    }
}

/// Whether any session of the database is bound.
pub fn any_bound(database: u32) -> bool {
    let mut any = false;
    bindings::each(|slot| any |= slot.pid().is_some() && slot.database == database);
    any
}

/// Where this standby keeps the journal of a database: beside the primary's, of which its data directory may hold a copy, and under
/// a name that no copy of this data directory has at another place.
pub fn journal_directory(database: u32) -> PathBuf {
    guc_audit::journal_directory().join(format!("{database}.standby-{}", own_name()))
}

/// A name for this data directory: of host, path and inode.
fn own_name() -> String {
    use std::os::unix::fs::MetadataExt;

    let mut host = [0_u8; 256];
    // SAFETY: writes at most that many bytes; the last one stays zero.
    unsafe { gethostname(host.as_mut_ptr().cast(), host.len() - 1) };
    // A server process works in its data directory.
    let path = std::env::current_dir().unwrap_or_default();
    let inode = std::fs::metadata(".").map_or(0, |about| about.ino());
    let digest = Sha256::new()
        .chain_update(b"agent_guard standby 1")
        .chain_update(host)
        .chain_update(path.to_string_lossy().as_bytes())
        .chain_update(inode.to_le_bytes())
        .finalize();
    digest.iter().take(4).fold(String::new(), |name, byte| format!("{name}{byte:02x}"))
}

unsafe extern "C" {
    fn gethostname(name: *mut std::os::raw::c_char, length: usize) -> i32;
}
