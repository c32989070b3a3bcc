//! Nothing is lost and accepting goes on while Redis is away, however it is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tidings_domain::ports::Entropy;
use tidings_servers::{
    proxy::Proxy,
    redis::{Redis, RedisOptions},
};

use crate::{
    log::Log,
    process::{PATIENT, Process, after_ms, ask, bucket, draw, id, options, start},
};

#[tokio::test]
async fn killed_it_is_replaced_by_the_fallback_until_it_is_back() {
    let (log, _guard) = Log::here();
    let server = Redis::start().await;
    let (one, other) = (Process::patient(&server.url(0)), Process::patient(&server.url(0)));
    let request = draw(vec![bucket("owner", 1, 2)], 1);
    assert!(one.goes(&request, start()).await && other.goes(&request, start()).await);
    assert!(!one.goes(&request, start()).await, "they share two tokens");
    assert!(!one.differs(1, 7).await);

    server.kill().await;
    for process in [&one, &other] {
        // Each has its own two now.
        assert!(process.goes(&request, start()).await && process.goes(&request, start()).await);
        assert!(!process.goes(&request, start()).await);
        assert_eq!(process.fallbacks(), 3);
        let trouble = process.trouble().unwrap();
        assert!(trouble.contains("per process meanwhile: n apis, n times the limit"), "{trouble}");
    }
    one.limits.accepted(&[id(1)], after_ms(5)).await.unwrap();
    assert_eq!(one.limits.is_accepted(&[id(1)]).await.unwrap(), [Some(after_ms(5))]);

    server.start_again().await;
    one.until_up().await;
    other.until_up().await;
    // It is empty, knows no script, and is shared again.
    assert!(one.goes(&request, start()).await && other.goes(&request, start()).await);
    assert!(!one.goes(&request, start()).await);
    assert!(!one.differs(1, 8).await && other.differs(1, 9).await);
    assert_eq!(one.limits.is_accepted(&[id(1)]).await.unwrap(), [Some(after_ms(5))]);
    assert_eq!((one.fallbacks(), other.fallbacks()), (3, 3));

    let lines = log.lines();
    let away = lines.iter().filter(|line| line.contains("redis is away")).count();
    let back = lines.iter().filter(|line| line.contains("redis is back")).count();
    assert_eq!((away, back, lines.len()), (2, 2, 4), "once an outage and process: {lines:#?}");
}

#[tokio::test]
async fn away_at_the_start_it_is_waited_for_once() {
    let server = Redis::shared().await;
    let proxy = Proxy::to(server.addr()).await;
    proxy.cut().await;
    let process = Process::patient(&proxy.url(&server.database()));
    let request = draw(vec![bucket("owner", 1, 1)], 1);
    assert!(process.goes(&request, start()).await);
    assert_eq!(process.fallbacks(), 1);
    proxy.heal().await;
    process.until_up().await;
    assert!(process.goes(&request, start()).await, "it has a token of its own");
    assert_eq!(process.fallbacks(), 1);
}

#[tokio::test]
async fn frozen_it_costs_one_call_its_time_and_no_other() {
    let server = Redis::shared().await;
    let proxy = Proxy::to(server.addr()).await;
    let timeout = Duration::from_secs(1);
    let process = Process::new(options(&proxy.url(&server.database()), timeout));
    process.until_up().await;
    proxy.freeze();
    let request = draw(vec![bucket("owner", 1, 100)], 1);
    assert!(process.goes(&request, start()).await);
    let trouble = process.trouble().unwrap();
    assert!(trouble.contains("no answer within 1000 ms"), "{trouble}");
    // These wait for nothing at all: without an await that is pending no time passes.
    let at_once = async {
        for _ in 0..50 {
            assert!(process.goes(&request, start()).await);
            process.limits.accepted(&[id(1)], start()).await.unwrap();
            process.limits.forget(&[id(1)]).await.unwrap();
            process.limits.is_accepted(&[id(1)]).await.unwrap();
        }
    };
    assert!(futures::FutureExt::now_or_never(at_once).is_some(), "a call waited for a server that is away");
    assert_eq!(process.fallbacks(), 51);
    proxy.thaw();
    process.until_up().await;
    assert!(process.goes(&request, start()).await);
    assert_eq!(process.fallbacks(), 51);
}

#[tokio::test]
async fn frozen_while_it_connects_it_holds_a_call_no_longer_than_its_time() {
    let server = Redis::shared().await;
    let proxy = Proxy::to(server.addr()).await;
    proxy.freeze();
    let process = Process::new(options(&proxy.url(&server.database()), Duration::from_millis(100)));
    assert!(process.goes(&draw(vec![bucket("owner", 1, 1)], 1), start()).await);
    assert_eq!(process.fallbacks(), 1);
    process.until_trouble("no connection within").await;
    proxy.thaw();
    process.until_up().await;
}

#[tokio::test]
async fn a_connection_that_ends_is_replaced_under_its_calls() {
    let (log, _guard) = Log::here();
    let server = Redis::shared().await;
    let proxy = Proxy::to(server.addr()).await;
    let process = Process::patient(&proxy.url(&server.database()));
    assert!(!process.differs(1, 7).await);
    proxy.close_connections().await;
    assert!(process.differs(1, 8).await, "Redis remembers");
    assert_eq!((process.fallbacks(), process.trouble()), (0, None));
    assert_eq!(log.lines(), Vec::<String>::new(), "no outage");
}

