//! One reader of the log in a process, whatever number of builds of this library are loaded.
//!
//! An upgrade loads the new file beside the old one, and each has its own statics. If both read the log, every line would
//! go to Kafka twice. So who reads is written down outside of both, in a memfd named [`NAME`] which the builds find through
//! `/proc/self/fd`, and which says where to go on.
//!
//! # The shared page
//!
//! Its fields ([`page::Page`]) are atomics in native byte order, at the same offsets in every build with the same
//! [`VERSION`]; a build that finds another version refuses. The word holds a [`State`] in its lowest byte and a
//! generation above. Every change is one compare-and-swap of the word, and [`Word`] lists all that there are:
//!
//! ```text
//!            take                    ask                    hear                  left
//!   Free ───────────▶ Held(g+1) ◀──────────▶ Asked(g) ───────────▶ Leaving(g) ─────────▶ Left(g)
//!    ▲                  │  │      withdraw                              ▲                   │
//!    └──────────────────┘  └────────────────────────────────────────────┘                   ▼
//!            free              pass_on, when others stand by                     take: Held(g+1)
//! ```
//!
//! # Invariants
//!
//! 1. The build whose `take` made generation g is its holder; it alone reads the log until the word leaves
//!    `Held(g)`/`Asked(g)`, and it alone calls `hear`, `pass_on`, `left` and `free` for g.
//! 2. The positions are written by the holder between `Leaving(g)` and `Left(g)`, when its reader has stopped, and read by
//!    whoever took g+1. `Left` means: lines behind these positions are wanted and nobody has read them.
//! 3. `Leaving` always becomes `Left`, in the time that it takes to stop a reader. A build that asks waits for it, for
//!    [`LIMIT`] and once more; an ask that is not heard at all is withdrawn, and reading goes on as if nothing had been.
//! 4. Builds that want lines while another holds are counted in `standby`. A holder that needs no lines any more leaves the
//!    log to them (`Left`) instead of freeing it. A build that was asked in vain, because the one that asked could not start,
//!    gets it back the same way.
//! 5. The page is made by varnishd's CLI thread, as only WARM events make one, so two builds never make it at a time. It
//!    carries the process's number: one that came through a fork is not ours.

mod page;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kafkalog::engine::HandOver;

use page::Page;

/// The memfd's name.
pub(crate) const NAME: &str = "kafkalog-engine";

/// Of the page's layout and of the protocol.
const VERSION: u32 = 1;

/// How long another build gets to hear a request. Its keeper looks every 20 ms; varnishd's `cli_timeout`, during which the
/// CLI thread may wait, is 60 s.
pub(crate) const LIMIT: Duration = Duration::from_secs(3);

/// How long a log that was left stays reserved for the build that asked for it. It looks every millisecond.
const GRACE: Duration = Duration::from_secs(1);

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// Nobody, and nobody misses it.
    Free = 0,
    /// The holder.
    Held = 1,
    /// The holder; another build wants to go on.
    Asked = 2,
    /// The holder is stopping its reader.
    Leaving = 3,
    /// Nobody, though lines are wanted: the positions say from where.
    Left = 4,
}

/// The state and the number of the holder, as one atomic number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    state: State,
    generation: u64,
}

impl Word {
    const fn new(state: State, generation: u64) -> Self {
        Self { state, generation }
    }

    fn unpack(raw: u64) -> Option<Self> {
        let state = match raw & 0xff {
            0 => State::Free,
            1 => State::Held,
            2 => State::Asked,
            3 => State::Leaving,
            4 => State::Left,
            _ => return None,
        };
        Some(Self::new(state, raw >> 8))
    }

    const fn pack(self) -> u64 {
        self.generation << 8 | self.state as u64
    }

    /// Nobody holds: become the holder.
    fn take(self) -> Option<Self> {
        matches!(self.state, State::Free | State::Left).then(|| Self::new(State::Held, self.generation + 1))
    }

    /// Have the holder know that another build wants to go on.
    fn ask(self) -> Option<Self> {
        (self.state == State::Held).then(|| Self::new(State::Asked, self.generation))
    }

    /// Take the request back, as long as the holder has not heard it.
    fn withdraw(self) -> Option<Self> {
        (self.state == State::Asked).then(|| Self::new(State::Held, self.generation))
    }

    /// As holder of this generation, asked by another build: begin to stop.
    fn hear(self, mine: u64) -> Option<Self> {
        (self.state == State::Asked && self.generation == mine).then(|| Self::new(State::Leaving, mine))
    }

    /// As holder of this generation, of one's own accord: stopped, others are to go on.
    fn pass_on(self, mine: u64) -> Option<Self> {
        self.is_held(mine).then(|| Self::new(State::Leaving, mine))
    }

    /// As holder of this generation: the positions are written.
    fn left(self, mine: u64) -> Option<Self> {
        (self.state == State::Leaving && self.generation == mine).then(|| Self::new(State::Left, mine))
    }

    /// As holder of this generation: stop, nobody is to go on.
    fn free(self, mine: u64) -> Option<Self> {
        self.is_held(mine).then(|| Self::new(State::Free, mine))
    }

    fn is_held(self, mine: u64) -> bool {
        matches!(self.state, State::Held | State::Asked) && self.generation == mine
    }
}

/// Where a new holder begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Nobody read before.
    Fresh,
    /// Another one stopped; `None` when it could not tell where.
    Continue(Option<HandOver>),
}

/// Why this build may not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The holder did not answer.
    Silent {
        /// Its build id.
        holder: String,
    },
    /// The word is in no state that this build knows.
    Damaged,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent { holder } => write!(
                formatter,
                "another build of this module ({holder}) reads the log and did not hand it over within {} s; discard the \
                 VCLs that use it, or restart varnishd's child",
                LIMIT.as_secs()
            ),
            Self::Damaged => write!(
                formatter,
                "the memory that builds of this module share ({NAME}) is damaged; restart varnishd's child"
            ),
        }
    }
}

