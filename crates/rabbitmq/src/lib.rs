//! The bus on RabbitMQ (3.10 to 4.3): a durable fanout exchange per topic, quorum queues, AMQP 0-9-1 by lapin.
//!
//! Publishing and consuming have a connection each, so that a memory alarm never holds up acknowledgements; declaring goes over
//! the second. A connection is made when it is first needed, and made again for as long as the process lives. Whatever hangs on
//! one ends with it: consumers end with an error and are opened anew by whoever has them.
//!
//! Rights that the user of `AMQP_URL` needs, on names that begin with the namespace: *configure* (but where topology is an
//! operator's), *write* and *read*; and *write* on `amq.default`, through which dead letters go. Other parties need *read* on a
//! topic's exchange to bind a queue of their own, *write* on it to publish, and no right at all on our queues: with *write* or
//! *configure* on them they could unbind or delete them. A queue of theirs that is bound to a topic must not refuse publishes
//! (`x-overflow = reject-publish`): what it refuses is unknown to whoever published it.
//!
//! What a process publishes to and consumes is kept standing where `topology = declare`, also without an api: looked at every 5 s,
//! and made again at once when a publish comes back or finds no exchange. What is only consumed is left for one look to those who
//! publish it. `tidings.topology.missing` counts what was missing, as the api does for the topics that it looks after.
//!
//! The headers of a message (its attributes among them) go in one frame, which AMQP cannot split. With the default of RabbitMQ and
//! ours, 131,072 bytes, 126,976 of them are free for headers; a publish with more is *rejected*. For attributes of 255 KiB, the most
//! that a message may have, set `frame_max = 300000` in rabbitmq.conf and `?frame_max=300000` in every `AMQP_URL`. The client library
//! sets 64 such frames aside for a connection, which become resident as bytes go through: 8 MiB, and then 18 MiB.
//!
//! A message that the client library cannot read (a header's name that is not UTF-8, headers larger than a frame) ends the
//! connection over which it comes. Until the broker has moved it to the safety net, one message at a time is taken, so that none
//! goes along with it; safety nets have a connection of their own, which it can hold up. Take it out there by hand.
//!
//! A file is named after the port that it implements.

mod bus;
mod consumer;
mod dependency;
mod depth;
mod dial;
mod failure;
mod keeper;
mod link;
mod management;
mod message;
mod metrics;
mod names;
mod options;
mod publisher;
mod rabbitmq;
mod renewal;
mod standing;
mod topology;
mod usage;
mod window;

pub use options::Options;
pub use rabbitmq::RabbitMq;
