//! The server that `AMQP_URL` names.

use std::net::SocketAddr;

use super::Management;
use crate::given::{Parts, Traces, variable};

/// Names the server.
pub(super) const VARIABLE: &str = "AMQP_URL";

pub(super) struct Given {
    parts: Parts,
    management: Management,
    traces: Traces,
}

/// Its URL, if there is one.
pub(super) fn url() -> Option<String> {
    variable(VARIABLE)
}

impl Given {
    pub(super) fn new(url: &str) -> Self {
        let parts = Parts::of(url);
        let management = variable("RABBITMQ_MANAGEMENT_URL").map_or_else(
            || Parts { scheme: "http".to_owned(), host: parts.name().to_owned(), ..parts.clone() },
            |url| Parts::of(&url),
        );
        assert!(management.scheme == "http", "RABBITMQ_MANAGEMENT_URL begins with http://");
        let login = [&management.login, &parts.login].into_iter().find(|login| !login.is_empty());
        let login = login.map_or("guest:guest", |login| login.trim_end_matches('@'));
        let management = Management::new(management.address(15672), login);
        Self { management, parts, traces: Traces::new("rabbitmq") }
    }

    /// The name for a virtual host that is not there yet, and goes when we end.
    pub(super) fn vhost(&self, number: u32) -> String {
        let name = format!("{}-{number}", self.traces.unique("-"));
        let path = format!("{}/api/vhosts/{name}", self.management.url());
        self.traces.at_end(&format!("curl --silent --max-time 10 --request DELETE '{path}'\n"));
        name
    }

    pub(super) fn url(&self, vhost: &str) -> String {
        self.parts.with_path(vhost)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.parts.address(if self.parts.scheme == "amqps" { 5671 } else { 5672 })
    }

    pub(super) fn management(&self) -> &Management {
        &self.management
    }
}
