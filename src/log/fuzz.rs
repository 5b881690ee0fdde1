//! What the fuzz target `log_reader` and a property test run: outside bytes into everything that reads them. Nothing here may
//! panic or run for ever, whatever the bytes.

use std::path::Path;

use super::area::{Area, Shape};
use super::cursor::{Cursor, Pass};
use super::simulation::Writer;
use super::{Filter, Layout, LogSource, Position, Read, Recording, Records, Run, Tag, index};

/// Reads the bytes as a recording in either layout, as an index, and as what happens to a log in memory.
pub fn log_reader(bytes: &[u8]) {
    for marker in [b"VSL\0", b"VSL2"] {
        recording([marker, bytes].concat());
    }
    let _ = index::find_log(&String::from_utf8_lossy(bytes));
    for layout in [Layout::One, Layout::Two] {
        memory(layout, bytes);
    }
}

fn recording(bytes: Vec<u8>) {
    let size = bytes.len();
    let input = Box::new(std::io::Cursor::new(bytes));
    let mut recording = Recording::from_input(input, Path::new("fuzz")).expect("the marker is there");
    for _ in 0..=size {
        match recording.read() {
            Ok(Read::Records(records)) => count(records),
            Ok(Read::Idle | Read::Event(_)) => panic!("a recording is neither idle nor broken off"),
            Ok(Read::End) | Err(_) => return,
        }
    }
    panic!("more runs than bytes");
}

/// Each word of the bytes is a step: the writer writes a record or a batch, leaves one unfinished, has a word overwritten, or
/// the reader reads, from where it was or from anywhere.
fn memory(layout: Layout, bytes: &[u8]) {
    let mut writer = Writer::new(layout, 64);
    let size = writer.words().len();
    let shape = Shape::of(writer.words()).expect("the writer has written the head");
    let mut cursor = Cursor::oldest(&Area::new(writer.words(), shape));
    let mut boundary = None;
    let mut copy = Run::default();
    let mut steps = bytes.as_chunks::<4>().0.iter();
    while let Some(&[action, low, high, more]) = steps.next() {
        let number = u16::from_le_bytes([low, high]);
        match action % 8 {
            0 => writer.write(writer.record(Tag::from_number(more), number.into(), &bytes[..bytes.len().min(80)])),
            1 => {
                let record = writer.record(Tag::REQ_URL, number.into(), &bytes[..usize::from(more).min(bytes.len())]);
                writer.write(writer.batch(&record));
            }
            2 => drop(writer.take_room(writer.record(Tag::REQ_URL, 0, &bytes[..usize::from(more).min(bytes.len())]))),
            3 | 4 => {
                let word = steps.next().map_or(0, |word| u32::from_ne_bytes(*word));
                // The marker and the size in the head were checked when the log was attached to.
                writer.put(4 + usize::from(number) % (size - 4), word);
            }
            5 => {
                let segment = cursor.position().segment.wrapping_add_signed(i32::from(more.cast_signed()));
                let position = Position { segment, offset: number.into() };
                let area = Area::new(writer.words(), shape);
                cursor = match number % 4 {
                    0 => Cursor::oldest(&area),
                    1 => Cursor::tail(&area),
                    _ => Cursor::at(&area, position),
                };
                boundary = (more & 1 == 0).then_some(position);
            }
            _ => {
                let area = Area::new(writer.words(), shape);
                let pass = cursor.read(&area, boundary, &Filter::ALL, &mut copy);
                assert!(pass == Pass::Records || copy.words.is_empty(), "only what is believed is left");
                count(copy.records(layout));
            }
        }
    }
}

fn count(records: Records<'_>) {
    for record in records {
        std::hint::black_box(record);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            super::log_reader(&bytes);
        }
    }
}
