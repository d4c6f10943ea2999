//! The journal of one database: its directory, the file that grows, rotation and removal. Called by the writer alone,
//! between transactions; nothing here raises.
//!
//! A write that fails is taken back, so that a file ends with a whole record however full the disk is. What a crash
//! left behind the last whole record is cut; what looks like tampering is cut too, but a copy is kept beside.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pgrx::prelude::*;

use super::guc_audit;
use crate::audit::chain::Head;
use crate::audit::journal::{Damage, Header, Reader, file_name, first_of_name};

/// See the module.
pub struct Journal {
    directory: PathBuf,
    database: u32,
    columns: String,
    /// The file that grows; none before the first record.
    open: Option<Growing>,
    /// The last event on disk.
    head: Option<Head>,
    /// What opening it had to repair, in words; for the trail.
    pub repaired: Option<String>,
}

/// Zero bytes that a file that grows is given at once. Writing into them moves no end of a file, so that a sync need not wait for
/// the file system's own journal: it takes half to two thirds of the time.
const ROOM: u64 = 1024 * 1024;

/// The file that grows.
struct Growing {
    file: File,
    /// Where its records end.
    good: u64,
    /// Its length: zero bytes behind `good`.
    length: u64,
}

impl Growing {
    /// Writes behind the records and makes it last; the file is as before where that fails.
    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let end = self.good.saturating_add(length(records));
        if end > self.length {
            self.make_room(end);
        }
        let Growing { file, good, .. } = self;
        if let Err(error) = file.write_all_at(records, *good).and_then(|()| sync(file)) {
            // The rest of a half-written batch must not stand before the next one.
            self.trim()?;
            return Err(error);
        }
        (self.good, self.length) = (end, self.length.max(end));
        Ok(())
    }

    /// Makes room up to `end` and for what comes behind. Where there is none on the disk it is the records that fail.
    fn make_room(&mut self, end: u64) {
        let most = guc_audit::journal_file_size().min(self.good.saturating_add(ROOM)).max(end);
        let zeros = vec![0; usize::try_from(most.saturating_sub(self.length)).unwrap_or(0)];
        if self.file.write_all_at(&zeros, self.length).is_ok() {
            self.length = most;
        } else if let Err(error) = self.file.set_len(self.length) {
            warning!("the audit journal's file cannot be cut: {error}");
        }
    }

    /// Leaves nothing behind the records.
    fn trim(&mut self) -> io::Result<()> {
        self.file.set_len(self.good)?;
        self.length = self.good;
        Ok(())
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        // Readers stand what is left.
        self.trim().unwrap_or_default();
    }
}

/// What a file looked like when it was read to its end.
struct Checked {
    head: Head,
    good: u64,
    damage: Option<Damage>,
}

impl Journal {
    /// Opens the journal of a database, and repairs the end of its last file.
    ///
    /// # Errors
    /// Of the file system; or in words where the directory holds what is not this database's journal.
    pub fn open(database: u32, columns: String) -> io::Result<Journal> {
        Journal::open_at(guc_audit::journal_directory().join(database.to_string()), database, columns)
    }

