//! A port of the loopback that stays ours, whether its server runs or not.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A free port. Where the system allows it a bound socket that never listens holds it, so that nobody else is given the port
/// while the server that listens on it is down; to connect is then refused, as it should be.
pub(crate) struct Port {
    address: SocketAddr,
    _held: Option<TcpSocket>,
}

impl Port {
    /// Takes one.
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be made");
        // The server sets the same, else it could not listen beside us.
        socket.set_reuseaddr(true).expect("a socket takes the option");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("the loopback has a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        // Elsewhere the held socket would keep the server from listening.
        Self { address, _held: cfg!(target_os = "linux").then_some(socket) }
    }

    /// The loopback's address with the port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port.
    pub(crate) fn number(&self) -> u16 {
        self.address.port()
    }
}
