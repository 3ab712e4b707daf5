//! Values with rules of their own: secrets, paths, header values, hash keys, balancers.

use super::leaves::{parsed, scalar};
use super::{Cx, Decode, OneOf, decode_one_of, encode_one_of, schema_one_of};
use crate::env;
use crate::mask::looks_like_key;
use crate::model::{BackendLoad, Balance, LeastRequest, Maglev, PeakEwma, RingHash};
use crate::node::{Kind, Node};
use crate::schema::Defs;
use crate::suggest;
use crate::values::{
    Address, HashKey, HeaderName, HeaderText, ListenAddress, LogTarget, Secret, StateUrl, Wrong,
};
use serde_json::{Value as Json, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Longest secret that is read from a file, in bytes.
const MAX_SECRET: u64 = 64 * 1024;

/// Reads a secret: `file:PATH`, or the text itself (usually `${NAME}`).
pub(super) fn secret(node: &Node, cx: &mut Cx<'_>) -> Option<String> {
    let scalar = scalar(node, cx, "a secret", "write \"${NAME}\" or file:PATH")?;
    crate::mask::hide_literal(node, cx.sources, &mut cx.secrets);
    let Some(path) = scalar.text.strip_prefix("file:") else {
        return Some(scalar.text.to_string());
    };
    let path = cx.resolve(Path::new(path), node.span);
    match read_secret(&path) {
        Ok(text) => {
            cx.secret_files.push(path);
            Some(text)
        }
        Err(reason) => {
            cx.error(
                node.span,
                format!("cannot read the secret's file {}: {reason}", path.display()),
                "the file holds the secret alone",
            );
            None
        }
    }
}

fn read_secret(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    if !file.metadata().is_ok_and(|m| m.is_file()) {
        return Err("not a file".into());
    }
    let mut text = String::new();
    file.take(MAX_SECRET + 1)
        .read_to_string(&mut text)
        .map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_SECRET {
        return Err(format!("longer than {MAX_SECRET} bytes"));
    }
    text.truncate(text.trim_end_matches(['\n', '\r']).len());
    Ok(text)
}

impl Decode for Secret {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let mut text = secret(node, cx)?;
        // An account's key file is JSON over several lines, and the same in one.
        if text.trim_start().starts_with('{') {
            text = text.replace(['\n', '\r', '\t'], " ");
        }
        if text.trim().is_empty() {
            cx.error(
                node.span,
                "an empty secret",
                "write \"${NAME}\" or file:PATH",
            );
            return None;
        }
        if text.chars().any(char::is_control) {
            cx.error(
                node.span,
                "a secret with control characters",
                "a secret is one line",
            );
            return None;
        }
        Some(Self::new(text))
    }

    fn encode(&self) -> Json {
        Json::from(self.to_string())
    }

    fn schema(_: &mut Defs) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// A credential by the header's name (the path's last key), by where it stands (a provider's headers), by what it looks like, or because it
/// came from the environment.
impl Decode for HeaderText {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let sensitive = cx
            .path
            .last()
            .and_then(|name| name.parse::<HeaderName>().ok())
            .is_some_and(|name| name.is_sensitive())
            || cx
                .path
                .first()
                .is_some_and(|top| top.starts_with("providers"))
            || matches!(&node.kind, Kind::Scalar(scalar) if scalar.from_env || looks_like_key(&scalar.text));
        let text = if sensitive {
            secret(node, cx)?
        } else {
            String::decode(node, cx)?
        };
        if http::HeaderValue::from_str(&text).is_err() {
            cx.error(
                node.span,
                "not a header's value",
                "a value is one line without control characters",
            );
            return None;
        }
        Some(Self::new(text, sensitive))
    }

    fn encode(&self) -> Json {
        Json::from(env::escape(&self.to_string()))
    }

    fn schema(defs: &mut Defs) -> Json {
        String::schema(defs)
    }
}

impl Decode for PathBuf {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let help = "write a file's path; a relative one starts at the folder of this file";
        let path = parsed(node, cx, "a path", help, |text| match text {
            "" => Err(Wrong::new("an empty path", help)),
            text if text.contains('\0') => Err(Wrong::new("not a path", help)),
            text => Ok(Self::from(text)),
        })?;
        Some(cx.resolve(&path, node.span))
    }

    fn encode(&self) -> Json {
        Json::from(env::escape(&self.to_string_lossy()))
    }

    fn schema(_: &mut Defs) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// Words that may hold a path, which is relative to the file that names it.
macro_rules! with_path {
    ($($ty:ident :: $variant:ident, $expected:literal;)*) => { $(
        impl Decode for $ty {
            fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
                let value = parsed(node, cx, $expected, "write a text", |text| text.parse::<Self>())?;
                let value = match &value {
                    Self::$variant(path) => Self::$variant(cx.resolve(path, node.span)),
                    #[allow(unreachable_patterns)]
                    _ => return Some(value),
                };
                // A folder put in front may make a socket's path too long.
                match value.to_string().parse::<Self>() {
                    Ok(_) => Some(value),
                    Err(wrong) => {
                        cx.wrong(node.span, wrong);
                        None
                    }
                }
            }

            fn encode(&self) -> Json {
                Json::from(env::escape(&self.to_string()))
            }

            fn schema(_: &mut Defs) -> Json {
                json!({ "type": "string", "minLength": 1 })
            }
        }
    )* };
}
with_path! {
    Address::Unix, "an address";
    ListenAddress::Unix, "an address";
    LogTarget::File, "stdout, stderr or a path";
    StateUrl::File, "a place for state";
}

