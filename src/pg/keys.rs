//! The key file: made at first need, refused unless it is the server's alone, replaced as a whole by a rotation.
//!
//! What the file says is `keyring`'s; who may call is `functions::keys`'s.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

use super::process::PerProcess;
use crate::keyring::{KeyState, Keyring};
use crate::pg::admin_error::{AdminError, AdminResult};
use crate::refusal::Refusal;

unsafe extern "C" {
    /// geteuid(2), which cannot fail.
    safe fn geteuid() -> u32;
}

static KEY_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"agent_guard.key"));

/// Nobody has that many keys; a larger file is none of ours.
const MAX_FILE: u64 = 1 << 20;

/// Defines the setting.
pub fn init() {
    GucRegistry::define_string_guc(
        c"agent_guard.key_file",
        c"File of the keys that sign windows; relative to the data directory.",
        c"Made with mode 0600 at first need. The server's user has to own it and nobody else may read it.",
        &KEY_FILE,
        GucContext::Postmaster,
        GucFlags::SUPERUSER_ONLY,
    );
}

/// Why the keys cannot be used.
struct KeyFault {
    fact: String,
    hint: String,
}

type KeyResult<T> = Result<T, KeyFault>;

/// The key of this number, for verifying.
///
/// # Errors
/// `not_ready` when the file cannot be used (what is wrong goes to the server's log, not to the agent);
/// `token_refused`, like every forgery, for a number that verifies nothing.
pub fn master(kid: u32) -> Result<[u8; 32], Refusal> {
    let ring = match ring() {
        Ok(ring) => ring,
        Err(fault) => {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                fault.fact,
                "agent_guard",
            )
            .set_hint(fault.hint)
            .report(PgLogLevel::LOG_SERVER_ONLY);
            return Err(Refusal::handshake(
                "not_ready",
                "the signing keys cannot be read",
                "",
                "Ask the administrator to look into the server's log; the key file needs chmod 600 and the server's user as its owner.",
            ));
        }
    };
    match ring.and_then(|ring| ring.verifying(kid).map(|key| key.secret)) {
        Some(secret) => Ok(secret),
        None => Err(crate::token::unknown_window()),
    }
}

/// The number and the key that sign; makes the file when there is none.
///
/// # Errors
/// 55000 when the file cannot be used.
pub fn active() -> AdminResult<(u32, [u8; 32])> {
    let ring = match ring()? {
        Some(ring) => ring,
        None => changed(|present| match present {
            Some(ring) => Ok(ring),
            None => Ok(Keyring::first(fresh()?, now())),
        })?,
    };
    let key = ring.active().ok_or_else(|| AdminError::state("there is no active signing key"))?;
    Ok((key.kid, key.secret))
}

/// Makes a new active key; its number.
///
/// # Errors
/// 55000 when the file cannot be used.
pub fn rotate() -> AdminResult<u32> {
    let ring = changed(|present| match present {
        Some(ring) => ring.rotated(fresh()?, now()).ok_or_else(|| KeyFault {
            fact: "there are no key numbers left".to_owned(),
            hint: String::new(),
        }),
        None => Ok(Keyring::first(fresh()?, now())),
    })?;
    ring.active().map(|key| key.kid).ok_or_else(|| AdminError::state("there is no active signing key"))
}

/// The key of pseudonyms; makes it when there is none.
///
/// # Errors
/// 55000 when the file cannot be used.
pub fn make_mask_key() -> AdminResult<()> {
    if ring()?.and_then(|ring| ring.mask()).is_none() {
        changed(|present| {
            let ring = match present {
                Some(ring) => ring,
                None => Keyring::first(fresh()?, now()),
            };
            Ok(ring.with_mask(fresh()?, now()))
        })?;
    }
    Ok(())
}

/// The key of pseudonyms.
///
/// # Errors
/// 55000 when the file cannot be used, or has no such key.
pub fn mask_key() -> AdminResult<[u8; 32]> {
    ring()?.and_then(|ring| ring.mask()).ok_or_else(|| {
        AdminError::state("the key file has no key of masks")
            .detail("reason=not_ready")
            .hint("A DBA makes one with SELECT agent_guard.rebuild_masks().")
    })
}

/// Numbers, states and dates of the keys; none while there is no file.
///
/// # Errors
/// 55000 when the file cannot be used.
pub fn listed() -> AdminResult<Vec<(u32, KeyState, i64)>> {
    let ring = ring()?;
    Ok(ring.map_or_else(Vec::new, |ring| {
        ring.keys().iter().map(|key| (key.kid, key.state, key.created)).collect()
    }))
}

/// What tells one version of the file from another. A rotation renames a new file into place, so the inode changes;
/// the times change with every edit by hand and every chmod.
type Stamp = (u64, u64, i64, i64, i64, i64);

/// This backend's copy of the keys and the version of the file that it is of.
static CACHE: PerProcess<RefCell<Option<(Stamp, Keyring)>>> = PerProcess::new(RefCell::new(None));

