//! Messages of the protocols, compiled from `proto/`.

#![allow(missing_docs, unreachable_pub, clippy::all)]

/// `ai.AI`, wire-compatible with aipod.
pub mod ai {
    include!(concat!(env!("OUT_DIR"), "/ai.rs"));
}

/// The Open Inference Protocol, version 2.
pub mod inference {
    include!(concat!(env!("OUT_DIR"), "/inference.rs"));
}

/// Uploads that go on where they broke.
pub mod uploads {
    include!(concat!(env!("OUT_DIR"), "/tidegate.rs"));
}

/// All of them described, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/protocols.bin"));
