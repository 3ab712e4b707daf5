//! SHA-256 as text: the hash of a configuration and the fingerprints of secrets.

/// SHA-256 in lower-case hexadecimal, 64 digits.
pub(crate) fn hex_sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
