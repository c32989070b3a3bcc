//! `tidings provision`.

use clap::Args;

use super::output::{Failure, print};
use crate::{
    app,
    settings::{self, Sources, faults::Faults},
};

/// Make what the services need before they run. `embedded` does it by itself at every start.
#[derive(Debug, Args)]
pub(crate) struct Provision {
    /// Only say whether everything is there; makes nothing.
    #[arg(long)]
    check: bool,
}

impl Provision {
    pub(super) fn run(self, sources: &Sources) -> Result<(), Failure> {
        let mut faults = Faults::default();
        let layers = settings::layers(sources, &mut faults);
        let settings = settings::check(layers, &[], faults).map_err(Failure::usage)?;
        print(&app::provision(&settings, self.check)?)
    }
}
