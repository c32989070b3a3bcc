//! A text as the body of a mail: encoded once for all its recipients, each of whom has a footer of their own.

use lettre::message::{Body, header::ContentTransferEncoding};

/// The longest line that SMTP carries, without its line break (RFC 5321, 4.5.3.1.6).
const MAX_LINE_BYTES: usize = 998;

/// Bytes that one line of base64 holds.
const BASE64_LINE_BYTES: usize = 57;

/// A text of which all but the end is encoded.
#[derive(Clone, Debug)]
pub(crate) struct EncodedText {
    encoding: ContentTransferEncoding,
    start: Vec<u8>,
    /// What base64 leaves for the line that the footer begins on.
    rest: String,
}

impl EncodedText {
    /// Encodes `text`, byte for byte but for its line breaks, which become CRLF as mail has them. A CR alone is kept (by
    /// an encoding that can). Takes what is shortest: as it is, quoted-printable or base64.
    pub(crate) fn new(text: &str) -> Self {
        let mut text = crlf(text);
        if !text.ends_with("\r\n") {
            text.push_str("\r\n");
        }
        match choose(&text) {
            ContentTransferEncoding::Base64 => {
                let mut whole = text.len() - text.len() % BASE64_LINE_BYTES;
                // A footer is text: it begins at a character.
                while !text.is_char_boundary(whole) {
                    whole -= BASE64_LINE_BYTES;
                }
                let rest = text.split_off(whole);
                Self { encoding: ContentTransferEncoding::Base64, start: base64(text), rest }
            }
            ContentTransferEncoding::QuotedPrintable => Self {
                encoding: ContentTransferEncoding::QuotedPrintable,
                start: quoted_printable(text),
                rest: String::new(),
            },
            encoding => Self { encoding, start: text.into_bytes(), rest: String::new() },
        }
    }

    /// The `Content-Transfer-Encoding`.
    pub(crate) fn encoding(&self) -> ContentTransferEncoding {
        self.encoding
    }