    /// As `open`, for a journal in another directory.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_at(directory: PathBuf, database: u32, columns: String) -> io::Result<Journal> {
        DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let mut journal = Journal { directory, database, columns, open: None, head: None, repaired: None };
        while let Some((_, path)) = journal.files()?.pop() {
            if journal.take_up(&path)? {
                break;
            }
        }
        Ok(journal)
    }

    /// The last event on disk.
    pub fn head(&self) -> Option<Head> {
        self.head
    }

    /// The files, oldest first, with the numbers of their first events.
    pub fn files(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if let Some(first) = path.file_name().and_then(|name| name.to_str()).and_then(first_of_name) {
                files.push((first, path));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Makes the last file the one that grows; false where nothing of it was good and it is out of the way.
    fn take_up(&mut self, path: &Path) -> io::Result<bool> {
        let bytes = read(path)?;
        let checked = self.check(&bytes, path)?;
        if let Some(damage) = checked.damage {
            let lost = length(&bytes).saturating_sub(checked.good);
            let name = path.display();
            let torn = matches!(damage, Damage::Torn) || bytes.is_empty();
            let words =
                format!("{}: {lost} bytes behind event {} of {name}", damage.word(), checked.head.seq);
            if torn {
                warning!("the audit journal is cut: {words}");
            } else {
                let aside = aside(path);
                fs::copy(path, &aside)?;
                warning!("the audit journal is cut: {words}; a copy is kept as {}", aside.display());
                self.repaired = Some(format!("the journal was damaged, or tampered with: {words}"));
            }
            if checked.good == 0 {
                fs::remove_file(path)?;
                return Ok(false);
            }
        }
        let file = OpenOptions::new().write(true).open(path)?;
        let mut open = Growing { file, good: checked.good, length: length(&bytes) };
        if checked.damage.is_some() {
            open.trim()?;
            sync(&open.file)?;
        }
        self.open = Some(open);
        self.head = Some(checked.head);
        Ok(true)
    }

    fn check(&self, bytes: &[u8], path: &Path) -> io::Result<Checked> {
        let mut reader = match Reader::new(bytes) {
            Ok(reader) => reader,
            Err(damage) => return Ok(Checked { head: Head::START, good: 0, damage: Some(damage) }),
        };
        self.owns(reader.header(), path)?;
        let damage = loop {
            match reader.next_entry() {
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(damage) => break Some(damage),
            }
        };
        let good = u64::try_from(reader.position()).unwrap_or(0);
        Ok(Checked { head: reader.head(), good, damage })
    }

    /// Refuses another server's journal, another database's, or one of another version of the extension.
    fn owns(&self, header: &Header, path: &Path) -> io::Result<()> {
        let why = if header.system != system() {
            "belongs to another server"
        } else if header.database != self.database {
            "belongs to another database"
        } else if !self.columns.starts_with(&header.columns) {
            "is of another version of the extension"
        } else {
            return Ok(());
        };
        let message = format!("{} {why}; move it away to begin a new journal", path.display());
        Err(io::Error::new(ErrorKind::InvalidData, message))
    }

    /// Reads the bytes of a file, for `Reader`, and holds its header against this database.
    ///
    /// # Errors
    /// Of the file system; or in words.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let bytes = read(path)?;
        if let Ok(reader) = Reader::new(&bytes) {
            self.owns(reader.header(), path)?;
        }
        Ok(bytes)
    }

    /// Appends records, the first of which continues `before`, and makes them last. All or nothing.
    ///
    /// # Errors
    /// Of the file system; the file is then as it was.
    pub fn append(&mut self, records: &[u8], before: Head, head: Head) -> io::Result<()> {
        let full = self.open.as_ref().is_some_and(|open| open.good >= guc_audit::journal_file_size());
        if self.open.is_none() || full || self.head != Some(before) {
            self.begin(before)?;
        }
        self.open.as_mut().ok_or(ErrorKind::NotFound)?.append(records)?;
        self.head = Some(head);
        Ok(())
    }

    /// Cuts the file that grows behind an event that it has, or continues.
    ///
    /// # Errors
    /// Of the file system; or where the event is not in it.
    pub fn cut_behind(&mut self, event: Head) -> io::Result<()> {
        let Some((_, path)) = self.files()?.pop() else { return Err(ErrorKind::NotFound.into()) };
        let bytes = read(&path)?;
        let mut reader =
            Reader::new(&bytes).map_err(|damage| io::Error::new(ErrorKind::InvalidData, damage.word()))?;
        while reader.head() != event {
            if !matches!(reader.next_entry(), Ok(Some(_))) {
                return Err(ErrorKind::NotFound.into());
            }
        }
        let good = u64::try_from(reader.position()).unwrap_or(0);
        self.open = None;
        let file = OpenOptions::new().write(true).open(&path)?;
        let mut open = Growing { file, good, length: length(&bytes) };
        open.trim()?;
        sync(&open.file)?;
        (self.open, self.head) = (Some(open), Some(event));
        Ok(())
    }

    /// Begins a new file behind `before`.
    fn begin(&mut self, before: Head) -> io::Result<()> {
        // SAFETY: reads the clock.
        let now = unsafe { pg_sys::GetCurrentTimestamp() }.saturating_add(super::scan::POSTGRES_EPOCH_MICROS);
        let header = Header {
            system: system(),
            database: self.database,
            created: now,
            before,
            columns: self.columns.clone(),
        };
        let path = self.directory.join(file_name(before.seq.saturating_add(1)));
        let bytes = header.bytes();
        // Under another name until it is whole: a file without a header would be damage.
        let unborn = path.with_extension("new");
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&unborn)?;
        file.write_all(&bytes).and_then(|()| sync(&file))?;
        if path.exists() {
            // A chain begun anew at a number that was there before.
            fs::rename(&path, aside(&path))?;
        }
        fs::rename(&unborn, &path)?;
        sync(&File::open(&self.directory)?)?;
        let file = OpenOptions::new().write(true).open(&path)?;
        self.open = Some(Growing { file, good: length(&bytes), length: length(&bytes) });
        self.head = Some(before);
        self.remove_old()
    }

    /// Removes the oldest files, beyond size and age. Never the one that grows.
    pub fn remove_old(&self) -> io::Result<()> {
        let files = self.files()?;
        let mut sizes = Vec::new();
        for (_, path) in &files {
            sizes.push(fs::metadata(path)?);
        }
        let mut total: u64 = sizes.iter().map(fs::Metadata::len).sum();
        let closed = files.len().saturating_sub(1);
        for ((_, path), about) in files.iter().zip(&sizes).take(closed) {
            let large = guc_audit::journal_max_size().is_some_and(|most| total > most);
            let age = about.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            let old = guc_audit::journal_max_age().zip(age).is_some_and(|(most, age)| age > most);
            if !large && !old {
                break;
            }
            fs::remove_file(path)?;
            total = total.saturating_sub(about.len());
        }
        Ok(())
    }
}

fn aside(path: &Path) -> PathBuf {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    path.with_extension(format!("journal.{}.damaged", since.as_millis()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// As the server does with its own files, by its setting `fsync`.
fn sync(file: &File) -> io::Result<()> {
    // SAFETY: a plain setting of this process.
    if unsafe { pg_sys::enableFsync } { file.sync_data() } else { Ok(()) }
}

fn system() -> u64 {
    // SAFETY: reads shared memory that was set up at the server's start.
    unsafe { pg_sys::GetSystemIdentifier() }
}
