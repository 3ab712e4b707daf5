//! Secrets that stand in the text itself never show in an excerpt.

use crate::node::{Kind, Node};
use crate::source::{Source, Span};

/// Parts of a key's name that make its value a secret.
const WORDS: [&str; 9] = [
    "token",
    "secret",
    "password",
    "passwd",
    "api_key",
    "apikey",
    "api-key",
    "auth",
    "credential",
];
/// Keys that sound like one and are none.
const HARMLESS: [&str; 2] = ["client_auth", "authority"];

/// Whether values of a key with this name are secrets, whatever section it stands in.
pub(crate) fn sounds_secret(key: &str) -> bool {
    let key = key.trim_matches(['"', '\'']).to_ascii_lowercase();
    !HARMLESS.contains(&key.as_str()) && WORDS.iter().any(|word| key.contains(word))
}

/// Whether a text as written only refers to a secret: `${NAME}` or `file:PATH`, nothing else.
fn is_reference(written: &str) -> bool {
    let text = written.trim().trim_matches(['"', '\'']);
    let variable = text.strip_prefix("${").and_then(|t| t.strip_suffix('}'));
    variable.is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        || text.starts_with("file:")
}

/// Remembers the span of a secret unless it is a mere reference.
pub(crate) fn hide_literal(node: &Node, sources: &[Source], secrets: &mut Vec<Span>) {
    let written = sources
        .get(node.span.source)
        .map(|source| source.slice(node.span))
        .unwrap_or_default();
    if !is_reference(written) && node.span.start < node.span.end {
        secrets.push(node.span);
    }
}

/// Finds values that sound secret anywhere in a tree: under misspelt keys and in sections that this build does not read.
pub(crate) fn hide_by_name(node: &Node, inside: bool, sources: &[Source], secrets: &mut Vec<Span>) {
    match &node.kind {
        Kind::Scalar(scalar)
            if inside || has_credentials(&scalar.text) || looks_like_key(&scalar.text) =>
        {
            hide_literal(node, sources, secrets)
        }
        Kind::List(items) => items
            .iter()
            .for_each(|item| hide_by_name(item, inside, sources, secrets)),
        Kind::Map(entries) => {
            for (key, value) in entries.iter() {
                hide_by_name(value, inside || sounds_secret(&key.text), sources, secrets);
            }
        }
        _ => {}
    }
}

/// Values of providers' headers, whatever their names: most are credentials of some gateway in between.
pub(crate) fn hide_headers(root: &Node, sources: &[Source], secrets: &mut Vec<Span>) {
    for provider in under(root, "providers").flat_map(items) {
        for headers in under(provider, "headers") {
            hide_by_name(headers, true, sources, secrets);
        }
    }
}

/// The values of a mapping's entries with that key.
fn under<'a>(node: &'a Node, key: &'a str) -> impl Iterator<Item = &'a Node> {
    let entries = match &node.kind {
        Kind::Map(entries) => Some(entries.iter()),
        _ => None,
    };
    let entries = entries.into_iter().flatten();
    entries.filter_map(move |(name, value)| (*name.text == *key).then_some(value))
}

/// The items of a list; what is none is its only one.
fn items(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::List(items) => items,
        _ => std::slice::from_ref(node),
    }
}

/// What providers' keys begin with.
const KEYS: [&str; 12] = [
    "sk-", "sk_", "gsk_", "xai-", "AIza", "AKIA", "ASIA", "ghp_", "hf_", "pplx-", "r8_", "tg-",
];

/// A key of a provider, wherever it was put by mistake.
pub(crate) fn looks_like_key(text: &str) -> bool {
    text.len() >= 20
        && KEYS.iter().any(|start| text.starts_with(start))
        && !text.contains(char::is_whitespace)
}

/// A URL with a user and a password in it, `redis://:hunter2@host`, and what was meant to be one.
fn has_credentials(text: &str) -> bool {
    let authority = match text.split_once("://") {
        Some((_, rest)) => rest.split('/').next().unwrap_or(rest),
        None => text,
    };
    authority
        .split_once('@')
        .is_some_and(|(user, _)| text.contains("://") || user.contains(':'))
}

/// Whether a line of a part that is no YAML may hold a secret: it has such a key itself, or stands below one.
pub(crate) fn line_may_hold_secret(source: &Source, line: usize) -> bool {
    let (_, text) = source.line(line);
    let key_in = |text: &str| {
        text.split([',', '{', '[', ' ', '-']).any(|part| {
            part.split_once(':')
                .is_some_and(|(key, _)| sounds_secret(key) || key == "headers")
        })
    };
    let part = |part: &str| has_credentials(part) || looks_like_key(part);
    if key_in(text)
        || text
            .split([' ', '"', '\'', ',', '[', ']', '{', '}'])
            .any(part)
    {
        return true;
    }
    let indent = |text: &str| text.len() - text.trim_start().len();
    // An entry of a list may stand as deep as the key of the list.
    let mut bound = indent(text) + usize::from(text.trim_start().starts_with('-'));
    for above in (0..line).rev().take(1_000) {
        let (_, text) = source.line(above);
        if text.trim().is_empty() || indent(text) >= bound {
            continue;
        }
        if key_in(text) {
            return true;
        }
        bound = indent(text) + usize::from(text.trim_start().starts_with('-'));
        if bound == 0 {
            break;
        }
    }
    false
}
