//! A bounded lock-free ring between one thread that pushes and one that pops.
//!
//! ```text
//!        head (popped so far)      tail (pushed so far)
//!          │                         │
//!   ┌───┬──▼┬───┬───┬───┬───┬───┬────▼┬───┐   both only grow, modulo 2^64; slot = index & mask
//!   │   │ x │ x │ x │ x │ x │ x │     │   │   filled: [head, tail)   free: the rest
//!   └───┴───┴───┴───┴───┴───┴───┴─────┴───┘   tail - head <= capacity
//! ```
//!
//! Invariants, on which every `SAFETY:` comment relies:
//!
//! 1. Only the [`Sender`] writes `tail`, only the [`Receiver`] writes `head`, and there is one of each: both methods take
//!    `&mut self`, and neither half can be cloned.
//! 2. A slot in `[head, tail)` holds a value and belongs to the receiver; any other is empty and belongs to the sender.
//! 3. A slot changes owner by a release store of an index, and is touched by the new owner only after an acquire load
//!    that saw that store.
//!
//! The indices lie on cache lines of their own, and each half keeps a copy of the other's index that it renews only when
//! the ring seems full or empty: in the steady state a push costs no cache miss but the value's own. The scheme is that
//! of Lamport (1983) with the cached indices of Lee et al., "B-Queue" (2010) and `rigtorp/SPSCQueue`.
// One of the named modules of unsafe code: slots are handed from thread to thread by the indices alone.
#![allow(unsafe_code)]

use std::fmt;
use std::mem::MaybeUninit;

#[cfg(loom)]
use loom::{
    cell::UnsafeCell,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

#[cfg(not(loom))]
use self::cell::UnsafeCell;

/// Makes a ring for at least `capacity` values: rounded up to a power of two, 1 at least.
///
/// # Panics
///
/// When the capacity is above 2^31: callers bound it by memory long before.
#[must_use]
pub fn ring<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity <= 1 << 31, "a ring of {capacity} values is a mistake");
    let capacity = capacity.max(1).next_power_of_two();
    let shared = Arc::new(Shared {
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        head: Padded(AtomicUsize::new(0)),
        tail: Padded(AtomicUsize::new(0)),
        closed: AtomicBool::new(false),
    });
    let sender = Sender { shared: Arc::clone(&shared), tail: 0, head: 0 };
    (sender, Receiver { shared, head: 0, tail: 0 })
}

/// Two lines of 64 bytes: x86 prefetches lines in pairs.
#[repr(align(128))]
struct Padded<T>(T);

struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    head: Padded<AtomicUsize>,
    tail: Padded<AtomicUsize>,
    /// Set when either half is dropped.
    closed: AtomicBool,
}

// SAFETY: the cells are the only part that is not `Sync` by itself. By invariants 2 and 3 a cell is used by one thread at
// a time, and the values move between threads, for which `T: Send` is what is needed.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above; the cells own their values.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, index: usize) -> &UnsafeCell<MaybeUninit<T>> {
        // A power of two of slots, so that the mask stays right when the index wraps.
        &self.slots[index & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let (mut head, tail) = (self.head.0.load(Ordering::Relaxed), self.tail.0.load(Ordering::Relaxed));
        while head != tail {
            // SAFETY: both halves are gone, so that all of `[head, tail)` is ours, and each value is dropped once.
            self.slot(head).with_mut(|slot| unsafe { (*slot).assume_init_drop() });
            head = head.wrapping_add(1);
        }
    }
}

/// The half that pushes.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    /// The receiver's index when last looked at: never ahead of it.
    head: usize,
}

impl<T> Sender<T> {
    /// Pushes a value.
    ///
    /// # Errors
    ///
    /// Gives the value back when the ring is full. A ring whose receiver is gone still takes values until it is full:
    /// ask [`is_closed`](Self::is_closed).
    #[inline]
    pub fn push(&mut self, value: T) -> Result<(), T> {
        if self.tail.wrapping_sub(self.head) == self.capacity() {
            self.head = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head) == self.capacity() {
                return Err(value);
            }
        }
        // SAFETY: `tail - head < capacity`, and the receiver's index is `head` or further, which an acquire load saw: the
        // slot at `tail` is empty and ours (invariants 2 and 3).
        self.shared.slot(self.tail).with_mut(|slot| unsafe { (*slot).write(value) });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Values that the ring takes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// Values that were pushed and not popped. Meanwhile it may have become fewer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tail.wrapping_sub(self.shared.head.0.load(Ordering::Acquire))
    }

    /// Whether everything has been popped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the receiver is gone: what is pushed will never be popped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        // Release: whoever sees it sees the last push.
        self.shared.closed.store(true, Ordering::Release);
    }
}

/// The half that pops.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    /// The sender's index when last looked at: never ahead of it.
    tail: usize,
}

