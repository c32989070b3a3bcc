//! `DeadLetters`.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use tidings_domain::{
    Result,
    dead_letter::{DeadLetter, DeadLetterSelection, DeadLetterSource},
    delivery::LeaseToken,
    id::DeadLetterId,
    page::{Page, PageRequest, decode_cursor, encode_cursor},
    ports::{ClaimedDeadLetter, DeadLetterDepth, DeadLetters},
    time::Timestamp,
};

use crate::{
    Event, Memory, Part,
    shared::{DeadLetterRow, State},
};

impl State {
    pub(crate) fn put_dead_letter(&mut self, letter: DeadLetter, record: &dyn Fn(Event)) {
        let (id, source) = (letter.id, letter.source);
        let std::collections::btree_map::Entry::Vacant(vacant) = self.dead_letters.entry(id) else { return };
        let (reason, message_id) = (letter.reason.clone(), letter.message_id);
        vacant.insert(DeadLetterRow { letter, lease: None });
        record(Event::DeadLettered { id, source, reason, message_id });
    }

    fn selected(&self, selection: &DeadLetterSelection) -> Vec<DeadLetterId> {
        let rows = self.dead_letters.iter().filter(|(_, row)| selection.includes(&row.letter));
        rows.map(|(id, _)| *id).collect()
    }

    fn remove_dead_letter(&mut self, id: DeadLetterId, record: &dyn Fn(Event)) {
        if self.dead_letters.remove(&id).is_some() {
            record(Event::DeadLetterGone { id });
        }
    }
}

#[async_trait]
impl DeadLetters for Memory {
    async fn put(&self, letters: Vec<DeadLetter>) -> Result<()> {
        self.shared()
            .operate(Part::Store, |state, record| {
                letters.into_iter().for_each(|letter| state.put_dead_letter(letter, record));
                Ok(())
            })
            .await
    }

    async fn list(&self, selection: &DeadLetterSelection, page: &PageRequest) -> Result<Page<DeadLetter>> {
        let after = page.cursor.as_deref().map(decode_cursor).transpose()?;
        self.shared()
            .operate(Part::Store, move |state, _| {
                let key = |letter: &DeadLetter| (letter.created_at.as_millis(), letter.id.0);
                let letters = state.dead_letters.values().map(|row| &row.letter);
                let older = |letter: &&DeadLetter| after.is_none_or(|after| key(letter) < after);
                let mut rows: Vec<DeadLetter> =
                    letters.filter(|letter| selection.includes(letter)).filter(older).cloned().collect();
                rows.sort_by_key(|letter| std::cmp::Reverse(key(letter)));
                Ok(Page::cut(rows, page.limit, |letter| {
                    let (millis, id) = key(letter);
                    encode_cursor(millis, id)
                }))
            })
            .await
    }

    async fn mark(&self, selection: &DeadLetterSelection, at: Timestamp) -> Result<u64> {
        self.shared()
            .operate(Part::Store, |state, _| {
                let mut marked = 0;
                for id in state.selected(selection) {
                    if let Some(row) = state.dead_letters.get_mut(&id)
                        && row.letter.marked_at.is_none()
                    {
                        row.letter.marked_at = Some(at);
                        marked += 1;
                    }
                }
                Ok(marked)
            })
            .await
    }

    async fn count(&self, selection: &DeadLetterSelection) -> Result<u64> {
        self.shared().operate(Part::Store, |state, _| Ok(state.selected(selection).len() as u64)).await
    }

    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64> {
        self.shared()
            .operate(Part::Store, |state, record| {
                let selected = state.selected(selection);
                selected.iter().for_each(|id| state.remove_dead_letter(*id, record));
                Ok(selected.len() as u64)
            })
            .await
    }

    async fn claim(
        &self,
        source: DeadLetterSource,
        max: u32,
        token: LeaseToken,
        at: Timestamp,
        lease: Duration,
    ) -> Result<Vec<ClaimedDeadLetter>> {
        self.shared()
            .operate(Part::Store, move |state, _| {
                let is_free = |row: &DeadLetterRow| row.lease.is_none_or(|(_, until)| until <= at);
                let mut free: Vec<&mut DeadLetterRow> = state
                    .dead_letters
                    .values_mut()
                    .filter(|row| {
                        row.letter.source == source && row.letter.marked_at.is_some() && is_free(row)
                    })
                    .collect();
                free.sort_by_key(|row| (row.letter.marked_at, row.letter.id));
                let mut take = |row: &mut DeadLetterRow| {
                    row.lease = Some((token, at.plus(lease)));
                    ClaimedDeadLetter { letter: row.letter.clone(), token }
                };
                Ok(free.into_iter().take(max as usize).map(&mut take).collect())
            })
            .await
    }

    async fn settle(&self, settled: Vec<(DeadLetterId, LeaseToken, Option<DeadLetter>)>) -> Result<()> {
        self.shared()
            .operate(Part::Store, |state, record| {
                for (id, token, letter) in settled {
                    let lease = state.dead_letters.get(&id).and_then(|row| row.lease);
                    if lease.is_none_or(|(holder, _)| holder != token) {
                        continue;
                    }
                    state.remove_dead_letter(id, record);
                    if let Some(mut letter) = letter {
                        letter.marked_at = None;
                        state.put_dead_letter(letter, record);
                    }
                }
                Ok(())
            })
            .await
    }

    async fn depths(&self) -> Result<Vec<DeadLetterDepth>> {
        self.shared()
            .operate(Part::Store, |state, _| {
                let mut depths: BTreeMap<(DeadLetterSource, String), (u64, Timestamp)> = BTreeMap::new();
                for DeadLetterRow { letter, .. } in state.dead_letters.values() {
                    let key = (letter.source, letter.reason.clone());
                    let depth = depths.entry(key).or_insert((0, letter.created_at));
                    *depth = (depth.0 + 1, depth.1.min(letter.created_at));
                }
                let depth = |((source, reason), (count, oldest_at))| DeadLetterDepth {
                    source,
                    reason,
                    count,
                    oldest_at,
                };
                Ok(depths.into_iter().map(depth).collect())
            })
            .await
    }
}
