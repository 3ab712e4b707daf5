//! Path normalisation: one spelling for one resource, before matching and for forwarding.
//!
//! A route is a security boundary for whoever writes "everything under /admin is refused". It only holds if no other
//! spelling of `/admin` reaches the upstream. The rules are RFC 3986 §6 as Envoy's `normalize_path` applies them,
//! with the open ends closed:
//!
//! | in the path | becomes |
//! |---|---|
//! | `.` and `..` segments, also spelled `%2e` | resolved; above the root they vanish |
//! | `//` | one slash (kept if [`PathPolicy::merge_slashes`] is off) |
//! | an escaped unreserved character (`%41`) | the character |
//! | other escapes | kept, hexadecimal digits in upper case (reserved characters mean something else when decoded) |
//! | `%2F`, `%5C` | refused; kept if [`PathPolicy::escaped_slashes`] says so, but never beside a dot segment |
//! | `%00`, a `%` without two digits, `\`, `#`, controls, spaces | refused |
//! | bytes above 0x7F | escaped |
//! | a segment `.;…` or `..;…` | refused: servlet containers drop the parameter and resolve the dots |
//!
//! A path that is already normal is borrowed: nothing is allocated for it. Normalising is idempotent.

use std::borrow::Cow;

use crate::request::hex_pair;

/// What to do where the standard leaves a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathPolicy {
    /// Whether several slashes become one. On by default: many upstreams do it, and then `//admin` is `/admin`.
    pub merge_slashes: bool,
    /// What an escaped slash or backslash does.
    pub escaped_slashes: EscapedSlashes,
}

/// What `%2F` and `%5C` in a path do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// The request is refused: upstreams disagree on what it names.
    #[default]
    Refuse,
    /// Kept and forwarded as written, for upstreams whose names hold slashes (`/v1/models/org%2Fname`). Beside a dot
    /// segment it is refused all the same. A route on a longer path than the escaped slash does not see behind it.
    Keep,
}

impl Default for PathPolicy {
    fn default() -> Self {
        PathPolicy {
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Refuse,
        }
    }
}

/// Why a path is refused (the caller's mistake: 400).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathRefused {
    /// It does not begin with a slash.
    #[error("the path does not begin with a slash")]
    NotAbsolute,
    /// It holds a character that must not stand in a path.
    #[error("the path holds a character that must be escaped")]
    Character,
    /// A percent sign without two hexadecimal digits.
    #[error("the path holds a percent sign that is not followed by two hexadecimal digits")]
    Escape,
    /// `%00`.
    #[error("the path holds an escaped NUL")]
    Nul,
    /// `%2F` or `%5C`.
    #[error("the path holds an escaped slash")]
    EscapedSlash,
    /// Dots that some servers resolve and others do not.
    #[error("the path holds a disguised dot segment")]
    DisguisedDots,
    /// What the caller sent makes the route's rewrite leave the place that it points to.
    #[error("the rewritten path would hold a dot segment or a broken escape")]
    Rewritten,
}

/// Brings a path (without query) into its one normal spelling. `*` (of `OPTIONS *`) stays, an empty path is `/`.
///
/// # Errors
/// See [`PathRefused`]: the request must be answered with 400 and not be forwarded.
pub fn normalize(path: &str, policy: PathPolicy) -> Result<Cow<'_, str>, PathRefused> {
    let bytes = path.as_bytes();
    match bytes {
        [] => return Ok(Cow::Borrowed("/")),
        b"*" => return Ok(Cow::Borrowed(path)),
        [b'/', ..] => {}
        _ => return Err(PathRefused::NotAbsolute),
    }
    if is_plainly_normal(bytes, policy) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(bytes, policy)?;
    let resolved = resolve(&decoded, policy)?;
    if resolved == bytes {
        return Ok(Cow::Borrowed(path)); // for example a path with an escape that stays
    }
    // `decode` leaves ASCII only: everything above is escaped by then.
    Ok(Cow::Owned(
        String::from_utf8(resolved).map_err(|_| PathRefused::Character)?,
    ))
}

/// Characters that stand for themselves in a path: unreserved, sub-delims, `:`, `@`, `/`; also the few that RFC 3986
/// would have escaped but browsers and tools send bare and every server takes as themselves.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7F {
        table[byte] = !matches!(byte as u8, b'%' | b'\\' | b'#' | b'?');
        byte += 1;
    }
    table
};

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The fast path: one pass, true for nearly every path that is sent.
fn is_plainly_normal(bytes: &[u8], policy: PathPolicy) -> bool {
    let mut previous = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if !PLAIN[byte as usize] {
            return false;
        }
        if previous == b'/' {
            if byte == b'/' && policy.merge_slashes {
                return false;
            }
            // Any segment that begins with a dot is looked at closely only if the dots may be all of it.
            if byte == b'.' && dots(&bytes[at..]) != Dots::None {
                return false;
            }
        }
        previous = byte;
    }
    true
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dots {
    None,
    One,
    Two,
    /// Dots followed by a path parameter.
    Disguised,
}

