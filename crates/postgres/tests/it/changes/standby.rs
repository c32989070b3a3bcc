//! The slot is the lease: one reads, others stand by.

use std::time::Duration;

use tidings_domain::{ErrorKind, ports::DependencyState};
use tidings_servers::{postgres::Postgres, proxy::Proxy};
use tokio::time::timeout;

use super::rig::{Rig, SOON, error, numbers, open, state, take, texts, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_one_that_was_killed() {
    let server = Postgres::shared().await;
    let mut rig = Rig::on(server).await;
    rig.options.standby_poll = Duration::from_millis(500);
    rig.insert(server, 1..=4).await;
    // The whole runtime of the first goes, and its sockets with it, as when its process is killed.
    let (killed, dies) = std::sync::mpsc::channel::<()>();
    let (tell, told) = tokio::sync::oneshot::channel();
    let store = rig.store();
    let first = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _store = runtime.block_on(async move {
            let mut stream = open(&store).await;
            let captured = take(&mut *stream, 4).await;
            stream.confirm(captured[1].position).await.unwrap();
            tell.send(()).unwrap();
            std::mem::forget(stream);
            store
        });
        dies.recv().unwrap();
        runtime.shutdown_background();
    });
    told.await.unwrap();
    let second = rig.store();
    let changes = second.changes();
    let opening = changes.open();
    tokio::pin!(opening);
    tokio::select! {
        _ = &mut opening => panic!("two read the slot"),
        () = state(&second, "it stands by", |state| *state == DependencyState::StandingBy) => {}
    }
    killed.send(()).unwrap();
    let mut stream = timeout(SOON, opening).await.unwrap().unwrap();
    assert_eq!(texts(&take(&mut *stream, 2).await), numbers(3..=4));
    state(&second, "it is up", |state| *state == DependencyState::Up).await;
    first.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_connection_froze_loses_the_slot_and_hands_out_nothing_more() {
    let server = Postgres::shared().await;
    let mut rig = Rig::on(server).await;
    rig.options.silence_limit = Duration::from_secs(3);
    let proxy = Proxy::to(server.addr()).await;
    let url = format!("{}?options=-c%20wal_sender_timeout%3D2s", proxy.url(&rig.url));
    let frozen = rig.store_at(&url);
    let mut zombie = open(&frozen).await;
    rig.insert(server, 1..=100).await;
    let captured = take(&mut *zombie, 10).await;
    proxy.freeze();
    let second = rig.store();
    let mut stream = open(&second).await;
    let taken = take(&mut *stream, 100).await;
    assert_eq!(texts(&taken), numbers(1..=100));
    stream.confirm(taken[99].position).await.unwrap();
    proxy.thaw();
    // What it had read ahead is not handed out once its connection is gone.
    let ended = error(&mut *zombie).await;
    assert!(matches!(ended.kind, ErrorKind::Unavailable | ErrorKind::LeaseLost), "{}", ended.chain());
    assert!(zombie.confirm(captured[9].position).await.is_err());
    drop((zombie, stream));
    let mut stream = open(&second).await;
    super::rig::nothing_comes(&mut *stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_whose_token_was_replaced_has_lost_the_lease() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(server, 1..=2).await;
    let captured = take(&mut *stream, 2).await;
    rig.sql(server, "update change_stream set holder = gen_random_uuid()").await;
    let lost = stream.confirm(captured[0].position).await.unwrap_err();
    assert_eq!(lost.kind, ErrorKind::LeaseLost, "{}", lost.chain());
    assert_eq!(error(&mut *stream).await.kind, ErrorKind::LeaseLost);
    drop(stream);
    let mut stream = open(&store).await;
    assert_eq!(texts(&take(&mut *stream, 2).await), numbers(1..=2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_hears_of_an_outage_and_of_a_gap() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    let stream = open(&store).await;
    let proxy = Proxy::to(server.addr()).await;
    let second = rig.store_at(&proxy.url(&rig.url));
    let changes = second.changes();
    let opening = changes.open();
    tokio::pin!(opening);
    tokio::select! {
        _ = &mut opening => panic!("two read the slot"),
        () = state(&second, "it stands by", |state| *state == DependencyState::StandingBy) => {}
    }
    proxy.cut().await;
    // Not when opening ends: whoever reads the slot may have died with the server.
    let is_down = |state: &DependencyState| matches!(state, DependencyState::Down(_));
    tokio::select! {
        biased;
        () = state(&second, "it is down", is_down) => {}
        _ = &mut opening => panic!("it stood by while nothing was known"),
    }
    let refused = timeout(SOON, opening).await.unwrap().map(|_| ()).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{}", refused.chain());
    proxy.heal().await;
    let opening = changes.open();
    tokio::pin!(opening);
    tokio::select! {
        _ = &mut opening => panic!("two read the slot"),
        () = state(&second, "it stands by", |state| *state == DependencyState::StandingBy) => {}
    }
    drop(stream);
    until("nobody reads the slot, or the second does", async || {
        rig.slot(server, "active").await == "f" || second.stream_dependency().state() == DependencyState::Up
    })
    .await;
    timeout(SOON, opening).await.unwrap().unwrap();
}
