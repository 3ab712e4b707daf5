//! Compiles the protocols of models: messages in Rust, and their description for gRPC's reflection.

#[path = "build/sdk.rs"]
mod sdk;

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use prost::Message;

/// What the doors speak.
const PROTOS: [&str; 3] = ["ai.proto", "inference.proto", "uploads.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    sdk::list(&PathBuf::from(env::var("OUT_DIR")?))?;
    let set = protox::compile(PROTOS, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("protocols.bin"), set.encode_to_vec())?;
    prost_build::Config::new()
        // Slices of the message that was read: no copy of a large input.
        .bytes(["."])
        .compile_fds(set)?;
    Ok(())
}
