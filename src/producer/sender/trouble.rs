//! What an error of Kafka's means for a line, and when to speak of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;

use crate::counters::LossCause;

/// A message about the same kind of trouble is logged this often; the counters have every line.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// When each kind of trouble was last spoken of.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    said_at: BTreeMap<&'static str, Instant>,
}

impl Trouble {
    /// Whether it is time to speak of this kind of trouble; the caller does so.
    pub(super) fn may_say(&mut self, kind: &'static str) -> bool {
        let now = Instant::now();
        let due = self.said_at.get(kind).is_none_or(|said| now.duration_since(*said) >= SAY_AGAIN);
        if due {
            self.said_at.insert(kind, now);
        }
        due
    }
}

/// What a line is lost to when its delivery fails for good with this error.
pub(super) fn loss_of(code: RDKafkaErrorCode) -> LossCause {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize => LossCause::TooLarge,
        RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownPartition
        | RDKafkaErrorCode::InvalidTopic => LossCause::UnknownTopic,
        _ => LossCause::Refused,
    }
}

/// What to do about it.
pub(super) fn advice(cause: LossCause) -> &'static str {
    match cause {
        LossCause::TooLarge => {
            "raise message.max.bytes in kafka.properties and max.message.bytes of the topic, or log less of a request"
        }
        LossCause::UnknownTopic => "create the topic, or correct its name in the configuration",
        _ => "see the broker's log for the reason, and whether this client may write to the topic",
    }
}
