//! A client that says what no library would: AMQP 0-9-1 by hand, as much as one publish needs.

#![expect(clippy::disallowed_types, reason = "a client's own socket")]

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long nothing comes of a queue that is empty.
const QUIET: Duration = Duration::from_secs(3);

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const END: u8 = 0xce;

/// Publishes `body` to `exchange` with one header, whose name is any bytes, and waits for the confirm.
pub(crate) async fn publish(url: &str, exchange: &str, header: (&[u8], &[u8]), body: &[u8]) {
    let mut stream = open(url).await;
    method(&mut stream, 1, (85, 10), &[0]).await;
    expect(&mut stream, 85, 11).await;
    method(&mut stream, 1, (60, 40), &[vec![0, 0], short(exchange.as_bytes()), vec![0, 0]].concat()).await;
    let table = [short(header.0), vec![b'S'], long(header.1)].concat();
    let size = u64::try_from(body.len()).unwrap().to_be_bytes();
    // Of all properties only the headers.
    let properties = [&[0, 60, 0, 0][..], &size, &[0x20, 0x00], &long(&table)].concat();
    frame(&mut stream, HEADER, 1, &properties).await;
    frame(&mut stream, BODY, 1, body).await;
    expect(&mut stream, 60, 80).await;
}

/// Takes the one message of `queue`, of one frame, and gives it back as a consumer that fails at it, until it comes no more.
pub(crate) async fn fail_at(url: &str, queue: &str) {
    let mut stream = open(url).await;
    let consume = [vec![0, 0], short(queue.as_bytes()), vec![0, 0], vec![0, 0, 0, 0]].concat();
    method(&mut stream, 1, (60, 20), &consume).await;
    expect(&mut stream, 60, 21).await;
    for tag in 1_u64.. {
        if timeout(QUIET, expect(&mut stream, 60, 60)).await.is_err() {
            assert!(tag > 1, "no message came");
            return;
        }
        assert_eq!((read(&mut stream).await.0, read(&mut stream).await.0), (HEADER, BODY));
        method(&mut stream, 1, (60, 90), &[&tag.to_be_bytes()[..], &[1]].concat()).await;
    }
}

/// Logs in and opens a channel.
async fn open(url: &str) -> TcpStream {
    let url = url::Url::parse(url).unwrap();
    let address = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let vhost = url.path().trim_start_matches('/').replace("%2F", "/");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"AMQP\0\0\x09\x01").await.unwrap();
    expect(&mut stream, 10, 10).await;
    let login = [&[0, 0, 0, 0][..], &short(b"PLAIN"), &long(b"\0guest\0guest"), &short(b"en_US")].concat();
    method(&mut stream, 0, (10, 11), &login).await;
    expect(&mut stream, 10, 30).await;
    // Channels, bytes of a frame, no heartbeat.
    method(&mut stream, 0, (10, 31), &[0, 16, 0, 2, 0, 0, 0, 0]).await;
    method(&mut stream, 0, (10, 40), &[short(vhost.as_bytes()), vec![0, 0]].concat()).await;
    expect(&mut stream, 10, 41).await;
    method(&mut stream, 1, (20, 10), &[0]).await;
    expect(&mut stream, 20, 11).await;
    stream
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn long(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat()
}

async fn method(stream: &mut TcpStream, channel: u8, (class, method): (u8, u8), arguments: &[u8]) {
    frame(stream, METHOD, channel, &[&[0, class, 0, method], arguments].concat()).await;
}

async fn frame(stream: &mut TcpStream, kind: u8, channel: u8, payload: &[u8]) {
    let frame = [&[kind, 0, channel][..], &long(payload), &[END]].concat();
    stream.write_all(&frame).await.unwrap();
}

/// Reads a frame, which has to be this method.
async fn expect(stream: &mut TcpStream, class: u8, method: u8) {
    let (kind, payload) = read(stream).await;
    let text = String::from_utf8_lossy(&payload);
    assert_eq!((kind, &payload[..4]), (METHOD, &[0, class, 0, method][..]), "{text}");
}

async fn read(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 7];
    stream.read_exact(&mut head).await.unwrap();
    let size = u32::from_be_bytes(head[3..].try_into().unwrap());
    let mut payload = vec![0; size as usize + 1];
    stream.read_exact(&mut payload).await.unwrap();
    (head[0], payload)
}
