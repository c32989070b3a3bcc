use bytes::Bytes;
use tidings_domain::{
    ErrorKind,
    address::EmailAddress,
    ports::{
        Bus, BusTopic, Catalog, Changes, Mail as _, MailEnvelope, MailErrorClass, MailPhase, Queue,
        Settlement,
    },
    topic::{Topic, TopicName},
    wire::Envelope,
};

use super::*;
use crate::{Memory, Options};

fn memory_and(fault: Fault) -> (Memory, Faults) {
    (Memory::new(Options::new(1)), faults(vec![(fault, 1.0)]))
}

fn faults(shares: Vec<(Fault, f64)>) -> Faults {
    Faults::new(2, Rates { shares, longest: Duration::from_secs(5) }, Recorder::new())
}

fn orders() -> Topic {
    let name = TopicName::parse("orders").unwrap();
    Topic { name, subject: None, created_at: crate::epoch() }
}

/// Puts a topic under `fault`: the kind that was answered, whether the row is there, and how long it took.
async fn put(fault: Fault) -> (Option<ErrorKind>, bool, Duration) {
    let (memory, faults) = memory_and(fault);
    let port: Arc<dyn Catalog> = Arc::new(Faulty::new(memory.catalog(), &faults));
    let began = tokio::time::Instant::now();
    let answer = port.put_topic(&orders()).await;
    let took = began.elapsed();
    let there = memory.catalog().topic(&orders().name).await.unwrap().is_some();
    (answer.err().map(|error| error.kind), there, took)
}

#[tokio::test(start_paused = true)]
async fn each_fault_is_what_it_says() {
    let quick = Duration::from_millis(10);
    let (answered, there, _) = put(Fault::Reject).await;
    assert_eq!((answered, there), (Some(ErrorKind::Transient), false));
    let (answered, there, _) = put(Fault::Unavailable).await;
    assert_eq!((answered, there), (Some(ErrorKind::Unavailable), false));
    let (answered, there, _) = put(Fault::FailAfterWrite).await;
    assert_eq!((answered, there), (Some(ErrorKind::Unknown), true));
    for late in [Fault::Hold, Fault::Slow] {
        let (answered, there, took) = put(late).await;
        assert_eq!((answered, there), (None, true));
        assert!(took > quick, "{late:?} took {took:?}");
    }
    let (answered, there, took) = put(Fault::Duplicate).await;
    assert_eq!((answered, there), (None, true));
    assert!(took <= quick);
}