impl<T> Receiver<T> {
    /// Pops the oldest value; `None` when there is none.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail {
            self.tail = self.shared.tail.0.load(Ordering::Acquire);
            if self.head == self.tail {
                return None;
            }
        }
        // SAFETY: `head < tail`, and an acquire load saw the sender's index at `tail` or further: the slot holds a value
        // that is ours (invariants 2 and 3). The index goes past it, so that it is read once.
        let value = self.shared.slot(self.head).with_mut(|slot| unsafe { (*slot).assume_init_read() });
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(value)
    }

    /// Values that wait to be popped. Meanwhile it may have become more.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.tail.0.load(Ordering::Acquire).wrapping_sub(self.head)
    }

    /// Whether nothing waits to be popped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the sender is gone: once this returns `true`, what [`pop`](Self::pop) still finds is all that will come.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("len", &self.len()).field("capacity", &self.capacity()).finish()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("len", &self.len()).field("closed", &self.is_closed()).finish()
    }
}

/// loom's cell takes closures, to see who looks when; this is the same form for real builds.
#[cfg(not(loom))]
mod cell {
    pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(super) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        #[inline(always)]
        pub(super) fn with_mut<R>(&self, look: impl FnOnce(*mut T) -> R) -> R {
            look(self.0.get())
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use loom::thread;

    use super::*;

    /// Every interleaving of three pushes through two slots: order, wrap-around, a full and an empty ring.
    #[test]
    fn values_arrive_once_and_in_order() {
        loom::model(|| {
            let (mut sender, mut receiver) = ring(2);
            let pusher = thread::spawn(move || {
                for value in 0..3 {
                    let mut value = Box::new(value);
                    while let Err(back) = sender.push(value) {
                        value = back;
                        thread::yield_now();
                    }
                }
            });
            for expected in 0..3 {
                let value = loop {
                    match receiver.pop() {
                        Some(value) => break value,
                        None => thread::yield_now(),
                    }
                };
                assert_eq!(*value, expected);
            }
            pusher.join().unwrap();
            assert!(receiver.pop().is_none() && receiver.is_closed());
        });
    }

    /// A sender that is gone leaves all it pushed; a receiver that sees it gone finds all.
    #[test]
    fn a_closed_ring_is_popped_to_its_end() {
        loom::model(|| {
            let (mut sender, mut receiver) = ring(2);
            let pusher = thread::spawn(move || {
                sender.push(Box::new(1)).unwrap();
                sender.push(Box::new(2)).unwrap();
            });
            let mut found = 0;
            loop {
                let closed = receiver.is_closed();
                while receiver.pop().is_some() {
                    found += 1;
                }
                if closed {
                    break;
                }
                thread::yield_now();
            }
            assert_eq!(found, 2);
            pusher.join().unwrap();
        });
    }

    /// Either half may go first, on any thread: values left inside are dropped once (loom reports leaks).
    #[test]
    fn values_left_inside_are_dropped() {
        loom::model(|| {
            let (mut sender, mut receiver) = ring(2);
            let pusher = thread::spawn(move || {
                let _ = sender.push(loom::sync::Arc::new(1));
                let _ = sender.push(loom::sync::Arc::new(2));
            });
            drop(receiver.pop());
            drop(receiver);
            pusher.join().unwrap();
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Pushes and pops in any order do what a bounded `VecDeque` does.
        #[test]
        fn behaves_like_a_bounded_queue(capacity in 1usize..9, pushes in proptest::collection::vec(any::<bool>(), 0..200)) {
            let (mut sender, mut receiver) = ring(capacity);
            let mut model = VecDeque::new();
            for (value, push) in pushes.into_iter().enumerate() {
                if push {
                    let expected = if model.len() < sender.capacity() { model.push_back(value); Ok(()) } else { Err(Box::new(value)) };
                    prop_assert_eq!(sender.push(Box::new(value)), expected);
                } else {
                    prop_assert_eq!(receiver.pop(), model.pop_front().map(Box::new));
                }
                prop_assert_eq!(sender.len(), model.len());
                prop_assert_eq!(receiver.len(), model.len());
                prop_assert_eq!(receiver.is_empty(), model.is_empty());
            }
        }
    }

    #[test]
    fn two_threads_pass_a_million_values_in_order() {
        const VALUES: usize = 1_000_000;
        let (mut sender, mut receiver) = ring(64);
        let pusher = std::thread::Builder::new()
            .spawn(move || {
                for value in 0..VALUES {
                    let mut value = Box::new(value);
                    while let Err(back) = sender.push(value) {
                        value = back;
                        std::thread::yield_now();
                    }
                }
            })
            .unwrap();
        let mut expected = 0;
        loop {
            let closed = receiver.is_closed();
            while let Some(value) = receiver.pop() {
                assert_eq!(*value, expected);
                expected += 1;
            }
            if closed {
                break;
            }
            std::thread::yield_now();
        }
        pusher.join().unwrap();
        assert_eq!(expected, VALUES);
    }

    #[test]
    fn either_half_sees_the_other_go() {
        let (sender, mut receiver) = ring::<u8>(1);
        assert!(!sender.is_closed() && !receiver.is_closed());
        drop(sender);
        assert!(receiver.is_closed() && receiver.pop().is_none());
        let (sender, receiver) = ring::<u8>(1);
        drop(receiver);
        assert!(sender.is_closed());
    }

    #[test]
    fn values_left_inside_are_dropped() {
        let value = Arc::new(());
        let (mut sender, mut receiver) = ring(4);
        for _ in 0..3 {
            sender.push(Arc::clone(&value)).unwrap();
        }
        drop(receiver.pop());
        drop((sender, receiver));
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
