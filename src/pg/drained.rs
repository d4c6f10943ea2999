//! A batch taken out of the ring, as numbered events: what every writer begins with, wherever it then stores them.

use std::sync::atomic::Ordering;

use super::row::fault;
use super::shmem::RingBytes;
use super::slot::Slot;
use super::writer::BUDGET;
use crate::audit::record::{self, OwnedEvent};
use crate::audit::ring::{self, Batch, Position};

/// See the module.
pub struct Drained {
    /// Up to where the batch goes; its room is given back when it is stored.
    pub end: Position,
    /// How many events stand for others that cannot be read.
    pub faults: u64,
}

/// Takes the events between `back` and `front` that come after the number `stored`, at most a batch of them, behind `rows`.
/// `None` without a ring.
pub fn drained(
    slot: &Slot,
    (back, front): (Position, Position),
    stored: u64,
    batch: &mut Batch,
    rows: &mut Vec<(u64, OwnedEvent)>,
) -> Option<Drained> {
    let bytes = RingBytes::of(slot)?;
    let mut drained = Drained { end: ring::drain(&bytes, back, front.at, BUDGET, batch), faults: 0 };
    let base = slot.base.load(Ordering::SeqCst);
    for (number, payload) in batch.records() {
        let seq = base.saturating_add(number);
        if seq > stored {
            rows.push((
                seq,
                record::decode(payload).unwrap_or_else(|why| {
                    drained.faults = drained.faults.saturating_add(1);
                    fault(seq, &format!("its bytes cannot be read ({why:?})"))
                }),
            ));
        }
    }
    if batch.damaged() {
        // Nothing behind the damage can be found: one event stands for all of them.
        let seq = base.saturating_add(drained.end.number);
        let lost = front.number.saturating_sub(drained.end.number);
        drained.faults = drained.faults.saturating_add(1);
        slot.dropped.fetch_add(lost, Ordering::SeqCst);
        rows.push((seq, fault(seq, &format!("the ring is damaged; {lost} events are lost"))));
        drained.end = front;
    }
    Some(drained)
}
