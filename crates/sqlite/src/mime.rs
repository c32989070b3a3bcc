//! Reading mails as far as the mail catcher shows and searches them: the subject (RFC 2047) and the plain text (RFC 2045,
//! 2046). What is malformed is read as it stands, never an error.

use base64::{Engine, alphabet, engine};

/// How deep parts may lie in each other.
const MAX_DEPTH: u32 = 8;

/// Takes what mails hold: line breaks are taken out before, padding may be missing.
const BASE64: engine::GeneralPurpose = engine::GeneralPurpose::new(
    &alphabet::STANDARD,
    engine::GeneralPurposeConfig::new().with_decode_padding_mode(engine::DecodePaddingMode::Indifferent),
);

/// The decoded subject; empty where there is none.
pub(crate) fn subject(source: &[u8]) -> String {
    let (head, _) = split(source);
    header(&head, "subject").map(|subject| decode_words(&subject)).unwrap_or_default()
}

/// The decoded text of all text parts but HTML; where there is only HTML, that.
pub(crate) fn text(source: &[u8]) -> String {
    let mut parts = Vec::new();
    collect(source, 0, &mut parts);
    let plain = parts.iter().any(|(html, _)| !html);
    let wanted = parts.into_iter().filter(|(html, _)| !plain || !html).map(|(_, text)| text);
    wanted.collect::<Vec<_>>().join("\n")
}

fn collect(part: &[u8], depth: u32, parts: &mut Vec<(bool, String)>) {
    let (head, body) = split(part);
    let content_type = header(&head, "content-type").unwrap_or_else(|| "text/plain".to_owned());
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind.starts_with("multipart/") && depth < MAX_DEPTH {
        if let Some(boundary) = parameter(&content_type, "boundary") {
            for part in divide(body, &boundary) {
                collect(part, depth + 1, parts);
            }
        }
    } else if kind.starts_with("text/") {
        let encoding = header(&head, "content-transfer-encoding").unwrap_or_default();
        let decoded = match encoding.trim().to_ascii_lowercase().as_str() {
            "base64" => base64(body).unwrap_or_else(|| body.to_vec()),
            "quoted-printable" => quoted_printable(body, false),
            _ => body.to_vec(),
        };
        let charset = parameter(&content_type, "charset").unwrap_or_default();
        parts.push((kind == "text/html", characters(&decoded, &charset)));
    }
}

/// The header lines, unfolded, and the body.
fn split(part: &[u8]) -> (String, &[u8]) {
    let mut at = 0;
    while at < part.len() {
        let end = part[at..].iter().position(|byte| *byte == b'\n').map_or(part.len(), |end| at + end + 1);
        if matches!(&part[at..end], b"\n" | b"\r\n") {
            return (unfold(&part[..at]), &part[end..]);
        }
        at = end;
    }
    (unfold(part), &[])
}

/// RFC 5322, 2.2.3.
fn unfold(head: &[u8]) -> String {
    let head = String::from_utf8_lossy(head).replace("\r\n", "\n");
    head.replace("\n ", " ").replace("\n\t", "\t")
}

fn header(head: &str, name: &str) -> Option<String> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
}

fn parameter(value: &str, name: &str) -> Option<String> {
    value
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(found, _)| found.trim().eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().trim_matches('"').to_owned())
}

/// RFC 2046, 5.1.1: the parts between the delimiters, without the line break that belongs to each delimiter.
fn divide<'a>(body: &'a [u8], boundary: &str) -> Vec<&'a [u8]> {
    let delimiter = format!("--{boundary}");
    let (mut parts, mut begin, mut at) = (Vec::new(), None, 0);
    while at < body.len() {
        let end = body[at..].iter().position(|byte| *byte == b'\n').map_or(body.len(), |end| at + end + 1);
        let line = body[at..end].trim_ascii_end();
        if let Some(rest) = line.strip_prefix(delimiter.as_bytes())
            && matches!(rest, b"" | b"--")
        {
            if let Some(begin) = begin {
                let part: &[u8] = &body[begin..at];
                let part = part.strip_suffix(b"\n").unwrap_or(part);
                parts.push(part.strip_suffix(b"\r").unwrap_or(part));
            }
            if rest == b"--" {
                return parts;
            }
            begin = Some(end);
        }
        at = end;
    }
    if let Some(begin) = begin {
        parts.push(&body[begin.min(body.len())..]);
    }
    parts
}

