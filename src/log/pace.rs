//! How long a reader of a live log may sleep.

use std::thread;
use std::time::Duration;

use super::Position;

/// With a log that fills slowly: a wake-up costs microseconds, and whoever reads the lines sees them at once.
const LONGEST: Duration = Duration::from_millis(4);

/// The smallest log that varnishd allows (1 MB) fills in 5 ms on a machine that does nothing but answer from its cache.
const SHORTEST: Duration = Duration::from_micros(250);

/// Sleeps between two looks at a log, so long that half a segment comes along meanwhile: a reader that is woken later than it
/// asked for still has most of the log before it is overrun.
#[derive(Debug)]
pub struct Pace {
    sleep: Duration,
    segment: Option<u32>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { sleep: LONGEST, segment: None }
    }
}

impl Pace {
    /// Sleeps; `position` is where the reader is, which has read everything.
    pub fn sleep(&mut self, position: Option<Position>) {
        thread::sleep(self.next(position));
    }

    fn next(&mut self, position: Option<Position>) -> Duration {
        let segment = position.map(|position| position.segment);
        let has_moved = segment.is_some() && segment != self.segment;
        self.segment = segment;
        let sleep = if has_moved { self.sleep / 2 } else { self.sleep * 2 };
        self.sleep = sleep.clamp(SHORTEST, LONGEST);
        self.sleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sleep that a log settles at whose segments fill in this time, and the time that the whole of it takes.
    fn settled(segment: Duration) -> Duration {
        let mut pace = Pace::default();
        let mut now = Duration::ZERO;
        let mut longest = Duration::ZERO;
        for step in 0..10_000 {
            let position = Position { segment: (now.as_nanos() / segment.as_nanos()) as u32, offset: 0 };
            let sleep = pace.next(Some(position));
            if step > 100 {
                longest = longest.max(sleep);
            }
            now += sleep;
        }
        longest
    }

    #[test]
    fn the_faster_the_log_the_shorter_the_sleep() {
        assert_eq!(settled(Duration::from_secs(1)), LONGEST);
        assert!(settled(Duration::from_millis(2)) <= Duration::from_millis(4));
        assert!(settled(Duration::from_millis(1)) <= Duration::from_millis(2));
        assert_eq!(settled(Duration::from_micros(50)), SHORTEST);
        assert_eq!(Pace::default().next(None), LONGEST, "a source without places");
    }
}
