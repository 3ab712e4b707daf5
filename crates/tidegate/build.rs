//! Asks the linker for packed relative relocations where the C library knows them (glibc 2.36, DT_RELR): half a megabyte that every process
//! reads when it starts, and then holds, becomes a few kilobytes. A linker that does not know the option says so and goes on.
//!
//! And, for what is published, has the functions that run put next to each other (`bench/order` says how and why).

use std::env;
use std::path::Path;
use std::process::Command;

/// The list of those functions, as an addition to the linker's own script: LLD and GNU's both take it.
const EARLY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/early.ld");

/// The first glibc that knows them.
const GLIBC: (u32, u32) = (2, 36);

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={EARLY}");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    let native = env::var("HOST").is_ok() && env::var("HOST") == env::var("TARGET");
    if native
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && glibc().is_some_and(|version| version >= GLIBC)
    {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    if is("CARGO_CFG_TARGET_OS", "linux") && is_dist() && Path::new(EARLY).exists() {
        println!("cargo::rustc-link-arg-bins=-Wl,-T,{EARLY}");
    }
}

/// Whether this is the profile `dist`, which Cargo tells by the name of its folder alone. Others are linked too often for a list of two
/// thousand names to be looked through each time.
fn is_dist() -> bool {
    let out = env::var("OUT_DIR").unwrap_or_default();
    let mut folders = Path::new(&out).ancestors().take(6);
    folders.any(|folder| folder.file_name().is_some_and(|name| name == "dist"))
}

/// The version of the C library here.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let text = String::from_utf8(said.ok()?.stdout).ok()?;
    let mut numbers = text.trim().strip_prefix("glibc ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
