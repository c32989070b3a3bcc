//! Clocks of apis differ.

use tidings_servers::redis::Redis;

use crate::process::{Process, after_ms, bucket, draw, start};

#[tokio::test]
async fn a_clock_that_is_behind_refills_nothing_twice() {
    let process = Process::patient(&Redis::shared().await.database());
    let request = draw(vec![bucket("owner", 1, 4)], 1);
    for _ in 0..4 {
        assert!(process.goes(&request, after_ms(5000)).await);
    }
    // Another api's clock is up to five seconds behind, and then the first again.
    for at in [0, 4000, 5000, 0, 4999, 5000] {
        assert!(!process.goes(&request, after_ms(at)).await, "at {at}");
    }
    assert!(process.goes(&request, after_ms(6000)).await);
    assert!(!process.goes(&request, after_ms(5500)).await);
    assert_eq!(process.fallbacks(), 0);
}

#[tokio::test]
async fn a_clock_that_is_wrong_starves_nobody_until_the_right_time_has_caught_up() {
    let process = Process::patient(&Redis::shared().await.database());
    let request = draw(vec![bucket("owner", 1, 4)], 4);
    assert!(process.goes(&request, after_ms(3_600_000)).await);
    // That was an hour ahead: nothing is refilled for the time before it, but from now on.
    assert!(!process.goes(&request, start()).await);
    let one = draw(vec![bucket("owner", 1, 4)], 1);
    assert!(!process.goes(&one, start()).await);
    assert_eq!(process.fallbacks(), 0);
}
