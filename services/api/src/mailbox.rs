//! The built-in mail catcher's pages: what would have been mailed, for people and for tests.

use std::fmt::Write as _;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use mail_parser::{MessageParser, PartType};
use serde::{Deserialize, Serialize};
use tidings_domain::{
    address::EmailAddress,
    page::Page,
    ports::{CaughtMail, CaughtMailSummary, Mailbox, MailboxQuery},
    time::Timestamp,
};
use tidings_runtime::shutdown::Shutdown;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use crate::{
    api::Shared,
    auth::MailboxReader,
    extract::{IdPath, Json, Query, optional, page, wait},
    html,
    problem::{Problem, ProblemBody, Result},
};

/// What a mail's own HTML may do: show itself, its images only where it carries them, links in a new tab.
const MAIL_POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox allow-popups \
                           allow-popups-to-escape-sandbox; frame-ancestors 'self'";

/// A caught mail without its text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MailSummary)]
pub(crate) struct SummaryView {
    /// Its number, counting up.
    id: u64,
    /// MAIL FROM.
    from: String,
    /// RCPT TO.
    to: String,
    /// The subject.
    subject: String,
    /// When it was caught.
    #[schema(value_type = String, format = DateTime)]
    received_at: Timestamp,
    /// Bytes of its source.
    size_bytes: u64,
}

impl From<CaughtMailSummary> for SummaryView {
    fn from(mail: CaughtMailSummary) -> Self {
        let CaughtMailSummary { id, from, to, subject, received_at, size_bytes } = mail;
        Self { id, from, to, subject, received_at, size_bytes }
    }
}

/// Caught mails.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Mails)]
pub(crate) struct MailsView {
    /// The mails, newest first.
    data: Vec<SummaryView>,
    /// What to ask the next page with; null on the last.
    next_cursor: Option<String>,
    /// How many were dropped to keep the newest 10,000.
    dropped: u64,
}

/// A caught mail, decoded.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Mail)]
pub(crate) struct MailView {
    #[serde(flatten)]
    summary: SummaryView,
    /// Its text part.
    text: String,
    /// Its HTML part, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<String>,
    /// The links of its text, in order.
    links: Vec<String>,
    /// Where its source is.
    source_url: String,
}

impl MailView {
    fn of(mail: CaughtMail) -> Self {
        let parsed = MessageParser::default().parse(&*mail.source);
        let text = parsed.as_ref().and_then(|parsed| parsed.body_text(0)).unwrap_or_default().into_owned();
        let html = parsed.as_ref().and_then(|parsed| {
            parsed.html_bodies().find_map(|part| match &part.body {
                PartType::Html(html) => Some(html.clone().into_owned()),
                _ => None,
            })
        });
        let links = html::links(&text).into_iter().map(str::to_owned).collect();
        let source_url = format!("/mailbox/{}/source", mail.summary.id);
        Self { summary: mail.summary.into(), text, html, links, source_url }
    }
}

/// Which mails are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MailsQuery {
    /// To exactly this address.
    to: Option<String>,
    /// With this text in the subject or the text.
    contains: Option<String>,
    /// Answer when there is one, at the latest after this time: `10s`.
    wait: Option<String>,
    /// Entries at most: 50, at most 250.
    #[serde(default, deserialize_with = "optional")]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List caught mails.
