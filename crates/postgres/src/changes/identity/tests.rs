use super::*;

fn identity() -> Identity {
    Identity { system_id: "7".to_owned(), timeline: 1 }
}

fn good() -> Facts {
    Facts {
        database: "d".to_owned(),
        schema: Some("public".to_owned()),
        pid: 1,
        items: Some(9),
        known: Some(Known {
            is_made: true,
            system_id: "7".to_owned(),
            timeline: 1,
            publication: 5,
            published_table: 6,
            confirmed: Lsn(100),
        }),
        slot: Some(Slot {
            plugin: Some("pgoutput".to_owned()),
            database: Some("d".to_owned()),
            active_pid: None,
            wal_status: Some("reserved".to_owned()),
            confirmed: Some(Lsn(100)),
        }),
        publication: Some(Publication {
            number: 5,
            publishes_inserts: true,
            table: Some(6),
            has_no_filter: true,
        }),
        ..Facts::default()
    }
}

fn changed(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = good();
    change(&mut facts);
    facts
}

fn slot(facts: &mut Facts) -> &mut Slot {
    facts.slot.as_mut().unwrap()
}

fn publication(facts: &mut Facts) -> &mut Publication {
    facts.publication.as_mut().unwrap()
}

#[test]
fn what_is_ours_and_whole_is_good() {
    let judged = |facts: &Facts| judge("tidings", &identity(), facts, None).unwrap();
    assert_eq!(judged(&good()), Verdict::Good);
    assert_eq!(judged(&changed(|facts| slot(facts).active_pid = Some(4))), Verdict::Good);
    assert_eq!(judged(&changed(|facts| slot(facts).confirmed = Some(Lsn(99)))), Verdict::Good);
    for status in ["extended", "unreserved"] {
        let facts = changed(|facts| slot(facts).wal_status = Some(status.to_owned()));
        assert_eq!(judged(&facts), Verdict::Good);
    }
}

#[test]
fn each_gap_has_its_name() {
    let moved = GapReason::SlotMoved { slot: Lsn(101), confirmed: Lsn(100) };
    let table: Vec<(Facts, GapReason)> = vec![
        (changed(|facts| facts.slot = None), GapReason::SlotMissing),
        (changed(|facts| slot(facts).wal_status = Some("lost".to_owned())), GapReason::SlotInvalidated),
        (changed(|facts| slot(facts).wal_status = None), GapReason::SlotInvalidated),
        (changed(|facts| slot(facts).confirmed = None), GapReason::SlotInvalidated),
        (changed(|facts| slot(facts).plugin = Some("wal2json".to_owned())), GapReason::SlotForeign),
        (changed(|facts| slot(facts).plugin = None), GapReason::SlotForeign),
        (changed(|facts| slot(facts).database = Some("e".to_owned())), GapReason::SlotForeign),
        (changed(|facts| slot(facts).confirmed = Some(Lsn(101))), moved),
        (changed(|facts| facts.known.as_mut().unwrap().system_id = "8".to_owned()), GapReason::OtherCluster),
        (changed(|facts| facts.publication = None), GapReason::PublicationMissing),
        (changed(|facts| publication(facts).number = 4), GapReason::PublicationRemade),
        (changed(|facts| publication(facts).table = None), GapReason::PublicationRemade),
        (changed(|facts| publication(facts).table = Some(7)), GapReason::PublicationRemade),
        (changed(|facts| publication(facts).publishes_inserts = false), GapReason::PublicationNarrowed),
        (changed(|facts| publication(facts).has_no_filter = false), GapReason::PublicationNarrowed),
    ];
    let mut texts = std::collections::BTreeSet::new();
    for (facts, reason) in table {
        assert_eq!(judge("tidings", &identity(), &facts, None).unwrap(), Verdict::Gap(reason.clone()));
        texts.insert(reason.clone().into_error("tidings").context);
    }
    assert_eq!(texts.len(), 8, "{texts:?}");
}

#[test]
fn what_is_no_gap_is_said_otherwise() {
    let kind = |facts: &Facts| judge("tidings", &identity(), facts, None).unwrap_err().kind;
    assert_eq!(kind(&changed(|facts| facts.is_standby = true)), ErrorKind::Unavailable);
    assert_eq!(kind(&changed(|facts| facts.items = None)), ErrorKind::Misconfigured);
    assert_eq!(kind(&changed(|facts| facts.known = None)), ErrorKind::Misconfigured);
    let half = changed(|facts| facts.known.as_mut().unwrap().is_made = false);
    assert_eq!(kind(&half), ErrorKind::Misconfigured);
}

#[test]
fn after_a_promotion_only_what_was_made_after_it_is_a_gap() {
    let promoted = Identity { timeline: 2, ..identity() };
    let at = |place| changed(|facts| slot(facts).confirmed = Some(Lsn(place)));
    let judged = |place, switched| judge("tidings", &promoted, &at(place), Some(Lsn(switched))).unwrap();
    // The slot came along; what our row had lost with the old server was confirmed.
    assert_eq!(judged(100, 150), Verdict::Good);
    assert_eq!(judged(120, 150), Verdict::Good);
    // It was made on the new one.
    assert!(matches!(judged(151, 150), Verdict::Gap(GapReason::SlotMoved { .. })));
}
