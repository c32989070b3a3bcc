//! The loops of the runtime under a paused clock, on doubles that keep a log of what was asked of them.

mod consume;
mod doubles;
mod leases;
mod pause;
mod redrive;
mod reopen;
mod safety_net;
mod stop;
mod supervise;
mod traces;
