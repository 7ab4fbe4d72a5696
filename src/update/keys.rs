//! Who may sign updates: OpenSSH keys and signatures (Ed25519), so that a person can
//! make a key and check a signature with `ssh-keygen` too. Pure.
//!
//! The image holds one public key, and a person may put an own one on the card's
//! settings partition: whoever holds the card in hand may decide what it runs.

use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey, SshSig};

/// The public key's name in `/etc/rootstock`, on the settings partition and in `/run/rootstock`.
pub const KEY_FILE: &str = "update.pub";
/// Longest key file; one line of Ed25519 has a hundred bytes.
pub const MAX_KEY_BYTES: u64 = 4096;
/// `ssh-keygen -Y verify -n rootstock-update`: a signature for anything else is none for an update.
pub const NAMESPACE: &str = "rootstock-update";

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    #[error("{KEY_FILE} is damaged: it is no OpenSSH public key")]
    Damaged,
    #[error("the key is {0}, not ssh-ed25519")]
    NotEd25519(String),
    #[error("this is no OpenSSH private key")]
    NoPrivateKey,
    #[error("the private key has a passphrase; take one without")]
    Encrypted,
    #[error("the signature is damaged")]
    Signature,
    #[error("signed by an unknown key")]
    UnknownSigner,
    #[error("the signature is not of this update")]
    Mismatch,
    #[error("this system holds no key for updates")]
    NoKey,
    #[error("signing failed")]
    Sign,
}

/// A line of a `.pub` file.
pub fn public(text: &[u8]) -> Result<PublicKey, KeyError> {
    let text = std::str::from_utf8(text).map_err(|_| KeyError::Damaged)?;
    let key = PublicKey::from_openssh(text.trim()).map_err(|_| KeyError::Damaged)?;
    match key.algorithm() {
        Algorithm::Ed25519 => Ok(key),
        other => Err(KeyError::NotEd25519(other.to_string())),
    }
}

/// A private key file without a passphrase, as `ssh-keygen -t ed25519 -N ''` writes it.
pub fn private(text: &[u8]) -> Result<PrivateKey, KeyError> {
    let key = PrivateKey::from_openssh(text).map_err(|_| KeyError::NoPrivateKey)?;
    match key.algorithm() {
        _ if key.is_encrypted() => Err(KeyError::Encrypted),
        Algorithm::Ed25519 => Ok(key),
        other => Err(KeyError::NotEd25519(other.to_string())),
    }
}

/// A signature over `message`, as text.
pub fn sign(key: &PrivateKey, message: &[u8]) -> Result<String, KeyError> {
    let signature = key.sign(NAMESPACE, HashAlg::Sha512, message).map_err(|_| KeyError::Sign)?;
    signature.to_pem(LineEnding::LF).map_err(|_| KeyError::Sign)
}

/// Whether one of `trusted` signed `message`.
pub fn verify(trusted: &[PublicKey], message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
    if trusted.is_empty() {
        return Err(KeyError::NoKey);
    }
    let signature = SshSig::from_pem(signature).map_err(|_| KeyError::Signature)?;
    let key = trusted.iter().find(|key| key.key_data() == signature.public_key()).ok_or(KeyError::UnknownSigner)?;
    key.verify(NAMESPACE, message, &signature).map_err(|_| KeyError::Mismatch)
}

#[cfg(test)]
pub(crate) mod tests {
    use ssh_key::private::Ed25519Keypair;

    use super::*;

    /// The same key each time.
    pub fn key(seed: u8) -> PrivateKey {
        PrivateKey::from(Ed25519Keypair::from_seed(&[seed; 32]))
    }

    #[test]
    fn only_a_trusted_keys_signature_of_this_message_is_good() {
        let (ours, other) = (key(1), key(2));
        let trusted = [ours.public_key().clone()];
        let signature = sign(&ours, b"message").unwrap();
        let check = |trusted: &[PublicKey], message: &[u8], signature: &str, expected| {
            assert_eq!(verify(trusted, message, signature.as_bytes()), expected);
        };
        check(&trusted, b"message", &signature, Ok(()));
        check(&trusted, b"another", &signature, Err(KeyError::Mismatch));
        check(&trusted, b"message", &sign(&other, b"message").unwrap(), Err(KeyError::UnknownSigner));
        check(&trusted, b"message", "", Err(KeyError::Signature));
        check(&trusted, b"message", &signature[..signature.len() / 2], Err(KeyError::Signature));
        check(&[], b"message", &signature, Err(KeyError::NoKey));
        let elsewhere = ours.sign("file", HashAlg::Sha512, b"message").unwrap().to_pem(LineEnding::LF).unwrap();
        check(&trusted, b"message", &elsewhere, Err(KeyError::Mismatch));
    }

    #[test]
    fn keys_are_read_as_openssh_writes_them_and_wrong_ones_are_told() {
        let line = key(1).public_key().to_openssh().unwrap();
        assert_eq!(public(format!("{line} me@home\n").as_bytes()).unwrap().key_data(), key(1).public_key().key_data());
        for damaged in ["", "ssh-ed25519", "ssh-ed25519 AAAA", &line[..line.len() - 9], "\u{fffd}"] {
            assert_eq!(public(damaged.as_bytes()).unwrap_err(), KeyError::Damaged, "{damaged:?}");
        }
        let text = key(1).to_openssh(LineEnding::LF).unwrap();
        assert!(private(text.as_bytes()).is_ok());
        assert_eq!(private(line.as_bytes()).unwrap_err(), KeyError::NoPrivateKey);
    }
}
