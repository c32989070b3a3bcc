//! Sessions that take all the room that a Postgres has.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Idle sessions. Dropped, they end.
pub(super) struct Hogs {
    address: SocketAddr,
    sessions: Vec<Session>,
}

/// One session, by the protocol's first messages.
struct Session(TcpStream);

impl Hogs {
    pub(super) fn of(address: SocketAddr) -> Self {
        Self { address, sessions: Vec::new() }
    }

    /// Ends all sessions but its own, and takes their places before others do.
    pub(super) async fn take_all(&mut self) {
        self.fill().await;
        let session = self.sessions.first_mut().expect("there was room for one");
        let others = "select pg_terminate_backend(pid) from pg_stat_activity \
                      where backend_type = 'client backend' and application_name <> 'hog'";
        assert!(session.run(others).await, "a superuser may end sessions");
        self.fill().await;
    }

    async fn fill(&mut self) {
        while let Some(session) = Session::begin(self.address).await {
            self.sessions.push(session);
        }
    }
}

impl Session {
    /// None when the server has no room.
    async fn begin(address: SocketAddr) -> Option<Self> {
        let mut startup = vec![0, 0, 0, 0, 0, 3, 0, 0];
        startup.extend_from_slice(b"user\0postgres\0database\0postgres\0application_name\0hog\0\0");
        let length = u32::try_from(startup.len()).expect("short");
        startup[..4].copy_from_slice(&length.to_be_bytes());
        let mut session = Self(TcpStream::connect(address).await.ok()?);
        session.0.write_all(&startup).await.ok()?;
        session.is_ready().await.then_some(session)
    }

    /// Runs a statement; whether it went well.
    async fn run(&mut self, sql: &str) -> bool {
        let length = u32::try_from(sql.len() + 5).expect("short");
        let query = [b"Q", &length.to_be_bytes()[..], sql.as_bytes(), b"\0"].concat();
        self.0.write_all(&query).await.is_ok() && self.is_ready().await
    }

    /// Reads up to `ReadyForQuery`; false at an error or the end.
    async fn is_ready(&mut self) -> bool {
        loop {
            let (Ok(kind), Ok(length)) = (self.0.read_u8().await, self.0.read_u32().await) else {
                return false;
            };
            let mut body = vec![0; (length as usize).saturating_sub(4)];
            if self.0.read_exact(&mut body).await.is_err() || kind == b'E' {
                return false;
            }
            if kind == b'Z' {
                return true;
            }
        }
    }
}
