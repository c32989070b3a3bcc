use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use tidings_domain::{Error, dead_letter::reason};
use tidings_runtime::health::PartState;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use crate::doubles::{Script, Setup, dead, done, retry};

#[tokio::test(start_paused = true)]
async fn everything_is_handled_and_settled_once_in_bounded_batches() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let texts: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    setup.bus.send(texts.iter().map(String::as_str));
    let handler = Script::each(|_| done());
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(300).await;
    assert_eq!(handler.calls().concat().len(), 300);
    assert!(handler.calls().iter().all(|call| call.len() <= 8));
    assert_eq!(setup.bus.count("release"), 0);
    assert!(setup.letters.all().is_empty());
    assert_eq!(setup.part(), PartState::Up);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_loop_handles_a_message_at_once() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let handler = Script::each(|_| done());
    setup.start(&handler, &mut tasks);
    setup.bus.until("open", |inner| !inner.log.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let sent = Instant::now();
    setup.bus.send(["a"]);
    setup.bus.until_done(1).await;
    assert_eq!(sent.elapsed(), Duration::ZERO);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn under_load_a_batch_fills_for_its_linger_and_not_longer() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let gate = Arc::new(Semaphore::new(0));
    let first = Arc::clone(&gate);
    let handler = Script::new(move |texts| {
        let first = Arc::clone(&first);
        async move {
            if texts == ["a"] {
                first.acquire().await.unwrap().forget();
            }
            vec![done(); texts.len()]
        }
        .boxed()
    });
    setup.bus.send(["a"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until("open", |inner| !inner.log.is_empty()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sent = Instant::now();
    setup.bus.send(["b"]);
    tokio::time::sleep(Duration::from_millis(1)).await;
    setup.bus.send(["c"]);
    setup.bus.until_done(2).await;
    assert_eq!(handler.calls()[1], ["b", "c"]);
    assert!(handler.call_times()[1] - sent <= Duration::from_millis(3));
    gate.add_permits(1);
    setup.bus.until_done(3).await;
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn as_many_calls_as_the_settings_say_are_under_way() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let handler = Script::new(|texts| {
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            vec![done(); texts.len()]
        }
        .boxed()
    });
    let texts: Vec<_> = (0..64).map(|n| n.to_string()).collect();
    setup.bus.send(texts.iter().map(String::as_str));
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(64).await;
    assert_eq!(handler.most_under_way(), 2);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_fails_each_time_is_a_dead_letter_before_it_is_settled() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let handler = Script::each(|text| if text == "bad" { retry() } else { done() });
    setup.bus.send(["a", "bad", "b"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(3).await;
    assert_eq!(handler.calls_with("bad"), 5);
    assert_eq!((handler.calls_with("a"), handler.calls_with("b")), (1, 1));
    let letters = setup.letters.all();
    assert_eq!(letters.len(), 1);
    assert_eq!((&*letters[0].reason, letters[0].attempts), (reason::ATTEMPTS_EXHAUSTED, 5));
    assert_eq!(&letters[0].body[..], b"bad");
    let log = setup.bus.log();
    assert_eq!(&log[log.len() - 2..], ["put bad", "done bad"]);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_spaced_by_a_growing_wait() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let handler = Script::each(|_| retry());
    setup.bus.send(["bad"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(1).await;
    let times = handler.call_times();
    let waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
    assert!(waits.iter().zip([100, 200, 400, 800]).all(|(wait, least)| *wait >= least), "{waits:?}");
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_poison_message_never_spends_its_neighbours_attempts() {
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.settings.attempts = 1;
    let handler = Script::new(|texts| {
        async move {
            assert!(!texts.iter().any(|text| text == "poison"), "it is poison");
            vec![done(); texts.len()]
        }
        .boxed()
    });
    setup.bus.send(["a", "b", "poison", "c"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(4).await;
    let letters = setup.letters.all();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((&*letters[0].reason, &letters[0].body[..]), (reason::PANIC, &b"poison"[..]));
    assert!(letters[0].detail.contains("it is poison"));
    assert_eq!(handler.calls()[0].len(), 4);
    assert!(handler.calls()[1..].iter().all(|call| call.len() == 1));
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_miscounts_is_tried_entry_by_entry() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let handler = Script::new(|texts| {
        async move { if texts.len() > 1 { vec![done()] } else { vec![done(); texts.len()] } }.boxed()
    });
    setup.bus.send(["a", "b"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(2).await;
    assert_eq!(handler.calls().len(), 3);
    assert!(setup.letters.all().is_empty());
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_before_does_not_hold_up_what_is_fresh() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let handler = Script::new(|texts| {
        async move {
            if texts.iter().all(|text| text.starts_with("slow")) {
                tokio::time::sleep(Duration::from_secs(20)).await;
                return vec![retry(); texts.len()];
            }
            vec![done(); texts.len()]
        }
        .boxed()
    });
    setup.bus.send(["slow 1", "slow 2", "slow 3", "slow 4"]);
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(25)).await;
    let sent = Instant::now();
    setup.bus.send(["a"]);
    setup.bus.until_done(1).await;
    assert!(sent.elapsed() < Duration::from_secs(1), "{:?}", sent.elapsed());
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_settled_while_its_dead_letter_cannot_be_written() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.letters.put_errors.lock().unwrap().extend([
        Error::unavailable("the letters"),
        Error::unknown("the letters"),
        Error::transient("the letters"),
    ]);
    let handler = Script::each(|_| dead(reason::UNDECODABLE));
    setup.bus.send(["bad"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until("a release", |inner| inner.log.iter().any(|line| line == "release bad")).await;
    assert!(matches!(setup.part(), PartState::Waiting(reason) if reason.contains("the dead letters")));
    setup.bus.until_done(1).await;
    assert_eq!(setup.letters.all().len(), 1);
    let log = setup.bus.log();
    assert_eq!(&log[log.len() - 2..], ["put bad", "done bad"]);
    assert_eq!(setup.bus.count("release bad"), 3);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_the_store_refuses_holds_up_no_other() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.letters.put_errors.lock().unwrap().push_back(Error::rejected("one of these letters"));
    let handler = Script::each(|_| dead(reason::UNDECODABLE));
    setup.bus.send(["x", "y"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(2).await;
    assert_eq!(setup.letters.all().len(), 2);
    assert_eq!(setup.bus.count("release"), 0);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn large_messages_are_held_to_a_bound_in_bytes() {
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.settings.prefetch = 10_000;
    let gate = Arc::new(Semaphore::new(0));
    let handler = Script::new({
        let gate = Arc::clone(&gate);
        move |texts| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                vec![done(); texts.len()]
            }
            .boxed()
        }
    });
    let large = "x".repeat(250 * 1024);
    setup.bus.send(std::iter::repeat_n(large.as_str(), 200));
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(200 - setup.bus.ready(), 128);
    gate.add_permits(200);
    setup.bus.until_done(200).await;
    setup.stop(&mut tasks).await;
}
