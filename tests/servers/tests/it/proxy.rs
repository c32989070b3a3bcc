use std::time::Duration;

use tidings_servers::proxy::Proxy;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::stream::{LONG, SHORT, ask, connect};

/// A server that answers every byte with the same; it ends with the set.
async fn echo(tasks: &mut JoinSet<()>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("the loopback has a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut reader, mut writer) = stream.split();
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn passes_bytes_and_ends_on() {
    let mut tasks = JoinSet::new();
    let proxy = Proxy::to(echo(&mut tasks).await).await;
    let mut stream = connect(proxy.addr()).await;
    assert_eq!(ask(&mut stream, b"one", LONG).await.as_deref(), Some(&b"one"[..]));
    stream.shutdown().await.expect("our half closes");
    assert_eq!(stream.read(&mut [0; 8]).await.expect("an end is no error"), 0);
}

#[tokio::test]
async fn frozen_holds_bytes_and_thawed_passes_them() {
    let mut tasks = JoinSet::new();
    let proxy = Proxy::to(echo(&mut tasks).await).await;
    let mut open = connect(proxy.addr()).await;
    assert_eq!(ask(&mut open, b"one", LONG).await.as_deref(), Some(&b"one"[..]));

    proxy.freeze();
    assert_eq!(ask(&mut open, b"two", SHORT).await, None, "nothing passes");
    let mut new = connect(proxy.addr()).await;
    assert_eq!(ask(&mut new, b"three", SHORT).await, None, "a new connection hears nothing");

    proxy.thaw();
    assert_eq!(ask(&mut open, b"", LONG).await.as_deref(), Some(&b"two"[..]));
    assert_eq!(ask(&mut new, b"", LONG).await.as_deref(), Some(&b"three"[..]));
}

#[tokio::test]
async fn cut_refuses_until_healed() {
    let mut tasks = JoinSet::new();
    let proxy = Proxy::to(echo(&mut tasks).await).await;
    let mut open = connect(proxy.addr()).await;
    assert_eq!(ask(&mut open, b"one", LONG).await.as_deref(), Some(&b"one"[..]));

    proxy.cut().await;
    assert_eq!(ask(&mut open, b"two", LONG).await.as_deref(), Some(&b""[..]), "it was dropped");
    let refused = TcpStream::connect(proxy.addr()).await.expect_err("it refuses");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);

    proxy.heal().await;
    let mut new = connect(proxy.addr()).await;
    assert_eq!(ask(&mut new, b"three", LONG).await.as_deref(), Some(&b"three"[..]));
}

#[tokio::test]
async fn closes_connections_once() {
    let mut tasks = JoinSet::new();
    let proxy = Proxy::to(echo(&mut tasks).await).await;
    let mut open = connect(proxy.addr()).await;
    assert_eq!(ask(&mut open, b"one", LONG).await.as_deref(), Some(&b"one"[..]));

    proxy.close_connections().await;
    assert_eq!(ask(&mut open, b"two", LONG).await.as_deref(), Some(&b""[..]), "it was dropped");
    let mut new = connect(proxy.addr()).await;
    assert_eq!(ask(&mut new, b"three", LONG).await.as_deref(), Some(&b"three"[..]));
}

#[tokio::test]
async fn throttled_passes_no_more_than_it_may() {
    let mut tasks = JoinSet::new();
    let proxy = Proxy::to(echo(&mut tasks).await).await;
    proxy.throttle(1000);
    let mut stream = connect(proxy.addr()).await;
    stream.write_all(&[7; 100_000]).await.expect("the buffers take it");
    let mut read = vec![0; 100_000];
    let all = timeout(Duration::from_secs(2), stream.read_exact(&mut read)).await;
    assert!(all.is_err(), "a hundred seconds' worth of bytes came at once");

    proxy.throttle(0);
    let mut stream = connect(proxy.addr()).await;
    stream.write_all(&[7; 10_000]).await.expect("the buffers take it");
    timeout(LONG, stream.read_exact(&mut read[..10_000])).await.expect("it comes").expect("all of it");
}

#[tokio::test]
async fn a_server_that_is_away_ends_the_connection() {
    let mut tasks = JoinSet::new();
    let address = echo(&mut tasks).await;
    tasks.shutdown().await;
    let proxy = Proxy::to(address).await;
    let mut stream = connect(proxy.addr()).await;
    assert_eq!(ask(&mut stream, b"one", LONG).await.as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn replaces_host_and_port_in_urls() {
    let proxy = Proxy::to(([127, 0, 0, 1], 1).into()).await;
    let here = proxy.addr();
    for (url, proxied) in [
        ("postgres://postgres@127.0.0.1:5/test", format!("postgres://postgres@{here}/test")),
        ("amqp://guest:guest@host:5/%2F", format!("amqp://guest:guest@{here}/%2F")),
        ("redis://host", format!("redis://{here}")),
        ("postgres://a@host?sslmode=disable", format!("postgres://a@{here}?sslmode=disable")),
    ] {
        assert_eq!(proxy.url(url), proxied);
    }
}
