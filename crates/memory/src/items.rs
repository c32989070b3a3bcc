//! `Items`.

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    dead_letter::DeadLetterSource,
    id::MessageId,
    item::Item,
    message::MAX_CONTENT_TYPE_BYTES,
    notification::Cursor,
    page::{Page, decode_cursor, encode_cursor},
    ports::{Expired, Inserted, ItemQuery, Items, NewItem},
    time::Timestamp,
};

use crate::{Event, Memory, Part, shared::State};

impl State {
    /// What the checks of the table refuse.
    fn check_item(item: &NewItem) -> Result<()> {
        let message = &item.message;
        message
            .check_size()
            .map_err(|error| Error::rejected(format!("item {}", message.id)).with_source(error))?;
        if message.content_type.is_empty() || message.content_type.len() > MAX_CONTENT_TYPE_BYTES {
            return Err(Error::rejected(format!(
                "item {}: the content type is empty or too long",
                message.id
            )));
        }
        Ok(())
    }

    pub(crate) fn insert_item(&mut self, new: NewItem) -> Inserted {
        if let Some(item) = self.items.get(&new.message.id) {
            let same = item.message.says_the_same_as(&new.message);
            return if same { Inserted::AlreadyThere } else { Inserted::Conflict };
        }
        let item = Item { message: new.message, stored_at: new.stored_at };
        self.log_end += 1;
        self.log.insert(self.log_end, item.clone());
        self.items.insert(item.message.id, item);
        Inserted::New
    }

    fn is_expanded(&self, id: MessageId) -> bool {
        let mut rounds =
            self.notifications.range((id, 0)..=(id, u32::MAX)).map(|(_, row)| row.cursor).peekable();
        rounds.peek().is_some() && rounds.all(|cursor| cursor == Cursor::Finished)
    }

    /// Whether it never comes to be notified, its change being a dead letter that nobody redrives.
    fn is_given_up(&self, id: MessageId) -> bool {
        let mut letters = self.dead_letters.values().filter(|row| row.letter.message_id == Some(id.0));
        self.notifications.range((id, 0)..=(id, u32::MAX)).next().is_none()
            && letters.clone().any(|row| row.letter.source == DeadLetterSource::Changes)
            && letters.all(|row| row.letter.marked_at.is_none())
    }

    fn expire(&mut self, before: Timestamp, max: u32, record: &dyn Fn(Event)) -> Expired {
        let past: Vec<MessageId> =
            self.items.values().filter(|item| item.stored_at < before).map(|item| item.message.id).collect();
        let mut expired = Expired::default();
        for id in past {
            let open = self.open.iter().any(|key| key.about == id.0);
            if open || !(self.is_expanded(id) || self.is_given_up(id)) {
                expired.open += 1;
            } else if expired.removed < u64::from(max) {
                self.remove_item(id);
                record(Event::Expired { id });
                expired.removed += 1;
            } else {
                expired.more = true;
            }
        }
        let is_of_an_item =
            |about: Option<uuid::Uuid>| about.is_some_and(|id| self.items.contains_key(&MessageId(id)));
        let old = self.dead_letters.iter().filter(|(_, row)| row.letter.created_at < before);
        let alone: Vec<_> =
            old.filter(|(_, row)| !is_of_an_item(row.letter.message_id)).map(|(id, _)| *id).collect();
        expired.more |= alone.len() > max as usize;
        for id in alone.into_iter().take(max as usize) {
            self.dead_letters.remove(&id);
            record(Event::DeadLetterGone { id });
        }
        expired
    }

    fn remove_item(&mut self, id: MessageId) {
        self.items.remove(&id);
        self.notifications.retain(|(item, _), _| *item != id);
        self.deliveries.retain(|key, _| key.about != id.0);
        self.dead_letters.retain(|_, row| row.letter.message_id != Some(id.0));
    }
}

#[async_trait]
impl Items for Memory {
    async fn insert(&self, batch: &[NewItem]) -> Result<Vec<Inserted>> {
        let batch = batch.to_vec();
        let answers = self
            .shared()
            .operate(Part::Store, move |state, record| {
                batch.iter().try_for_each(State::check_item)?;
                let mut insert = |new: NewItem| {
                    let id = new.message.id;
                    let answer = state.insert_item(new);
                    record(Event::Inserted { id, answer });
                    answer
                };
                let answers = batch.into_iter().map(&mut insert).collect();
                self.shared().log_changed.notify_waiters();
                Ok(answers)
            })
            .await?;
        Ok(answers)
    }

    async fn get(&self, ids: &[MessageId]) -> Result<Vec<Option<Item>>> {
        let get = |state: &mut State, _: &dyn Fn(Event)| {
            Ok(ids.iter().map(|id| state.items.get(id).cloned()).collect())
        };
        self.shared().operate(Part::Store, get).await
    }

    async fn list(&self, query: &ItemQuery) -> Result<Page<Item>> {
        let after = query.page.cursor.as_deref().map(decode_cursor).transpose()?;
        self.shared()
            .operate(Part::Store, move |state, _| {
                let key = |item: &Item| (item.stored_at.as_millis(), item.message.id.0);
                let mut items: Vec<Item> = state
                    .items
                    .values()
                    .filter(|item| query.topic.as_ref().is_none_or(|topic| *topic == item.message.topic))
                    .filter(|item| query.since.is_none_or(|since| item.stored_at >= since))
                    .filter(|item| query.until.is_none_or(|until| item.stored_at < until))
                    .filter(|item| after.is_none_or(|after| key(item) < after))
                    .cloned()
                    .collect();
                items.sort_by_key(|item| std::cmp::Reverse(key(item)));
                items.truncate(query.page.limit as usize + 1);
                Ok(Page::cut(items, query.page.limit, |item| {
                    let (millis, id) = key(item);
                    encode_cursor(millis, id)
                }))
            })
            .await
    }

    async fn expire(&self, before: Timestamp, max: u32) -> Result<Expired> {
        self.shared().operate(Part::Store, move |state, record| Ok(state.expire(before, max, record))).await
    }

    async fn ping(&self) -> Result<()> {
        self.shared().operate(Part::Store, |_, _| Ok(())).await
    }
}
