//! A piece of shared memory with a lock of its own.
//!
//! Nothing that can raise happens while the lock is held: an ERROR would leave through Rust frames without releasing
//! what they hold.

use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys;

/// Shared memory that begins with a `T`; the name is that of its lock's tranche too.
pub struct Region<T: 'static> {
    name: &'static CStr,
    memory: AtomicPtr<T>,
    lock: AtomicPtr<pg_sys::LWLock>,
}

impl<T: 'static> Region<T> {
    /// A region that has yet to be requested.
    pub const fn new(name: &'static CStr) -> Region<T> {
        Region {
            name,
            memory: AtomicPtr::new(std::ptr::null_mut()),
            lock: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// Asks for the memory.
    ///
    /// # Safety
    /// Called from shmem_request_hook.
    pub unsafe fn request(&self, bytes: usize) {
        // SAFETY: the caller's promise; the name lives as long as the process.
        unsafe {
            pg_sys::RequestAddinShmemSpace(bytes);
            pg_sys::RequestNamedLWLockTranche(self.name.as_ptr(), 1);
        }
    }

    /// Attaches to the memory; whoever comes first finds it all zero and fills it with `fill`.
    ///
    /// # Safety
    /// Called from shmem_startup_hook with the bytes of the request; all-zero bytes are a valid `T`.
    pub unsafe fn attach(&self, bytes: usize, fill: impl FnOnce(&mut T)) {
        // SAFETY: ShmemInitStruct needs AddinShmemInitLock, as its comment says; `fill` sees memory that nobody else knows.
        unsafe {
            let mut found = false;
            pg_sys::LWLockAcquire(addin_lock(), pg_sys::LWLockMode::LW_EXCLUSIVE);
            let memory: *mut T = pg_sys::ShmemInitStruct(self.name.as_ptr(), bytes, &raw mut found).cast();
            if !found {
                std::ptr::write_bytes(memory.cast::<u8>(), 0, bytes);
                fill(&mut *memory);
            }
            let tranche = pg_sys::GetNamedLWLockTranche(self.name.as_ptr());
            self.lock.store(&raw mut (*tranche).lock, Ordering::Release);
            self.memory.store(memory, Ordering::Release);
            pg_sys::LWLockRelease(addin_lock());
        }
    }

    /// The memory, for its atomics; `None` before it is attached.
    pub fn get(&self) -> Option<&'static T> {
        // SAFETY: set once in the postmaster (or attached anew by the startup hook) to memory that outlives the process.
        unsafe { self.memory.load(Ordering::Acquire).as_ref() }
    }

    /// Runs `body` under the lock. `body` must not raise, allocate PostgreSQL memory or take another lock.
    pub fn locked<R>(&self, mode: pg_sys::LWLockMode::Type, body: impl FnOnce(*mut T) -> R) -> Option<R> {
        let memory = self.memory.load(Ordering::Acquire);
        let lock = self.lock.load(Ordering::Acquire);
        if memory.is_null() || lock.is_null() {
            return None;
        }
        // SAFETY: the lock is ours and not held; body keeps to the promise above, so the release is always reached.
        unsafe {
            pg_sys::LWLockAcquire(lock, mode);
            let value = body(memory);
            pg_sys::LWLockRelease(lock);
            Some(value)
        }
    }
}

/// `AddinShmemInitLock` (src/include/storage/lwlocknames.h: individual lock 21).
///
/// # Safety
/// The main LWLock array exists, as it does when shmem_startup_hook runs.
unsafe fn addin_lock() -> *mut pg_sys::LWLock {
    const ADDIN_SHMEM_INIT_LOCK: usize = 21;
    // SAFETY: see above; the array holds every individual lock.
    unsafe { &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock }
}
