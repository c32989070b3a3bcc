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
    let (all, one) = (draw(vec![bucket("owner", 1, 4)], 4), draw(vec![bucket("owner", 1, 4)], 1));
    assert!(process.goes(&all, after_ms(3_600_000)).await, "an hour ahead");
    assert!(process.goes(&all, start()).await, "what it drew is not held against the others");
    // And the rate holds among those.
    assert!(!process.goes(&one, start()).await);
    assert!(process.goes(&one, after_ms(1000)).await);
    assert!(!process.goes(&one, after_ms(1000)).await);
    assert_eq!(process.fallbacks(), 0);
}

#[tokio::test]
async fn a_clock_that_is_a_little_ahead_gives_nobody_more_than_it_has_come() {
    let process = Process::patient(&Redis::shared().await.database());
    let one = draw(vec![bucket("owner", 1, 4)], 1);
    let mut drawn = 0;
    // Two apis, one nine seconds ahead of the other, for a minute.
    for ms in (0..60_000).step_by(500) {
        drawn += u32::from(process.goes(&one, after_ms(ms + 9000)).await);
        drawn += u32::from(process.goes(&one, after_ms(ms)).await);
    }
    assert_eq!(drawn, 4 + 59, "the burst, and one a second");
    assert_eq!(process.fallbacks(), 0);
}
