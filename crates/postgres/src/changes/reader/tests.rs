use super::*;
use crate::changes::pgoutput::tests::recorded;

const NOW: i64 = 1_764_000_000_000;

fn source() -> Source {
    Source { system_id: "7".to_owned(), timeline: 1, history: Vec::new() }
}

/// The number of the recorded table `items`.
fn items() -> u32 {
    u32::from_be_bytes(recorded()[1][1..5].try_into().unwrap())
}

fn reader(source: Source, progress: Progress) -> Reader {
    Reader::new(source, items(), "tidings-heartbeat".to_owned(), progress)
}

fn read(reader: &mut Reader, events: impl IntoIterator<Item = Event>) -> Result<Batch, Failure> {
    let mut batch = Batch::default();
    reader.read(&mut events.into_iter().collect(), Timestamp::from_millis(NOW), &mut batch)?;
    Ok(batch)
}

fn data(messages: &[Vec<u8>]) -> Vec<Event> {
    messages.iter().map(|message| Event::Data(message.clone().into())).collect()
}

/// The recorded first row of `items`, as often as this, in one transaction.
fn transaction(commit: u64, xid: u32, rows: usize) -> Vec<Event> {
    let recorded = recorded();
    let mut events = vec![Event::Begin { commit: Lsn(commit), xid }, Event::Data(recorded[1].clone().into())];
    events.extend((0..rows).map(|_| Event::Data(recorded[2].clone().into())));
    events.push(Event::Commit { end: Lsn(commit + 10) });
    events
}

fn ids(batch: &Batch) -> Vec<&str> {
    batch.captured.iter().map(|captured| &*captured.content.as_ref().unwrap().event_id).collect()
}

#[test]
fn a_recorded_stream_gives_its_items_and_counts_the_rest() {
    let batch = read(&mut reader(source(), Progress::default()), data(&recorded())).unwrap();
    let texts: Vec<_> = batch
        .captured
        .iter()
        .map(|captured| match &captured.content {
            Ok(change) => change.item.message.text.as_str().len(),
            Err(row) => panic!("{}", row.detail),
        })
        .collect();
    // The third was inserted after a column was added and another dropped.
    assert_eq!(texts, [11, 3000, 5]);
    let offsets: Vec<_> = batch.captured.iter().map(|captured| captured.position.offset).collect();
    assert_eq!(offsets, [1, 2, 3]);
    let ignored: Vec<_> = batch.ignored.iter().map(|(kind, count)| (*kind, *count)).collect();
    assert_eq!(ignored, [("delete", 1), ("insert", 3), ("message", 1), ("truncate", 1), ("update", 2)]);
    assert_eq!(batch.heartbeats, ["42"]);
    let commits = batch.marks.iter().filter(|mark| matches!(mark, Mark::Commit(_))).count();
    assert_eq!(commits, 9);
}

#[test]
fn ids_are_of_the_commit_and_the_ordinal_within_it() {
    let mut first = reader(source(), Progress::default());
    let mut batch = read(&mut first, transaction(0x10_0000_0100, 5, 2)).unwrap();
    batch.captured.extend(read(&mut first, transaction(0x10_0000_0200, 6, 1)).unwrap().captured);
    assert_eq!(ids(&batch), ["7:1:10/100:1", "7:1:10/100:2", "7:1:10/200:1"]);
    let sequences: Vec<_> =
        batch.captured.iter().map(|captured| &*captured.content.as_ref().unwrap().sequence_number).collect();
    assert_eq!(sequences, ["10/100:1", "10/100:2", "10/200:1"]);
}

#[test]
fn a_change_keeps_its_id_when_it_comes_again_after_a_promotion() {
    let promoted = Source { timeline: 3, history: vec![(1, Lsn(0x200)), (2, Lsn(0x300))], ..source() };
    let mut reader = reader(promoted, Progress::default());
    let mut came = Vec::new();
    for commit in [0x100, 0x200, 0x300] {
        let batch = read(&mut reader, transaction(commit, 5, 1)).unwrap();
        came.extend(ids(&batch).into_iter().map(str::to_owned));
    }
    assert_eq!(came, ["7:1:0/100:1", "7:2:0/200:1", "7:3:0/300:1"]);
}

#[test]
fn what_was_confirmed_is_not_handed_out_again() {
    let within = Within { commit: Lsn(0x300), xid: 5, ordinal: 2 };
    let progress = Progress { confirmed: Lsn(0x210), within: Some(within), stored_at: None };
    let mut reader = reader(source(), progress);
    assert!(read(&mut reader, transaction(0x200, 4, 3)).unwrap().captured.is_empty());
    assert_eq!(ids(&read(&mut reader, transaction(0x300, 5, 3)).unwrap()), ["7:1:0/300:3"]);
    assert_eq!(read(&mut reader, transaction(0x400, 6, 3)).unwrap().captured.len(), 3);
}

