//! A text that is nobody's business: a password or a passphrase on its way through the program.
//!
//! It does not print, so that it cannot end up in a log by way of a struct that does, and it is wiped from memory when it
//! goes. What libraries copied on the way, such as a read buffer, is not; core dumps are off for that reason.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A secret text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text itself. Keep it no longer than needed.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<Zeroizing<String>> for Secret {
    fn from(text: Zeroizing<String>) -> Self {
        Secret(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Secret(Zeroizing::new(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_travels_and_does_not_print() {
        let secret = Secret::from(Zeroizing::new("con trâu".to_owned()));
        let json = serde_json::to_string(&secret).unwrap();
        assert_eq!(json, "\"con trâu\"");
        let back: Secret = serde_json::from_str(&json).unwrap();
        assert_eq!((back.expose(), format!("{back:?} {:?}", Some(&back))), ("con trâu", "Secret Some(Secret)".into()));
    }
}
