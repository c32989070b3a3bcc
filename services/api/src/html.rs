//! Pages: plain functions that escape, no scripts, nothing loaded from anywhere.

use std::fmt::Write as _;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};

use crate::problem::Problem;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem;\
color:#1c1f23;background:#fff}h1{font-size:1.4rem}button{font:inherit;padding:.5rem 1.2rem;border:0;\
border-radius:.3rem;background:#1f5fbf;color:#fff;cursor:pointer}table{border-collapse:collapse;width:100%}\
td,th{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid #ddd;vertical-align:top}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f5f6f7;padding:1rem}iframe{width:100%;height:30rem;\
border:1px solid #ddd}input{font:inherit;padding:.3rem}.quiet{color:#666}\
@media(prefers-color-scheme:dark){body{color:#e6e8ea;background:#16181b}pre{background:#22252a}\
td,th,iframe{border-color:#3a3f45}a{color:#8ab4f8}iframe{background:#fff}}";

/// What our own pages may do: show themselves, post to us, frame a mail of ours.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-src 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Whether the client shows pages; others get JSON.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|accept| accept.to_str().is_ok_and(|accept| accept.to_ascii_lowercase().contains("text/html")))
}

/// Text as it stands in HTML, also within a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The links of a text.
pub(crate) fn links(text: &str) -> Vec<&str> {
    pieces(text).filter_map(|(piece, is_link)| is_link.then_some(piece)).collect()
}

/// A text as HTML with its links to click on.
pub(crate) fn linked(text: &str) -> String {
    let mut html = String::with_capacity(text.len() * 2);
    for (piece, is_link) in pieces(text) {
        let piece = escape(piece);
        if is_link {
            let _ = write!(html, "<a href=\"{piece}\" rel=\"noreferrer\">{piece}</a>");
        } else {
            html.push_str(&piece);
        }
    }
    html
}

/// Cuts a text into what is a link and what is not.
fn pieces(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let start = match (rest.find("http://"), rest.find("https://")) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b).unwrap_or(rest.len()),
        };
        let end = if start > 0 {
            start
        } else {
            let end = rest.find(|c: char| c.is_whitespace() || "<>\"'`".contains(c)).unwrap_or(rest.len());
            rest[..end].trim_end_matches(['.', ',', ';', ':', '!', '?', ')', ']']).len()
        };
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some((piece, start == 0))
    })
}

/// A page of ours; `body` is HTML.
pub(crate) fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let title = escape(title);
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<meta name=\"robots\" content=\"noindex\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}\n</body>\n</html>\n"
    );
    let mut response = document(html, POLICY);
    *response.status_mut() = status;
    response
}

/// An HTML document with the policy that it is shown under. The referrer stays on our own pages, so that a token is told
/// to nobody; were it left out wholly, browsers would call the origin of our own forms `null`.
pub(crate) fn document(html: String, policy: &'static str) -> Response {
    let mut response = Response::new(Body::from(html));
    let headers = response.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CONTENT_SECURITY_POLICY, policy),
        (axum::http::HeaderName::from_static("x-robots-tag"), "noindex"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// A problem for someone who shows pages.
pub(crate) fn problem_page(problem: Problem) -> Response {
    let told = problem.body();
    let mut body = format!("<p>{}.</p>", escape(&capitalised(&told.detail)));
    if let Some(mend) = &told.mend {
        let _ = write!(body, "\n<p>{}.</p>", escape(&capitalised(mend)));
    }
    let mut page = page(problem.status(), told.title, &body);
    let cause = problem.cause();
    // Its own headers (Retry-After, WWW-Authenticate) go with it, and what is behind it goes to the log.
    for (name, value) in problem.into_response().headers() {
        if name != header::CONTENT_TYPE && name != header::CONTENT_LENGTH {
            page.headers_mut().insert(name, value.clone());
        }
    }
    if let Some(cause) = cause {
        page.extensions_mut().insert(cause);
    }
    page
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes_from_a_text() {
        assert_eq!(
            escape("<a href=\"x\" title='y'>&"),
            "&lt;a href=&quot;x&quot; title=&#39;y&#39;&gt;&amp;"
        );
        assert_eq!(
            linked("see https://x.example/a?b=1&c=2. <script>\nhttp://y \"https://z\""),
            "see <a href=\"https://x.example/a?b=1&amp;c=2\" rel=\"noreferrer\">https://x.example/a?b=1&amp;c=2</a>. \
             &lt;script&gt;\n<a href=\"http://y\" rel=\"noreferrer\">http://y</a> \
             &quot;<a href=\"https://z\" rel=\"noreferrer\">https://z</a>&quot;"
        );
        assert_eq!(links("a https://x/y) b http:/no https://"), ["https://x/y", "https://"]);
        assert_eq!(linked("http://"), "<a href=\"http://\" rel=\"noreferrer\">http://</a>");
    }
}
