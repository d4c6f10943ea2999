//! What one process of the server keeps to itself: a static without the price of a thread-local, which in a library
//! that is loaded at run time is a function call at each use.

use std::cell::RefCell;
use std::ops::Deref;

/// A value of this process.
pub struct PerProcess<T>(T);

// SAFETY: the server runs each process on one thread, and calls hooks, callbacks and functions on no other; this crate
// starts none.
unsafe impl<T> Sync for PerProcess<T> {}

impl<T> PerProcess<T> {
    /// A value that every process has for itself.
    pub const fn new(value: T) -> PerProcess<T> {
        PerProcess(value)
    }

    /// Runs `body` on the value, as with a thread-local.
    #[inline]
    pub fn with<R>(&'static self, body: impl FnOnce(&'static T) -> R) -> R {
        body(&self.0)
    }
}

/// As the methods of these names on a thread-local.
impl<T> PerProcess<RefCell<T>> {
    /// Runs `body` on what is in the cell, which nobody is changing.
    pub fn with_borrow<R>(&'static self, body: impl FnOnce(&T) -> R) -> R {
        body(&self.0.borrow())
    }

    /// Runs `body` on what is in the cell, which nobody else uses.
    pub fn with_borrow_mut<R>(&'static self, body: impl FnOnce(&mut T) -> R) -> R {
        body(&mut self.0.borrow_mut())
    }

    /// Replaces what is in the cell.
    pub fn set(&'static self, value: T) {
        self.0.replace(value);
    }
}

impl<T> Deref for PerProcess<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}
