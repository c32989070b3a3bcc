//! `tidings provision`.

use std::time::Duration;

use clap::Args;

use super::output::{Failure, print};
use crate::{operate, settings::Sources};

/// Make what the services need before they run: on selfhosted the tables, the publication, the slot, exchanges and queues,
/// as often as you like. embedded does it by itself at every start.
#[derive(Debug, Args)]
pub(crate) struct Provision {
    /// Only say whether everything is there; makes nothing. Ends with 1 where something is missing.
    #[arg(long)]
    check: bool,
    /// Try again for so many seconds while a server does not answer.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl Provision {
    pub(super) fn run(self, sources: &Sources) -> Result<(), Failure> {
        let (settings, _) = super::operator(sources)?;
        let found = operate::provision(&settings, self.check, Duration::from_secs(self.wait.into()))?;
        print(&if self.json { format!("{:#}\n", found.json()) } else { found.text() })?;
        // What is missing was said on stdout.
        if found.is_complete() { Ok(()) } else { Err(Failure::refused("")) }
    }
}
