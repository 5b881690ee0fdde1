use std::thread;

use proptest::prelude::*;

use super::super::Layout;
use super::super::area::{HEAD, SEGMENT_N, Shape};
use super::super::simulation::{Room, Writer};
use super::*;

fn area(writer: &Writer) -> Area<'_> {
    Area::new(writer.words(), Shape::of(writer.words()).unwrap())
}

/// A pass, and the vxids of what it handed out.
fn read(cursor: &mut Cursor, area: &Area<'_>, boundary: Option<Position>) -> (Pass, Vec<u32>) {
    let mut copy = Run::default();
    let pass = cursor.read(area, boundary, &Filter::ALL, &mut copy);
    (pass, copy.records(area.layout()).map(|record| record.vxid as u32).collect())
}

/// Everything up to the end marker, and the overruns on the way.
fn read_all(cursor: &mut Cursor, area: &Area<'_>) -> (Vec<u32>, u32) {
    let (mut all, mut skipped) = (Vec::new(), 0);
    loop {
        match read(cursor, area, None) {
            (Pass::Records, vxids) => all.extend(vxids),
            (Pass::Overrun { segments }, _) => skipped += segments,
            (Pass::End, _) => return (all, skipped),
        }
    }
}

fn write(writer: &mut Writer, vxid: u32, payload: usize) {
    let record = writer.record(Tag::REQ_URL, vxid, &vec![b'x'; payload]);
    writer.write(record);
}

#[test]
fn reading_stops_at_a_boundary_and_at_a_record_that_is_not_finished() {
    for layout in [Layout::One, Layout::Two] {
        let mut writer = Writer::new(layout, 256);
        write(&mut writer, 1, 1);
        write(&mut writer, 2, 2);
        let mut cursor = Cursor::oldest(&area(&writer));
        let start = cursor.position();
        assert_eq!(read(&mut cursor, &area(&writer), None), (Pass::Records, vec![1, 2]));
        assert_eq!(read(&mut cursor, &area(&writer), None), (Pass::End, vec![]));
        let boundary = cursor.position();
        let unfinished = writer.take_room(writer.batch(&writer.record(Tag::REQ_URL, 3, b"three")));
        writer.publish();
        write(&mut writer, 4, 0);

        let mut again = Cursor::at(&area(&writer), start);
        assert_eq!(read(&mut again, &area(&writer), Some(boundary)), (Pass::Records, vec![1, 2]));
        assert_eq!(again.position(), boundary);
        assert_eq!(read(&mut again, &area(&writer), None), (Pass::End, vec![]), "3 is not finished, so 4 waits");
        writer.fill(&unfinished);
        writer.finish(&unfinished);
        assert_eq!(read(&mut again, &area(&writer), None), (Pass::Records, vec![3, 4]));
    }
}

#[test]
fn a_boundary_at_the_end_of_a_round_is_kept_when_the_log_wraps() {
    let mut writer = Writer::new(Layout::One, 64);
    let mut cursor = Cursor::oldest(&area(&writer));
    let start = cursor.position();
    // 20 words are left, and a record of 22 does not fit.
    for vxid in 0..41 {
        write(&mut writer, vxid, 40);
        assert_eq!(read(&mut cursor, &area(&writer), None), (Pass::Records, vec![vxid]));
    }
    let boundary = cursor.position();
    write(&mut writer, 41, 80);
    assert_eq!(round(boundary.segment), start.segment);
    assert_eq!(writer.segment(), 0, "the log has wrapped, and so has the number");
    let mut again = Cursor::at(&area(&writer), Position { segment: start.segment + 7, offset: 7 * 64 + 8 });
    let (pass, vxids) = read(&mut again, &area(&writer), Some(boundary));
    assert_eq!((pass, vxids.last()), (Pass::Records, Some(&40)));
    assert_eq!(again.position(), boundary);
    assert_eq!(read(&mut again, &area(&writer), None), (Pass::Records, vec![41]));
}

#[test]
fn the_tail_is_behind_everything_and_the_head_far_enough_from_the_writer() {
    let mut writer = Writer::new(Layout::Two, 128);
    for vxid in 0..500 {
        write(&mut writer, vxid, 30);
    }
    let mut tail = Cursor::tail(&area(&writer));
    assert_eq!(read_all(&mut tail, &area(&writer)), (vec![], 0));
    let mut head = Cursor::oldest(&area(&writer));
    assert_eq!(distance(writer.segment(), head.position().segment), OLDEST as i32);
    let (vxids, skipped) = read_all(&mut head, &area(&writer));
    assert_eq!(skipped, 0);
    assert_eq!(vxids, (500 - vxids.len() as u32..500).collect::<Vec<_>>());
    assert_eq!(head.position(), tail.position());
}

