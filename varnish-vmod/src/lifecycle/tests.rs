use std::collections::HashSet;

use kafkalog::log::Position;
use proptest::prelude::*;

use super::*;

/// A log whose lines are numbers, and what was read of it.
#[derive(Debug, Default)]
struct World {
    end: u32,
    /// Configuration, first line, and the line behind the last once the reader has stopped.
    readers: Vec<(&'static str, u32, Option<u32>)>,
    /// Configurations that do not start.
    broken: HashSet<&'static str>,
    panics: bool,
    finished: usize,
    /// How often a reader was asked to come to the log's end.
    read_up: usize,
}

type Shared = Arc<Mutex<World>>;

impl World {
    fn running(&self) -> Vec<&'static str> {
        self.readers.iter().filter(|(_, _, until)| until.is_none()).map(|(text, _, _)| *text).collect()
    }
}

#[derive(Debug)]
struct Model {
    world: Shared,
    index: usize,
}

struct ModelSetup {
    text: &'static str,
    world: Shared,
}

fn line(number: u32) -> Position {
    Position { segment: 0, offset: number }
}

impl Machine for Model {
    type Setup = ModelSetup;

    fn is_same(one: &ModelSetup, other: &ModelSetup) -> bool {
        one.text == other.text
    }

    fn start(setup: &Arc<ModelSetup>, origin: &Origin) -> Result<Self, String> {
        let mut world = setup.world.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(!world.panics, "asked for by the test");
        if world.broken.contains(setup.text) {
            return Err(format!("{} is broken", setup.text));
        }
        let from = match origin {
            Origin::Continued { hand_over, .. } => hand_over.until.offset,
            Origin::Live { .. } => world.end,
        };
        world.readers.push((setup.text, from, None));
        Ok(Self { world: Arc::clone(&setup.world), index: world.readers.len() - 1 })
    }

    fn read_up(&self) {
        self.world.lock().expect("no test panics here").read_up += 1;
    }

    fn hand_over(&self) -> Option<HandOver> {
        let mut world = self.world.lock().expect("no test panics here");
        let until = world.end;
        world.readers[self.index].2 = Some(until);
        Some(HandOver { from: line(until), until: line(until) })
    }

    fn finish(self) {
        self.world.lock().expect("no test panics here").finished += 1;
    }
}

/// A build of the library in a process of its own.
struct Build {
    lifecycle: Lifecycle<Model>,
    world: Shared,
}

impl Build {
    fn new() -> Self {
        let guard = Guard::open_apart("build-a").expect("memfds work");
        Self::with(guard, Shared::default())
    }

    fn with(guard: Guard, world: Shared) -> Self {
        Self { lifecycle: Lifecycle::new("/nowhere".into(), guard), world }
    }

    fn warm(&mut self, vcl: u64, text: &'static str) -> Result<(), String> {
        let world = Arc::clone(&self.world);
        self.lifecycle.warm(VclId(vcl), &Arc::new(ModelSetup { text, world }))
    }

    fn cold(&mut self, vcl: u64) {
        self.lifecycle.cold(VclId(vcl));
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().expect("no test panics here")
    }

    fn requests(&self, number: u32) {
        self.world().end += number;
    }
}

#[test]
fn vcls_with_one_text_share_an_engine() {
    let mut build = Build::new();
    build.warm(1, "a").expect("it starts");
    build.warm(2, "a").expect("it is shared");
    assert_eq!(build.world().readers.len(), 1);
    build.cold(1);
    assert_eq!(build.world().running(), ["a"]);
    build.cold(2);
    build.cold(2);
    assert!(build.world().running().is_empty());
    assert!(build.lifecycle.retired().wait(Instant::now() + Duration::from_secs(5)));
    let world = build.world();
    assert_eq!((world.read_up, world.finished), (1, 1), "nobody goes on where it stopped");
}

#[test]
fn a_changed_configuration_goes_on_where_the_old_one_stopped() {
    let mut build = Build::new();
    build.warm(1, "a").expect("it starts");
    build.requests(10);
    build.warm(2, "b").expect("it goes on");
    build.requests(10);
    build.cold(1);
    assert_eq!(build.world().readers, [("a", 0, Some(10)), ("b", 10, None)]);
}

#[test]
fn the_vcl_before_decides_again_when_the_newest_gets_cold() {
    let mut build = Build::new();
    build.warm(1, "a").expect("it starts");
    build.warm(2, "b").expect("it goes on");
    build.requests(3);
    build.cold(2);
    assert_eq!(build.world().readers, [("a", 0, Some(0)), ("b", 0, Some(3)), ("a", 3, None)]);
}

#[test]
fn a_configuration_that_does_not_start_leaves_the_old_one_running() {
    let mut build = Build::new();
    build.world().broken.insert("b");
    build.warm(1, "a").expect("it starts");
    build.requests(4);
    assert_eq!(build.warm(2, "b").expect_err("it is broken"), "b is broken");
    build.requests(4);
    build.cold(2);
    assert_eq!(build.world().readers, [("a", 0, Some(4)), ("a", 4, None)]);
}

#[test]
fn a_first_configuration_that_does_not_start_leaves_the_log_free() {
    let mut build = Build::new();
    build.world().broken.insert("a");
    build.warm(1, "a").expect_err("it is broken");
    build.world().broken.clear();
    build.warm(1, "a").expect("nothing is in the way");
}

