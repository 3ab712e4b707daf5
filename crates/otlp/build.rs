//! Compiles OpenTelemetry's messages.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    let service = "opentelemetry/proto/collector/trace/v1/trace_service.proto";
    let set = protox::compile([service], ["proto"])?;
    prost_build::Config::new()
        .include_file("otlp.rs")
        // They are indented text, which rustdoc would take for code.
        .disable_comments(["."])
        .compile_fds(set)?;
    Ok(())
}
