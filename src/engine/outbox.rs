//! The reader's side of the batches: one open batch a stream, sent on when it is full, old, or must end.

use crate::batch::Batch;
use crate::message::SaltId;
use crate::pipeline::Output;
use crate::producer::Outlet;

/// Collects lines into batches.
#[derive(Debug)]
pub(super) struct Outbox {
    /// To the producer.
    kafka: Outlet,
    /// To the writer.
    others: Outlet,
    /// As many streams go to the producer, the first ones.
    kafka_streams: usize,
    open: Vec<Option<Box<Batch>>>,
}

impl Outbox {
    pub(super) fn new(kafka: Outlet, others: Outlet, kafka_streams: usize, streams: usize) -> Self {
        Self { kafka, others, kafka_streams, open: (0..streams).map(|_| None).collect() }
    }

    /// Sends on what there is, however little, as long as Kafka keeps up. When it does not, batches are filled first: they
    /// are what there is a fixed number of.
    pub(super) fn flush_if_flowing(&mut self) {
        for stream in 0..self.open.len() {
            let outlet = if stream < self.kafka_streams { &mut self.kafka } else { &mut self.others };
            if outlet.is_flowing() {
                send(&mut self.open[stream], outlet);
            }
        }
    }

    /// Sends on what there is.
    pub(super) fn flush(&mut self) {
        for (stream, batch) in self.open.iter_mut().enumerate() {
            send(batch, if stream < self.kafka_streams { &mut self.kafka } else { &mut self.others });
        }
    }
}

/// Sends a batch on, if there is something in it.
fn send(batch: &mut Option<Box<Batch>>, outlet: &mut Outlet) {
    if let Some(batch) = batch.take_if(|batch| !batch.is_empty()) {
        outlet.send(batch);
    }
}

impl Output for Outbox {
    fn line(&mut self, stream: usize, sequence: u64, salt: Option<SaltId>) -> Option<&mut Vec<u8>> {
        let open = &mut self.open[stream];
        let outlet = if stream < self.kafka_streams { &mut self.kafka } else { &mut self.others };
        // A batch has consecutive numbers, one salt and one partition block.
        let must_end = |batch: &Batch| {
            batch.next_sequence() != sequence
                || batch.salt != salt
                || batch.ends_block()
                || batch.bytes() >= outlet.full()
        };
        if let Some(batch) = open.take_if(|batch| !batch.is_empty() && must_end(batch)) {
            outlet.send(batch);
        }
        if open.is_none() {
            *open = outlet.take();
        }
        let batch = open.as_mut()?;
        if batch.is_empty() {
            batch.begin(stream, sequence, salt);
        }
        Some(batch.arena())
    }

    fn commit(&mut self, stream: usize, timestamp: i64, hashed: bool) {
        if let Some(batch) = &mut self.open[stream] {
            batch.commit(timestamp, hashed);
        }
    }

    fn roll_back(&mut self, stream: usize) {
        if let Some(batch) = &mut self.open[stream] {
            batch.roll_back();
        }
    }
}
