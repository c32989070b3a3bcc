//! A node with data, cookie, name and ports of its own. Every call blocks.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
};

use super::{Management, RabbitMqOptions};
use crate::{
    port::Port,
    program,
    server::{Kind, Server},
};

/// Memory that raises no alarm by itself.
pub(super) const MEMORY: &str = "4GB";

/// Two schedulers that don't spin: it shares the machine with everything else.
const SCHEDULERS: &str = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none";

pub(super) struct Broker {
    options: RabbitMqOptions,
    amqp: Port,
    management_port: Port,
    management: Management,
    /// Between nodes, and for rabbitmqctl.
    distribution: Port,
    /// Erlang's port mapper, one of our own: a shared one would outlive us.
    mapper: Port,
    server: Server,
}

impl Broker {
    /// Writes the settings; starts nothing.
    pub(super) fn new(options: RabbitMqOptions) -> Self {
        // Debian's commands in PATH change to the user rabbitmq; the scripts behind them run as whoever starts them.
        let folders =
            ["/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin"];
        let folders = folders.map(PathBuf::from).to_vec();
        let image = "rabbitmq:4.3-management-alpine";
        let kind = Kind { name: "RabbitMQ", program: "rabbitmq-server", folders, image };
        let management_port = Port::new();
        let broker = Self {
            options,
            amqp: Port::new(),
            distribution: Port::new(),
            mapper: Port::new(),
            management: Management::new(management_port.address(), "guest:guest"),
            management_port,
            server: Server::new("rabbitmq", &kind),
        };
        broker.configure();
        if let Server::Program(process, _) = &broker.server {
            let epmd = program::find("epmd", &["/usr/lib/erlang/bin".into()]).expect("Erlang is installed");
            process.spawn_beside("epmd", &epmd, |command| {
                command.args(["-port", &broker.mapper.number().to_string(), "-address", "127.0.0.1"]);
            });
        }
        broker
    }

    fn configure(&self) {
        let folder = self.server.folder();
        let amqp = self.inner_port();
        let (host, management, seen) = match &self.server {
            Server::Program(..) => ("127.0.0.1", self.management_port.number(), folder.display().to_string()),
            Server::Image(_) => ("0.0.0.0", 15672, "/settings".to_owned()),
        };
        let write = |name: &str, text: &str| {
            fs::write(folder.join(name), text).expect("a folder of ours can be written");
        };
        let mut settings = format!(
            "loopback_users = none\n\
             management.tcp.ip = {host}\n\
             management.tcp.port = {management}\n\
             management_agent.disable_metrics_collector = false\n\
             vm_memory_high_watermark.absolute = {MEMORY}\n\
             disk_free_limit.absolute = 50MB\n\
             log.console = true\n\
             log.console.level = info\n",
        );
        if let Some(tls) = &self.options.tls {
            write("authority.crt", &tls.authority);
            write("server.crt", &tls.certificate);
            write("server.key", &tls.key);
            settings += &format!(
                "listeners.tcp = none\n\
                 listeners.ssl.1 = {host}:{amqp}\n\
                 ssl_options.cacertfile = {seen}/authority.crt\n\
                 ssl_options.certfile = {seen}/server.crt\n\
                 ssl_options.keyfile = {seen}/server.key\n\
                 ssl_options.verify = verify_none\n",
            );
        } else {
            settings += &format!("listeners.tcp.1 = {host}:{amqp}\n");
        }
        for (name, value) in &self.options.settings {
            settings += &format!("{name} = {value}\n");
        }
        write("rabbitmq.conf", &settings);
        write("enabled_plugins", "[rabbitmq_management].\n");
        // Instead of the machine's.
        write("rabbitmq-env.conf", "");
        let cookie = folder.join(".erlang.cookie");
        fs::write(&cookie, "tidings-tests").expect("a folder of ours can be written");
        fs::set_permissions(cookie, fs::Permissions::from_mode(0o400))
            .expect("a file of ours has permissions");
    }

