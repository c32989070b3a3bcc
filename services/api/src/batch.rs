//! NDJSON batches: read whole before anything is published; a bad line is a problem in its place and the others go on.

use axum::{
    body::Body,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use serde_json::Value;
use tidings_domain::{
    ErrorKind, id::MessageId, idempotency::Fingerprint, idempotency::is_key, message::Message,
    topic::TopicName, trace_context::TraceContext,
};
use utoipa::ToSchema;

use crate::{
    api::Shared,
    auth::Caller,
    content::{Draft, PostedLine, read_json},
    extract::Json,
    limits::{MAX_BATCH_BYTES, read_body},
    problem::{Problem, ProblemBody, Result},
    publish::{self, Accepted},
};

/// The most lines of a batch.
pub(crate) const MAX_LINES: usize = 1_000;

/// The answer to a batch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BatchResults {
    /// One for each line that is not blank, in order.
    results: Vec<LineResult>,
}

/// What became of one line.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct LineResult {
    /// Which line, from 1.
    line: usize,
    /// The message, where it was taken.
    #[serde(flatten)]
    accepted: Option<Accepted>,
    /// What is wrong with it, where it was not; with the message's `id` where its outcome is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ProblemBody>)]
    problem: Option<Value>,
}

/// A line that may be published.
struct Entry {
    at: usize,
    has_key: bool,
}

pub(crate) async fn post_batch(
    api: &Shared,
    caller: &Caller,
    trace: &TraceContext,
    topic: &TopicName,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response> {
    if headers.contains_key("idempotency-key") {
        let detail = "a batch has no idempotency key of its own";
        return Err(Problem::bad("bad-idempotency-key", "Not for a batch", detail)
            .mend("give each line its own \"idempotency_key\""));
    }
    let _place = api.permits.batch().await?;
    let body = read_body(api, headers, body, MAX_BATCH_BYTES).await?;
    let lines = lines(&body)?;

    let mut outcomes: Vec<std::result::Result<Message, Problem>> = Vec::with_capacity(lines.len());
    let mut entries = Vec::new();
    for (at, (_, line)) in lines.iter().enumerate() {
        let read = read_line(api, caller, topic, line);
        if let Ok((_, has_key)) = &read {
            entries.push(Entry { at, has_key: *has_key });
        }
        outcomes.push(read.map(|(message, _)| message));
    }
    admit(api, caller, &mut entries, &mut outcomes).await?;
    let took_none = publish(api, trace, topic, &entries, &mut outcomes).await;

    let numbers = lines.iter().map(|(number, _)| *number);
    let results: Vec<LineResult> =
        numbers.zip(&outcomes).map(|(line, outcome)| result(line, outcome)).collect();
    match took_none.and_then(|at| outcomes.swap_remove(at).err()) {
        // The answer is that of one entry, for all had the same fate, with all ids beside it.
        Some(problem) => {
            let results = serde_json::to_value(results).expect("results are texts, numbers and JSON values");
            Err(problem.with("results", results))
        }
        None => Ok(Json(BatchResults { results }).into_response()),
    }
}

fn result(line: usize, outcome: &std::result::Result<Message, Problem>) -> LineResult {
    match outcome {
        Ok(message) => LineResult { line, accepted: Some(Accepted::of(message)), problem: None },
        Err(problem) => LineResult { line, accepted: None, problem: Some(problem.to_json()) },
    }
}

/// The lines that are not blank, with their numbers.
fn lines(body: &[u8]) -> Result<Vec<(usize, &[u8])>> {
    let is_blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace);
    let lines = body.split(|&byte| byte == b'\n').zip(1..).filter(|(line, _)| !is_blank(line));
    let lines: Vec<_> = lines.map(|(line, number)| (number, line)).take(MAX_LINES + 1).collect();
    match lines.len() {
        0 => Err(Problem::bad("empty", "Nothing to carry", "the batch has no line")
            .mend("send one JSON object a line")),
        count if count > MAX_LINES => Err(Problem::new(
            axum::http::StatusCode::PAYLOAD_TOO_LARGE,
            "too-many-lines",
            "Too large",
            format!("the batch has more than {MAX_LINES} lines: none was taken"),
        )
        .mend("send it in several batches")),
        _ => Ok(lines),
    }
}