#[test]
fn the_distance_is_used_to_its_limit() {
    let mut writer = Writer::new(Layout::One, 64);
    let mut cursor = Cursor::oldest(&area(&writer));
    let mut vxid = 0;
    while distance(writer.segment(), cursor.position().segment) <= DISTANCE {
        assert_eq!(
            read(&mut Cursor::at(&area(&writer), cursor.position()), &area(&writer), None).0 == Pass::End,
            vxid == 0
        );
        write(&mut writer, vxid, 8);
        vxid += 1;
    }
    let (pass, _) = read(&mut cursor, &area(&writer), None);
    assert_eq!(pass, Pass::Overrun { segments: 2 }, "to the fifth segment behind the writer's");
    let (vxids, skipped) = read_all(&mut cursor, &area(&writer));
    assert_eq!((vxids.last(), skipped), (Some(&(vxid - 1)), 0));
}

#[test]
fn a_number_that_goes_back_is_no_overrun() {
    let mut writer = Writer::new(Layout::One, 64);
    for vxid in 0..30 {
        write(&mut writer, vxid, 40);
    }
    let mut cursor = Cursor::oldest(&area(&writer));
    assert_eq!(read_all(&mut cursor, &area(&writer)).1, 0);
    // What a thread does that was interrupted before it could store the number.
    writer.put(SEGMENT_N, writer.segment() - 2);
    assert_eq!(read(&mut cursor, &area(&writer), None), (Pass::End, vec![]));
    write(&mut writer, 30, 1);
    writer.put(SEGMENT_N, writer.segment() - 2);
    assert_eq!(read(&mut cursor, &area(&writer), None), (Pass::Records, vec![30]));
}

#[test]
fn damage_is_skipped_and_told() {
    let mut writer = Writer::new(Layout::One, 64);
    let mut cursor = Cursor::oldest(&area(&writer));
    write(&mut writer, 1, 4);
    write(&mut writer, 2, 4);
    writer.put(HEAD + 3, 0);
    assert_eq!(read(&mut cursor, &area(&writer), None), (Pass::Records, vec![1]), "what is whole comes first");
    assert_eq!(read(&mut cursor, &area(&writer), None).0, Pass::End, "there is nowhere to go on yet");
    for vxid in 3..30 {
        write(&mut writer, vxid, 4);
    }
    assert_eq!(read(&mut cursor, &area(&writer), None).0, Pass::Overrun { segments: 1 });
    let (pass, vxids) = read(&mut cursor, &area(&writer), None);
    assert_eq!((pass, vxids.last()), (Pass::Records, Some(&29)));
}

#[test]
fn a_position_that_cannot_be_is_an_overrun() {
    let mut writer = Writer::new(Layout::One, 64);
    for vxid in 0..30 {
        write(&mut writer, vxid, 4);
    }
    let newest = writer.segment();
    for (segment, offset) in [(newest, 8 * 64), (newest.wrapping_add(9), 0), (newest, u32::MAX), (newest - 4, 70)] {
        let mut cursor = Cursor::at(&area(&writer), Position { segment, offset });
        let pass = read(&mut cursor, &area(&writer), None).0;
        assert!(matches!(pass, Pass::Overrun { segments: 1.. }), "{segment} {offset}: {pass:?}");
        assert_eq!(read_all(&mut cursor, &area(&writer)).0.last(), Some(&29));
    }
}

/// What one of the writer's threads, or the reader, does next.
#[derive(Debug, Clone)]
enum Step {
    /// A thread takes room for records of these payloads, as a batch or, if it is only one, as it is.
    Take(Vec<usize>, bool),
    /// One of the threads goes on: it publishes, then fills, then finishes.
    GoOn(prop::sample::Index),
    /// Yet another thread writes as many records.
    Write(u32),
    Read,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (prop::collection::vec(0_usize..60, 1..4), any::<bool>()).prop_map(|(sizes, batch)| Step::Take(sizes, batch)),
        6 => any::<prop::sample::Index>().prop_map(Step::GoOn),
        1 => (1_u32..60).prop_map(Step::Write),
        2 => Just(Step::Read),
    ];
    prop::collection::vec(step, 1..600)
}

/// What the reader has seen: every number once and in order, but for those that an overrun skips.
#[derive(Default)]
struct Seen {
    expected: u32,
    overrun: bool,
}

impl Seen {
    fn overrun(&mut self) {
        self.overrun = true;
    }

