//! What a posted body says: text as it is, or JSON with a subject and attributes beside the message.

use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tidings_domain::{
    attributes::Attributes,
    message::{MAX_CONTENT_TYPE_BYTES, TEXT_PLAIN},
    text::{InvalidText, Subject, Text, is_carried},
};
use utoipa::ToSchema;

use crate::problem::{Problem, Result};

/// The content type of a message that was a JSON value.
const JSON: &str = "application/json";

/// What is to be published, checked.
#[derive(Debug, PartialEq)]
pub(crate) struct Draft {
    pub(crate) text: Text,
    pub(crate) subject: Option<Subject>,
    pub(crate) content_type: String,
    pub(crate) attributes: Attributes,
}

/// How a body is to be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Text { content_type: String },
    /// One JSON object.
    Json,
    /// One JSON object a line.
    Ndjson,
}

/// A message as JSON.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewMessage)]
pub(crate) struct Posted<'a> {
    /// A string is the text itself; any other JSON value is kept as it was sent, byte for byte.
    #[serde(borrow)]
    #[schema(value_type = Value)]
    message: &'a RawValue,
    /// The subject of its mails: 1 to 99 characters, no line breaks.
    subject: Option<String>,
    /// At most 32 names with strings, numbers, booleans or lists of these; filters look at them.
    #[schema(value_type = Option<Object>)]
    attributes: Option<Value>,
}

/// A line of a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewMessageLine)]
pub(crate) struct PostedLine<'a> {
    /// A string is the text itself; any other JSON value is kept as it was sent, byte for byte.
    #[serde(borrow)]
    #[schema(value_type = Value)]
    message: &'a RawValue,
    /// The subject of its mails: 1 to 99 characters, no line breaks.
    subject: Option<String>,
    /// At most 32 names with strings, numbers, booleans or lists of these; filters look at them.
    #[schema(value_type = Option<Object>)]
    attributes: Option<Value>,
    /// The same key is the same message.
    pub(crate) idempotency_key: Option<String>,
}

impl Form {
    /// Reads `Content-Type`; none is plain text. What `curl -d` sends by itself is taken as text too.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else {
            return Ok(Self::Text { content_type: TEXT_PLAIN.to_owned() });
        };
        let value = value.to_str().map_err(|_| unsupported("the content type is not ASCII"))?.trim();
        let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_text = essence.strip_prefix("text/").is_some_and(|kind| !kind.is_empty());
        let form = match essence.as_str() {
            "" => return Ok(Self::Text { content_type: TEXT_PLAIN.to_owned() }),
            "application/x-www-form-urlencoded" => Self::Text { content_type: TEXT_PLAIN.to_owned() },
            "application/json" => Self::Json,
            "application/x-ndjson" => Self::Ndjson,
            _ if is_text && value.len() <= MAX_CONTENT_TYPE_BYTES && is_carried(value) => {
                Self::Text { content_type: value.to_owned() }
            }
            _ => return Err(unsupported(format!("the content type is {value:?}"))),
        };
        match charset(value) {
            Some(other) => Err(unsupported(format!("the charset is {other:?}")).with("charset", other)),
            None => Ok(form),
        }
    }

    /// Any text body: `/publishtopic` takes whatever is UTF-8, and keeps the type where it is one that we carry.
    pub(crate) fn of_any_text(headers: &HeaderMap) -> Result<Self> {
        let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if let Some(other) = value.and_then(charset) {
            return Err(unsupported(format!("the charset is {other:?}")).with("charset", other));
        }
        Ok(match Self::of(headers) {
            Ok(Self::Json) => Self::Text { content_type: JSON.to_owned() },
            Ok(Self::Text { content_type }) => Self::Text { content_type },
            Ok(Self::Ndjson) | Err(_) => Self::Text { content_type: TEXT_PLAIN.to_owned() },
        })
    }
}

/// The charset that a content type names, unless it is UTF-8.
fn charset(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let is_utf8 = value.eq_ignore_ascii_case("utf-8") || value.eq_ignore_ascii_case("utf8");
        (name.trim().eq_ignore_ascii_case("charset") && !is_utf8).then(|| value.to_owned())
    })
}

