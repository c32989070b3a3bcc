//! `tidings recover`.

use clap::Args;

use super::output::{Failure, print};
use crate::{
    operate::{self, Again},
    settings::Sources,
};

/// Make the table stream's slot anew after a gap, and publish everything that was never notified. Readiness and the log
/// say when it is needed. Nobody is mailed twice by it, and it may be run again.
#[derive(Debug, Args)]
pub(crate) struct Recover {
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl Recover {
    pub(super) fn run(self, sources: &Sources) -> Result<(), Failure> {
        let (settings, export) = super::operator(sources)?;
        let done = operate::publish_again(&settings, export, Again::Recover)?;
        print(&if self.json { format!("{:#}\n", done.json()) } else { done.text() })?;
        done.failure().map_or(Ok(()), Err)
    }
}