    fn record(&mut self, vxid: u32) {
        let in_order = if self.overrun { vxid >= self.expected } else { vxid == self.expected };
        assert!(in_order, "{vxid} where {} was to come, overrun: {}", self.expected, self.overrun);
        *self = Self { expected: vxid + 1, overrun: false };
    }

    /// Reads once; payloads are their record's number over and over. Returns whether there was anything.
    fn read(&mut self, cursor: &mut Cursor, area: &Area<'_>, copy: &mut Run) -> bool {
        match cursor.read(area, None, &Filter::ALL, copy) {
            Pass::Overrun { .. } => self.overrun(),
            Pass::End => return false,
            Pass::Records => {
                for record in copy.records(area.layout()) {
                    let vxid = record.vxid as u32;
                    self.record(vxid);
                    assert!(
                        record.payload.chunks(4).all(|word| word == &vxid.to_ne_bytes()[..word.len()]),
                        "{vxid} is torn"
                    );
                }
            }
        }
        true
    }
}

fn payload(vxid: u32, length: usize) -> Vec<u8> {
    vxid.to_ne_bytes().into_iter().cycle().take(length).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Threads write at any pace, each at any of its steps when the reader looks. Every record is read once and in order, or
    /// an overrun is told between the two that are not neighbours. As with varnishd, what the threads have taken and not
    /// published is less than a segment, and no thread sleeps while the others go once round the log: what it would write
    /// then would be in the middle of their records.
    #[test]
    fn nothing_is_lost_or_doubled_in_silence(steps in steps(), two: bool) {
        let mut writer = Writer::new(if two { Layout::Two } else { Layout::One }, 256);
        let mut cursor = Cursor::oldest(&area(&writer));
        let mut threads: Vec<(u8, Room)> = Vec::new();
        let mut written = 0;
        let (mut seen, mut copy) = (Seen::default(), Run::default());
        let go_on = |writer: &Writer, threads: &mut Vec<(u8, Room)>, which: usize| {
            let (stage, room) = &mut threads[which];
            *stage += 1;
            match stage {
                1 => writer.publish(),
                2 => writer.fill(room),
                _ => {
                    writer.finish(room);
                    drop(threads.remove(which));
                }
            }
        };
        for step in steps {
            while threads.first().is_some_and(|(_, room)| distance(writer.segment(), room.segment) > 3) {
                go_on(&writer, &mut threads, 0);
            }
            match step {
                Step::Take(sizes, batch) if threads.len() < 4 => {
                    let batch = batch || sizes.len() > 1;
                    let mut records = Vec::new();
                    for size in sizes {
                        records.extend(writer.record(Tag::REQ_URL, written, &payload(written, size)));
                        written += 1;
                    }
                    let words = if batch { writer.batch(&records) } else { records };
                    threads.push((0, writer.take_room(words)));
                }
                Step::GoOn(which) if !threads.is_empty() => {
                    let which = which.index(threads.len());
                    go_on(&writer, &mut threads, which);
                }
                Step::Write(count) => {
                    for _ in 0..count {
                        let record = writer.record(Tag::REQ_URL, written, &payload(written, written as usize % 64));
                        writer.write(record);
                        written += 1;
                    }
                }
                Step::Read => {
                    seen.read(&mut cursor, &area(&writer), &mut copy);
                }
                Step::Take(..) | Step::GoOn(_) => {}
            }
        }
        while !threads.is_empty() {
            go_on(&writer, &mut threads, 0);
        }
        while seen.read(&mut cursor, &area(&writer), &mut copy) {}
        prop_assert_eq!(seen.expected, written, "the last record is read");
    }
}

/// A writer and a reader at the same time, on a log that is overwritten every few hundred records.
#[test]
fn nothing_half_overwritten_is_believed() {
    const RECORDS: u32 = 200_000;
    let mut writer = Writer::new(Layout::INSTALLED, 512);
    let words = writer.shared();
    let written = thread::Builder::new().name("writer".into()).spawn(move || {
        for vxid in 0..RECORDS {
            let record = writer.record(Tag::REQ_URL, vxid, &payload(vxid, vxid as usize % 64));
            let words = if vxid % 3 == 0 { writer.batch(&record) } else { record };
            writer.write(words);
            if vxid % 64 == 0 {
                thread::yield_now();
            }
        }
    });
    let area = Area::new(&words, Shape::of(&words).unwrap());
    let mut cursor = Cursor::oldest(&area);
    let (mut seen, mut copy) = (Seen::default(), Run::default());
    while seen.expected < RECORDS {
        if !seen.read(&mut cursor, &area, &mut copy) {
            thread::yield_now();
        }
    }
    written.unwrap().join().unwrap();
}
