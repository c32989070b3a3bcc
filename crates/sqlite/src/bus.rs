//! `Bus`: a publish is a row in the queue that the topic reaches, committed before it is answered.

use std::{collections::BTreeSet, sync::Arc};

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    ports::{Bus, BusCapabilities, BusTopic, Consumer, Queue},
    topic::TopicName,
    wire::Envelope,
};

use crate::{
    consumer::SqliteConsumer,
    group::{Request, Session},
    queue::{self, Message},
    rows::{Packed, fields, to_json},
    shared::{Handle, Shared},
    topology,
};

/// Entries of one publish that are written in one go.
const MAX_BATCH: usize = 1000;

/// Bytes of body and headers: twice what a change record of the largest message takes when every byte of it is escaped once.
const MAX_PUBLISH_BYTES: usize = 2 * 1024 * 1024;

/// The number of a queue's last message, in the order of [`Queue::ALL`].
pub(crate) const LAST: [&str; 4] = [
    "SELECT max(number) FROM queue_items",
    "SELECT max(number) FROM queue_mail",
    "SELECT max(number) FROM queue_items_dead",
    "SELECT max(number) FROM queue_mail_dead",
];

macro_rules! insert {
    ($table:literal) => {
        concat!(
            "INSERT INTO ",
            $table,
            " (number, opened, topic, native_id, headers, body)
            SELECT ?3 + key, ?4, value ->> 2, value ->> 3, value -> 4, substr(?2, 1 + (value ->> 0), value ->> 1)
            FROM json_each(?1)"
        )
    };
}

const INSERT: [&str; 4] =
    [insert!("queue_items"), insert!("queue_mail"), insert!("queue_items_dead"), insert!("queue_mail_dead")];

/// The port.
pub(crate) struct SqliteBus(pub(crate) Arc<Handle>);

#[async_trait]
impl Bus for SqliteBus {
    async fn publish(&self, topic: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>> {
        let (queue, published_to) = match topic {
            BusTopic::Messages(name) => (Queue::Items, Some(name.clone())),
            BusTopic::Notifications => (Queue::Mail, None),
        };
        let name = topology::name(&self.0.shared.namespace, topic);
        let mut answers = Vec::with_capacity(batch.len());
        let mut batch = batch.into_iter();
        loop {
            // The answers of this go, with those that were refused in their places.
            let mut refused = Vec::new();
            let mut messages = Vec::new();
            for envelope in batch.by_ref().take(MAX_BATCH) {
                let bytes = queue::size(&envelope);
                if bytes > MAX_PUBLISH_BYTES {
                    let context = format!(
                        "publish: {bytes} bytes are too many, at most {MAX_PUBLISH_BYTES} are carried"
                    );
                    refused.push(Some(Error::rejected(context)));
                } else {
                    refused.push(None);
                    messages.push(envelope);
                }
            }
            if refused.is_empty() {
                return answers;
            }
            let error = match messages.is_empty() {
                true => None,
                false => {
                    let publish = Publish::new(queue, name.clone(), published_to.clone(), messages);
                    match self.0.write(publish).await {
                        Ok(Some(_)) => None,
                        Ok(None) => Some(Error::not_found(format!(
                            "publish: the topic {name} does not stand: declare it"
                        ))),
                        Err(error) => Some(error),
                    }
                }
            };
            answers.extend(refused.into_iter().map(|refused| match (refused, &error) {
                (Some(refused), _) => Err(refused),
                (None, Some(error)) => Err(error.copy()),
                (None, None) => Ok(()),
            }));
        }
    }

    async fn consume(&self, queue: Queue, prefetch: usize) -> Result<Box<dyn Consumer>> {
        Ok(Box::new(SqliteConsumer::new(Arc::clone(&self.0), queue, prefetch.max(1))))
    }

    fn capabilities(&self) -> BusCapabilities {
        BusCapabilities {
            max_batch: MAX_BATCH,
            max_publish_bytes: MAX_PUBLISH_BYTES,
            lease: None,
            release_is_uncounted: true,
        }
    }
}

/// Messages for a queue.
pub(crate) struct Publish {
    queue: Queue,
    /// The topic's full name.
    topic: String,
    envelopes: Vec<Envelope>,
    /// What goes into each row beside its body, made in the caller's task.
    fields: Vec<String>,
    bytes: usize,
}

impl Publish {
    fn new(
        queue: Queue,
        topic: String,
        published_to: Option<TopicName>,
        mut envelopes: Vec<Envelope>,
    ) -> Self {
        let mut bytes = 0;
        let fields = envelopes
            .iter_mut()
            .map(|envelope| {
                bytes += queue::size(envelope);
                envelope.published_to.clone_from(&published_to);
                fields(&(&published_to, &envelope.native_id, &envelope.headers))
            })
            .collect();
        Self { queue, topic, envelopes, fields, bytes }
    }
}

impl Request for Publish {
    /// The first message's number and the start of the server that it was published in; none when the topic does not stand.
    type Answer = Option<(u64, i64)>;

    const WHAT: &'static str = "publish";

    fn rows(&self) -> usize {
        self.envelopes.len()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Self::Answer>> {
        let topics: BTreeSet<_> = requests.iter().map(|request| &request.topic).collect();
        let standing: Vec<String> = sqlx::query_scalar(topology::STANDING)
            .bind(to_json(&topics))
            .fetch_all(&mut session.connection)
            .await?;
        let mut packed: [Packed; 4] = Default::default();
        let first = session.numbers;
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            if !standing.contains(&request.topic) {
                answers.push(None);
                continue;
            }
            let index = queue::index(request.queue);
            answers.push(Some((session.numbers[index], session.opens)));
            session.numbers[index] += request.envelopes.len() as u64;
            for (envelope, fields) in request.envelopes.iter().zip(&request.fields) {
                packed[index].row(&envelope.body, fields);
            }
        }
        for (index, packed) in packed.into_iter().enumerate() {
            if session.numbers[index] == first[index] {
                continue;
            }
            let (json, bytes) = packed.into_parameters();
            sqlx::query(INSERT[index])
                .bind(json)
                .bind(bytes)
                .bind(first[index] as i64)
                .bind(session.opens)
                .execute(&mut session.connection)
                .await?;
        }
        Ok(answers)
    }

    fn committed(self, answer: &mut Self::Answer, shared: &Shared) {
        let Some((first, opened)) = *answer else { return };
        let messages = self.envelopes.into_iter().map(|envelope| Message { opened, envelope }).collect();
        shared.queue(self.queue).committed(first, messages);
    }

    fn failed(self, shared: &Shared) {
        // A commit of unknown outcome may have left the messages in the table: then they are found there.
        shared.queue(self.queue).look_again();
    }
}

/// The headers of a row, read again.
pub(crate) fn headers(json: &str) -> std::collections::BTreeMap<String, String> {
    serde_json::from_str(json).unwrap_or_default()
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [[&str; 4]; 2] = [LAST, INSERT];
