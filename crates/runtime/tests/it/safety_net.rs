use std::sync::Arc;

use tidings_domain::{
    dead_letter::{DeadLetterSource, reason},
    ports::Queue,
};
use tidings_runtime::safety_net::SafetyNetLoop;
use tokio::task::JoinSet;

use crate::doubles::{FixedClock, FixedEntropy, Setup};

#[tokio::test(start_paused = true)]
async fn what_the_broker_gave_up_is_a_dead_letter_of_the_queue_that_it_came_from() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.bus.send(["a", "b"]);
    let net = SafetyNetLoop {
        name: "net",
        bus: Arc::new(setup.bus.clone()),
        queue: Queue::ItemsDead,
        source: DeadLetterSource::Items,
        dead_letters: Arc::new(setup.letters.clone()),
        clock: Arc::new(FixedClock),
        entropy: Arc::new(FixedEntropy),
        settings: setup.settings.clone(),
        part: setup.health.part("test"),
        telemetry: setup.telemetry.clone(),
    };
    tasks.spawn(net.run(setup.shutdown.clone()));
    setup.bus.until_done(2).await;
    let letters = setup.letters.all();
    assert_eq!(letters.len(), 2);
    for letter in letters {
        assert_eq!((letter.source, &*letter.reason), (DeadLetterSource::Items, reason::RETURNED_TOO_OFTEN));
    }
    assert_eq!(setup.bus.log(), ["open", "put a", "put b", "done a", "done b"]);
    setup.stop(&mut tasks).await;
}