#[tokio::test(start_paused = true)]
async fn a_held_call_had_its_effect_before_its_answer_and_a_slow_one_has_not() {
    for (fault, expected) in [(Fault::Hold, true), (Fault::Slow, false)] {
        let (memory, faults) = memory_and(fault);
        let port: Arc<dyn Catalog> = Arc::new(Faulty::new(memory.catalog(), &faults));
        let dropped = tokio::time::timeout(Duration::from_millis(20), port.put_topic(&orders())).await;
        assert!(dropped.is_err(), "{fault:?} waits");
        assert_eq!(memory.catalog().topic(&orders().name).await.unwrap().is_some(), expected, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn entries_of_a_publish_fail_one_by_one() {
    let memory = Memory::new(Options::new(1));
    let shares = vec![(Fault::Reject, 0.2), (Fault::FailAfterWrite, 0.2), (Fault::Duplicate, 0.2)];
    let bus: Arc<dyn Bus> = Arc::new(Faulty::new(memory.bus(), &faults(shares)));
    let count = 200;
    let batch =
        (0..count).map(|n| Envelope { body: Bytes::from(n.to_string()), ..Envelope::default() }).collect();
    let answers = bus.publish(&BusTopic::Messages(TopicName::messages()), batch).await;
    let of = |wanted| answers.iter().filter(|answer| answer.as_ref().err().map(|e| e.kind) == wanted).count();
    let (taken, rejected, unknown) = (of(None), of(Some(ErrorKind::Transient)), of(Some(ErrorKind::Unknown)));
    assert_eq!(taken + rejected + unknown, count);
    assert!(rejected > 20 && unknown > 20, "{rejected} rejected, {unknown} unknown");
    // Everything but what was rejected is there, and some of it twice.
    let twice = memory.depth(Queue::Items) - (count - rejected);
    assert!(twice > 20, "{twice} came twice");
}

#[tokio::test(start_paused = true)]
async fn a_consumer_ends_with_its_first_error_and_gives_back_when_it_is_dropped() {
    let memory = Memory::new(Options::new(1));
    let faults = faults(Vec::new());
    let bus: Arc<dyn Bus> = Arc::new(Faulty::new(memory.bus(), &faults));
    bus.publish(&BusTopic::Messages(TopicName::messages()), vec![Envelope::default()]).await;
    let consumer = bus.consume(Queue::Items, 1).await.unwrap();
    let received = consumer.receive(1, Duration::from_secs(5)).await.unwrap();
    faults.set(Rates { shares: vec![(Fault::Unavailable, 1.0)], longest: Duration::ZERO });
    let settled = consumer.settle(vec![(received[0].lease, Settlement::Done)]).await;
    assert_eq!(settled[0].as_ref().unwrap_err().kind, ErrorKind::Unavailable);
    assert!(consumer.receive(1, Duration::from_secs(5)).await.is_err());
    faults.set(Rates::default());
    assert!(consumer.receive(1, Duration::from_secs(5)).await.is_err(), "it has ended");
    drop(consumer);
    let consumer = bus.consume(Queue::Items, 1).await.unwrap();
    assert_eq!(consumer.receive(1, Duration::from_secs(5)).await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_first_error() {
    let memory = Memory::new(Options::new(1));
    let faults = faults(Vec::new());
    let changes: Arc<dyn Changes> = Arc::new(Faulty::new(memory.changes(), &faults));
    let mut stream = changes.open().await.unwrap();
    faults.set(Rates { shares: vec![(Fault::Reject, 1.0)], longest: Duration::ZERO });
    assert!(stream.next(1, Duration::from_secs(5)).await.is_err());
    faults.set(Rates::default());
    assert!(stream.next(1, Duration::from_secs(5)).await.is_err(), "it has ended");
    drop(stream);
    assert!(changes.open().await.unwrap().next(1, Duration::ZERO).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn mail_faults_are_what_servers_do() {
    let envelope = MailEnvelope {
        from: EmailAddress::parse("sender@example.org").unwrap(),
        to: EmailAddress::parse("reader@example.org").unwrap(),
    };
    let expected = |fault| match fault {
        MailFault::Unavailable => (MailPhase::Connect, MailErrorClass::Unavailable, 0),
        MailFault::Login => (MailPhase::Auth, MailErrorClass::Login, 0),
        MailFault::Transient => (MailPhase::RcptTo, MailErrorClass::Transient, 0),
        MailFault::Recipient => (MailPhase::RcptTo, MailErrorClass::Recipient, 0),
        MailFault::Permanent => (MailPhase::Message, MailErrorClass::Permanent, 0),
        MailFault::TransientAfter => (MailPhase::Message, MailErrorClass::Transient, 0),
        MailFault::LostBefore => (MailPhase::Message, MailErrorClass::Unknown, 0),
        MailFault::LostAfter => (MailPhase::Message, MailErrorClass::Unknown, 1),
        MailFault::Slow => unreachable!("a slow one ends well"),
    };
    for fault in MailFault::ALL {
        let memory = Memory::new(Options::new(1));
        let faults = MailFaults::new(3, MailRates::default(), Recorder::new());
        faults.always(fault);
        let mail = FaultyMail::new(memory.mail(), &faults);
        let sent = match mail.begin(&envelope).await {
            Ok(transaction) => transaction.data(Bytes::from_static(b"Subject: a\r\n\r\nb\r\n")).await,
            Err(error) => Err(error),
        };
        let taken = memory.mails().len();
        match sent {
            Ok(_) => assert_eq!((fault, taken), (MailFault::Slow, 1)),
            Err(error) => assert_eq!((error.phase, error.class, taken), expected(fault), "{fault:?}"),
        }
    }
}
