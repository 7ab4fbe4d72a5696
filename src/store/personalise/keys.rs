//! A new client's own secrets: SSH host keys and its machine-id.
//!
//! Randomness from the kernel; no files. RSA is left out: 3072 bits take a
//! Pi seconds to make, and every OpenSSH since 6.5 (2014) takes Ed25519.

use rand_core::OsRng;
use ssh_key::{Algorithm, EcdsaCurve, LineEnding, PrivateKey};

/// One host key as OpenSSH keeps it.
#[derive(Debug)]
pub struct HostKey {
    /// `ed25519` or `ecdsa`, as in `ssh_host_<kind>_key`.
    pub kind: &'static str,
    pub private: String,
    pub public: String,
}

/// Makes the host keys of one client.
pub fn host_keys(role: &str) -> Result<Vec<HostKey>, ssh_key::Error> {
    let kinds = [("ed25519", Algorithm::Ed25519), ("ecdsa", Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 })];
    let make = |(kind, algorithm)| {
        let mut key = PrivateKey::random(&mut OsRng, algorithm)?;
        key.set_comment(format!("root@{role}"));
        let private = key.to_openssh(LineEnding::LF)?.to_string();
        let mut public = key.public_key().to_openssh()?;
        public.push('\n');
        Ok(HostKey { kind, private, public })
    };
    kinds.into_iter().map(make).collect()
}

/// A machine-id: 32 hexadecimal digits (machine-id(5)), marked as a random
/// UUID as systemd's own are.
pub fn machine_id() -> Result<String, rustix::io::Errno> {
    let mut bytes = [0u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_ids_are_well_formed_and_never_the_same() {
        let (one, two) = (host_keys("pi-1").unwrap(), host_keys("pi-2").unwrap());
        for (a, b) in one.iter().zip(&two) {
            assert_ne!(a.public.split(' ').nth(1), b.public.split(' ').nth(1));
            let read = PrivateKey::from_openssh(&a.private).unwrap();
            assert_eq!(read.public_key().to_openssh().unwrap() + "\n", a.public);
        }
        assert!(one[0].public.starts_with("ssh-ed25519 ") && one[0].public.ends_with(" root@pi-1\n"));
        let id = machine_id().unwrap();
        assert!(id.len() == 32 && id != machine_id().unwrap());
    }
}
