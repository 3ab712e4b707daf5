//! Lists the files of the Python SDK, which the binary carries.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes `sdk.rs`: a slice of (name, bytes) of each file of the package.
pub(crate) fn list(out: &Path) -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from("../../python/tidegate").canonicalize()?;
    println!("cargo::rerun-if-changed={}", package.display());
    println!("cargo::rerun-if-changed=build/sdk.rs");
    let mut files: Vec<PathBuf> = fs::read_dir(&package)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| {
        file.extension()
            .is_some_and(|ending| ending == "py" || ending == "typed")
    });
    files.sort();
    let mut text = String::from("&[\n");
    for file in &files {
        println!("cargo::rerun-if-changed={}", file.display());
        let name = file.file_name().unwrap_or_default();
        writeln!(text, "    ({name:?}, include_bytes!({file:?}).as_slice()),")?;
    }
    text.push(']');
    fs::write(out.join("sdk.rs"), text)?;
    Ok(())
}
