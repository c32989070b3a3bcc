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
use crate::{port::Port, process::Process, program};

/// Memory that raises no alarm by itself.
pub(super) const MEMORY: &str = "4GB";

pub(super) struct Broker {
    options: RabbitMqOptions,
    amqp: Port,
    management: (Port, Management),
    /// Between nodes, and for rabbitmqctl.
    distribution: Port,
    /// Erlang's port mapper, one of our own: a shared one would outlive us.
    mapper: Port,
    process: Process,
    programs: PathBuf,
    epmd: PathBuf,
}

impl Broker {
    /// Writes the settings; starts nothing.
    pub(super) fn new(options: RabbitMqOptions) -> Self {
        // Debian's commands in PATH change to the user rabbitmq; the scripts behind them run as whoever starts them.
        let folders =
            ["/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin"];
        let server =
            program::find("rabbitmq-server", &folders.map(PathBuf::from)).expect("RabbitMQ is installed");
        let epmd =
            program::find("epmd", &program::versions("/usr/lib/erlang", "bin")).expect("Erlang is installed");
        let management = Port::new();
        let broker = Self {
            options,
            amqp: Port::new(),
            distribution: Port::new(),
            mapper: Port::new(),
            process: Process::new("rabbitmq"),
            programs: server.parent().expect("a program lies in a folder").to_owned(),
            epmd,
            management: {
                let address = management.address();
                (management, Management::new(address))
            },
        };
        broker.configure();
        broker
    }

    fn configure(&self) {
        let folder = self.process.folder();
        let management = self.management.0.number();
        let mut settings = format!(
            "loopback_users = none\n\
             management.tcp.ip = 127.0.0.1\n\
             management.tcp.port = {management}\n\
             vm_memory_high_watermark.absolute = {MEMORY}\n\
             disk_free_limit.absolute = 50MB\n\
             log.console = true\n\
             log.console.level = info\n",
        );
        let amqp = self.amqp.number();
        if let Some(tls) = &self.options.tls {
            let write = |name: &str, text: &str| {
                let file = folder.join(name);
                fs::write(&file, text).expect("a folder of ours can be written");
                file.display().to_string()
            };
            settings += &format!(
                "listeners.tcp = none\n\
                 listeners.ssl.1 = 127.0.0.1:{amqp}\n\
                 ssl_options.cacertfile = {}\n\
                 ssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\n\
                 ssl_options.verify = verify_none\n",
                write("authority.crt", &tls.authority),
                write("server.crt", &tls.certificate),
                write("server.key", &tls.key),
            );
        } else {
            settings += &format!("listeners.tcp.1 = 127.0.0.1:{amqp}\n");
        }
        for (name, value) in &self.options.settings {
            settings += &format!("{name} = {value}\n");
        }
        for (name, text) in [
            ("rabbitmq.conf", settings.as_str()),
            ("enabled_plugins", "[rabbitmq_management].\n"),
            // Instead of the machine's.
            ("rabbitmq-env.conf", ""),
            (".erlang.cookie", "tidings-tests"),
        ] {
            fs::write(folder.join(name), text).expect("a folder of ours can be written");
        }
        fs::set_permissions(folder.join(".erlang.cookie"), fs::Permissions::from_mode(0o400))
            .expect("a file of ours has permissions");
        self.process.spawn_beside("epmd", &self.epmd, |command| {
            command.args(["-port", &self.mapper.number().to_string(), "-address", "127.0.0.1"]);
        });
    }

    /// Starts the node; returns when it answers.
    pub(super) fn start(&self) {
        let mut command = self.process.command(&self.programs.join("rabbitmq-server"));
        self.point(&mut command);
        self.process.start(command, || self.answers());
    }

    fn answers(&self) -> bool {
        self.management.1.try_ask("GET", "/api/whoami", "").is_some_and(|(status, _)| status == 200)
            && self.greets()
    }

    /// Whether it speaks AMQP (or, with TLS, listens).
    fn greets(&self) -> bool {
        let Some(mut stream) = program::connect(self.address()) else { return false };
        self.options.tls.is_some()
            || (stream.write_all(b"AMQP\x00\x00\x09\x01").is_ok() && stream.read_exact(&mut [0; 8]).is_ok())
    }

    pub(super) fn stop(&self) {
        self.process.signal("TERM");
        self.process.wait();
    }

    pub(super) fn kill(&self) {
        self.process.kill();
    }

    pub(super) fn signal(&self, name: &str) {
        self.process.signal_family(name);
    }

    pub(super) fn printed(&self) -> String {
        self.process.printed()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.amqp.address()
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.options.tls.is_some() { "amqps" } else { "amqp" }
    }

    pub(super) fn management(&self) -> &Management {
        &self.management.1
    }

    pub(super) fn ctl(&self, arguments: &[String]) -> String {
        let mut command = Command::new(self.programs.join("rabbitmqctl"));
        command.current_dir(self.process.folder());
        self.point(&mut command);
        command.arg("--quiet").args(arguments);
        program::run(&mut command, "").trim_end().to_owned()
    }

    /// Makes a command of RabbitMQ's mean this node.
    fn point(&self, command: &mut Command) {
        program::without_variables(command, &["RABBITMQ_", "ERL_"]);
        let folder = self.process.folder();
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
            // Two schedulers that don't spin: it shares the machine with everything else.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}",
            )
            .env("RABBITMQ_CTL_ERL_ARGS", "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}");
    }
}
