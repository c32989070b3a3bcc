//! What processes share: rates and fingerprints, decided in one step.

use std::{collections::BTreeMap, sync::Arc};

use tidings_domain::ports::{Admission, Limits as _};
use tidings_memory::limits::InProcessLimits;
use tidings_servers::redis::Redis;
use tokio::task::JoinSet;

use crate::process::{Process, after_ms, ask, bucket, draw, id, keyed, options, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_draw_at_once_get_no_more_than_there_is() {
    let url = Redis::shared().await.database();
    let mut drawing = JoinSet::new();
    for _ in 0..4 {
        let process = Arc::new(Process::patient(&url));
        for _ in 0..5 {
            let process = Arc::clone(&process);
            drawing.spawn(async move {
                let request = draw(vec![bucket("owner", 1, 103), bucket("all", 1, 1000)], 2);
                let mut drawn = 0;
                for _ in 0..10 {
                    drawn += u32::from(process.goes(&request, start()).await);
                }
                assert_eq!(process.fallbacks(), 0);
                drawn
            });
        }
    }
    let drawn: u32 = drawing.join_all().await.into_iter().sum();
    assert_eq!(drawn, 51, "two tokens each of 103");
    // What had to wait drew nothing from the bucket that had enough.
    let left = Process::patient(&url);
    assert!(left.goes(&draw(vec![bucket("all", 1, 1000)], 1000 - 102), start()).await);
    assert!(!left.goes(&draw(vec![bucket("all", 1, 1000)], 1), start()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_bodies_under_one_key_at_once_one_is_another() {
    let url = Redis::shared().await.database();
    let mut asking = JoinSet::new();
    for what in [1, 2] {
        let process = Process::patient(&url);
        asking.spawn(async move {
            let mut different = Vec::new();
            for number in 0..100 {
                different.push(process.differs(number, what).await);
            }
            assert_eq!(process.fallbacks(), 0);
            different
        });
    }
    let answers = asking.join_all().await;
    for (number, (one, other)) in answers[0].iter().zip(&answers[1]).enumerate() {
        assert_ne!(one, other, "key {number}");
    }
}

#[tokio::test]
async fn every_key_is_of_the_namespace_and_expires() {
    let url = Redis::shared().await.database();
    let process = Process::patient(&url);
    let request = |buckets, cost| draw(buckets, cost);
    assert!(process.goes(&request(vec![bucket("a", 5, 100)], 50), start()).await);
    // One that owes, one that never refills, one that anybody named.
    assert!(process.goes(&request(vec![bucket("owes", 1, 2)], 1000), start()).await);
    assert!(process.goes(&request(vec![bucket("never", 0, 3)], 3), start()).await);
    assert!(process.goes(&request(vec![bucket("a b\r\n{c}*ü", u32::MAX, u32::MAX)], 1), start()).await);
    process.admit(&keyed(&[(1, 1), (2, 1)]), start()).await;
    process.limits.accepted(&[id(1)], start()).await.unwrap();
    process.limits.accepted(&[id(2), id(3)], start()).await.unwrap();
    process.limits.is_accepted(&[id(1)]).await.unwrap();
    assert_eq!(process.fallbacks(), 0);

    let keys: Vec<String> = ask(&url, &["KEYS", "*"]).await;
    let mut lives = BTreeMap::new();
    for key in keys {
        let left: i64 = ask(&url, &["PTTL", &key]).await;
        assert!(left > 0, "{key} never expires");
        lives.insert(key, left / 1000);
    }
    let id = "00000000-0000-0000-0000-00000000000";
    // Until it is full and a minute, seen some time later; the machine may be slow, but not by a minute.
    let expected = [
        (format!("tidings:accepted:{id}1"), 600),
        (format!("tidings:accepted:{id}2"), 600),
        (format!("tidings:accepted:{id}3"), 600),
        (format!("tidings:fingerprint:{id}1"), 86_400),
        (format!("tidings:fingerprint:{id}2"), 86_400),
        ("tidings:rate:a".to_owned(), 10 + 60),
        ("tidings:rate:a b\r\n{c}*ü".to_owned(), 60),
        ("tidings:rate:never".to_owned(), 3 + 60),
        ("tidings:rate:owes".to_owned(), 1000 + 60),
    ];
    assert_eq!(lives.keys().collect::<Vec<_>>(), expected.iter().map(|(key, _)| key).collect::<Vec<_>>());
    for (key, most_s) in expected {
        let left_s = lives[&key];
        assert!((most_s - 59..=most_s).contains(&left_s), "{key} is kept for {left_s} s, not {most_s} s");
    }
}

#[tokio::test]
async fn namespaces_are_apart() {
    let url = Redis::shared().await.database();
    let one = Process::patient(&url);
    let mut options = options(&url, crate::process::PATIENT);
    options.namespace = "other".to_owned();
    let other = Process::new(options);
    let request = draw(vec![bucket("owner", 1, 1)], 1);
    assert!(one.goes(&request, start()).await && other.goes(&request, start()).await);
    assert!(!one.differs(1, 1).await && !other.differs(1, 2).await);
    assert_eq!((one.fallbacks(), other.fallbacks()), (0, 0));
}

/// The same requests of both: rates and times are sums of powers of two, so that neither rounds.
#[tokio::test]
async fn it_decides_as_the_limits_in_process_do() {
    let process = Process::patient(&Redis::shared().await.database());
    let memory = InProcessLimits::new();
    let mut random = 1_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let (mut at, mut waits) = (0, 0);
    for step in 0..500 {
        at += 125 * next(12);
        let names = ["a", "b", "c", "a"];
        let count = next(3) as usize;
        let buckets =
            names.iter().skip(next(2) as usize).take(count).map(|name| bucket(name, 8, 10)).collect();
        let mut request =
            keyed(&[(u128::from(next(40)), next(2) as u8), (u128::from(next(40)), next(2) as u8)]);
        request.fingerprints.truncate(next(3) as usize);
        request.buckets = buckets;
        request.cost = next(14) as u32;
        let expected = memory.admit(&request, after_ms(at)).await.unwrap();
        waits += u32::from(matches!(expected, Admission::Wait { .. }));
        assert_eq!(process.admit(&request, after_ms(at)).await, expected, "step {step}: {request:?}");
    }
    assert!((50..450).contains(&waits), "{waits} of 500 had to wait: the requests try too little");
    assert_eq!(process.fallbacks(), 0);
}
