//! What a seed decides before anything runs: the weather, the people, and how much happens.

use std::{collections::BTreeMap, time::Duration};

use tidings_memory::SeededEntropy;

use crate::{
    faults::Kind,
    role::{Instance, Role},
};

/// What may go wrong in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weather {
    /// Nothing: services are stopped gracefully and started again, and that is all. Promise 8 is held to the letter.
    Calm,
    /// Servers are away, again and again, and nothing else. Promise 5 is held to the letter.
    Outages,
    /// A random part of everything, crashes included.
    Storm,
}

/// Someone who wants mails of a topic.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    /// Their address.
    pub email: String,
    /// Of which topic.
    pub topic: &'static str,
    /// The kinds of messages that they want, which is their filter; none is all.
    pub wants: Option<Vec<&'static str>>,
    /// Whether an admin says that consent is held, so that there is no confirmation mail.
    pub by_admin: bool,
}

/// The topics that are posted to; the second is made through the api.
pub(crate) const TOPICS: [&str; 2] = ["messages", "orders"];

/// The kinds of messages, an attribute that filters look at.
pub(crate) const KINDS: [&str; 3] = ["a", "b", "c"];

/// What a seed decides.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The seed.
    pub seed: u64,
    /// What may go wrong.
    pub weather: Weather,
    /// How often a port call meets each fault, in millionths.
    pub rates: BTreeMap<Kind, u64>,
    /// How many processes each service has.
    pub processes: BTreeMap<Role, u8>,
    /// Who wants mails.
    pub people: Vec<Person>,
    /// How long things are done and go wrong.
    pub busy: Duration,
    /// How many times a client does something.
    pub acts: u64,
    /// How many times the world does something: outages, crashes, stops.
    pub events: u64,
    /// The most crashes at a port call.
    pub max_crashes: u64,
    /// Bytes of one publish: few enough that some change records leave their message out.
    pub max_publish_bytes: usize,
    /// The longest delay of a memory operation.
    pub delay_ms: u64,
    /// Subscriptions that the mailer plans at once.
    pub page_size: u32,
    /// How long the mailer holds a delivery.
    pub mail_lease: Duration,
    /// How long the bus holds a message for a consumer.
    pub bus_lease: Duration,
    /// How often a message is handed out before the bus puts it into its safety net.
    pub max_returns: u32,
    /// Whether the mailer gives up what may have been sent, rather than send it again.
    pub holds_unknown: bool,
    /// Whether the run goes on for longer than anything is kept.
    pub(crate) sees_retention: bool,
}

impl Plan {
    /// What `seed` decides; `weather` overrides what it says of that.
    pub(crate) fn draw(seed: u64, weather: Option<Weather>) -> Self {
        let chance = SeededEntropy::new(seed ^ 0x7469_6469_6e67_7300);
        let drawn = match chance.below(8) {
            0 => Weather::Calm,
            1 => Weather::Outages,
            _ => Weather::Storm,
        };
        let weather = weather.unwrap_or(drawn);
        let pick =
            |choices: &[u64]| choices[usize::try_from(chance.below(choices.len() as u64)).unwrap_or(0)];
        let rates = rates(weather, &chance);
        Self {
            seed,
            weather,
            rates,
            processes: Role::ALL
                .into_iter()
                .map(|role| (role, if chance.below(3) == 0 { 2 } else { 1 }))
                .collect(),
            people: people(&chance),
            busy: Duration::from_secs(20 + chance.below(60)),
            acts: 15 + chance.below(30),
            events: 2 + chance.below(8),
            max_crashes: chance.below(12),
            max_publish_bytes: usize::try_from(pick(&[1 << 20, 4096, 2048])).unwrap_or(4096),
            delay_ms: pick(&[3, 3, 20]),
            page_size: u32::try_from(pick(&[1, 2, 3])).unwrap_or(1),
            mail_lease: Duration::from_secs(pick(&[5, 10, 20])),
            bus_lease: Duration::from_secs(pick(&[6, 15, 30])),
            max_returns: if weather == Weather::Storm {
                u32::try_from(pick(&[1_000, 1_000, 3])).unwrap_or(1_000)
            } else {
                1_000
            },
            holds_unknown: chance.below(4) == 0,
            sees_retention: chance.below(4) == 0,
        }
    }

    /// All processes.
    pub(crate) fn instances(&self) -> Vec<Instance> {
        let of = |(role, count): (&Role, &u8)| {
            (1..=*count).map(|number| Instance { role: *role, number }).collect::<Vec<_>>()
        };
        self.processes.iter().flat_map(of).collect()
    }
}

fn rates(weather: Weather, chance: &SeededEntropy) -> BTreeMap<Kind, u64> {
    let allowed: &[Kind] = match weather {
        Weather::Calm => &[],
        Weather::Outages => &[Kind::Unavailable, Kind::MailUnavailable],
        Weather::Storm => &Kind::ALL,
    };
    let mut rates = BTreeMap::new();
    for kind in allowed {
        let wanted = weather == Weather::Outages || chance.below(5) < 2;
        let rate = 1 + chance.below(kind.most());
        if wanted {
            rates.insert(*kind, rate);
        }
    }
    rates
}

fn people(chance: &SeededEntropy) -> Vec<Person> {
    let mut people = Vec::new();
    for topic in TOPICS {
        for number in 0..=chance.below(5) {
            let wants = match chance.below(3) {
                0 => Some(vec![KINDS[0]]),
                1 => Some(vec![KINDS[0], KINDS[1]]),
                _ => None,
            };
            let by_admin = chance.below(2) == 0;
            people.push(Person { email: format!("{topic}-{number}@example.com"), topic, wants, by_admin });
        }
    }
    people
}