/// What the segment at the beginning of `rest` is.
fn dots(rest: &[u8]) -> Dots {
    match rest {
        [b'.'] | [b'.', b'/', ..] => Dots::One,
        [b'.', b'.'] | [b'.', b'.', b'/', ..] => Dots::Two,
        [b'.', b';', ..] | [b'.', b'.', b';', ..] => Dots::Disguised,
        _ => Dots::None,
    }
}

/// Step one: escapes. Dots must be resolved after it, as `%2e%2e` is `..`.
fn decode(bytes: &[u8], policy: PathPolicy) -> Result<Vec<u8>, PathRefused> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let escape = |out: &mut Vec<u8>, byte: u8| {
        out.extend_from_slice(&[b'%', HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
    };
    let mut out = Vec::with_capacity(bytes.len() + 8);
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte == b'%' {
            let value = bytes
                .get(at + 1..at + 3)
                .and_then(hex_pair)
                .ok_or(PathRefused::Escape)?;
            match value {
                0 => return Err(PathRefused::Nul),
                b'/' | b'\\' if policy.escaped_slashes == EscapedSlashes::Refuse => {
                    return Err(PathRefused::EscapedSlash);
                }
                value if is_unreserved(value) => out.push(value),
                value => escape(&mut out, value),
            }
            at += 3;
            continue;
        }
        if PLAIN[byte as usize] {
            out.push(byte);
        } else if byte >= 0x80 {
            escape(&mut out, byte);
        } else {
            return Err(PathRefused::Character);
        }
        at += 1;
    }
    Ok(out)
}

/// Step two: dot segments (RFC 3986 §5.2.4) and repeated slashes.
fn resolve(bytes: &[u8], policy: PathPolicy) -> Result<Vec<u8>, PathRefused> {
    let mut out: Vec<u8> = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    // Each turn takes one "/segment".
    while let [b'/', tail @ ..] = rest {
        let end = tail
            .iter()
            .position(|&byte| byte == b'/')
            .unwrap_or(tail.len());
        let (segment, next) = tail.split_at(end);
        let last = next.is_empty();
        if hides_dots(segment) {
            return Err(PathRefused::DisguisedDots);
        }
        match dots(segment) {
            Dots::Disguised => return Err(PathRefused::DisguisedDots),
            Dots::One => {
                if last {
                    open_segment(&mut out, policy);
                }
            }
            Dots::Two => {
                let parent = out.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                out.truncate(parent);
                if last {
                    open_segment(&mut out, policy);
                }
            }
            Dots::None => {
                open_segment(&mut out, policy);
                out.extend_from_slice(segment);
            }
        }
        rest = next;
    }
    if out.is_empty() {
        out.push(b'/');
    }
    Ok(out)
}

fn open_segment(out: &mut Vec<u8>, policy: PathPolicy) {
    if !(policy.merge_slashes && out.last() == Some(&b'/')) {
        out.push(b'/');
    }
}

/// Whether a segment, cut at its kept escaped slashes, holds a dot segment: `a%2F..%2Fb` is `b` to an upstream that
/// decodes before it resolves.
fn hides_dots(segment: &[u8]) -> bool {
    let is_slash =
        |at: usize| segment[at..].starts_with(b"%2F") || segment[at..].starts_with(b"%5C");
    let mut start = 0;
    let mut cut = false;
    for at in 0..segment.len() {
        if is_slash(at) {
            cut = true;
            if dots(&segment[start..at]) != Dots::None {
                return true;
            }
            start = at + 3;
        }
    }
    cut && dots(&segment[start..]) != Dots::None
}

