//! The OpenAPI 3.1 description, made from the handlers themselves.

use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use crate::{dead_letters, mailbox, messages, pages, probes, publish, subscriptions, topics};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidings",
        description = "Accept now, notify later. A message is posted to a topic and answered at once; it is stored, and \
                       everyone who is subscribed gets a mail. Every error is RFC 9457 problem+json.",
    ),
    paths(
        publish::post_message,
        publish::post_to_messages,
        messages::list_messages,
        messages::get_message,
        messages::list_deliveries,
        topics::put_topic,
        topics::get_topic,
        topics::delete_topic,
        topics::list_topics,
        subscriptions::post_subscription,
        subscriptions::list_subscriptions,
        subscriptions::get_subscription,
        subscriptions::delete_subscription,
        pages::show_confirm,
        pages::confirm,
        pages::show_unsubscribe,
        pages::unsubscribe,
        dead_letters::list_dead_letters,
        dead_letters::redrive_dead_letters,
        dead_letters::discard_dead_letters,
        mailbox::list_mails,
        mailbox::get_mail,
        mailbox::get_source,
        mailbox::get_html,
        probes::welcome,
        probes::healthz,
        probes::readyz,
        probes::openapi,
    ),
    security(("key" = [])),
    modifiers(&Keys)
)]
struct Description;

/// How a key is sent.
struct Keys;

impl Modify for Keys {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key, where TIDINGS_AUTH is required"))
            .build();
        let components = openapi.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(scheme));
    }
}

/// The OpenAPI 3.1 description as JSON, ending in a line break.
pub fn openapi_json() -> String {
    let mut json = Description::openapi().to_pretty_json().expect("a description is texts and numbers");
    json.push('\n');
    json
}