/// This build's view of the page.
#[derive(Debug)]
pub(crate) struct Guard {
    page: Arc<Page>,
    /// The generation that this build took last; 0 for none.
    mine: u64,
    standing_by: AtomicBool,
    build: String,
}

impl Guard {
    /// Finds the process's page, or makes it.
    ///
    /// # Errors
    ///
    /// When `/proc/self/fd` cannot be read, the page not be made or mapped, or is of another version.
    pub(crate) fn open(build: &str) -> io::Result<Self> {
        Ok(Self::on(Arc::new(Page::find_or_create()?), build))
    }

    fn on(page: Arc<Page>, build: &str) -> Self {
        Self { page, mine: 0, standing_by: AtomicBool::new(false), build: build.to_owned() }
    }

    /// Applies a change as soon as the word allows it; says what the word was. `None` when it does not allow it.
    fn change(&self, step: impl Fn(Word) -> Option<Word>) -> Option<Word> {
        let mut raw = self.page.word().load(Ordering::Acquire);
        loop {
            let word = Word::unpack(raw)?;
            let next = step(word)?;
            match self.page.word().compare_exchange_weak(raw, next.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(word),
                Err(now) => raw = now,
            }
        }
    }

    fn word(&self) -> Option<Word> {
        Word::unpack(self.page.word().load(Ordering::Acquire))
    }

    fn try_take(&mut self) -> Option<Begin> {
        let before = self.change(Word::take)?;
        self.mine = before.generation + 1;
        self.stand_by(false);
        self.page.set_build(&self.build);
        Some(if before.state == State::Left { Begin::Continue(self.page.positions()) } else { Begin::Fresh })
    }

    /// Becomes the holder; asks another build that is, and waits for it.
    ///
    /// # Errors
    ///
    /// [`Refusal`] when it does not answer; it goes on reading then.
    pub(crate) fn acquire(&mut self, limit: Duration) -> Result<Begin, Refusal> {
        let began = Instant::now();
        loop {
            if let Some(begin) = self.try_take() {
                return Ok(begin);
            }
            let in_time = began.elapsed() <= limit;
            match self.word().ok_or(Refusal::Damaged)?.state {
                State::Held if in_time => drop(self.change(Word::ask)),
                State::Held => return Err(Refusal::Silent { holder: self.page.build() }),
                // When this fails, the request has just been heard.
                State::Asked if !in_time => drop(self.change(Word::withdraw)),
                // Giving up while the holder is stopping would leave the log to nobody for a while.
                State::Leaving if began.elapsed() > limit * 2 => {
                    return Err(Refusal::Silent { holder: self.page.build() });
                }
                State::Asked | State::Leaving | State::Free | State::Left => {}
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether this build is the holder and another one wants to go on. If so, this build must stop its reader at once and
    /// say [`left`](Self::left).
    pub(crate) fn hear(&self) -> bool {
        self.change(|word| word.hear(self.mine)).is_some()
    }

    /// The reader has stopped here, and another build is to go on.
    pub(crate) fn left(&self, stopped_at: Option<HandOver>) {
        self.page.set_positions(stopped_at);
        self.change(|word| word.left(self.mine));
    }

    /// As holder, with a reader that has stopped and nobody here who wants lines any more: leaves the log to whoever
    /// stands by, or for good.
    pub(crate) fn release(&self, stopped_at: Option<HandOver>) {
        if !self.others_stand_by() {
            self.change(|word| word.free(self.mine));
        } else if self.change(|word| word.pass_on(self.mine)).is_some() {
            self.left(stopped_at);
        }
    }

    /// Whether another build is the holder.
    pub(crate) fn is_held_by_another(&self) -> bool {
        self.word().is_some_and(|word| {
            matches!(word.state, State::Held | State::Asked | State::Leaving) && word.generation != self.mine
        })
    }

    /// As holder: whether another build wants lines.
    pub(crate) fn others_stand_by(&self) -> bool {
        self.page.standby().load(Ordering::Acquire) > 0
    }

    /// Says whether this build wants lines while another one reads.
    pub(crate) fn stand_by(&self, wants: bool) {
        if self.standing_by.swap(wants, Ordering::AcqRel) != wants {
            match wants {
                true => self.page.standby().fetch_add(1, Ordering::AcqRel),
                false => self.page.standby().fetch_sub(1, Ordering::AcqRel),
            };
        }
    }

    /// Standing by: becomes the holder if the log has been left. What this build left itself is reserved for the build
    /// that asked until `since` is longer ago than a grace.
    pub(crate) fn reclaim(&mut self, since: Instant) -> Option<Begin> {
        let word = self.word()?;
        let reserved = word.generation == self.mine && since.elapsed() < GRACE;
        (word.state == State::Left && !reserved).then(|| self.try_take()).flatten()
    }
}

#[cfg(test)]
impl Guard {
    fn is_mine(&self) -> bool {
        self.word().is_some_and(|word| word.is_held(self.mine))
    }

    /// With a page that no other guard finds.
    pub(crate) fn open_apart(build: &str) -> io::Result<Self> {
        Ok(Self::on(Arc::new(Page::create_twice()?.0), build))
    }

    /// Two builds, each with a mapping of its own of one memfd.
    pub(crate) fn two_builds() -> (Self, Self) {
        let (old, new) = Page::create_twice().expect("memfds work");
        (Self::on(Arc::new(old), "build-old"), Self::on(Arc::new(new), "build-new"))
    }
}

#[cfg(test)]
mod tests;
