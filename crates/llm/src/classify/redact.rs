//! What of a provider's message may be shown: one line, bounded, without anything that could be a key.
//!
//! Providers echo keys ("Incorrect API key provided: sk-ab***yz"), and some echo them whole. The key in use is removed
//! exactly, and so is everything that has the shape of one, known or not: a word too much is no loss.

use std::borrow::Cow;

/// Letters of an excerpt.
pub(super) const EXCERPT: usize = 200;
/// Letters of a code.
const CODE: usize = 64;
/// What stands for what was taken out.
const GONE: &str = "[redacted]";

/// How keys begin. A word that begins so and goes on for a while is one.
const PREFIXES: &[&str] = &[
    "sk-",
    "sk_",
    "rk-",
    "pk-",
    "ak-",
    "tg-",
    "aiza",
    "aq.",
    "ya29.",
    "gsk_",
    "xai-",
    "hf_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "github_pat_",
    "akia",
    "asia",
    "absk",
    "bedrock-api-key-",
    "nvapi-",
    "pplx-",
    "tgp_",
    "fw_",
    "r8_",
    "csk-",
    "bce-v3/",
    "eyj",
    "fpk_",
];

/// The message as an excerpt.
pub(super) fn excerpt(message: &str, secret: Option<&str>) -> String {
    shown(message, secret, EXCERPT)
}

/// A code: the provider's own word, but no more trusted than its message.
pub(super) fn code(code: &str, secret: Option<&str>) -> String {
    shown(code, secret, CODE)
}

fn shown(text: &str, secret: Option<&str>, limit: usize) -> String {
    let text = without(text, secret);
    let mut out = String::new();
    let mut length = 0;
    let mut put = |piece: &str| {
        for letter in piece.chars() {
            if length == limit {
                out.pop();
                out.push('…');
                return false;
            }
            out.push(letter);
            length += 1;
        }
        true
    };
    // The word after `Bearer` or `Basic` is a credential whatever it looks like.
    let mut credential = false;
    let mut gap = false;
    let mut begun = false;
    for run in runs(&text) {
        if run
            .chars()
            .all(|letter| letter.is_whitespace() || letter.is_control())
        {
            gap = begun;
            continue;
        }
        if std::mem::take(&mut gap) && !put(" ") {
            break;
        }
        begun = true;
        let word = run.starts_with(in_word);
        let piece = if word && (credential || key_shaped(run)) {
            GONE
        } else {
            run
        };
        if word {
            credential = run.eq_ignore_ascii_case("bearer") || run.eq_ignore_ascii_case("basic");
        }
        if !put(piece) {
            break;
        }
    }
    out
}

/// Letters that a key is made of.
fn in_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric()
        || matches!(letter, '_' | '-' | '.' | '/' | '+' | '~' | '*' | '%')
}

/// The text in words, blanks and single other letters.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let blank = |letter: char| letter.is_whitespace() || letter.is_control();
        let length = if in_word(first) {
            rest.find(|letter| !in_word(letter)).unwrap_or(rest.len())
        } else if blank(first) {
            rest.find(|letter| !blank(letter)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (run, tail) = rest.split_at(length);
        rest = tail;
        Some(run)
    })
}

/// Has a known beginning, or is long and mixed as only random text is.
fn key_shaped(word: &str) -> bool {
    // A path or an address may carry a key as one of its parts.
    if word.split(['/', '.']).any(random) || random_base64(word) {
        return true;
    }
    let lower = word.to_ascii_lowercase();
    lower.split_inclusive('/').any(begins_as_key) || begins_as_key(&lower)
}

fn begins_as_key(word: &str) -> bool {
    PREFIXES.iter().any(|prefix| {
        word.strip_prefix(prefix)
            .is_some_and(|rest| rest.len() >= 6)
    })
}

/// Twenty-four letters and digits in a row, both among them: no word, no model's name.
fn random(word: &str) -> bool {
    word.split(|letter: char| !letter.is_ascii_alphanumeric())
        .any(|run| {
            run.len() >= 24
                && run.bytes().any(|byte| byte.is_ascii_digit())
                && run.bytes().any(|byte| byte.is_ascii_alphabetic())
        })
}

/// Forty letters of base64 with capitals, small letters and digits: secrets of AWS.
fn random_base64(word: &str) -> bool {
    word.len() >= 40
        && !word.contains('.')
        && word.bytes().any(|byte| byte.is_ascii_digit())
        && word.bytes().any(|byte| byte.is_ascii_uppercase())
        && word.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// A provider's own words as they are passed on to a caller: as they are, but without the key in use, which some providers echo.
pub(crate) fn passed_on<'a>(words: &'a [u8], secret: Option<&str>) -> Cow<'a, [u8]> {
    // A key of a few letters would be found everywhere.
    let Some(secret) = secret.filter(|secret| secret.len() >= 8) else {
        return Cow::Borrowed(words);
    };
    let text = String::from_utf8_lossy(words);
    let clean = without(&text, Some(secret));
    match clean == text {
        true => Cow::Borrowed(words),
        false => Cow::Owned(clean.into_bytes()),
    }
}

/// The text without the secret in use, its parts (AWS keys come as `id:secret:token`), and both as they look in a URL.
fn without(text: &str, secret: Option<&str>) -> String {
    let mut text = text.to_owned();
    let Some(secret) = secret.filter(|secret| !secret.is_empty()) else {
        return text;
    };
    let parts = secret.split(':').filter(|part| part.len() >= 8);
    for part in std::iter::once(secret).chain(parts) {
        let escaped: String = part
            .bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        text = text.replace(part, GONE).replace(&escaped, GONE);
    }
    text
}