#[utoipa::path(
    get, path = "/mailbox", tag = "mailbox", params(MailsQuery),
    responses(
        (status = 200, description = "A page, newest first; JSON unless text/html is accepted",
            content((MailsView = "application/json"), (String = "text/html"))),
        (status = "default", description = "A problem; 404 no-mailbox where mails go to SMTP",
            body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_mails(
    State(api): State<Shared>,
    _: MailboxReader,
    Query(asked): Query<MailsQuery>,
    headers: HeaderMap,
) -> Response {
    let as_page = html::is_wanted(&headers);
    match mails(&api, asked, as_page).await {
        Ok(response) => response,
        Err(problem) if as_page => html::problem_page(problem),
        Err(problem) => problem.into_response(),
    }
}

async fn mails(api: &Shared, asked: MailsQuery, as_page: bool) -> Result<Response> {
    let mailbox = mailbox(api)?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let query = MailboxQuery {
        // Mails lie under their folded addresses.
        to: given(asked.to).map(|to| EmailAddress::parse(&to).map_or(to, String::from)),
        contains: given(asked.contains),
        page: page(asked.limit, asked.cursor)?,
    };
    let wait = wait(asked.wait.as_deref(), api.context.settings.max_wait())?;
    let port = |error| Problem::from_list(&error, "list mails");
    let page = find(mailbox, &query, wait, api.waiting.over()).await.map_err(port)?;
    let dropped = mailbox.dropped().await.map_err(port)?;
    if as_page {
        return Ok(list_page(&query, &page, dropped));
    }
    let data = page.data.into_iter().map(SummaryView::from).collect();
    Ok(Json(MailsView { data, next_cursor: page.next_cursor, dropped }).into_response())
}

/// A page with at least one mail on it, or at the end of the time, or when nobody is to wait any longer, whatever there is.
async fn find(
    mailbox: &dyn Mailbox,
    query: &MailboxQuery,
    wait: std::time::Duration,
    over: &Shutdown,
) -> tidings_domain::Result<Page<CaughtMailSummary>> {
    let deadline = Instant::now() + wait;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || over.is_requested() {
            return mailbox.list(query).await;
        }
        // Begun before the list is read, so that a mail caught meanwhile is not missed. The list is read to its end all the
        // same: where mails are caught faster than a list is read, none would ever be.
        let mut changed = mailbox.changed(left);
        let is_changed = (&mut changed).now_or_never().is_some();
        let page = mailbox.list(query).await?;
        if !page.data.is_empty() {
            return Ok(page);
        }
        if is_changed {
            continue;
        }
        tokio::select! {
            biased;
            () = changed => {}
            () = over.requested() => {}
        }
    }
}

/// A caught mail.
#[utoipa::path(
    get, path = "/mailbox/{id}", tag = "mailbox",
    params(("id" = u64, Path, description = "Its number")),
    responses(
        (status = 200, description = "The mail; JSON unless text/html is accepted",
            content((MailView = "application/json"), (String = "text/html"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_mail(
    State(api): State<Shared>,
    _: MailboxReader,
    IdPath(id): IdPath<u64>,
    headers: HeaderMap,
) -> Response {
    let mail = caught(&api, id).await.map(MailView::of);
    match (mail, html::is_wanted(&headers)) {
        (Ok(mail), true) => mail_page(&mail),
        (Ok(mail), false) => Json(mail).into_response(),
        (Err(problem), true) => html::problem_page(problem),
        (Err(problem), false) => problem.into_response(),
    }
}

/// A caught mail's source.
#[utoipa::path(
    get, path = "/mailbox/{id}/source", tag = "mailbox",
    params(("id" = u64, Path, description = "Its number")),
    responses(
        (status = 200, description = "Its source, byte for byte", body = String, content_type = "text/plain"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_source(
    State(api): State<Shared>,
    _: MailboxReader,
    IdPath(id): IdPath<u64>,
) -> Result<Response> {
    let mut response = Response::new(Body::from(caught(&api, id).await?.source));
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

/// A caught mail's HTML part, for the frame in its page.
#[utoipa::path(
    get, path = "/mailbox/{id}/html", tag = "mailbox",
    params(("id" = u64, Path, description = "Its number")),
    responses(
        (status = 200, description = "Its HTML part, to be shown in a sandbox", body = String, content_type = "text/html"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_html(
    State(api): State<Shared>,
    _: MailboxReader,
    IdPath(id): IdPath<u64>,
) -> Result<Response> {
    let mail = MailView::of(caught(&api, id).await?);
    let html = mail.html.ok_or_else(|| {
        Problem::not_found("no-html", "No HTML", format!("mail {id} has a text part only: GET /mailbox/{id}"))
    })?;
    Ok(html::document(format!("<base target=\"_blank\">{html}"), MAIL_POLICY))
}

fn mailbox(api: &Shared) -> Result<&dyn Mailbox> {
    api.context.mailbox.as_deref().ok_or_else(|| {
        let detail = "mails of this installation go to an SMTP server, so there is no mailbox to look into";
        Problem::not_found("no-mailbox", "There is no mailbox", detail)
            .mend("look into the mailboxes of that server; GET /v1/messages/{id}/deliveries has its answers")
    })
}

async fn caught(api: &Shared, id: u64) -> Result<CaughtMail> {
    let found = mailbox(api)?.get(id).await;
    found.map_err(|error| Problem::from_port(&error, "read the mail"))?.ok_or_else(|| {
        let detail = format!("there is no mail {id}: the newest 10,000 are kept");
        Problem::not_found("unknown-mail", "No such mail", detail).mend("GET /mailbox lists them")
    })
}

fn list_page(query: &MailboxQuery, page: &Page<CaughtMailSummary>, dropped: u64) -> Response {
    let value = |text: &Option<String>| html::escape(text.as_deref().unwrap_or_default());
    let mut body = format!(
        "<form><input name=\"to\" placeholder=\"to\" value=\"{}\"> \
         <input name=\"contains\" placeholder=\"contains\" value=\"{}\"> <button>Find</button></form>\n",
        value(&query.to),
        value(&query.contains)
    );
    if page.data.is_empty() {
        body.push_str("<p>No mails. They come here as long as no SMTP_URL is set.</p>\n");
    } else {
        body.push_str("<table>\n<tr><th>Subject</th><th>To</th><th>Caught</th></tr>\n");
        for mail in &page.data {
            let _ = writeln!(
                body,
                "<tr><td><a href=\"/mailbox/{}\">{}</a></td><td>{}</td><td>{}</td></tr>",
                mail.id,
                html::escape(if mail.subject.is_empty() { "(no subject)" } else { &mail.subject }),
                html::escape(&mail.to),
                mail.received_at
            );
        }
        body.push_str("</table>\n");
    }
    if let Some(cursor) = &page.next_cursor {
        let _ = writeln!(
            body,
            "<form><input type=\"hidden\" name=\"to\" value=\"{}\"><input type=\"hidden\" name=\"contains\" value=\"{}\">\
             <input type=\"hidden\" name=\"cursor\" value=\"{}\"><p><button>Older</button></p></form>",
            value(&query.to),
            value(&query.contains),
            html::escape(cursor)
        );
    }
    let _ = write!(
        body,
        "<p class=\"quiet\">The newest 10,000 mails are kept; {dropped} older ones were dropped.</p>"
    );
    html::page(StatusCode::OK, "Mailbox", &body)
}

fn mail_page(mail: &MailView) -> Response {
    let SummaryView { id, from, to, subject, received_at, size_bytes } = &mail.summary;
    let mut body = format!(
        "<p><a href=\"/mailbox\">Mailbox</a> · <a href=\"/mailbox/{id}/source\">Source ({size_bytes} bytes)</a></p>\n\
         <table><tr><th>From</th><td>{}</td></tr><tr><th>To</th><td>{}</td></tr><tr><th>Caught</th>\
         <td>{received_at}</td></tr></table>\n<pre>{}</pre>",
        html::escape(from),
        html::escape(to),
        html::linked(&mail.text)
    );
    if mail.html.is_some() {
        let _ = write!(
            body,
            "\n<iframe src=\"/mailbox/{id}/html\" title=\"HTML part\" \
             sandbox=\"allow-popups allow-popups-to-escape-sandbox\"></iframe>"
        );
    }
    html::page(StatusCode::OK, if subject.is_empty() { "(no subject)" } else { subject }, &body)
}
