//! A ring between two threads: one puts in, one takes out, neither ever waits for the other.
//!
//! # Invariants
//!
//! - `head` counts what was taken, `tail` what was put in; both only grow (modulo 2⁶⁴) and `tail - head` is between 0 and the
//!   capacity, which is a power of two.
//! - The slots from `head` to `tail` hold values and belong to the consumer; all others are empty and belong to the producer.
//! - Only the producer writes `tail`, after it has filled the slot; only the consumer writes `head`, after it has emptied it.
//!   Both publish with release ordering and read the other's with acquire ordering.
//!
//! Each side keeps the last it saw of the other's counter and looks again only when that is not enough, so that in a busy
//! ring the counters' cache lines seldom travel.

#![allow(unsafe_code)]

use std::fmt;
use std::mem::MaybeUninit;

#[cfg(loom)]
use loom::{
    cell::UnsafeCell,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};
#[cfg(not(loom))]
use std::{
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};

/// loom's cell asks for access through closures; the standard one is made to look the same.
#[cfg(not(loom))]
struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    fn with_mut<R>(&self, access: impl FnOnce(*mut T) -> R) -> R {
        access(self.0.get())
    }
}

/// Two cache lines: processors fetch them in pairs.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared<T> {
    head: Padded<AtomicUsize>,
    tail: Padded<AtomicUsize>,
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
}

// SAFETY: a value is in the hands of one side at a time, as the invariants say, so sharing the ring moves values between
// threads, and that is what `Send` allows.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above; no `&T` is ever handed to both sides.
unsafe impl<T: Send> Sync for Shared<T> {}

/// The side that puts in.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    seen_head: usize,
}

/// The side that takes out.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    seen_tail: usize,
}

/// A ring for at least `capacity` values.
///
/// # Panics
///
/// When the capacity is beyond half of the address space.
#[must_use]
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let capacity =
        capacity.max(1).checked_next_power_of_two().expect("a ring has far less slots than there are addresses");
    let shared = Arc::new(Shared {
        head: Padded(AtomicUsize::new(0)),
        tail: Padded(AtomicUsize::new(0)),
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
    });
    let producer = Producer { shared: Arc::clone(&shared), tail: 0, seen_head: 0 };
    (producer, Consumer { shared, head: 0, seen_tail: 0 })
}

impl<T> Producer<T> {
    /// Puts a value in.
    ///
    /// # Errors
    ///
    /// Gives the value back when the ring is full.
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        let capacity = self.shared.slots.len();
        if self.tail.wrapping_sub(self.seen_head) == capacity {
            self.seen_head = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.seen_head) == capacity {
                return Err(value);
            }
        }
        // SAFETY: the slot at `tail` is empty and belongs to this side until `tail` is published below; the acquire load of
        // `head` made the consumer's emptying of it visible.
        self.shared.slots[self.tail & (capacity - 1)].with_mut(|slot| unsafe { (*slot).write(value) });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest value out; `None` when there is none.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.seen_tail {
            self.seen_tail = self.shared.tail.0.load(Ordering::Acquire);
            if self.head == self.seen_tail {
                return None;
            }
        }
        let mask = self.shared.slots.len() - 1;
        // SAFETY: the slot at `head` holds a value, since `head` is before `tail`, and belongs to this side; the acquire load
        // of `tail` made the value visible. It is read once: `head` goes on below.
        let value = self.shared.slots[self.head & mask].with_mut(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(value)
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Both sides are gone, and letting go of the `Arc` made all they did visible.
        let (mut head, tail) = (self.head.0.load(Ordering::Acquire), self.tail.0.load(Ordering::Acquire));
        let mask = self.slots.len() - 1;
        while head != tail {
            // SAFETY: the slots from `head` to `tail` hold values that nobody has taken.
            self.slots[head & mask].with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("tail", &self.tail).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("head", &self.head).finish_non_exhaustive()
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::thread;

    use super::*;

    /// Values arrive once and in order whatever the interleaving, through a ring that fills and wraps.
    #[test]
    fn values_arrive_once_and_in_order() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring::<Box<usize>>(2);
            let writer = thread::spawn(move || {
                let mut sent = 0;
                for value in 0..3 {
                    match producer.push(Box::new(value)) {
                        Ok(()) => sent += 1,
                        Err(_) => break,
                    }
                }
                sent
            });
            let mut taken = Vec::new();
            for _ in 0..3 {
                taken.extend(consumer.pop().map(|value| *value));
            }
            let sent = writer.join().expect("no panic");
            while let Some(value) = consumer.pop() {
                taken.push(*value);
            }
            assert_eq!(taken, (0..sent).collect::<Vec<_>>());
        });
    }

    /// What was not taken is dropped once, whichever side goes last.
    #[test]
    fn what_is_left_is_dropped_once() {
        loom::model(|| {
            let token = Arc::new(());
            let (mut producer, consumer) = ring::<Arc<()>>(2);
            let sent = Arc::clone(&token);
            let writer = thread::spawn(move || {
                let _ = producer.push(sent);
            });
            drop(consumer);
            writer.join().expect("no panic");
            assert_eq!(Arc::strong_count(&token), 1);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn two_threads_pass_a_million_values() {
        const COUNT: usize = 1_000_000;
        let (mut producer, mut consumer) = ring(64);
        thread::scope(|scope| {
            scope.spawn(move || {
                for mut value in (0..COUNT).map(Box::new) {
                    while let Err(back) = producer.push(value) {
                        value = back;
                        thread::yield_now();
                    }
                }
            });
            for expected in 0..COUNT {
                let value = loop {
                    match consumer.pop() {
                        Some(value) => break value,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!(*value, expected);
            }
        });
    }

    proptest! {
        #[test]
        fn it_does_what_a_queue_does(capacity in 1_usize..9, pushes in proptest::collection::vec(any::<bool>(), 0..200)) {
            let (mut producer, mut consumer) = ring(capacity);
            let mut model = VecDeque::new();
            for (value, push) in pushes.into_iter().enumerate() {
                if push {
                    let fits = model.len() < capacity.next_power_of_two();
                    prop_assert_eq!(producer.push(Box::new(value)).is_ok(), fits);
                    if fits {
                        model.push_back(value);
                    }
                } else {
                    prop_assert_eq!(consumer.pop().map(|value| *value), model.pop_front());
                }
            }
        }
    }
}