/// A path literal of the config in the spelling that request paths have, so that `/caf%c3%a9` and `/café` match what
/// they mean. Dots and slashes stay as written. None if it holds what no path may hold.
pub(crate) fn normal_literal(text: &str) -> Option<String> {
    let keep = PathPolicy {
        merge_slashes: false,
        escaped_slashes: EscapedSlashes::Keep,
    };
    decode(text.as_bytes(), keep)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEEP: PathPolicy = PathPolicy {
        merge_slashes: true,
        escaped_slashes: EscapedSlashes::Keep,
    };
    const KEEP_SLASHES: PathPolicy = PathPolicy {
        merge_slashes: false,
        escaped_slashes: EscapedSlashes::Refuse,
    };

    fn strict(path: &str) -> Result<Cow<'_, str>, PathRefused> {
        normalize(path, PathPolicy::default())
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        for path in [
            "/",
            "/v1/models/m:predict",
            "/a/.hidden/..b/c.",
            "/a%3Ab",
            "/pkg.Service/Method",
            "*",
            "/a;x=1/",
        ] {
            assert!(
                matches!(strict(path), Ok(Cow::Borrowed(same)) if same == path),
                "{path}"
            );
        }
    }

    #[test]
    fn dot_segments_are_resolved_however_they_are_spelled() {
        for (path, normal) in [
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/public/../../../admin", "/admin"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/..", "/"),
            ("/.", "/"),
            ("/a/..//../b", "/b"),
            ("", "/"),
        ] {
            assert_eq!(strict(path).unwrap(), normal, "{path}");
        }
    }

    #[test]
    fn repeated_slashes_become_one_unless_kept() {
        assert_eq!(strict("//admin///x//").unwrap(), "/admin/x/");
        assert_eq!(normalize("//admin//x", KEEP_SLASHES).unwrap(), "//admin//x");
        assert_eq!(normalize("//a/../b", KEEP_SLASHES).unwrap(), "//b");
    }

    #[test]
    fn escapes_of_unreserved_characters_are_decoded_once_and_others_kept_in_upper_case() {
        assert_eq!(strict("/%61dmin").unwrap(), "/admin");
        assert_eq!(strict("/a%3ab").unwrap(), "/a%3Ab");
        assert_eq!(strict("/%2561").unwrap(), "/%2561");
        assert_eq!(strict("/%252e%252e/a").unwrap(), "/%252e%252e/a");
        assert_eq!(strict("/é").unwrap(), "/%C3%A9");
    }

    #[test]
    fn escaped_slashes_are_refused_or_kept_but_never_hide_dots() {
        assert_eq!(strict("/a%2fb"), Err(PathRefused::EscapedSlash));
        assert_eq!(strict("/a%5Cb"), Err(PathRefused::EscapedSlash));
        assert_eq!(
            normalize("/models/org%2fname", KEEP).unwrap(),
            "/models/org%2Fname"
        );
        for path in [
            "/a%2f..%2fb",
            "/a/..%2fb",
            "/a%5c..",
            "/a%2F%2e",
            "/%2f..;x",
        ] {
            assert_eq!(
                normalize(path, KEEP),
                Err(PathRefused::DisguisedDots),
                "{path}"
            );
        }
        assert_eq!(normalize("/a%2Fb..", KEEP).unwrap(), "/a%2Fb..");
    }

    #[test]
    fn what_no_server_agrees_on_is_refused() {
        for (path, why) in [
            ("a", PathRefused::NotAbsolute),
            ("**", PathRefused::NotAbsolute),
            ("/a%00", PathRefused::Nul),
            ("/a%0", PathRefused::Escape),
            ("/a%", PathRefused::Escape),
            ("/a%zz", PathRefused::Escape),
            ("/a\\b", PathRefused::Character),
            ("/a b", PathRefused::Character),
            ("/a#b", PathRefused::Character),
            ("/a?b", PathRefused::Character),
            ("/a\tb", PathRefused::Character),
            ("/a\u{7f}", PathRefused::Character),
            ("/public/..;/admin", PathRefused::DisguisedDots),
            ("/public/.;x", PathRefused::DisguisedDots),
            ("/public/%2e%2e;/admin", PathRefused::DisguisedDots),
        ] {
            assert_eq!(strict(path), Err(why), "{path}");
        }
    }

    #[test]
    fn literals_of_the_config_are_spelled_as_requests_are() {
        assert_eq!(
            normal_literal("/caf\u{e9}/%61%2f").as_deref(),
            Some("/caf%C3%A9/a%2F")
        );
        assert_eq!(normal_literal("/a?b"), None);
        assert_eq!(normal_literal("/a%2"), None);
    }

    fn tricky_path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/"),
            Just("//"),
            Just("."),
            Just(".."),
            Just("%2e"),
            Just("%2E"),
            Just("%2f"),
            Just("%2F"),
            Just("%5c"),
            Just("a"),
            Just("%61"),
            Just("%25"),
            Just(";"),
            Just(":"),
            Just("%3a"),
            Just("é"),
            Just("b.c"),
            Just("%"),
            Just("\\"),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent_and_leaves_no_dot_segment(
            path in tricky_path(), merge_slashes: bool, keep: bool,
        ) {
            let escaped_slashes = if keep { EscapedSlashes::Keep } else { EscapedSlashes::Refuse };
            let policy = PathPolicy { merge_slashes, escaped_slashes };
            if let Ok(once) = normalize(&path, policy) {
                prop_assert!(once.starts_with('/'));
                prop_assert!(once.is_ascii());
                prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."));
                prop_assert!(!(merge_slashes && once.contains("//")), "{}", once);
                let twice = normalize(&once, policy);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
                prop_assert!(matches!(twice, Ok(Cow::Borrowed(_))));
            }
        }

        #[test]
        fn any_text_is_normalised_or_refused_without_panic(path in "\\PC*") {
            let _ = normalize(&path, PathPolicy::default());
            let _ = normalize(&format!("/{path}"), KEEP);
        }
    }
}
