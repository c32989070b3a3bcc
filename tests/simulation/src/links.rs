//! The links in mails, as their recipients find them.

use tidings_memory::TakenMail;

/// The path of the confirm link in `mail`.
pub(crate) fn confirm(mail: &TakenMail) -> Option<String> {
    let parsed = mail_parser::MessageParser::default().parse(&mail.message[..])?;
    let text = parsed.body_text(0)?;
    let at = text.find("/confirm/")?;
    Some(text[at..].split_whitespace().next()?.to_owned())
}

/// The path of the one-click link in `mail` (RFC 8058).
pub(crate) fn unsubscribe(mail: &TakenMail) -> Option<String> {
    let header = mail.header("List-Unsubscribe")?;
    let at = header.find("/unsubscribe/")?;
    Some(header[at..].split('>').next()?.to_owned())
}
