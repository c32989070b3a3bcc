//! The mails as a recipient gets them.

use serde_json::json;
use tidings_domain::{
    ports::Clock,
    subscription::Act as SubscriptionAct,
    text::Subject,
    token::{Secret, Token},
    topic::{Topic, TopicName},
};

use crate::world::World;

/// The mail with its line breaks as files have them and what differs from run to run named.
fn snapshot(mail: &str) -> String {
    assert!(!mail.replace("\r\n", "").contains(['\r', '\n']), "a CR or LF that is no CRLF");
    assert!(mail.ends_with("\r\n") && mail.is_ascii());
    assert!(mail.split("\r\n").all(|line| line.len() <= 998));
    let mut text = mail.replace("\r\n", "\n");
    for (before, after, name) in
        [("Message-ID: <", "@", "MESSAGE-ID"), ("/unsubscribe/", "\n", "TOKEN"), ("/confirm/", "\n", "TOKEN")]
    {
        let mut from = 0;
        while let Some(found) = text[from..].find(before) {
            let start = from + found + before.len();
            let end = start + text[start..].find(after).unwrap();
            let closing = if text[start..end].ends_with('>') { ">" } else { "" };
            text.replace_range(start..end, &format!("{name}{closing}"));
            from = start;
        }
    }
    text
}

/// The header's value in one line.
fn header(mail: &str, name: &str) -> Option<String> {
    let head = mail.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
    let mut values = head.split("\r\n").filter_map(|line| line.strip_prefix(&format!("{name}: ")));
    let value = values.next().map(str::to_owned);
    assert!(values.next().is_none(), "{name} is there twice");
    value
}

async fn mail_of(world: &World, text: &str, subject: Option<&str>) -> String {
    let before = world.office.taken().len();
    let mut change = world.change(text, json!({}));
    change.item.message.subject = subject.map(|subject| Subject::parse(subject).unwrap());
    world.store(&change).await;
    world.notify(&change, usize::MAX);
    world.mails(before + 1).await;
    world.office.taken().pop().unwrap().1
}

#[tokio::test(start_paused = true)]
async fn the_mail_of_an_item() {
    let world = World::new();
    world.subscribe("ann@example.org").await;
    let _mailer = world.start();
    let mail = mail_of(&world, "It is done.\n\n.a line with a dot\n", Some("Report 7 is done")).await;
    assert_eq!(snapshot(&mail), include_str!("mails/item.eml"));
}

#[tokio::test(start_paused = true)]
async fn the_mail_that_asks_for_a_confirmation() {
    let world = World::new();
    let _mailer = world.start();
    let ann = world.subscribe_with("ann@example.org", json!({}), false).await;
    world.mails(1).await;
    let mail = world.office.taken().pop().unwrap().1;
    assert_eq!(snapshot(&mail), include_str!("mails/confirmation.eml"));
    let token = mail.split("/confirm/").nth(1).unwrap().split("\r\n").next().unwrap();
    let token = Token::verify(token, &Secret::new([7; 32]), world.clock.now()).unwrap();
    assert_eq!((token.subscription, token.act, token.generation), (ann.id, SubscriptionAct::Confirm, 1));
    assert!(token.expires_at.is_some_and(|at| at.since(world.clock.now()).as_secs() > 47 * 3600));
}

#[tokio::test(start_paused = true)]
async fn links_are_signed_and_one_click() {
    let world = World::new();
    let ann = world.subscribe("ann@example.org").await;
    let _mailer = world.start();
    let mail = mail_of(&world, "x", None).await;
    let url = header(&mail, "List-Unsubscribe").unwrap();
    let url = url.strip_prefix('<').unwrap().strip_suffix('>').unwrap();
    assert!(mail.ends_with(&format!("Unsubscribe: {url}\r\n")), "the same link stands in the text");
    let token = url.strip_prefix("http://127.0.0.1:8080/unsubscribe/").unwrap();
    let token = Token::verify(token, &Secret::new([7; 32]), world.clock.now()).unwrap();
    assert_eq!(
        (token.subscription, token.act, token.expires_at),
        (ann.id, SubscriptionAct::Unsubscribe, None)
    );
    assert_eq!(header(&mail, "List-Unsubscribe-Post").unwrap(), "List-Unsubscribe=One-Click");
}

#[tokio::test(start_paused = true)]
async fn the_subject_is_the_messages_else_the_topics_else_says_new_item() {
    let world = World::new();
    world.subscribe("ann@example.org").await;
    let _mailer = world.start();
    assert_eq!(header(&mail_of(&world, "x", Some("own")).await, "Subject").unwrap(), "own");
    assert_eq!(header(&mail_of(&world, "x", None).await, "Subject").unwrap(), "New item on messages");
    let topic = Topic {
        name: TopicName::messages(),
        subject: Some(Subject::parse("the topic's").unwrap()),
        created_at: world.clock.now(),
    };
    world.memory.catalog().put_topic(&topic).await.unwrap();
    // What was read of the topic is used for a few seconds.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert_eq!(header(&mail_of(&world, "x", None).await, "Subject").unwrap(), "the topic's");
}

#[tokio::test(start_paused = true)]
async fn no_text_or_subject_adds_a_header_or_ends_the_mail() {
    let world = World::new();
    world.subscribe("ann@example.org").await;
    let _mailer = world.start();
    let plain = mail_of(&world, "x", Some("x")).await;
    let names = |mail: &str| -> Vec<String> {
        let head = mail.split("\r\n\r\n").next().unwrap().replace("\r\n ", " ");
        head.split("\r\n").map(|line| line.split(':').next().unwrap().to_owned()).collect()
    };
    for text in [
        "\r\n.\r\nMAIL FROM:<a@example.com>",
        "\n.\nQUIT\n",
        "\r.\r",
        "Bcc: evil@example.com\n\nx",
        "日本語 🎉",
    ] {
        for subject in
            ["=?utf-8?q?=0D=0ABcc:_evil?=", "Ünï \u{7f}\u{80} code", &"長".repeat(99), &"x".repeat(99)]
        {
            let mail = mail_of(&world, text, Some(subject)).await;
            assert_eq!(names(&mail), names(&plain), "{text:?} {subject:?}");
            snapshot(&mail);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn settings_that_cannot_stand_in_a_mail_end_the_mailer_with_their_name() {
    for (url, name, says) in [
        ("ftp://example.com", "Tidings", "public_url"),
        ("https://exämple.com", "Tidings", "public_url"),
        ("https://example.com/\r\nBcc: x", "Tidings", "public_url"),
        ("https://example.com", "Ti\ndings", "mail_from_name"),
    ] {
        let mut world = World::new();
        world.settings.public_url = url.to_owned();
        world.settings.mail_from_name = name.to_owned();
        let error = world.start().ended().await.unwrap_err();
        assert_eq!(error.kind, tidings_domain::ErrorKind::Misconfigured);
        assert!(error.context.contains(says), "{error}");
    }
}
