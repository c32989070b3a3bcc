//! `kill -9` of each of the four processes.
#![expect(clippy::print_stdout, reason = "which run it was is shown with --nocapture")]

use std::time::Duration;

use tidings_servers::smtp::{Act, Step};

use super::{
    super::stack::{ROLES, Stack},
    chance::Chance,
    load::Load,
    number,
};

#[tokio::test]
async fn processes_killed_at_random_lose_nothing() {
    let kills = number("TIDINGS_TEST_KILLS", 12);
    let seed = number("TIDINGS_TEST_SEED", u64::from(std::process::id()));
    println!("TIDINGS_TEST_SEED={seed} TIDINGS_TEST_KILLS={kills}");
    let mut chance = Chance::new(seed);
    let mut stack = Stack::start().await;
    stack.subscribe_confirmed(&["one@example.com", "two@example.com"]).await;
    // So that a mailer that dies has mails under way.
    stack.smtp.on(Step::Message, Act::Slowly(Duration::from_millis(3)));
    let load = Load::on(&stack);
    for kill in 0..kills {
        load.until_accepted_more(5 + chance.below(30)).await;
        // At any moment of what the process does.
        tokio::time::sleep(Duration::from_millis(chance.below(150) as u64)).await;
        // Each of them first, then any.
        let role = ROLES[if kill < 4 { kill as usize } else { chance.below(4) }];
        stack.kill(role).await;
        if role != "api" && chance.below(2) == 0 {
            load.until_accepted_more(10).await;
        }
        stack.launch(role).await;
    }
    for role in ROLES {
        stack.process(role).until_ready().await;
    }
    let figures = load.end().await.balances(&stack, 2).await;
    assert_eq!(figures.dead_letters, Vec::<serde_json::Value>::new());
    stack.stop_all().await;
}