    /// Starts the node; returns when it answers.
    pub(super) fn start(&self) {
        match &self.server {
            Server::Program(process, programs) => {
                let mut command = process.command(&programs.join("rabbitmq-server"));
                self.point(&mut command);
                process.start(command, || self.answers());
            }
            Server::Image(container) => {
                let folder = container.folder().display();
                let options = [
                    format!("--publish={}:5672", self.amqp.address()),
                    format!("--publish={}:15672", self.management_port.address()),
                    format!("--volume={folder}:/settings:ro"),
                    // The last in that folder, so that it overrules the image's own.
                    format!("--volume={folder}/rabbitmq.conf:/etc/rabbitmq/conf.d/90-tidings.conf:ro"),
                    format!("--env=RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS={SCHEDULERS}"),
                ];
                container.start(&options, &[], || self.answers());
            }
        }
    }

    /// Whether management answers and it takes AMQP's connections.
    fn answers(&self) -> bool {
        let says_yes =
            |path: &str| self.management.try_ask("GET", path, "").is_some_and(|(status, _)| status == 200);
        // Listeners for TLS are asked for there: a connection of ours would be a failed one.
        says_yes("/api/whoami")
            && if self.options.tls.is_some() {
                says_yes(&format!("/api/health/checks/port-listener/{}", self.inner_port()))
            } else {
                self.greets().is_some()
            }
    }

    /// The first bytes of its first frame.
    fn greets(&self) -> Option<[u8; 8]> {
        let mut stream = program::connect(self.address())?;
        stream.write_all(b"AMQP\x00\x00\x09\x01").ok()?;
        let mut frame = [0; 8];
        stream.read_exact(&mut frame).ok()?;
        Some(frame)
    }

    /// The port that the server itself sees.
    fn inner_port(&self) -> u16 {
        match &self.server {
            Server::Program(..) => self.amqp.number(),
            Server::Image(_) => 5672,
        }
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.amqp.address()
    }

    /// The URL of a virtual host whose name is encoded already.
    pub(super) fn url(&self, vhost: &str) -> String {
        let scheme = if self.options.tls.is_some() { "amqps" } else { "amqp" };
        format!("{scheme}://guest:guest@{}/{vhost}", self.address())
    }

    pub(super) fn management(&self) -> &Management {
        &self.management
    }

    pub(super) fn ctl(&self, arguments: &[String]) -> String {
        let mut command = self.server.tool("rabbitmqctl");
        if let Server::Program(process, _) = &self.server {
            command.current_dir(process.folder());
            self.point(&mut command);
        }
        command.arg("--quiet").args(arguments);
        program::run(&mut command, "").trim_end().to_owned()
    }

    /// Makes a command of RabbitMQ's mean this node.
    fn point(&self, command: &mut Command) {
        program::without_variables(command, &["RABBITMQ_", "ERL_"]);
        let folder = self.server.folder();
        let inside = |name: &str| folder.join(name);
        command
            .env("HOME", folder)
            .env("RABBITMQ_NODENAME", format!("tidings-{}@localhost", self.amqp.number()))
            .env("RABBITMQ_CONF_ENV_FILE", inside("rabbitmq-env.conf"))
            .env("RABBITMQ_CONFIG_FILE", inside("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", inside("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", inside("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", inside("data"))
            .env("RABBITMQ_LOG_BASE", inside("logs"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_DIST_PORT", self.distribution.number().to_string())
            // Many run at a time: the range is wide.
            .env("RABBITMQ_CTL_DIST_PORT_MIN", "35000")
            .env("RABBITMQ_CTL_DIST_PORT_MAX", "60000")
            .env("ERL_EPMD_PORT", self.mapper.number().to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                format!("{SCHEDULERS} -kernel inet_dist_use_interface {{127,0,0,1}}"),
            )
            .env("RABBITMQ_CTL_ERL_ARGS", "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}");
    }
}
