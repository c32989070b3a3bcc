use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use tidings_domain::{
    Error, Result,
    dead_letter::{DeadLetterSource, reason},
};
use tidings_runtime::{
    health::{Health, PartState},
    redrive::{RedriveLoop, RedriveSettings},
    shutdown::Shutdown,
    telemetry::Telemetry,
};
use tokio::task::JoinSet;

use crate::doubles::{FixedClock, FixedEntropy, Script, TestLetters, away, dead, done, letter, retry};

fn start(letters: &TestLetters, handler: &Arc<Script>) -> (JoinSet<Result<()>>, Shutdown, Health) {
    let (mut tasks, shutdown, health) = (JoinSet::new(), Shutdown::default(), Health::new());
    let redrive = RedriveLoop {
        name: "redrive",
        source: DeadLetterSource::Items,
        handler: Arc::<Script>::clone(handler),
        dead_letters: Arc::new(letters.clone()),
        clock: Arc::new(FixedClock),
        entropy: Arc::new(FixedEntropy),
        settings: RedriveSettings::default(),
        part: health.part("redrive"),
        telemetry: Telemetry::none(),
    };
    tasks.spawn(redrive.run(shutdown.clone()));
    (tasks, shutdown, health)
}

async fn stop(mut tasks: JoinSet<Result<()>>, shutdown: &Shutdown) {
    shutdown.request();
    tasks.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn done_deletes_the_row_and_failure_writes_it_anew_unmarked() {
    let letters = TestLetters::default();
    letters.mark_new(letter(1, "good"));
    letters.mark_new(letter(2, "bad"));
    letters.mark_new(letter(3, "worse"));
    let handler = Script::new(|texts| {
        async move {
            match &*texts[0] {
                "good" => vec![done()],
                "bad" => vec![retry()],
                "worse" => panic!("worse"),
                _ => vec![dead(reason::CONFLICT)],
            }
        }
        .boxed()
    });
    let (tasks, shutdown, health) = start(&letters, &handler);
    letters.until("two unmarked", |all| all.len() == 2 && all.iter().all(|l| l.marked_at.is_none())).await;
    let rows = letters.all();
    assert_eq!(
        (&*rows[0].reason, rows[0].attempts, &*rows[0].detail),
        ("attempts_exhausted", 2, "it failed")
    );
    assert_eq!((&*rows[1].reason, rows[1].attempts), (reason::PANIC, 2));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(handler.calls().len(), 3, "an unmarked letter was taken up");

    letters.mark_new(letter(4, "other"));
    letters.until("conflict", |all| all.iter().any(|l| l.reason == reason::CONFLICT)).await;
    assert_eq!(health.report().parts["redrive"], PartState::Up);
    stop(tasks, &shutdown).await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_keeps_the_mark_and_the_letter_is_taken_up_when_it_is_over() {
    let letters = TestLetters::default();
    letters.mark_new(letter(1, "a"));
    let is_away = Arc::new(AtomicBool::new(true));
    let handler = Script::each({
        let is_away = Arc::clone(&is_away);
        move |_| if is_away.load(Ordering::SeqCst) { away() } else { done() }
    });
    let (tasks, shutdown, health) = start(&letters, &handler);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let rows = letters.all();
    assert_eq!((rows[0].attempts, rows[0].marked_at.is_some()), (1, true));
    assert!((5..=12).contains(&handler.calls().len()), "{} calls", handler.calls().len());
    assert!(!matches!(health.report().parts["redrive"], PartState::Waiting(_)));
    is_away.store(false, Ordering::SeqCst);
    letters.until("gone", |all| all.is_empty()).await;
    stop(tasks, &shutdown).await;
}

#[tokio::test(start_paused = true)]
async fn a_redrive_that_was_not_recorded_is_made_again() {
    let letters = TestLetters::default();
    letters.mark_new(letter(1, "a"));
    letters.settle_errors.lock().unwrap().push_back(Error::unknown("the answer was lost"));
    let handler = Script::each(|_| done());
    let (tasks, shutdown, _) = start(&letters, &handler);
    letters.until("gone", |all| all.is_empty()).await;
    assert_eq!(handler.calls().len(), 2);
    stop(tasks, &shutdown).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_between_letters_leaves_the_rest_marked() {
    let letters = TestLetters::default();
    (1..=3).for_each(|number| letters.mark_new(letter(number, "slow")));
    let handler = Script::new(|_| {
        async move {
            tokio::time::sleep(Duration::from_secs(5)).await;
            vec![done()]
        }
        .boxed()
    });
    let (tasks, shutdown, _) = start(&letters, &handler);
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop(tasks, &shutdown).await;
    let rows = letters.all();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|letter| letter.marked_at.is_some()));
}

#[tokio::test(start_paused = true)]
async fn many_letters_are_not_paced_by_the_interval() {
    let letters = TestLetters::default();
    (1..=1000).for_each(|number| letters.mark_new(letter(number, "a")));
    let handler = Script::each(|_| done());
    let began = tokio::time::Instant::now();
    let (tasks, shutdown, _) = start(&letters, &handler);
    letters.until("gone", |all| all.is_empty()).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    stop(tasks, &shutdown).await;
}
