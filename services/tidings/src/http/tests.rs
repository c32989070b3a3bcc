//! The accept loop on real sockets: limits, keep-alive and the end.

use axum::routing::{get, post};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinHandle,
};

use super::*;

struct Server {
    addr: SocketAddr,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
    /// Told when a request to `/slow` has begun; it ends when it is told to.
    begun: mpsc::Receiver<tokio::sync::oneshot::Sender<()>>,
}

#[expect(clippy::disallowed_methods, reason = "a test may own a task")]
async fn server(settings: Settings) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = Shutdown::new(Duration::from_secs(5));
    let (tell, begun) = mpsc::channel(8);
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/large", get(|| async { vec![b'x'; 64 * 1024 * 1024] }))
        .route("/", post(|body: String| async move { body }))
        .route(
            "/slow",
            get(move || async move {
                let (end, ended) = tokio::sync::oneshot::channel();
                tell.send(end).await.unwrap();
                ended.await.unwrap();
                "finished"
            }),
        );
    let serving = tokio::spawn(serve(listener, Front::new(router), settings, shutdown.clone()));
    Server { addr, shutdown, serving, begun }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = String::new();
    while !answer.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        answer.push(byte[0].into());
    }
    answer
}

#[tokio::test]
async fn a_head_of_ten_megabytes_gets_431_and_the_connection_closes() {
    let server = server(Settings::default()).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nx: ").await.unwrap();
    let (mut read, mut write) = stream.split();
    let send = async {
        for _ in 0..10 {
            if write.write_all(&[b'a'; 1024 * 1024]).await.is_err() {
                break;
            }
        }
    };
    let mut answer = Vec::new();
    let receive = read.read_to_end(&mut answer);
    let (received, ()) = tokio::join!(receive, send);
    received.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test]
async fn a_connection_is_kept_and_one_that_sends_no_head_is_cut() {
    let server = server(Settings { header_read_timeout_ms: 200, ..Settings::default() }).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        let answer = read_until(&mut stream, "hello").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    stream.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut() {
    let settings = Settings { write_timeout_ms: 200, max_connections: 1, ..Settings::default() };
    let server = server(settings).await;
    let mut stuck = TcpStream::connect(server.addr).await.unwrap();
    stuck.write_all(b"GET /large HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    // The one connection that there may be is free again only when the first is cut.
    let mut next = TcpStream::connect(server.addr).await.unwrap();
    next.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(read_all(&mut next).await.ends_with("hello"));
    drop(stuck);
}

#[tokio::test]
async fn a_stop_finishes_what_is_under_way_and_closes_what_is_idle() {
    let mut server = server(Settings::default()).await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    read_until(&mut idle, "hello").await;
    let mut busy = TcpStream::connect(server.addr).await.unwrap();
    busy.write_all(b"GET /slow HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    let end = server.begun.recv().await.unwrap();
    server.shutdown.request();
    assert_eq!(read_all(&mut idle).await, "");
    drop(idle);
    assert!(!server.serving.is_finished());
    end.send(()).unwrap();
    assert!(read_all(&mut busy).await.ends_with("finished"));
    drop(busy);
    server.serving.await.unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err());
}
