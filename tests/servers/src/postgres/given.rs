//! The server that `DATABASE_URL` names.

use std::{net::SocketAddr, path::PathBuf, process::Command};

use crate::{
    given::{Parts, Traces, variable},
    program,
};

/// Names the server.
pub(super) const VARIABLE: &str = "DATABASE_URL";

pub(super) struct Given {
    parts: Parts,
    psql: PathBuf,
    traces: Traces,
}

/// Its URL, if there is one.
pub(super) fn url() -> Option<String> {
    variable(VARIABLE)
}

impl Given {
    pub(super) fn new(url: String) -> Self {
        let psql = program::find("psql", &program::versions("/usr/lib/postgresql", "bin"))
            .expect("DATABASE_URL is set: tests make their databases with psql, which is not installed");
        let given = Self { parts: Parts::of(&url), psql, traces: Traces::new("postgres") };
        // Slots hold their database; both go, whoever is still connected.
        let prefix = given.prefix();
        given.traces.at_end(&format!(
            "{} -qAtX -d '{url}' <<'END'\n\
             select pg_terminate_backend(active_pid) from pg_replication_slots\n\
             where starts_with(database, '{prefix}') and active;\n\
             select pg_sleep(0.5);\n\
             select pg_drop_replication_slot(slot_name) from pg_replication_slots\n\
             where starts_with(database, '{prefix}');\n\
             select format('drop database %I with (force)', datname) from pg_database\n\
             where starts_with(datname, '{prefix}') \\gexec\n\
             END\n",
            given.psql.display(),
        ));
        given
    }

    /// What our databases' names begin with.
    pub(super) fn prefix(&self) -> String {
        format!("{}_", self.traces.unique("_"))
    }

    pub(super) fn url(&self, database: &str) -> String {
        self.parts.with_path(database)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.parts.address(5432)
    }

    pub(super) fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        // Databases are made from the one that was named: another need not exist.
        let database = if database == "postgres" { &self.parts.path } else { database };
        super::psql(Command::new(&self.psql), &self.url(database), sql)
    }
}
