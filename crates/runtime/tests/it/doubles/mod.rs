mod bus;
mod handler;
mod letters;
mod setup;

pub(crate) use bus::{TestBus, envelope};
pub(crate) use handler::{Script, away, dead, done, retry};
pub(crate) use letters::{TestLetters, letter};
pub(crate) use setup::{FixedClock, FixedEntropy, Setup};