fn read_line(api: &Shared, caller: &Caller, topic: &TopicName, line: &[u8]) -> Result<(Message, bool)> {
    let mut posted: PostedLine<'_> = read_json(line)?;
    let key = posted.idempotency_key.take();
    if key.as_deref().is_some_and(|key| !is_key(key)) {
        return Err(publish::bad_key().with("field", "idempotency_key"));
    }
    let draft = Draft::of_line(posted)?;
    Ok((publish::message(api, caller, topic.clone(), key.as_deref(), draft)?, key.is_some()))
}

/// Draws the cost of all entries, and turns those whose key is another message's into problems.
async fn admit(
    api: &Shared,
    caller: &Caller,
    entries: &mut Vec<Entry>,
    outcomes: &mut [std::result::Result<Message, Problem>],
) -> Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let keyed: Vec<usize> = entries.iter().filter(|entry| entry.has_key).map(|entry| entry.at).collect();
    let fingerprint =
        |at: &usize| outcomes[*at].as_ref().ok().map(|message| (message.id, Fingerprint::of(message)));
    let fingerprints: Vec<(MessageId, Fingerprint)> = keyed.iter().filter_map(fingerprint).collect();
    let cost = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let different = publish::admit(api, caller, cost, fingerprints).await?;
    for (at, _) in keyed.into_iter().zip(different).filter(|(_, different)| *different) {
        if let Ok(message) = &outcomes[at] {
            outcomes[at] = Err(publish::another_body(message.id));
        }
        entries.retain(|entry| entry.at != at);
    }
    Ok(())
}

/// Publishes the entries. Where the bus took none, answers which of them stands for all.
async fn publish(
    api: &Shared,
    trace: &TraceContext,
    topic: &TopicName,
    entries: &[Entry],
    outcomes: &mut [std::result::Result<Message, Problem>],
) -> Option<usize> {
    let mut messages = Vec::with_capacity(entries.len());
    let mut spans = Vec::with_capacity(entries.len());
    for entry in entries {
        if let Ok(message) = &mut outcomes[entry.at] {
            spans.push(publish::publish_span(api, trace, message));
            messages.push(message.clone());
        }
    }
    let sent = publish::send(api, topic, &messages).await;
    let (mut taken, mut refused, mut stands_for_all) = (Vec::new(), Vec::new(), None);
    for (((entry, message), span), outcome) in entries.iter().zip(&messages).zip(&mut spans).zip(sent) {
        let Err(error) = outcome else {
            taken.push(message.id);
            continue;
        };
        span.fail(error.kind.as_str(), error.context.clone());
        if error.kind == ErrorKind::Rejected {
            if entry.has_key {
                refused.push(message.id);
            }
        } else {
            stands_for_all = Some(entry.at);
        }
        outcomes[entry.at] = Err(publish::not_published(&error, message.id, entry.has_key));
    }
    if !refused.is_empty() {
        publish::forget(api, &refused).await;
    }
    if taken.is_empty() {
        return stands_for_all;
    }
    publish::remember(api, &taken).await;
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_lines_are_no_lines_and_numbers_stay_true() {
        let numbers: Vec<_> =
            lines(b"{}\n\n  \r\n{}\r\n").unwrap().into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, [1, 4]);
        assert!(lines(b"\n \n").is_err());
        assert!(lines(&b"x\n".repeat(MAX_LINES)).is_ok());
        assert!(lines(&b"x\n".repeat(MAX_LINES + 1)).is_err());
    }
}