/// RFC 2047: decodes encoded words; white space between two of them is no part of the text.
fn decode_words(text: &str) -> String {
    let mut decoded = String::new();
    let mut rest = text;
    let mut after_word = false;
    while let Some(begin) = rest.find("=?") {
        let Some((word, length)) = word(&rest[begin..]) else {
            let end = begin + 2;
            decoded.push_str(&rest[..end]);
            rest = &rest[end..];
            after_word = false;
            continue;
        };
        let between = &rest[..begin];
        if !(after_word && between.trim().is_empty()) {
            decoded.push_str(between);
        }
        decoded.push_str(&word);
        rest = &rest[begin + length..];
        after_word = true;
    }
    decoded.push_str(rest);
    decoded
}

/// The encoded word that `text` begins with, and its length.
fn word(text: &str) -> Option<(String, usize)> {
    let mut fields = text.get(2..)?.splitn(4, '?');
    let (charset, encoding, encoded, rest) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let rest = rest.strip_prefix('=')?;
    let bytes = match encoding {
        "B" | "b" => base64(encoded.as_bytes())?,
        "Q" | "q" => quoted_printable(encoded.as_bytes(), true),
        _ => return None,
    };
    Some((characters(&bytes, charset), text.len() - rest.len()))
}

fn base64(body: &[u8]) -> Option<Vec<u8>> {
    let body: Vec<u8> = body.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    BASE64.decode(body).ok()
}

/// RFC 2045, 6.7; in a header `_` is a space (RFC 2047, 4.2).
fn quoted_printable(body: &[u8], in_header: bool) -> Vec<u8> {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(body.len());
    let mut at = 0;
    while at < body.len() {
        match body[at] {
            b'=' => match (hex(body.get(at + 1)), hex(body.get(at + 2))) {
                (Some(high), Some(low)) => {
                    decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                    at += 2;
                }
                _ if body[at + 1..].starts_with(b"\r\n") => at += 2,
                _ if body[at + 1..].starts_with(b"\n") => at += 1,
                _ => decoded.push(b'='),
            },
            b'_' if in_header => decoded.push(b' '),
            byte => decoded.push(byte),
        }
        at += 1;
    }
    decoded
}

/// Latin-1 where the charset says so, else UTF-8 with replacement.
fn characters(bytes: &[u8], charset: &str) -> String {
    match charset.to_ascii_lowercase().as_str() {
        "iso-8859-1" | "latin1" => bytes.iter().copied().map(char::from).collect(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_are_decoded() {
        let of = |subject: &str| super::subject(format!("From: a\r\nSubject: {subject}\r\n\r\nx").as_bytes());
        assert_eq!(of("plain =? text"), "plain =? text");
        assert_eq!(of("=?utf-8?b?R3LDvMOfZQ==?="), "Grüße");
        assert_eq!(of("=?UTF-8?Q?a_b=C3=BC?=\r\n =?UTF-8?Q?c?= d"), "a büc d");
        assert_eq!(of("a =?iso-8859-1?Q?=FC?= b"), "a ü b");
        assert_eq!(super::subject(b"garbage"), "");
        assert_eq!(super::subject(b""), "");
    }

    #[test]
    fn texts_are_found_in_parts() {
        let mail = b"Subject: x\r\nContent-Type: multipart/alternative;\r\n boundary=\"=_b\"\r\n\r\npreamble\r\n\
            --=_b\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
            Gr=C3=BC=\r\n=C3=9Fe\r\n--=_b\r\nContent-Type: text/html\r\n\r\n<b>x</b>\r\n--=_b--\r\nend";
        assert_eq!(text(mail), "Grüße");
        assert_eq!(text(b"Content-Transfer-Encoding: base64\r\n\r\nR3LD\r\nvMOfZQ==\r\n"), "Grüße");
        assert_eq!(text(b"Content-Type: text/html\r\n\r\n<b>"), "<b>");
        assert_eq!(text(b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\nopen"), "open");
        assert_eq!(text(b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x"), "");
    }
}