#[test]
fn a_panic_while_starting_is_an_error() {
    let mut build = Build::new();
    build.warm(1, "a").expect("it starts");
    build.world().panics = true;
    build.warm(2, "b").expect_err("it panics");
    build.world.clear_poison();
    build.world().panics = false;
    build.lifecycle.tick(Instant::now() + RETRY);
    assert_eq!(build.world().running(), ["a"]);
}

#[test]
fn reading_that_could_not_be_started_again_is_tried_until_it_works() {
    let mut build = Build::new();
    build.warm(1, "a").expect("it starts");
    build.requests(5);
    build.world().broken.extend(["a", "b"]);
    build.warm(2, "b").expect_err("it is broken");
    assert!(build.world().running().is_empty());
    build.requests(5);
    build.lifecycle.tick(Instant::now() + RETRY);
    build.world().broken.clear();
    build.lifecycle.tick(Instant::now());
    assert!(build.world().running().is_empty(), "not before it is due");
    build.lifecycle.tick(Instant::now() + RETRY * 3);
    assert_eq!(build.world().readers, [("a", 0, Some(5)), ("a", 5, None)]);
}

/// Two builds in one process; the old one's keeper ticks in a thread.
fn upgrade(test: impl FnOnce(&Mutex<Build>, &mut Build)) {
    let (old, new) = Guard::two_builds();
    let world = Shared::default();
    let old = Mutex::new(Build::with(old, Arc::clone(&world)));
    let mut new = Build::with(new, world);
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                old.lock().expect("no panic").lifecycle.tick(Instant::now());
                thread::sleep(Duration::from_millis(1));
            }
        });
        let result = catch_unwind(AssertUnwindSafe(|| test(&old, &mut new)));
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

fn wait_for(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come about");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_upgrade_and_its_way_back_lose_nothing() {
    upgrade(|old, new| {
        old.lock().expect("no panic").warm(1, "a").expect("it starts");
        new.requests(7);
        new.warm(2, "a").expect("the old build hands over");
        assert_eq!(new.world().readers, [("a", 0, Some(7)), ("a", 7, None)]);
        assert!(old.lock().expect("no panic").lifecycle.is_other_reading());
        new.requests(3);
        new.cold(2);
        wait_for(|| new.world().running() == ["a"]);
        assert_eq!(new.world().readers[2], ("a", 10, None));
    });
}

#[test]
fn an_upgrade_that_does_not_start_gives_back_what_it_was_handed() {
    upgrade(|old, new| {
        old.lock().expect("no panic").warm(1, "a").expect("it starts");
        new.requests(7);
        new.world().broken.insert("b");
        new.warm(2, "b").expect_err("it is broken");
        wait_for(|| new.world().running() == ["a"]);
        assert_eq!(new.world().readers, [("a", 0, Some(7)), ("a", 7, None)]);
    });
}

#[test]
fn the_old_build_can_be_discarded_behind_the_new_one() {
    upgrade(|old, new| {
        old.lock().expect("no panic").warm(1, "a").expect("it starts");
        new.warm(2, "b").expect("the old build hands over");
        old.lock().expect("no panic").cold(1);
        new.cold(2);
        thread::sleep(Duration::from_millis(20));
        assert!(new.world().running().is_empty());
        old.lock().expect("no panic").warm(3, "a").expect("the log is free");
    });
}

#[test]
fn a_build_that_stands_by_can_take_the_log_again() {
    upgrade(|old, new| {
        new.warm(1, "a").expect("it starts");
        thread::scope(|scope| {
            let older = scope.spawn(|| old.lock().expect("no panic").warm(2, "b"));
            while !older.is_finished() {
                new.lifecycle.tick(Instant::now());
                thread::sleep(Duration::from_millis(1));
            }
            older.join().expect("no panic").expect("it is handed over");
        });
        assert!(new.lifecycle.is_other_reading());
        new.warm(3, "c").expect("it is handed over once more");
        assert_eq!(new.world().running(), ["c"]);
    });
}

proptest! {
    /// Whatever VCLs come and go, and whichever of their configurations do not start: the newest warm one is running, alone,
    /// and every line that was wanted was read once.
    #[test]
    fn wanted_lines_are_read_once(
        events in prop::collection::vec((0..6_u64, any::<bool>(), 0..5_u32), 1..60),
        broken in prop::option::of(prop::sample::select(vec!["a", "b", "c"])),
    ) {
        let mut build = Build::new();
        build.world().broken.extend(broken);
        let mut warm: Vec<(u64, &str)> = Vec::new();
        let mut wanted: Vec<u32> = Vec::new();
        for (vcl, become_warm, requests) in events {
            let text = ["a", "b", "c"][vcl as usize % 3];
            match warm.iter().position(|(other, _)| *other == vcl) {
                None if become_warm => {
                    let started = build.warm(vcl, text).is_ok();
                    prop_assert_eq!(started, broken != Some(text));
                    if started {
                        warm.push((vcl, text));
                    }
                }
                Some(index) if !become_warm => {
                    build.cold(vcl);
                    warm.remove(index);
                }
                _ => {}
            }
            prop_assert_eq!(build.world().running(), warm.last().map(|(_, text)| *text).into_iter().collect::<Vec<_>>());
            let end = build.world().end;
            if !warm.is_empty() {
                wanted.extend(end..end + requests);
            }
            build.requests(requests);
        }
        let world = build.world();
        let read: Vec<u32> =
            world.readers.iter().flat_map(|(_, from, until)| *from..until.unwrap_or(world.end)).collect();
        prop_assert_eq!(read, wanted);
    }
}
