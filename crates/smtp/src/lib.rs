//! The [`Mail`](tidings_domain::ports::Mail) port over SMTP (RFC 5321).
//!
//! lettre speaks the protocol on a stream of ours that sends every write at once (no Nagle delay) and brings replies into
//! the form that lettre reads. Each connection belongs to a task of its own: a caller talks to it through channels, so that a caller who goes away in the middle
//! never leaves it out of step. It is used again only after a clean finish. Every phase has a deadline.
//!
//! What a failure means:
//!
//! | phase | 4xx | 5xx | connection lost, deadline, no proper reply |
//! |---|---|---|---|
//! | connect, greeting, EHLO, STARTTLS | unavailable | unavailable | unavailable |
//! | AUTH | unavailable | login | unavailable |
//! | MAIL FROM | transient, 421 unavailable | login | unavailable |
//! | RCPT TO | transient, 421 unavailable | recipient; a policy code (5.7) permanent; 530 and 535 login | unavailable |
//! | DATA, before its 354 | transient, 421 unavailable | permanent | unavailable: without a 354 no mail was begun |
//! | the mail | transient | permanent | **unknown** |
//!
//! *Unavailable* at RCPT TO or DATA can be one recipient's doing; whoever sends should `ping` before it takes the whole
//! server for away.

mod connection;
mod failure;
mod mail;
mod pool;
mod session;
mod settings;
mod stream;
mod upgrade;

pub use mail::SmtpMail;
pub use settings::{Deadlines, Login, SmtpSettings, Tls};
