//! A port of the loopback that stays ours, whether its server runs or not.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    sync::atomic::{AtomicU16, Ordering},
};

use tokio::net::TcpSocket;

/// Ports that Linux, as it comes, gives to nobody who asks for any: neither to a server nor to a connection. One of the others
/// was taken, once in a long run beside Docker, between the moment that it was ours and the moment that our server listened.
const ASKED_FOR_BY_NOBODY: RangeInclusive<u16> = 61_000..=65_535;

/// Where this process looks next.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A free port. Where the system allows it a bound socket that never listens holds it, so that nobody else is given the port
/// while the server that listens on it is down; to connect is then refused, as it should be.
pub(crate) struct Port {
    address: SocketAddr,
    _held: Option<TcpSocket>,
}

impl Port {
    /// Takes one.
    pub(crate) fn new() -> Self {
        let socket = if cfg!(target_os = "linux") { quiet() } else { None };
        let socket = socket.unwrap_or_else(|| bound(0).expect("the loopback has a free port"));
        let address = socket.local_addr().expect("a bound socket has an address");
        // The server sets the same, else it could not listen beside us. Not before: two of us would be given one port.
        socket.set_reuseaddr(true).expect("a socket takes the option");
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

/// One that nobody is given by chance, if one is free. Processes begin at different places.
fn quiet() -> Option<TcpSocket> {
    let count = ASKED_FOR_BY_NOBODY.end() - ASKED_FOR_BY_NOBODY.start() + 1;
    let process = std::process::id().wrapping_mul(211);
    (0..count).find_map(|_| {
        let number = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)).wrapping_add(process) % u32::from(count);
        bound(ASKED_FOR_BY_NOBODY.start() + u16::try_from(number).ok()?).ok()
    })
}

/// A socket with the port, which is nobody else's then.
fn bound(port: u16) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port)))?;
    Ok(socket)
}
