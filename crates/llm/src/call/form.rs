//! The model's name in a multipart form (RFC 7578). The form itself passes as it is.

use std::ops::Range;

use memchr::memmem;

use crate::fault::{Fault, FaultKind};

/// Fields are looked through up to here; the SDKs put the small fields anywhere, so files in front of them are stepped over
/// part by part.
const MOST_PARTS: usize = 64;

/// The span of the content of the field `model`.
pub(super) fn model(content_type: &str, body: &[u8]) -> Result<Range<usize>, Fault> {
    let not_a_form = || Fault::new(FaultKind::BadField, "the body is no multipart form");
    let boundary = boundary(content_type).ok_or_else(not_a_form)?;
    let delimiter = format!("--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let mut at = finder.find(body).ok_or_else(not_a_form)? + delimiter.len();
    for _ in 0..MOST_PARTS {
        // `--` after a delimiter ends the form.
        let Some(rest) = body.get(at..).filter(|rest| rest.starts_with(b"\r\n")) else {
            break;
        };
        let head = memmem::find(rest, b"\r\n\r\n").ok_or_else(not_a_form)?;
        let start = at + head + 4;
        let end = start + finder.find(&body[start..]).ok_or_else(not_a_form)?;
        if name(&body[at..start]) == Some("model") {
            let content = start..end.saturating_sub(2).max(start);
            if content.is_empty() || content.len() > 256 {
                break;
            }
            return Ok(content);
        }
        at = end + delimiter.len();
    }
    Err(Fault::new(FaultKind::MissingModel, "the form has no field model").at("model"))
}

/// The parameter of the content type.
fn boundary(content_type: &str) -> Option<&str> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        // RFC 2046: 1 to 70 characters.
        (name.trim().eq_ignore_ascii_case("boundary") && (1..=70).contains(&value.len()))
            .then_some(value)
    })
}

/// The name of a part.
fn name(head: &[u8]) -> Option<&str> {
    let head = std::str::from_utf8(head).ok()?;
    head.split("\r\n").find_map(|line| {
        let (header, value) = line.split_once(':')?;
        if !header.trim().eq_ignore_ascii_case("content-disposition") {
            return None;
        }
        value.split(';').skip(1).find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("name")
                .then_some(value.trim().trim_matches('"'))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=\"xyz\"";

    #[test]
    fn the_model_is_found_behind_a_file() {
        let body = b"--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nname=\"model\"\r\n\r\nno\r\n--xyz\r\ncontent-disposition: form-data; name=model\r\n\r\nwhisper-1\r\n--xyz--\r\n";
        let at = model(TYPE, body).unwrap();
        assert_eq!(&body[at], b"whisper-1");
    }

    #[test]
    fn what_is_no_form_is_a_fault() {
        for body in [
            &b""[..],
            b"--xyz",
            b"--xyz\r\nabc",
            b"--xyz\r\n\r\n",
            b"--xyz--",
        ] {
            assert!(model(TYPE, body).is_err());
        }
        assert!(model("multipart/form-data", b"--xyz\r\n").is_err());
    }
}