#[tokio::test]
async fn flushed_it_has_forgotten_and_nothing_else() {
    let server = Redis::start().await;
    let process = Process::patient(&server.url(0));
    let request = draw(vec![bucket("owner", 1, 1)], 1);
    assert!(process.goes(&request, start()).await && !process.goes(&request, start()).await);
    assert!(!process.differs(1, 7).await);
    process.limits.accepted(&[id(1)], start()).await.unwrap();
    assert_eq!(process.limits.is_accepted(&[id(1)]).await.unwrap(), [Some(start())]);
    server.flush().await;
    assert!(process.goes(&request, start()).await);
    assert!(!process.differs(1, 8).await);
    assert_eq!(process.limits.is_accepted(&[id(1)]).await.unwrap(), [None]);
    assert_eq!((process.fallbacks(), process.trouble()), (0, None));
}

#[tokio::test]
async fn a_script_that_it_no_longer_knows_is_loaded_again() {
    let server = Redis::start().await;
    let process = Process::patient(&server.url(0));
    assert!(!process.differs(1, 7).await);
    let _: () = ask(&server.url(0), &["SCRIPT", "FLUSH"]).await;
    assert!(process.differs(1, 8).await);
    let _: () = ask(&server.url(0), &["SCRIPT", "FLUSH"]).await;
    process.limits.accepted(&[id(1), id(2)], start()).await.unwrap();
    assert_eq!(process.limits.is_accepted(&[id(1), id(2)]).await.unwrap(), [Some(start()), Some(start())]);
    assert_eq!((process.fallbacks(), process.trouble()), (0, None));
}

/// Whether it stays so while the server is tried: no probe takes a server for well that refuses what we need, nor writes.
async fn refuses(server: &Redis, set: &[&str], unset: &[&str], reason: &str) {
    let url = server.url(0);
    let process = Process::patient(&url);
    process.until_up().await;
    let keys: u64 = ask(&url, &["DBSIZE"]).await;
    let _: () = ask(&url, set).await;
    let before = process.fallbacks();
    assert!(!process.differs(1, 7).await);
    assert_eq!(process.fallbacks(), before + 1);
    let mut ours = 0;
    let before = connections(&url).await;
    let tried = async |ours: u64| connections(&url).await - before - ours;
    while tried(ours + 1).await < 3 {
        ours += 1;
        let trouble = process.trouble().unwrap();
        assert!(trouble.contains(reason), "{trouble}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ask::<u64>(&url, &["DBSIZE"]).await, keys);
    let _: () = ask(&url, unset).await;
    process.until_up().await;
    assert!(!process.differs(1, 9).await, "it was not remembered in Redis");
    let _: () = ask(&url, &["FLUSHALL"]).await;
}

/// How many connections the server has taken so far, ours that ask among them.
async fn connections(url: &str) -> u64 {
    let info: String = ask(url, &["INFO", "stats"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test]
async fn out_of_memory_or_a_replica_it_is_away() {
    let (log, _guard) = Log::here();
    let server = Redis::start().await;
    let out_of_memory = "OOM command not allowed when used memory > 'maxmemory'.";
    refuses(
        &server,
        &["CONFIG", "SET", "maxmemory", "1"],
        &["CONFIG", "SET", "maxmemory", "0"],
        out_of_memory,
    )
    .await;
    let replica = ["REPLICAOF", "127.0.0.1", "1"];
    refuses(&server, &replica, &["REPLICAOF", "NO", "ONE"], "READONLY").await;
    let away: Vec<_> = log.lines().into_iter().filter(|line| line.contains("redis is away")).collect();
    assert_eq!(away.len(), 2, "{away:#?}");
}

#[tokio::test]
async fn a_login_that_it_refuses_is_said_without_the_password() {
    let (log, _guard) = Log::here();
    let server =
        Redis::start_with(RedisOptions { password: Some("right".to_owned()), ..RedisOptions::default() })
            .await;
    let right = Process::patient(&server.url(0));
    right.until_up().await;
    let wrong = Process::patient(&server.url(0).replace("right", "hush"));
    wrong.until_trouble("refuses the user or the password").await;
    let none = Process::patient(&server.url(0).replace(":right@", ""));
    none.until_trouble("NOAUTH").await;
    let said = format!("{:?} {:?} {:?}", log.lines(), wrong.trouble(), none.trouble());
    assert!(!said.contains("hush") && !said.contains("right"), "{said}");
}

/// Chance that fails once.
#[derive(Default)]
struct Panics(AtomicBool);

impl Entropy for Panics {
    fn fill(&self, bytes: &mut [u8]) {
        assert!(self.0.swap(true, Ordering::Relaxed), "a fault of ours");
        bytes.fill(7);
    }
}

#[tokio::test]
async fn a_keeper_that_panics_begins_again() {
    let (log, _guard) = Log::here();
    let server = Redis::shared().await;
    let proxy = Proxy::to(server.addr()).await;
    proxy.cut().await;
    let panics = Arc::new(Panics::default());
    let mut options = options(&proxy.url(&server.database()), PATIENT);
    options.entropy = Arc::<Panics>::clone(&panics);
    let process = Process::new(options);
    process.until_trouble("a fault of ours").await;
    assert!(panics.0.load(Ordering::Relaxed));
    assert!(log.lines().iter().any(|line| line.starts_with("ERROR")), "{:#?}", log.lines());
    proxy.heal().await;
    process.until_up().await;
    assert!(!process.differs(1, 7).await);
    assert_eq!(process.fallbacks(), 0);
}

#[tokio::test]
async fn dropped_it_leaves_no_connection() {
    let server = Redis::start().await;
    let process = Process::patient(&server.url(0));
    process.until_up().await;
    let others = async || {
        let clients: String = ask(&server.url(0), &["CLIENT", "LIST", "TYPE", "NORMAL"]).await;
        clients.lines().filter(|client| !client.contains("cmd=client")).count()
    };
    assert_eq!(others().await, 1);
    drop(process);
    let gone = async {
        while others().await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENT, gone).await.is_ok(), "its connection is still open");
}
