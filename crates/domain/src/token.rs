//! Tokens of links in mails: `<subscription id>.<act>.<generation>[.<expiry>].<HMAC-SHA-256>`; nothing is stored.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{id::SubscriptionId, subscription::Act, time::Timestamp};

/// The installation's secret: 32 bytes that provisioning puts into the store, or `TIDINGS_SECRET`.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From its bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for the store.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose subscription.
    pub subscription: SubscriptionId,
    /// What to do with it.
    pub act: Act,
    /// The generation that it was made in.
    pub generation: u32,
    /// Until when it works; unsubscribe tokens never expire.
    pub expires_at: Option<Timestamp>,
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Malformed, or not signed by us.
    #[error("the link is not valid")]
    Forged,
    /// Its time is over.
    #[error("the link has expired")]
    Expired,
}

impl Token {
    /// The signed text, safe in a URL's path.
    pub fn sign(&self, secret: &Secret) -> String {
        let claims = self.claims();
        format!("{claims}.{}", hex(&mac(secret, &claims).finalize().into_bytes()))
    }

    /// Reads a signed text. The signature is compared in constant time.
    pub fn verify(text: &str, secret: &Secret, now: Timestamp) -> Result<Self, InvalidToken> {
        let (claims, signature) = text.rsplit_once('.').ok_or(InvalidToken::Forged)?;
        let signature = unhex(signature).ok_or(InvalidToken::Forged)?;
        mac(secret, claims).verify_slice(&signature).map_err(|_| InvalidToken::Forged)?;
        let token = Self::read(claims).ok_or(InvalidToken::Forged)?;
        match token.expires_at {
            Some(expires_at) if expires_at <= now => Err(InvalidToken::Expired),
            _ => Ok(token),
        }
    }

    fn claims(&self) -> String {
        let (id, generation) = (self.subscription.0.simple(), self.generation);
        match self.expires_at {
            Some(at) => format!("{id}.confirm.{generation}.{}", at.as_millis() / 1000),
            None => format!("{id}.{}.{generation}", act_word(self.act)),
        }
    }

    fn read(claims: &str) -> Option<Self> {
        let mut parts = claims.split('.');
        let subscription = SubscriptionId::parse(parts.next()?)?;
        let act = match parts.next()? {
            "confirm" => Act::Confirm,
            "unsubscribe" => Act::Unsubscribe,
            _ => return None,
        };
        let generation = parts.next()?.parse().ok()?;
        let expires_at = match (act, parts.next()) {
            (Act::Confirm, Some(at)) => {
                Some(Timestamp::from_millis(at.parse::<i64>().ok()?.checked_mul(1000)?))
            }
            (Act::Unsubscribe, None) => None,
            _ => return None,
        };
        parts.next().is_none().then_some(Self { subscription, act, generation, expires_at })
    }
}

fn act_word(act: Act) -> &'static str {
    match act {
        Act::Confirm => "confirm",
        Act::Unsubscribe => "unsubscribe",
    }
}

fn mac(secret: &Secret, claims: &str) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes a key of any length");
    mac.update(claims.as_bytes());
    mac
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || text.len() != 64 {
        return None;
    }
    (0..64).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_signed_and_in_time() {
        let secret = Secret::new([7; 32]);
        let now = Timestamp::from_millis(1_000_000);
        let expires_at = Some(Timestamp::from_millis(2_000_000));
        let subscription = SubscriptionId(uuid::Uuid::from_u128(9));
        let token = Token { subscription, act: Act::Confirm, generation: 3, expires_at };
        let text = token.sign(&secret);
        assert_eq!(Token::verify(&text, &secret, now), Ok(token));
        assert_eq!(
            Token::verify(&text, &secret, Timestamp::from_millis(2_000_000)),
            Err(InvalidToken::Expired)
        );
        assert_eq!(Token::verify(&text, &Secret::new([8; 32]), now), Err(InvalidToken::Forged));
        assert_eq!(
            Token::verify(&text.replace("confirm", "unsubscribe"), &secret, now),
            Err(InvalidToken::Forged)
        );
        for guess in ["", ".", "a.b.c", "é.é", &"x".repeat(500)] {
            assert_eq!(Token::verify(guess, &secret, now), Err(InvalidToken::Forged));
        }
        let forever = Token { subscription, act: Act::Unsubscribe, generation: 3, expires_at: None };
        assert_eq!(Token::verify(&forever.sign(&secret), &secret, Timestamp::MAX), Ok(forever));
    }
}
