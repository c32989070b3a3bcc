//! Those who ask how it stands.

use tidings_domain::id::MessageId;

use super::Client;

impl Client {
    /// Asks for the state of a message that was accepted, waiting for its end now and then, and for its deliveries.
    pub(crate) async fn read(&self) {
        let ids: Vec<MessageId> = {
            let book = self.ledger.lock();
            let accepted = book.posts.iter().flat_map(|post| &post.accepted);
            accepted.filter_map(|accepted| accepted.id.map(MessageId)).collect()
        };
        if ids.is_empty() {
            return;
        }
        let id = ids[self.pick(ids.len())];
        let path = match self.chance.below(4) {
            0 => format!("/v1/messages/{id}?wait=10s"),
            1 => format!("/v1/messages/{id}?wait=5s&after=stored"),
            2 => format!("/v1/messages/{id}/deliveries"),
            _ => "/v1/messages?limit=5".to_owned(),
        };
        let stored =
            self.memory.items().get(&[id]).await.is_ok_and(|found| found.iter().any(Option::is_some));
        let Ok(reply) = self.send("GET", &path, &[], "").await else { return };
        if reply.status == 404 && (stored || !reply.headers.contains_key("retry-after")) {
            self.ledger.fault(format!("404 to GET {path}, which was accepted; stored before: {stored}"));
        }
        if !matches!(reply.status, 200 | 404 | 503) {
            self.ledger.fault(format!("{} to GET {path}: {}", reply.status, reply.json()));
        }
    }
}
