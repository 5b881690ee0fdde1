//! Waiting for something to happen, with a limit and a way out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How often is looked again.
const PAUSE: Duration = Duration::from_millis(25);

/// Looks again and again until `look` finds something, and returns it.
///
/// # Errors
///
/// When `limit` has passed or `stop` was set, with `what` was waited for; and when `look` fails.
pub fn until<T>(
    what: &str,
    limit: Duration,
    stop: &AtomicBool,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look().with_context(|| format!("waiting for {what}"))? {
            return Ok(found);
        }
        if stop.load(Ordering::Relaxed) {
            bail!("interrupted while waiting for {what}");
        }
        if began.elapsed() >= limit {
            bail!("{what}: not within {} s", limit.as_secs_f32());
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_and_the_flag_end_it() {
        let stop = AtomicBool::new(false);
        let error = until::<()>("rain", Duration::from_millis(60), &stop, || Ok(None)).expect_err("no rain");
        assert!(error.to_string().starts_with("rain: not within"), "{error}");
        stop.store(true, Ordering::Relaxed);
        let error = until::<()>("rain", Duration::from_secs(60), &stop, || Ok(None)).expect_err("no rain");
        assert!(error.to_string().starts_with("interrupted"), "{error}");
    }
}