const HASH_HELP: &str = "write { header: NAME }, { cookie: NAME }, { query: NAME } or source_ip";

impl OneOf for HashKey {
    const KEYS: &'static [&'static str] = &["header", "cookie", "query", "source_ip"];

    fn decode_entry(key: &str, node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let name = |node: &Node, cx: &mut Cx<'_>| {
            let name = String::decode(node, cx)?;
            if name.is_empty() {
                cx.error(node.span, "an empty name", HASH_HELP);
                return None;
            }
            Some(name)
        };
        match key {
            "header" => HeaderName::decode(node, cx).map(Self::Header),
            "cookie" => name(node, cx).map(Self::Cookie),
            "query" => name(node, cx).map(Self::Query),
            _ => {
                if !bool::decode(node, cx)? {
                    cx.error(
                        node.span,
                        "nothing to hash",
                        "write source_ip: true, or another key",
                    );
                    return None;
                }
                Some(Self::SourceIp)
            }
        }
    }

    fn encode_entry(&self) -> (&'static str, Json) {
        match self {
            Self::Header(name) => ("header", name.encode()),
            Self::Cookie(name) => ("cookie", name.encode()),
            Self::Query(name) => ("query", name.encode()),
            Self::SourceIp => ("source_ip", Json::from(true)),
        }
    }

    fn schemas(defs: &mut Defs) -> Vec<(&'static str, Json)> {
        let text = String::schema(defs);
        vec![
            ("header", text.clone()),
            ("cookie", text.clone()),
            ("query", text),
            ("source_ip", json!({ "const": true })),
        ]
    }
}

impl Decode for HashKey {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.kind {
            Kind::Scalar(scalar) if &*scalar.text == "source_ip" => Some(Self::SourceIp),
            Kind::Map(_) => decode_one_of(node, cx, &[]),
            _ => {
                cx.mismatch(node, "a hash key", HASH_HELP);
                None
            }
        }
    }

    fn encode(&self) -> Json {
        encode_one_of(self)
    }

    fn schema(defs: &mut Defs) -> Json {
        let object = schema_one_of::<Self>(defs, "What of a request is hashed.");
        json!({ "anyOf": [object, { "const": "source_ip" }] })
    }
}

const WORDS: [&str; 8] = [
    "round_robin",
    "random",
    "weighted_round_robin",
    "weighted_random",
    "source_ip_hash",
    "least_request",
    "peak_ewma",
    "backend_load",
];

impl OneOf for Balance {
    const KEYS: &'static [&'static str] = &[
        "least_request",
        "peak_ewma",
        "ring_hash",
        "maglev",
        "backend_load",
    ];

    fn decode_entry(key: &str, node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match key {
            "least_request" => LeastRequest::decode(node, cx).map(Self::LeastRequest),
            "peak_ewma" => PeakEwma::decode(node, cx).map(Self::PeakEwma),
            "ring_hash" => RingHash::decode(node, cx).map(Self::RingHash),
            "maglev" => Maglev::decode(node, cx).map(Self::Maglev),
            _ => BackendLoad::decode(node, cx).map(Self::BackendLoad),
        }
    }

    fn encode_entry(&self) -> (&'static str, Json) {
        let inner = match self {
            Self::LeastRequest(value) => value.encode(),
            Self::PeakEwma(value) => value.encode(),
            Self::RingHash(value) => value.encode(),
            Self::Maglev(value) => value.encode(),
            Self::BackendLoad(value) => value.encode(),
            _ => Json::Null,
        };
        (self.name(), inner)
    }

    fn schemas(defs: &mut Defs) -> Vec<(&'static str, Json)> {
        vec![
            ("least_request", LeastRequest::schema(defs)),
            ("peak_ewma", PeakEwma::schema(defs)),
            ("ring_hash", RingHash::schema(defs)),
            ("maglev", Maglev::schema(defs)),
            ("backend_load", BackendLoad::schema(defs)),
        ]
    }
}

impl Decode for Balance {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Kind::Scalar(scalar) = &node.kind else {
            return decode_one_of(node, cx, &[]);
        };
        Some(match &*scalar.text {
            "round_robin" => Self::RoundRobin,
            "random" => Self::Random,
            "weighted_round_robin" => Self::WeightedRoundRobin,
            "weighted_random" => Self::WeightedRandom,
            "source_ip_hash" => Self::SourceIpHash,
            "least_request" => Self::LeastRequest(LeastRequest::default()),
            "peak_ewma" => Self::PeakEwma(PeakEwma::default()),
            "backend_load" => Self::BackendLoad(BackendLoad::default()),
            word @ ("ring_hash" | "maglev") => {
                let help = format!("say what is hashed: {{ {word}: {{ header: x-user }} }}");
                cx.error(node.span, format!("`{word}` without a key"), help);
                return None;
            }
            word => {
                let all = WORDS.iter().chain(Self::KEYS).copied();
                let help = match suggest::closest(word, all) {
                    Some(right) => format!("did you mean `{right}`?"),
                    None => format!("known: {}, ring_hash, maglev", WORDS.join(", ")),
                };
                cx.error(node.span, "not a balancer", help);
                return None;
            }
        })
    }

    fn encode(&self) -> Json {
        if Self::KEYS.contains(&self.name()) {
            encode_one_of(self)
        } else {
            Json::from(self.name())
        }
    }

    fn schema(defs: &mut Defs) -> Json {
        let object = schema_one_of::<Self>(defs, "How a member is picked.");
        json!({ "anyOf": [{ "enum": WORDS }, object] })
    }
}