#[test]
fn the_part_of_another_transaction_means_nothing() {
    let within = Within { commit: Lsn(0x300), xid: 99, ordinal: 2 };
    let progress = Progress { confirmed: Lsn(0x210), within: Some(within), stored_at: None };
    let mut reader = reader(source(), progress);
    assert_eq!(read(&mut reader, transaction(0x300, 5, 3)).unwrap().captured.len(), 3);
}

#[test]
fn emptiness_counts_between_transactions_and_not_within() {
    let mut reader = reader(source(), Progress::default());
    let alive = |wal_end| Event::KeepAlive { wal_end: Lsn(wal_end), reply_requested: wal_end == 3 };
    let batch = read(&mut reader, [alive(1), alive(3), alive(2)]).unwrap();
    assert_eq!(batch.marks, [Mark::Idle(Lsn(3))]);
    assert!(batch.is_asked);
    let mut events = transaction(0x100, 5, 1);
    events.insert(2, alive(0x99));
    let batch = read(&mut reader, events).unwrap();
    assert!(!batch.marks.iter().any(|mark| matches!(mark, Mark::Idle(_))), "{:?}", batch.marks);
}

#[test]
fn heartbeats_of_others_are_messages() {
    let mut reader = reader(source(), Progress::default());
    let message = |prefix: &str| Event::Message {
        transactional: false,
        lsn: Lsn(9),
        prefix: prefix.to_owned(),
        content: Bytes::from_static(b"1"),
    };
    let batch = read(&mut reader, [message("tidings-heartbeat"), message("tidings2-heartbeat")]).unwrap();
    assert_eq!(batch.heartbeats.len(), 1);
    assert_eq!(batch.ignored.get("message"), Some(&1));
    assert_eq!(batch.marks, [Mark::Idle(Lsn(9))]);
}

#[test]
fn what_breaks_the_order_breaks_the_stream() {
    let recorded = recorded();
    let begin = || Event::Begin { commit: Lsn(0x100), xid: 5 };
    let row = || Event::Data(recorded[2].clone().into());
    let table = || Event::Data(recorded[1].clone().into());
    for (events, words) in [
        (vec![begin(), begin()], "begins inside of another"),
        (vec![Event::Commit { end: Lsn(1) }], "did not begin"),
        (vec![table(), row()], "outside of a transaction"),
        (vec![begin(), row()], "not described"),
        (vec![Event::Data(Bytes::from_static(b"Sx"))], "unknown kind 'S'"),
    ] {
        let failure = read(&mut reader(source(), Progress::default()), events).unwrap_err();
        assert!(failure.text.contains(words), "{failure}");
    }
}

/// A small generator of our own: the same on each run (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }
}

fn mutated(chance: &mut Chance, all: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = all[chance.below(all.len())].clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len());
        match chance.below(6) {
            0 => bytes[at] = chance.next().to_be_bytes()[0],
            1 => bytes[at] ^= 1 << chance.below(8),
            2 => bytes.truncate(at.max(1)),
            3 => bytes.insert(at, [0, 0xff, 0x7f, 0x80, b't', b'u'][chance.below(6)]),
            4 => {
                let other = &all[chance.below(all.len())];
                let from = chance.below(other.len());
                bytes.splice(at.., other[from..].iter().copied());
                bytes.push(0);
            }
            _ => {
                let end = bytes.len().min(at + 4);
                bytes[at..end].fill([0, 0xff][chance.below(2)]);
            }
        }
    }
    bytes
}

#[test]
fn no_input_panics() {
    let all = recorded();
    let mut chance = Chance(0x0074_6964_696e_6773);
    let (table, mut read_well, mut refused) = (items(), 0, 0);
    for _ in 0..60_000 {
        let heartbeat = "tidings-heartbeat".to_owned();
        let mut reader = Reader::new(source(), table, heartbeat, Progress::default());
        let mut events = vec![Event::Data(all[1].clone().into())];
        // A message that is about transactions breaks one, any other needs one.
        let within = chance.below(2) == 0;
        if within {
            events.push(Event::Begin { commit: Lsn(1), xid: 1 });
        }
        events.push(Event::Data(match chance.below(5) {
            0 => (0..chance.below(60)).map(|_| chance.next().to_be_bytes()[0]).collect(),
            _ => mutated(&mut chance, &all).into(),
        }));
        // Also what follows a description that was broken and read all the same.
        if within {
            events.push(Event::Data(all[2].clone().into()));
        }
        match read(&mut reader, events) {
            Ok(batch) => {
                read_well += 1;
                assert!(batch.captured.len() <= 2);
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read_well > 2_000 && refused > 5_000, "{read_well} read, {refused} refused: nothing was tested");
}
