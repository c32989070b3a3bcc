//! The wait before the services: for the store, and for what provisioning wrote into it.

use std::time::Duration;

use anyhow::Context as _;
use tidings_domain::{
    backoff::Backoff,
    ports::{Catalog, Entropy, INSTALLATION_VERSION, Installation},
};
use tidings_runtime::{health::Part, shutdown::Shutdown};

use crate::profile::Profile;

/// The waits between looks: what is waited for is a server that starts, or a person.
const LOOK: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(3) };

/// What provisioning wrote, as soon as it is there in the version that this program knows; none when the wish to stop came
/// first. Meanwhile `part` says what is waited for. A newer version is an error: waiting would not help.
pub(super) async fn installation(
    profile: Profile,
    catalog: &dyn Catalog,
    entropy: &dyn Entropy,
    part: &Part,
    shutdown: &Shutdown,
) -> anyhow::Result<Option<Installation>> {
    let mut looks = 0_u32;
    loop {
        let Some(read) = shutdown.cuts(catalog.installation()).await else { return Ok(None) };
        match read {
            Ok(Some(installation)) if installation.version == INSTALLATION_VERSION => {
                part.up();
                return Ok(Some(installation));
            }
            Ok(Some(installation)) if installation.version > INSTALLATION_VERSION => {
                anyhow::bail!(
                    "the store was provisioned in version {} and this program knows {INSTALLATION_VERSION}: start the newer program",
                    installation.version
                );
            }
            Ok(Some(installation)) => part.waiting(format!(
                "the store was provisioned in version {} and this program needs {INSTALLATION_VERSION}: run `tidings provision`",
                installation.version
            )),
            Ok(None) => part.waiting("the store was not provisioned yet: run `tidings provision`"),
            // Its file is here, or it is nowhere: nobody else mends it.
            Err(error) if profile == Profile::Embedded => {
                return Err(error).context("what provisioning wrote cannot be read");
            }
            Err(error) => part.waiting(format!("the store: {}", error.chain())),
        }
        looks = looks.saturating_add(1);
        if !shutdown.sleep(LOOK.wait(looks, entropy)).await {
            return Ok(None);
        }
    }
}
