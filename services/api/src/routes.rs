//! Every path and who handles it.

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post},
};

use crate::{
    api::Shared, dead_letters, front_door::front_door, mailbox, messages, pages, probes, publish,
    subscriptions, topics,
};

pub(crate) fn router(api: &Shared) -> Router {
    Router::new()
        .route("/v1/topics/{topic}/messages", post(publish::post_message))
        .route("/publishtopic", post(publish::post_to_messages))
        .route("/v1/messages", get(messages::list_messages))
        .route("/v1/messages/{id}", get(messages::get_message))
        .route("/v1/messages/{id}/deliveries", get(messages::list_deliveries))
        .route("/v1/topics", get(topics::list_topics))
        .route(
            "/v1/topics/{topic}",
            get(topics::get_topic).put(topics::put_topic).delete(topics::delete_topic),
        )
        .route("/v1/topics/{topic}/subscriptions", post(subscriptions::post_subscription))
        .route("/v1/subscriptions", get(subscriptions::list_subscriptions))
        .route(
            "/v1/subscriptions/{id}",
            get(subscriptions::get_subscription).delete(subscriptions::delete_subscription),
        )
        .route("/confirm/{token}", get(pages::show_confirm).post(pages::confirm))
        .route("/unsubscribe/{token}", get(pages::show_unsubscribe).post(pages::unsubscribe))
        .route("/v1/dead-letters", get(dead_letters::list_dead_letters))
        .route("/v1/dead-letters/redrive", post(dead_letters::redrive_dead_letters))
        .route("/v1/dead-letters/discard", post(dead_letters::discard_dead_letters))
        .route("/mailbox", get(mailbox::list_mails))
        .route("/mailbox/{id}", get(mailbox::get_mail))
        .route("/mailbox/{id}/source", get(mailbox::get_source))
        .route("/mailbox/{id}/html", get(mailbox::get_html))
        .route("/", get(probes::welcome))
        .route("/healthz", get(probes::healthz))
        .route("/readyz", get(probes::readyz))
        .route("/openapi.json", get(probes::openapi))
        .fallback(probes::no_such_path)
        .method_not_allowed_fallback(probes::no_such_method)
        .layer(middleware::from_fn_with_state(Arc::clone(api), front_door))
        .with_state(Arc::clone(api))
}