fn unsupported(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", "The content type is not taken", detail)
        .mend(
            "send text/plain (or any text/*) in UTF-8, application/json with {\"message\": ...}, or \
             application/x-ndjson with one such object a line",
        )
        .with("supported", vec!["text/*; charset=utf-8", "application/json", "application/x-ndjson"])
}

impl Draft {
    /// A text as it was sent.
    pub(crate) fn of_text(body: &[u8], content_type: String) -> Result<Self> {
        let text = Text::from_bytes(body).map_err(|error| bad_text(&error))?;
        Ok(Self { text, subject: None, content_type, attributes: Attributes::default() })
    }

    /// One JSON object.
    pub(crate) fn of_json(body: &[u8]) -> Result<Self> {
        let posted: Posted<'_> = read_json(body)?;
        Self::of_fields(posted.message, posted.subject, posted.attributes)
    }

    /// One line of a batch.
    pub(crate) fn of_line(posted: PostedLine<'_>) -> Result<Self> {
        Self::of_fields(posted.message, posted.subject, posted.attributes)
    }

    fn of_fields(message: &RawValue, subject: Option<String>, attributes: Option<Value>) -> Result<Self> {
        let raw = message.get();
        let (text, content_type) = if raw.starts_with('"') {
            let string: String = read_json(raw.as_bytes())?;
            (Text::parse(&string), TEXT_PLAIN)
        } else {
            (Text::parse(raw), JSON)
        };
        let text = text.map_err(|error| bad_text(&error))?;
        let subject = subject.map(|subject| Subject::parse(&subject)).transpose().map_err(|error| {
            Problem::bad("bad-subject", "The subject cannot be carried", error.to_string())
                .with("field", "subject")
                .mend("a subject is 1 to 99 characters on one line")
        })?;
        let attributes = attributes.map(Attributes::from_json).transpose().map_err(|error| {
            Problem::bad("bad-attributes", "The attributes cannot be carried", error.to_string())
                .with("field", "attributes")
                .mend("give a flat object, such as {\"customer\": \"acme\", \"amount\": 12.5, \"tags\": [\"a\"]}")
        })?;
        Ok(Self {
            text,
            subject,
            content_type: content_type.to_owned(),
            attributes: attributes.unwrap_or_default(),
        })
    }
}

/// Reads JSON; what is wrong is told with its line and column, an unknown field by its name.
pub(crate) fn read_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T> {
    let text = std::str::from_utf8(body)
        .map_err(|error| bad_text(&InvalidText::NotUtf8 { offset: error.valid_up_to() }))?;
    if text.trim().is_empty() {
        return Err(Problem::bad(
            "malformed-json",
            "Not JSON",
            "the body is empty where a JSON object is expected",
        ));
    }
    serde_json::from_str(text).map_err(|error| bad_json(&error))
}

fn bad_json(error: &serde_json::Error) -> Problem {
    let told = error.to_string();
    let quoted = |after: &str| Some(told.strip_prefix(after)?.split('`').nth(1)?.to_owned());
    let problem = if error.is_data() {
        if let Some(field) = quoted("unknown field ") {
            Problem::bad("unknown-field", "A field is not known", told).with("field", field)
        } else if let Some(field) = quoted("missing field ") {
            Problem::bad("missing-field", "A field is missing", told).with("field", field)
        } else {
            Problem::bad("wrong-shape", "The JSON has another shape than expected", told)
        }
    } else {
        Problem::bad("malformed-json", "Not JSON", told).mend("check what stands at that line and column")
    };
    problem.with("line", error.line()).with("column", error.column())
}

