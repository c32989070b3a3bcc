//! A server that goes on another timeline.

use tidings_domain::ErrorKind;
use tidings_servers::postgres::{Postgres, StopMode};

use super::rig::{Rig, nothing_comes, numbers, open, refusal, take, texts};

/// Lets the server recover from an archive that has nothing, which ends on a new timeline, as a promotion does.
async fn promote(server: &Postgres) {
    server.psql("postgres", "alter system set restore_command = '/bin/false'").await;
    // By the server itself, in its data folder: one in a container has it for itself.
    server.psql("postgres", "copy (select where false) to program 'cat > recovery.signal'").await;
    server.stop(StopMode::Fast).await;
    server.start_again().await;
    super::rig::until("the server is promoted", async || {
        server.psql("postgres", "select pg_is_in_recovery()").await == "f"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_came_along_goes_on_from_its_own_position() {
    let server = Postgres::start().await;
    let rig = Rig::on(&server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(&server, 1..=3).await;
    let captured = take(&mut *stream, 3).await;
    stream.confirm(captured[2].position).await.unwrap();
    rig.insert(&server, 4..=5).await;
    let before = take(&mut *stream, 2).await;
    drop(stream);
    promote(&server).await;
    let mut stream = open(&store).await;
    let after = take(&mut *stream, 2).await;
    assert_eq!(texts(&after), numbers(4..=5));
    let id = |captured: &tidings_domain::ports::Captured| captured.content.as_ref().unwrap().event_id.clone();
    assert_eq!(id(&before[0]), id(&after[0]), "a change keeps its id");
    rig.insert(&server, 6..=6).await;
    let new = take(&mut *stream, 1).await;
    assert!(id(&new[0]).split(':').nth(1) == Some("2"), "{}", id(&new[0]));
    stream.confirm(new[0].position).await.unwrap();
    assert_eq!(rig.sql(&server, "select timeline from change_stream").await, "2");
    drop(stream);
    let mut stream = open(&store).await;
    nothing_comes(&mut *stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_made_after_it_is_a_gap() {
    let server = Postgres::start().await;
    let rig = Rig::on(&server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(&server, 1..=3).await;
    take(&mut *stream, 1).await;
    store.close().await;
    rig.sql(&server, &format!("select pg_drop_replication_slot('{}')", rig.namespace)).await;
    promote(&server).await;
    rig.insert(&server, 4..=4).await;
    rig.sql(&server, &format!("select pg_create_logical_replication_slot('{}', 'pgoutput')", rig.namespace))
        .await;
    let store = rig.store();
    let error = refusal(&store).await;
    assert_eq!(error.kind, ErrorKind::Gap, "{}", error.chain());
    assert!(error.context.contains("made anew"), "{}", error.chain());
    store.recover_slot().await.unwrap().expect("there is a gap");
    rig.insert(&server, 5..=5).await;
    assert_eq!(texts(&take(&mut *open(&store).await, 1).await), ["5"]);
}
