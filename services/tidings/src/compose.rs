//! What each service is made of: its context holds the ports that it may touch, and nothing else.

use std::sync::Arc;

use axum::Router;
use tidings_domain::{
    ports::{Clock, Entropy, Mail},
    token::Secret,
};
use tidings_runtime::{health::Health, shutdown::Shutdown, telemetry::Telemetry};
use tokio::task::JoinSet;

use crate::{
    profile::{Role, Stack},
    settings::{Auth, Settings},
};

/// What runs until it is asked to stop, by name.
pub(crate) type Running = JoinSet<(&'static str, tidings_domain::Result<()>)>;

/// What services are made from.
pub(crate) struct Root<'a> {
    /// What is in force.
    pub(crate) settings: &'a Settings,
    /// The ports.
    pub(crate) stack: &'a Stack,
    /// The wall clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// Randomness.
    pub(crate) entropy: Arc<dyn Entropy>,
    /// What all services tell of themselves.
    pub(crate) health: Health,
    /// What links in mails are signed with.
    pub(crate) secret: Secret,
    /// Where people reach the api.
    pub(crate) public_url: String,
}

impl Root<'_> {
    /// Starts one service among `running`. The api gives the router that its socket is to serve.
    pub(crate) fn start(
        &self,
        role: Role,
        telemetry: Telemetry,
        shutdown: &Shutdown,
        running: &mut Running,
    ) -> Option<Router> {
        let shutdown = shutdown.clone();
        match role {
            Role::Api => {
                let api = tidings_api::Api::new(self.api(telemetry));
                let router = api.router();
                running.spawn(async move { ("the api", tidings_api::run(api, shutdown).await) });
                return Some(router);
            }
            Role::Subscriber => {
                let context = self.subscriber(telemetry);
                running.spawn(
                    async move { ("the subscriber", tidings_subscriber::run(context, shutdown).await) },
                );
            }
            Role::CdcWatcher => {
                let context = self.cdc_watcher(telemetry);
                running.spawn(async move {
                    ("the cdc-watcher", tidings_cdc_watcher::run(context, shutdown).await)
                });
            }
            Role::Mailer => {
                let mail =
                    self.stack.mail.as_ref().expect("a process that runs the mailer has been given one");
                let context = self.mailer(telemetry, Arc::clone(mail));
                running.spawn(async move { ("the mailer", tidings_mailer::run(context, shutdown).await) });
            }
        }
        None
    }

    fn api(&self, telemetry: Telemetry) -> tidings_api::Context {
        let stack = self.stack;
        let settings = tidings_api::Settings {
            namespace: self.settings.namespace.clone(),
            auth: match self.settings.auth {
                Auth::Off { .. } => tidings_api::Auth::Off,
                Auth::Required => tidings_api::Auth::Required,
            },
            admin_key: self.settings.admin_key.as_ref().map(|key| tidings_api::AdminKey::new(key.expose())),
            public_url: self.public_url.clone(),
            allowed_hosts: self.settings.allowed_hosts.clone(),
            ..self.settings.api.clone()
        };
        tidings_api::Context {
            bus: Arc::clone(&stack.bus),
            topology: Arc::clone(&stack.topology),
            items: Arc::clone(&stack.items),
            catalog: Arc::clone(&stack.catalog),
            subscriptions: Arc::clone(&stack.subscriptions),
            deliveries: Arc::clone(&stack.deliveries),
            dead_letters: Arc::clone(&stack.dead_letters),
            limits: Arc::clone(&stack.limits),
            mailbox: stack.mailbox.clone(),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            health: self.health.clone(),
            telemetry,
            secret: self.secret.clone(),
            settings,
        }
    }

    fn subscriber(&self, telemetry: Telemetry) -> tidings_subscriber::Context {
        tidings_subscriber::Context {
            bus: Arc::clone(&self.stack.bus),
            items: Arc::clone(&self.stack.items),
            dead_letters: Arc::clone(&self.stack.dead_letters),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            health: self.health.clone(),
            telemetry,
            settings: self.settings.subscriber.clone(),
        }
    }

    fn cdc_watcher(&self, telemetry: Telemetry) -> tidings_cdc_watcher::Context {
        tidings_cdc_watcher::Context {
            changes: Arc::clone(&self.stack.changes),
            bus: Arc::clone(&self.stack.bus),
            dead_letters: Arc::clone(&self.stack.dead_letters),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            health: self.health.clone(),
            telemetry,
            settings: self.settings.cdc_watcher.clone(),
        }
    }

    fn mailer(&self, telemetry: Telemetry, mail: Arc<dyn Mail>) -> tidings_mailer::Context {
        let stack = self.stack;
        let settings = tidings_mailer::Settings {
            mail_from: self.settings.mail_from.clone(),
            public_url: self.public_url.clone(),
            ..self.settings.mailer.clone()
        };
        tidings_mailer::Context {
            bus: Arc::clone(&stack.bus),
            items: Arc::clone(&stack.items),
            subscriptions: Arc::clone(&stack.subscriptions),
            deliveries: Arc::clone(&stack.deliveries),
            catalog: Arc::clone(&stack.catalog),
            dead_letters: Arc::clone(&stack.dead_letters),
            mail,
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            health: self.health.clone(),
            telemetry,
            secret: self.secret.clone(),
            settings,
        }
    }
}
