//! RabbitMQ with its management, private to a test.

mod broker;
mod management;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::OnceCell;

use crate::{authority::Certificate, program::beside};
use broker::Broker;
use management::{Management, encode};

/// How a server differs from [`RabbitMq::start`]'s.
#[derive(Clone, Debug, Default)]
pub struct RabbitMqOptions {
    /// Speaks TLS with this, and nothing else (`amqps://`).
    pub tls: Option<Certificate>,
    /// Lines of `rabbitmq.conf`: name and value.
    pub settings: Vec<(String, String)>,
}

/// A server. It ends, and its data goes, when it is dropped or when this process dies. Seconds go by until it answers: tests that
/// need none of their own share one.
///
/// The user is `guest`, password `guest`, an administrator.
pub struct RabbitMq {
    broker: Arc<Broker>,
}

/// Numbers the virtual hosts.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl RabbitMq {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::start_with(RabbitMqOptions::default()).await
    }

    /// Starts one on a free port.
    pub async fn start_with(options: RabbitMqOptions) -> Self {
        let broker = beside(move || {
            let broker = Broker::new(options);
            broker.start();
            broker
        })
        .await;
        Self { broker: Arc::new(broker) }
    }

    /// The one that the tests of this process share: whoever asks first starts it. Make a virtual host of your own in it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// Makes an empty virtual host; answers its URL.
    pub async fn vhost(&self) -> String {
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let url = self.url(&name);
        self.management(move |management| {
            management.ask("PUT", &format!("/api/vhosts/{name}"), "");
            let all = r#"{"configure":".*","write":".*","read":".*"}"#;
            management.ask("PUT", &format!("/api/permissions/{name}/guest"), all);
        })
        .await;
        url
    }

    /// The URL of a virtual host.
    pub fn url(&self, vhost: &str) -> String {
        self.url_by(self.addr(), vhost)
    }

    /// The URL of a virtual host by way of `address`, such as a proxy's.
    pub fn url_by(&self, address: SocketAddr, vhost: &str) -> String {
        format!("{}://guest:guest@{address}/{}", self.broker.scheme(), encode(vhost))
    }

    /// Where it listens for AMQP.
    pub fn addr(&self) -> SocketAddr {
        self.broker.address()
    }

    /// The management's URL, with the login.
    pub fn management_url(&self) -> String {
        format!("http://guest:guest@{}", self.broker.management().address())
    }

    /// Runs `rabbitmqctl`; answers what it printed. Takes seconds.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let broker = Arc::clone(&self.broker);
        beside(move || broker.ctl(&arguments)).await
    }

    /// Stops it as an administrator does; returns when it is down.
    pub async fn stop(&self) {
        self.beside(Broker::stop).await;
    }

    /// Kills it and all its processes (`kill -9`).
    pub async fn kill(&self) {
        self.beside(Broker::kill).await;
    }

    /// Starts it again with the same data on the same port; returns when it answers.
    pub async fn start_again(&self) {
        self.beside(Broker::start).await;
    }

    /// Stops all its processes where they stand: connections stay and nothing answers.
    pub fn freeze(&self) {
        self.broker.signal("STOP");
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.broker.signal("CONT");
    }

    /// Raises the memory alarm: connections that publish are blocked.
    pub async fn raise_alarm(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]).await;
    }

    /// Ends the alarm.
    pub async fn clear_alarm(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "absolute", broker::MEMORY]).await;
    }

    /// Force-closes all connections, of all virtual hosts.
    pub async fn close_connections(&self) {
        self.ctl(&["close_all_connections", "--global", "closed by a test"]).await;
    }

    /// The routing keys that `queue` is bound to `exchange` with.
    pub async fn bindings(&self, amqp_url: &str, exchange: &str, queue: &str) -> Vec<String> {
        let path = binding_path(amqp_url, exchange, queue);
        self.management(move |management| {
            let found = management.ask("GET", &path, "");
            let found = found.as_array().expect("bindings are a list");
            found.iter().map(|binding| text(binding, "routing_key")).collect()
        })
        .await
    }

    /// Removes all bindings of `queue` to `exchange`.
    pub async fn unbind(&self, amqp_url: &str, exchange: &str, queue: &str) {
        let path = binding_path(amqp_url, exchange, queue);
        self.management(move |management| {
            let found = management.ask("GET", &path, "");
            for binding in found.as_array().expect("bindings are a list") {
                management.ask("DELETE", &format!("{path}/{}", encode(&text(binding, "properties_key"))), "");
            }
        })
        .await;
    }

    /// Binds `queue` to `exchange`, with an empty routing key.
    pub async fn bind(&self, amqp_url: &str, exchange: &str, queue: &str) {
        let path = binding_path(amqp_url, exchange, queue);
        self.management(move |management| {
            management.ask("POST", &path, r#"{"routing_key":""}"#);
        })
        .await;
    }

    /// Makes a queue; `arguments` is a JSON object, such as `{"x-queue-type": "quorum"}`.
    pub async fn declare_queue(&self, amqp_url: &str, queue: &str, arguments: &str) {
        let path = format!("/api/queues/{}/{}", vhost_of(amqp_url), encode(queue));
        let body = format!(r#"{{"durable":true,"arguments":{arguments}}}"#);
        self.management(move |management| {
            management.ask("PUT", &path, &body);
        })
        .await;
    }

    /// Deletes a queue with all that it holds.
    pub async fn delete_queue(&self, amqp_url: &str, queue: &str) {
        let path = format!("/api/queues/{}/{}", vhost_of(amqp_url), encode(queue));
        self.management(move |management| {
            management.ask("DELETE", &path, "");
        })
        .await;
    }

    /// Deletes an exchange with its bindings.
    pub async fn delete_exchange(&self, amqp_url: &str, exchange: &str) {
        let path = format!("/api/exchanges/{}/{}", vhost_of(amqp_url), encode(exchange));
        self.management(move |management| {
            management.ask("DELETE", &path, "");
        })
        .await;
    }

    /// The names of the queues of a virtual host.
    pub async fn queues(&self, amqp_url: &str) -> Vec<String> {
        let path = format!("/api/queues/{}?columns=name", vhost_of(amqp_url));
        self.management(move |management| {
            let found = management.ask("GET", &path, "");
            found.as_array().expect("queues are a list").iter().map(|queue| text(queue, "name")).collect()
        })
        .await
    }

    /// What it printed last.
    pub fn log(&self) -> String {
        self.broker.printed()
    }

    async fn management<T: Send + 'static>(&self, work: impl FnOnce(&Management) -> T + Send + 'static) -> T {
        let broker = Arc::clone(&self.broker);
        beside(move || work(broker.management())).await
    }

    async fn beside(&self, work: impl FnOnce(&Broker) + Send + 'static) {
        let broker = Arc::clone(&self.broker);
        beside(move || work(&broker)).await;
    }
}

/// The virtual host that a URL names, still encoded; `/` without one.
fn vhost_of(amqp_url: &str) -> &str {
    let rest = amqp_url.split_once("://").map_or(amqp_url, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let name = path.split('?').next().unwrap_or_default();
    if name.is_empty() { "%2F" } else { name }
}

fn binding_path(amqp_url: &str, exchange: &str, queue: &str) -> String {
    format!("/api/bindings/{}/e/{}/q/{}", vhost_of(amqp_url), encode(exchange), encode(queue))
}

fn text(value: &serde_json::Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}")).to_owned()
}
