use kafkalog::log::Position;
use proptest::prelude::*;

use super::*;

const SHORT: Duration = Duration::from_millis(30);

fn at(offset: u32) -> HandOver {
    HandOver { from: Position { segment: 7, offset }, until: Position { segment: 8, offset: offset + 1 } }
}

/// Plays the keeper of a build whose reader stops at `stops_at`, for one request.
fn keep(guard: &Guard, stops_at: Option<HandOver>) {
    while !guard.hear() {
        thread::sleep(Duration::from_millis(1));
    }
    guard.stand_by(true);
    guard.left(stops_at);
}

#[test]
fn the_first_build_begins_afresh() {
    let (mut old, _) = Guard::two_builds();
    assert_eq!(old.acquire(SHORT), Ok(Begin::Fresh));
    assert!(old.is_mine());
    assert_eq!(old.page.build(), "build-old");
}

#[test]
fn a_log_that_nobody_wants_any_more_is_begun_afresh() {
    let (mut old, mut new) = Guard::two_builds();
    assert_eq!(old.acquire(SHORT), Ok(Begin::Fresh));
    old.release(Some(at(1)));
    assert_eq!(new.acquire(SHORT), Ok(Begin::Fresh));
}

#[test]
fn a_new_build_goes_on_where_the_old_one_stopped() {
    let (mut old, mut new) = Guard::two_builds();
    old.acquire(SHORT).expect("it is free");
    thread::scope(|scope| {
        scope.spawn(|| keep(&old, Some(at(5))));
        assert_eq!(new.acquire(LIMIT), Ok(Begin::Continue(Some(at(5)))));
    });
    assert!(new.is_mine() && !old.is_mine());
    assert!(!old.hear(), "nobody asks it any more");
}

#[test]
fn a_build_that_does_not_answer_goes_on_reading() {
    let (mut old, mut new) = Guard::two_builds();
    old.acquire(SHORT).expect("it is free");
    let refusal = new.acquire(SHORT).expect_err("nobody answers");
    assert_eq!(refusal, Refusal::Silent { holder: "build-old".into() });
    assert!(refusal.to_string().contains("build-old"));
    assert!(old.is_mine());
    assert!(!old.hear(), "the request was withdrawn");
}

#[test]
fn a_build_that_hangs_while_it_stops_is_refused_and_gets_the_log_back() {
    let (mut old, mut new) = Guard::two_builds();
    old.acquire(SHORT).expect("it is free");
    thread::scope(|scope| {
        let asked = scope.spawn(|| new.acquire(SHORT));
        while !old.hear() {
            thread::yield_now();
        }
        assert!(matches!(asked.join().expect("no panic"), Err(Refusal::Silent { .. })));
    });
    old.left(Some(at(3)));
    let long_ago = Instant::now().checked_sub(GRACE).expect("the machine has been up for a second");
    assert_eq!(old.reclaim(long_ago), Some(Begin::Continue(Some(at(3)))));
}

#[test]
fn what_was_left_is_reserved_for_the_one_that_asked() {
    let (mut old, mut new) = Guard::two_builds();
    old.acquire(SHORT).expect("it is free");
    thread::scope(|scope| {
        let asked = scope.spawn(|| new.acquire(LIMIT));
        keep(&old, Some(at(9)));
        assert_eq!(old.reclaim(Instant::now()), None);
        assert_eq!(asked.join().expect("no panic"), Ok(Begin::Continue(Some(at(9)))));
    });
}

#[test]
fn a_build_that_cannot_start_gives_the_log_back() {
    let (mut old, mut new) = Guard::two_builds();
    old.acquire(SHORT).expect("it is free");
    thread::scope(|scope| {
        scope.spawn(|| keep(&old, Some(at(9))));
        new.acquire(LIMIT).expect("the old one answers");
    });
    new.release(Some(at(9)));
    assert_eq!(old.reclaim(Instant::now()), Some(Begin::Continue(Some(at(9)))));
    assert!(old.is_mine());
}

#[test]
fn a_build_that_stands_by_goes_on_when_the_other_is_discarded() {
    let (mut old, mut new) = Guard::two_builds();
    old.acquire(SHORT).expect("it is free");
    thread::scope(|scope| {
        scope.spawn(|| keep(&old, None));
        assert_eq!(new.acquire(LIMIT), Ok(Begin::Continue(None)));
    });
    new.release(Some(at(20)));
    assert_eq!(old.reclaim(Instant::now()), Some(Begin::Continue(Some(at(20)))));
    old.release(Some(at(21)));
    assert_eq!(new.reclaim(Instant::now()), None, "nobody stood by, so it is free");
}

#[test]
fn the_page_is_found_again_in_this_process() {
    let first = Guard::open("build-a").expect("memfds and /proc work");
    let second = Guard::open("build-b").expect("it is found");
    first.page.standby().store(41, Ordering::Relaxed);
    assert_eq!(second.page.standby().load(Ordering::Relaxed), 41);
    first.page.standby().store(0, Ordering::Relaxed);
}

#[test]
fn a_page_of_another_process_is_not_ours() {
    let inherited = Page::create(1).expect("memfds work");
    inherited.standby().store(77, Ordering::Relaxed);
    let ours = Guard::open("build-a").expect("memfds and /proc work");
    assert_ne!(ours.page.standby().load(Ordering::Relaxed), 77);
}

#[test]
fn a_damaged_word_is_refused() {
    let (mut old, _) = Guard::two_builds();
    old.page.word().store(0xff, Ordering::Relaxed);
    assert_eq!(old.acquire(SHORT), Err(Refusal::Damaged));
    assert_eq!(old.reclaim(Instant::now()), None);
}

#[derive(Debug, Clone, Copy)]
enum Action {
    Take,
    Ask,
    Withdraw,
    Hear,
    PassOn,
    Left,
    Free,
}

fn actions() -> impl Strategy<Value = Vec<(usize, Action)>> {
    let action = prop::sample::select(vec![
        Action::Take,
        Action::Ask,
        Action::Withdraw,
        Action::Hear,
        Action::PassOn,
        Action::Left,
        Action::Free,
    ]);
    prop::collection::vec((0..3_usize, action), 0..200)
}

proptest! {
    /// Three builds try whatever they like, in any order: there is never a second reader, and lines that were left are
    /// never forgotten.
    #[test]
    fn there_is_one_reader(actions in actions()) {
        let mut word = Word::new(State::Free, 0);
        let mut mine = [0_u64; 3];
        let mut reader: Option<usize> = None;
        let mut wanted = false;
        for (build, action) in actions {
            let next = match action {
                Action::Take => word.take(),
                Action::Ask => word.ask(),
                Action::Withdraw => word.withdraw(),
                Action::Hear => word.hear(mine[build]),
                Action::PassOn => word.pass_on(mine[build]),
                Action::Left => word.left(mine[build]),
                Action::Free => word.free(mine[build]),
            };
            let Some(next) = next else { continue };
            match action {
                Action::Take => {
                    prop_assert_eq!(reader, None);
                    prop_assert_eq!(wanted, word.state == State::Left);
                    mine[build] = next.generation;
                    reader = Some(build);
                    wanted = false;
                }
                Action::Hear | Action::PassOn => {
                    prop_assert_eq!(reader, Some(build));
                    reader = None;
                    wanted = true;
                }
                Action::Free => {
                    prop_assert_eq!(reader, Some(build));
                    reader = None;
                }
                Action::Ask | Action::Withdraw | Action::Left => {}
            }
            prop_assert!(next.generation >= word.generation);
            prop_assert_eq!(Word::unpack(next.pack()), Some(next));
            word = next;
        }
    }
}
