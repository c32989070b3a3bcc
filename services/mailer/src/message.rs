//! The mails: what their headers and texts say. Nothing of a message but its text and subject comes into a mail.

use std::{fmt::Write as _, sync::Arc};

use bytes::Bytes;
use lettre::{
    Address,
    message::{
        Mailbox, Mailboxes,
        header::{self, Header, Headers},
    },
};
use minijinja::{Environment, context};
use tidings_domain::{
    Error, Result,
    address::EmailAddress,
    delivery::Delivery,
    item::Item,
    subscription::{Act, CONFIRMATION_LIFETIME, Subscription},
    time::Timestamp,
    token::{Secret, Token},
    topic::TopicName,
};

use crate::{
    body::{EncodedText, crlf},
    settings::Settings,
};

/// The longest address of our own in links, so that no header line comes near the 998 bytes that SMTP carries.
const MAX_PUBLIC_URL_BYTES: usize = 400;

/// Headers of every mail: written by a program, not to be answered by one (RFC 3834; MS-OXCMAIL).
const AUTOMATIC: &str = "Auto-Submitted: auto-generated\r\nX-Auto-Response-Suppress: All\r\n";

/// Writes mails.
pub(crate) struct Mails {
    /// The `From` header.
    from: String,
    /// The domain of message ids and list ids.
    domain: String,
    public_url: String,
    secret: Secret,
    templates: Environment<'static>,
}

/// What all mails about one item have in common, made once.
pub(crate) struct PreparedItem {
    /// When the message was accepted.
    pub(crate) accepted_at: Timestamp,
    topic: TopicName,
    head: String,
    body: EncodedText,
}

impl Mails {
    /// *Misconfigured* when the sender or the public URL cannot stand in a mail.
    pub(crate) fn new(settings: &Settings, secret: Secret) -> Result<Self> {
        let url = settings.public_url.trim_end_matches('/');
        let visible = url.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"".contains(&byte));
        if !visible
            || url.len() > MAX_PUBLIC_URL_BYTES
            || !(url.starts_with("http://") || url.starts_with("https://"))
        {
            return Err(Error::misconfigured(format!(
                "public_url {url:?} cannot stand in a mail: write http:// or https:// and a host in ASCII"
            )));
        }
        if settings.mail_from_name.chars().any(char::is_control) {
            return Err(Error::misconfigured("mail_from_name holds a control character"));
        }
        let address: Address = settings
            .mail_from
            .as_str()
            .parse()
            .map_err(|error| Error::misconfigured("mail_from is no address").with_source(error))?;
        let name = Some(settings.mail_from_name.clone()).filter(|name| !name.is_empty());
        let mut templates = Environment::new();
        for (name, source) in [
            ("item.txt", include_str!("../templates/item.txt")),
            ("confirmation.txt", include_str!("../templates/confirmation.txt")),
        ] {
            templates
                .add_template(name, source)
                .map_err(|error| Error::misconfigured("a template of ours").with_source(error))?;
        }
        Ok(Self {
            from: line(header::From::from(Mailboxes::from(Mailbox::new(name, address)))),
            domain: settings.mail_from.domain().to_owned(),
            public_url: url.to_owned(),
            secret,
            templates,
        })
    }

    /// What all mails about `item` have in common; `topic_subject` stands in where the message has none of its own.
    pub(crate) fn prepare(&self, item: &Item, topic_subject: Option<&str>) -> Arc<PreparedItem> {
        let (message, topic) = (&item.message, &item.message.topic);
        let subject = message.subject.as_ref().map(|subject| subject.as_str()).or(topic_subject);
        let subject = subject.map_or_else(|| format!("New item on {topic}"), str::to_owned);
        let body = EncodedText::new(message.text.as_str());
        let mut head = self.head(subject, body.encoding());
        let _ = write!(head, "List-Id: <{topic}.{}>\r\n", self.domain);
        Arc::new(PreparedItem { accepted_at: message.accepted_at, topic: topic.clone(), head, body })
    }

    /// The mail of one delivery about an item.
    pub(crate) fn item(
        &self,
        prepared: &PreparedItem,
        delivery: &Delivery,
        subscription: &Subscription,
    ) -> Result<Bytes> {
        let token = Token {
            subscription: subscription.id,
            act: Act::Unsubscribe,
            generation: subscription.generation,
            expires_at: None,
        };
        let unsubscribe_url = format!("{}/unsubscribe/{}", self.public_url, token.sign(&self.secret));
        let topic = prepared.topic.as_str();
        let footer = self.render("item.txt", context! { topic, unsubscribe_url => &unsubscribe_url })?;
        let mut mail = self.start(delivery, &subscription.email, prepared.head.len() + 1024);
        // RFC 8058: one click, by a POST that needs nothing else.
        let _ = write!(
            mail,
            "List-Unsubscribe: <{unsubscribe_url}>\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
        );
        mail.push_str(&prepared.head);
        mail.push_str("\r\n");
        let mut mail = mail.into_bytes();
        prepared.body.write(&footer, &mut mail);
        Ok(mail.into())
    }

    /// The mail that asks a recipient to confirm. Strangers decide to whom it goes, so that it says nothing of theirs.
    pub(crate) fn confirmation(
        &self,
        delivery: &Delivery,
        subscription: &Subscription,
        now: Timestamp,
    ) -> Result<Bytes> {
        let token = Token {
            subscription: subscription.id,
            act: Act::Confirm,
            generation: delivery.key.round,
            expires_at: Some(now.plus(CONFIRMATION_LIFETIME)),
        };
        let confirm_url = format!("{}/confirm/{}", self.public_url, token.sign(&self.secret));
        let (topic, hours) = (subscription.topic.as_str(), CONFIRMATION_LIFETIME.as_secs() / 3600);
        let text = self.render("confirmation.txt", context! { topic, hours, confirm_url })?;
        let mut mail = self.start(delivery, &subscription.email, text.len() + 1024);
        let subject = format!("Confirm your subscription to {topic}");
        mail.push_str(&self.head(subject, header::ContentTransferEncoding::SevenBit));
        mail.push_str("\r\n");
        // Templates lose their last line break.
        mail.push_str(&crlf(&text));
        mail.push_str("\r\n");
        Ok(mail.into_bytes().into())
    }

    /// The headers that differ from mail to mail. The date is the delivery's, so that another attempt is the same mail.
    fn start(&self, delivery: &Delivery, to: &EmailAddress, capacity: usize) -> String {
        let mut mail = String::with_capacity(capacity);
        let (date, id) = (delivery.created_at.to_rfc2822(), delivery.key.message_id(&self.domain));
        let _ = write!(mail, "Date: {date}\r\nMessage-ID: <{id}>\r\nTo: {}\r\n", to.as_str());
        mail
    }

    /// The headers that are the same for all mails of a kind.
    fn head(&self, subject: String, encoding: header::ContentTransferEncoding) -> String {
        let mut head = self.from.clone();
        head.push_str(&line(header::Subject::from(subject)));
        head.push_str(AUTOMATIC);
        head.push_str(&line(header::MIME_VERSION_1_0));
        head.push_str(&line(header::ContentType::TEXT_PLAIN));
        head.push_str(&line(encoding));
        head
    }

    fn render(&self, template: &str, values: minijinja::Value) -> Result<String> {
        self.templates
            .get_template(template)
            .and_then(|template| template.render(values))
            .map_err(|error| Error::transient(format!("render {template}")).with_source(error))
    }
}

/// One header as mail has it, encoded and folded.
fn line<H: Header>(header: H) -> String {
    let mut headers = Headers::new();
    headers.set(header);
    headers.to_string()
}