fn stamp(metadata: &Metadata) -> Stamp {
    (
        metadata.dev(),
        metadata.ino(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    )
}

/// The keys; `None` while there is no file. The file's permissions are looked at each time.
fn ring() -> KeyResult<Option<Keyring>> {
    let path = path();
    let Some(metadata) = inspected(&path)? else {
        return Ok(None);
    };
    let wanted = stamp(&metadata);
    let cached = CACHE.with_borrow(|cache| match cache {
        Some((stamp, ring)) if *stamp == wanted => Some(ring.clone()),
        _ => None,
    });
    if cached.is_some() {
        return Ok(cached);
    }
    let (opened, ring) = read(&path, &metadata)?;
    CACHE.with_borrow_mut(|cache| *cache = Some((opened, ring.clone())));
    Ok(Some(ring))
}

/// Looks at the file without following a link; `None` when there is none.
fn inspected(path: &Path) -> KeyResult<Option<Metadata>> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_fault(path, "looked at", &error)),
    };
    let shown = path.display();
    let wrong = |fact: String, hint: String| Err(KeyFault { fact, hint });
    if !metadata.is_file() {
        return wrong(
            format!("key file \"{shown}\" is a symbolic link or no plain file"),
            "Put the file itself there, or set agent_guard.key_file to where it is.".to_owned(),
        );
    }
    if metadata.uid() != geteuid() {
        return wrong(
            format!("key file \"{shown}\" does not belong to the server's user"),
            format!("Make the user that runs the server its owner (chown), then run chmod 600 '{shown}'."),
        );
    }
    if metadata.mode() & 0o077 != 0 {
        return wrong(
            format!(
                "key file \"{shown}\" is open to other users (mode {:04o}, at most 0600 is accepted)",
                metadata.mode() & 0o7777
            ),
            format!("Run chmod 600 '{shown}', and rotate_key() if somebody may have read it."),
        );
    }
    if metadata.len() > MAX_FILE {
        return wrong(
            format!("key file \"{shown}\" is too large"),
            "Restore the file from a backup.".to_owned(),
        );
    }
    Ok(Some(metadata))
}

/// Reads the file that was inspected, and no other that has taken its place.
fn read(path: &Path, inspected: &Metadata) -> KeyResult<(Stamp, Keyring)> {
    let mut file = File::open(path).map_err(|error| io_fault(path, "opened", &error))?;
    let opened = file.metadata().map_err(|error| io_fault(path, "looked at", &error))?;
    // A rotation between the two looks is as good; anything else is somebody's game.
    let same_owner = opened.uid() == inspected.uid() && opened.mode() == inspected.mode();
    if !same_owner || !opened.is_file() {
        return Err(KeyFault {
            fact: format!("key file \"{}\" was exchanged while it was opened", path.display()),
            hint: "Run the statement again.".to_owned(),
        });
    }
    let mut text = String::new();
    Read::by_ref(&mut file)
        .take(MAX_FILE)
        .read_to_string(&mut text)
        .map_err(|error| io_fault(path, "read", &error))?;
    let ring = Keyring::parse(&text).map_err(|error| KeyFault {
        fact: format!("key file \"{}\" is damaged: {}", path.display(), error.0),
        hint: "Restore the file from a backup; without its keys the windows that they signed are over."
            .to_owned(),
    })?;
    Ok((stamp(&opened), ring))
}

/// Replaces the file by what `change` makes of it, one backend at a time, and never leaves half a file.
fn changed(change: impl FnOnce(Option<Keyring>) -> KeyResult<Keyring>) -> KeyResult<Keyring> {
    let path = path();
    let lock_path = beside(&path, ".lock");
    let lock = private(OpenOptions::new().read(true).write(true).create(true), &lock_path)?;
    // Released when the file is closed, so by a killed backend too.
    lock.lock().map_err(|error| io_fault(&lock_path, "locked", &error))?;
    let present = match inspected(&path)? {
        Some(metadata) => Some(read(&path, &metadata)?.1),
        None => None,
    };
    let ring = change(present.clone())?;
    if present.as_ref() == Some(&ring) {
        return Ok(ring);
    }
    let new_path = beside(&path, ".new");
    // Left by a backend that was killed: the lock is ours, so nobody is writing it.
    if let Err(error) = std::fs::remove_file(&new_path)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(io_fault(&new_path, "removed", &error));
    }
    let mut new = private(OpenOptions::new().write(true).create_new(true), &new_path)?;
    new.write_all(ring.text().as_bytes())
        .and_then(|()| new.sync_all())
        .and_then(|()| std::fs::rename(&new_path, &path))
        .and_then(|()| path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()))
        .map_err(|error| io_fault(&path, "written", &error))?;
    Ok(ring)
}

fn private(options: &mut OpenOptions, path: &Path) -> KeyResult<File> {
    options.mode(0o600).open(path).map_err(|error| io_fault(path, "opened", &error))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn io_fault(path: &Path, what: &str, error: &std::io::Error) -> KeyFault {
    KeyFault {
        fact: format!("key file \"{}\" could not be {what}: {error}", path.display()),
        hint: "The server's user needs the file and write access to its directory; agent_guard.key_file says where it is.".to_owned(),
    }
}

fn path() -> PathBuf {
    let set = KEY_FILE.get().unwrap_or_default();
    let set = PathBuf::from(set.to_string_lossy().into_owned());
    if set.is_absolute() { set } else { data_directory().join(set) }
}

fn data_directory() -> PathBuf {
    // SAFETY: DataDir is set by the postmaster before it loads libraries and never changes afterwards.
    let directory = unsafe { pg_sys::DataDir };
    if directory.is_null() {
        return PathBuf::from(".");
    }
    // SAFETY: a NUL-terminated string that lives as long as the process.
    PathBuf::from(unsafe { CStr::from_ptr(directory) }.to_string_lossy().into_owned())
}

fn fresh() -> KeyResult<[u8; 32]> {
    let mut secret = [0; 32];
    match getrandom::fill(&mut secret) {
        Ok(()) => Ok(secret),
        Err(error) => Err(KeyFault {
            fact: format!("no random bytes for a new key: {error}"),
            hint: "The kernel's random source is needed.".to_owned(),
        }),
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(0)
}

impl From<KeyFault> for AdminError {
    fn from(fault: KeyFault) -> AdminError {
        AdminError::state(fault.fact).detail("reason=not_ready").hint(fault.hint)
    }
}