/// A text that cannot be carried.
pub(crate) fn bad_text(error: &InvalidText) -> Problem {
    let detail = error.to_string();
    match error {
        InvalidText::Empty => Problem::bad("empty", "Nothing to carry", detail),
        InvalidText::NotUtf8 { offset } => Problem::bad("not-utf8", "Not UTF-8", detail)
            .with("offset", *offset)
            .mend("send the text in UTF-8"),
        InvalidText::Character { offset, .. } => {
            Problem::bad("control-character", "A character that cannot be carried", detail)
                .with("offset", *offset)
                .mend("send binary data in base64, or put it somewhere else and post where it is")
        }
        InvalidText::TooLarge { .. } => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
                .mend("put the large part somewhere else and post where it is")
        }
        InvalidText::LineBreak | InvalidText::SubjectTooLong { .. } => {
            Problem::bad("bad-subject", "The subject cannot be carried", detail)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn form(content_type: &str) -> Result<Form> {
        let value = HeaderValue::from_str(content_type).unwrap();
        Form::of(&HeaderMap::from_iter([(header::CONTENT_TYPE, value)]))
    }

    fn kind<T: std::fmt::Debug>(result: Result<T>) -> String {
        result.unwrap_err().body().kind.trim_start_matches("urn:tidings:problem:").to_owned()
    }

    #[test]
    fn the_content_type_says_how_a_body_is_read() {
        let text = |content_type: &str| Form::Text { content_type: content_type.to_owned() };
        assert_eq!(Form::of(&HeaderMap::new()).unwrap(), text(TEXT_PLAIN));
        assert_eq!(
            form("text/markdown; charset=\"UTF-8\"").unwrap(),
            text("text/markdown; charset=\"UTF-8\"")
        );
        assert_eq!(form("application/x-www-form-urlencoded").unwrap(), text(TEXT_PLAIN));
        assert_eq!(form("Application/JSON;charset=utf-8").unwrap(), Form::Json);
        assert_eq!(form("application/x-ndjson").unwrap(), Form::Ndjson);
        for bad in [
            "text/plain; charset=latin1",
            "application/xml",
            "image/png",
            "text/",
            "x",
            "text/plain;Charset=us-ascii",
        ] {
            assert_eq!(kind(form(bad)), "content-type", "{bad}");
        }
        assert_eq!(kind(form(&format!("text/{}", "x".repeat(300)))), "content-type");
    }

    #[test]
    fn a_json_value_is_kept_as_sent() {
        let draft = Draft::of_json(br#" {"message": {"b": 1.10,  "a":[1e2, "\u00e9"]} } "#).unwrap();
        assert_eq!(draft.text.as_str(), r#"{"b": 1.10,  "a":[1e2, "\u00e9"]}"#);
        assert_eq!(draft.content_type, "application/json");
        assert_eq!(Draft::of_json(br#"{"message":null}"#).unwrap().text.as_str(), "null");
        let draft =
            Draft::of_json(br#"{"message": "caf\u00e9", "subject": "S", "attributes": {"a": 1}}"#).unwrap();
        assert_eq!((draft.text.as_str(), draft.content_type.as_str()), ("café", TEXT_PLAIN));
    }

    #[test]
    fn what_is_wrong_with_json_is_told() {
        let problem = Draft::of_json(b"{\"message\":\n  oops}").unwrap_err();
        assert_eq!(problem.body().kind, "urn:tidings:problem:malformed-json");
        assert_eq!(
            (&problem.body().members["line"], &problem.body().members["column"]),
            (&2.into(), &3.into())
        );
        let problem = Draft::of_json(br#"{"message": "x", "titel": 1}"#).unwrap_err();
        assert_eq!(problem.body().kind, "urn:tidings:problem:unknown-field");
        assert_eq!(problem.body().members["field"], "titel");
        let expected = [
            (&b"{}"[..], "missing-field"),
            (br#"{"message": "x", "subject": 1}"#, "wrong-shape"),
            (br#"{"message": "x", "subject": "a\nb"}"#, "bad-subject"),
            (br#"{"message": "x", "subject": ""}"#, "bad-subject"),
            (br#"{"message": "x", "attributes": [1]}"#, "bad-attributes"),
            (br#"{"message": "x", "message": "y"}"#, "wrong-shape"),
            (br#"{"message": "\u0000"}"#, "control-character"),
            (br#"{"message": "\ud800"}"#, "malformed-json"),
            (br#"{"message": ""}"#, "empty"),
            (b"[]", "wrong-shape"),
            (b"", "malformed-json"),
            (b"{\"message\": \"\xff\"}", "not-utf8"),
        ];
        for (body, name) in expected {
            assert_eq!(kind(Draft::of_json(body)), name, "{}", String::from_utf8_lossy(body));
        }
    }
}
