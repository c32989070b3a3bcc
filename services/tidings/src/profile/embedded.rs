//! `embedded`: everything in this process, on one SQLite file.

use std::sync::Arc;

use anyhow::Context as _;
use tidings_domain::ports::{Dependency, Mail};

use super::{Parts, Stack};

/// Opens the file, which provisions itself.
pub(super) async fn open(parts: Parts<'_>) -> anyhow::Result<Stack> {
    let settings = parts.settings;
    let options = tidings_sqlite::Options {
        directory: settings.data_dir.clone(),
        namespace: settings.namespace.clone(),
        clock: parts.clock,
        entropy: parts.entropy,
    };
    let store = tidings_sqlite::Store::open(options)
        .await
        .with_context(|| format!("the data folder {} cannot be opened", settings.data_dir.display()))?;
    let mut dependencies: Vec<Arc<dyn Dependency>> = Vec::new();
    let (mail, mailbox): (Arc<dyn Mail>, _) = match &settings.smtp {
        None => (store.mail(), Some(store.mailbox())),
        Some(smtp) => {
            let smtp = Arc::new(tidings_smtp::SmtpMail::new(smtp.clone())?);
            dependencies.push(Arc::<tidings_smtp::SmtpMail>::clone(&smtp));
            (smtp, None)
        }
    };
    Ok(Stack {
        bus: store.bus(),
        topology: store.topology(),
        items: store.items(),
        changes: store.changes(),
        catalog: store.catalog(),
        subscriptions: store.subscriptions(),
        deliveries: store.deliveries(),
        dead_letters: store.dead_letters(),
        limits: Arc::new(tidings_memory::limits::InProcessLimits::default()),
        mail: Some(mail),
        mailbox,
        // It is the bus and every record.
        needed: vec![store.dependency()],
        dependencies,
        closing: Box::pin(async move { store.close().await }),
    })
}