    /// Writes the body: the text, an empty line, and `footer`, which is ASCII in short lines.
    pub(crate) fn write(&self, footer: &str, out: &mut Vec<u8>) {
        let footer = format!("{}\r\n{}", self.rest, crlf(footer));
        out.reserve(self.start.len() + 2 * footer.len());
        out.extend_from_slice(&self.start);
        match self.encoding {
            ContentTransferEncoding::Base64 => {
                out.extend_from_slice(&base64(footer));
            }
            ContentTransferEncoding::QuotedPrintable => out.extend_from_slice(&quoted_printable(footer)),
            _ => out.extend_from_slice(footer.as_bytes()),
        }
        if !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// `text` with CRLF for every LF; a CR that is followed by none stays.
pub(crate) fn crlf(text: &str) -> String {
    let mut result = String::with_capacity(text.len() + text.len() / 32);
    for line in text.split_inclusive('\n') {
        match line.strip_suffix('\n') {
            Some(line) => {
                result.push_str(line.strip_suffix('\r').unwrap_or(line));
                result.push_str("\r\n");
            }
            None => result.push_str(line),
        }
    }
    result
}

fn choose(text: &str) -> ContentTransferEncoding {
    let lines = || text.split("\r\n");
    if text.is_ascii() && lines().all(|line| line.len() <= MAX_LINE_BYTES && !line.contains('\r')) {
        return ContentTransferEncoding::SevenBit;
    }
    // Quoted-printable triples what it must escape, base64 adds a third to everything.
    let escaped = text.bytes().filter(|byte| !byte.is_ascii() || *byte == b'=').count();
    if escaped <= text.len() / 6 {
        ContentTransferEncoding::QuotedPrintable
    } else {
        ContentTransferEncoding::Base64
    }
}

fn quoted_printable(text: String) -> Vec<u8> {
    encode(text.into(), ContentTransferEncoding::QuotedPrintable)
}

/// Whole lines, each with its CRLF.
fn base64(text: String) -> Vec<u8> {
    let mut encoded = encode(text.into_bytes().into(), ContentTransferEncoding::Base64);
    if !encoded.is_empty() {
        encoded.extend_from_slice(b"\r\n");
    }
    encoded
}

fn encode(text: lettre::message::MaybeString, encoding: ContentTransferEncoding) -> Vec<u8> {
    Body::new_with_encoding(text, encoding).map_or_else(|text| text, Body::into_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> (ContentTransferEncoding, String) {
        let text = EncodedText::new(text);
        let mut out = Vec::new();
        text.write("-- \nfooter\n", &mut out);
        (text.encoding(), String::from_utf8(out).unwrap())
    }

    fn decoded(text: &str) -> String {
        let (encoding, body) = encoded(text);
        assert!(body.is_ascii() && body.ends_with("\r\n"), "{body:?}");
        for line in body.strip_suffix("\r\n").unwrap().split("\r\n") {
            assert!(line.len() <= MAX_LINE_BYTES && !line.contains(['\r', '\n']), "{line:?}");
        }
        match encoding {
            ContentTransferEncoding::Base64 => {
                use base64::Engine as _;
                let lines: Vec<_> = body.split("\r\n").collect();
                assert!(lines.iter().all(|line| line.len() <= 76), "{body}");
                let bytes = base64::prelude::BASE64_STANDARD.decode(lines.concat()).unwrap();
                String::from_utf8(bytes).unwrap()
            }
            ContentTransferEncoding::QuotedPrintable => {
                let mut bytes = Vec::new();
                let joined = body.replace("=\r\n", "");
                let mut rest = joined.as_bytes();
                while let Some((&first, after)) = rest.split_first() {
                    if first == b'=' {
                        let hex = std::str::from_utf8(&after[..2]).unwrap();
                        bytes.push(u8::from_str_radix(hex, 16).unwrap());
                        rest = &after[2..];
                    } else {
                        bytes.push(first);
                        rest = after;
                    }
                }
                String::from_utf8(bytes).unwrap()
            }
            _ => body,
        }
    }

    const FOOTER: &str = "\r\n-- \r\nfooter\r\n";

    #[test]
    fn every_text_comes_out_as_it_went_in() {
        let long = "x".repeat(3000);
        let japanese = "日本語のメッセージ。".repeat(300);
        let mixed = format!("Grüße, {long}\n.\n= {} \t", "ü".repeat(20));
        for text in ["x", "a\nb\r\n", "tab\t\n trailing \n", ".\n..\nFrom x\n", &long, &japanese, &mixed, "é"]
        {
            assert_eq!(
                decoded(text),
                format!("{}\r\n{FOOTER}", crlf(text).trim_end_matches("\r\n")),
                "{text}"
            );
        }
        for end in 0..80 {
            let text = format!("{}{}", "日".repeat(40), "x".repeat(end));
            assert_eq!(decoded(&text), format!("{text}\r\n{FOOTER}"));
        }
        assert_eq!(decoded("a\rb\r\r\nc"), format!("a\rb\r\r\nc\r\n{FOOTER}"));
    }

    #[test]
    fn the_shortest_encoding_is_taken() {
        assert_eq!(encoded("plain").0, ContentTransferEncoding::SevenBit);
        assert_eq!(encoded("mostly plain, with an ü in it").0, ContentTransferEncoding::QuotedPrintable);
        assert_eq!(encoded(&"x".repeat(999)).0, ContentTransferEncoding::QuotedPrintable);
        assert_eq!(encoded("日本語").0, ContentTransferEncoding::Base64);
        assert_eq!(encoded("a\rb").0, ContentTransferEncoding::QuotedPrintable);
    }

    #[test]
    fn a_text_of_line_breaks_is_no_burden() {
        // Converted one by one in place, this many would take seconds.
        assert_eq!(EncodedText::new(&"\n".repeat(255 * 1024)).start.len(), 2 * 255 * 1024);
    }
}
