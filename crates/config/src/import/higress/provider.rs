//! One provider.

use super::{address, failover};
use crate::import::Cx;
use crate::import::reader::Section;
use crate::import::text::Yaml;
use crate::model::ProviderType;
use crate::source::Span;
use crate::values::ModelPattern;
use std::collections::BTreeMap;

/// A provider of ours, without its name in the entries.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Converted {
    pub(super) name: String,
    pub(super) entries: Vec<(String, Yaml)>,
    /// `retry` of the routes that lead to it.
    pub(super) retry: Option<Yaml>,
}

impl Converted {
    pub(super) fn yaml(&self) -> Yaml {
        let mut entries = vec![("name".to_owned(), Yaml::text(self.name.clone()))];
        entries.extend(self.entries.iter().cloned());
        Yaml::Map(entries)
    }
}

/// Fields that have their meaning by being there, and what becomes of them.
const TOLD: [(&str, &str); 6] = [
    (
        "timeout",
        "bounds the fetching of `context` only, which has no counterpart: left out",
    ),
    (
        "basePath",
        "paths of callers have no base path here: let the route match it and rewrite it",
    ),
    (
        "claudeCodeMode",
        "Claude Code's own headers and system prompt are not made here; keys are shown as x-api-key",
    ),
    (
        "qwenEnableCompatible",
        "the compatible interface is always used",
    ),
    (
        "vertexAuthServiceName",
        "the token endpoint that the account's key file names is asked directly",
    ),
    (
        "vertexTokenRefreshAhead",
        "access tokens are replaced before they end, at a time of Tidegate's own",
    ),
];

/// `None`: there is no such provider here.
pub(super) fn convert(section: &Section<'_>, cx: &mut Cx<'_>) -> Option<Converted> {
    let Some(theirs) = section.text("type") else {
        cx.note(section.span, "a provider without `type`: left out");
        return None;
    };
    let ours = if theirs == "claude" {
        "anthropic"
    } else {
        theirs
    };
    let Some(kind) = ProviderType::ALL.iter().find(|kind| kind.as_str() == ours) else {
        let help = match theirs {
            "triton" => "use an upstream: Triton's own protocol passes as it is",
            _ => "where it speaks OpenAI's dialect, write `type: generic` with `base_url`",
        };
        cx.note(
            section.span_of("type"),
            format!("there is no provider of type {theirs:?} here: left out with the routes to it; {help}"),
        );
        return None;
    };
    let name = section.text("id").unwrap_or(theirs).to_owned();
    let mut entries = vec![("type".to_owned(), Yaml::text(ours))];
    entries.extend(address::entries(ours, section, cx));
    match section.text("protocol") {
        Some("original") => entries.push(("protocol".to_owned(), Yaml::text("original"))),
        Some("openai") | None => {}
        Some(other) => cx.note(
            section.span_of("protocol"),
            format!("the protocol {other:?} is none of Higress's: left out"),
        ),
    }
    entries.extend(keys(*kind, &name, section, cx));
    let mapped = entries.iter().any(|(key, _)| key == "model_mapping");
    let mapping = section.section("modelMapping").filter(|_| !mapped);
    entries.extend(mapping.and_then(|mapping| model_mapping(&mapping, cx)));
    let failover = failover::failover(section, cx);
    if !failover.is_empty() {
        entries.push(("failover".to_owned(), Yaml::Map(failover)));
    }
    if let Some(ms) = section.number("firstByteTimeout") {
        failover::bounded(section, "firstByteTimeout", Some(ms), 86_400_000, cx);
        let first = failover::duration(ms, 86_400_000);
        entries.push(("timeouts".to_owned(), Yaml::map([("first_content", first)])));
        cx.note(
            section.span_of("firstByteTimeout"),
            "firstByteTimeout counts until the first bytes of a stream; `first_content` until the first content of any answer",
        );
    }
    let version = || {
        section
            .text("claudeVersion")
            .or_else(|| section.text("apiVersion"))
    };
    if ours == "anthropic"
        && let Some(version) = version()
    {
        let headers = Yaml::map([("anthropic-version", Yaml::text(version))]);
        entries.push(("headers".to_owned(), headers));
    }
    let retry = failover::retry(section, cx);
    for (key, text) in TOLD {
        let said = section.get(key).is_some();
        let harmless = key == "qwenEnableCompatible" && section.flag(key) == Some(true);
        if said && !harmless && !(key == "claudeCodeMode" && section.flag(key) == Some(false)) {
            cx.note(section.span_of(key), format!("`{key}`: {text}"));
        }
    }
    section.get("basePathHandling");
    if section.text("reasoningContentMode") == Some("passthrough") {
        // What is done here too.
    } else if section.get("reasoningContentMode").is_some() {
        let text = "`reasoningContentMode`: reasoning is passed on as it comes";
        cx.note(section.span_of("reasoningContentMode"), text);
    }
    section.note_unread(cx);
    Some(Converted {
        name,
        entries,
        retry,
    })
}

/// The provider's keys.
fn keys(
    kind: ProviderType,
    name: &str,
    section: &Section<'_>,
    cx: &mut Cx<'_>,
) -> Vec<(String, Yaml)> {
    let mut tokens: Vec<(String, Span)> = section
        .texts("apiTokens")
        .into_iter()
        .map(|(token, span)| (token.to_owned(), span))
        .collect();
    match kind {
        ProviderType::Bedrock => {
            let pair = section
                .text("awsAccessKey")
                .zip(section.text("awsSecretKey"));
            tokens.extend(
                pair.map(|(id, secret)| {
                    (format!("{id}:{secret}"), section.span_of("awsAccessKey"))
                }),
            );
        }
        ProviderType::Vertex => {
            // The account's key file, as text.
            let file = section.text("vertexAuthKey");
            tokens.extend(file.map(|file| (file.to_owned(), section.span_of("vertexAuthKey"))));
        }
        ProviderType::Hunyuan
            if section.get("hunyuanAuthId").is_some() | section.get("hunyuanAuthKey").is_some() =>
        {
            cx.note(
                section.span_of("hunyuanAuthId"),
                "signatures with hunyuanAuthId and hunyuanAuthKey are not made here: use an API key of the OpenAI-compatible interface",
            );
        }
        _ => {}
    }
    tokens.retain(|(token, _)| !token.trim().is_empty());
    if tokens.is_empty() {
        if kind.is_open() {
            return Vec::new();
        }
        let wanted = format!("{name} token");
        let (reference, variable) = cx.secrets.place(&format!("the key of {name}"), &wanted);
        // A made-up secret is never printed as if it were one.
        let reference = match variable {
            Some(variable) => {
                cx.note(section.span, format!("no key is given: export {variable}"));
                reference
            }
            None => {
                cx.note(section.span, "no key is given: write one".to_owned());
                Yaml::text("no-key-was-given")
            }
        };
        return vec![("api_tokens".to_owned(), Yaml::List(vec![reference]))];
    }
    let mut shares: BTreeMap<&str, u32> = BTreeMap::new();
    for (token, _) in &tokens {
        *shares.entry(token).or_default() += 1;
    }
    let weighted = shares.values().any(|share| *share > 1);
    let single = shares.len() == 1;
    let mut list = Vec::new();
    let mut seen = Vec::new();
    for (index, (token, span)) in tokens.iter().enumerate() {
        if seen.contains(&token) {
            continue;
        }
        seen.push(token);
        let wanted = match single {
            true => format!("{name} token"),
            false => format!("{name} token {}", index + 1),
        };
        let (place, variable) = cx.secrets.place(token, &wanted);
        if let Some(variable) = variable {
            cx.note(
                *span,
                format!("export {variable} with the key that stands here"),
            );
        }
        list.push(match shares.get(token.as_str()) {
            Some(share) if weighted && *share > 1 => {
                Yaml::map([("token", place), ("weight", Yaml::plain(share))])
            }
            _ => place,
        });
    }
    let mut out = vec![("api_tokens".to_owned(), Yaml::List(list))];
    if weighted {
        let text = "keys that are given several times have a weight instead";
        cx.note(section.span_of("apiTokens"), text);
        out.push(("choose".to_owned(), Yaml::text("weighted")));
    }
    out
}

/// The mapping of models, in the order of the file.
fn model_mapping(mapping: &Section<'_>, cx: &mut Cx<'_>) -> Option<(String, Yaml)> {
    let mut entries = Vec::new();
    let mut patterns: Vec<ModelPattern> = Vec::new();
    let mut ambiguous = false;
    for (pattern, target, span) in mapping.pairs() {
        match pattern.parse::<ModelPattern>() {
            Ok(parsed) => {
                ambiguous |= patterns.iter().any(|other| overlap(other, &parsed));
                patterns.push(parsed);
                entries.push((pattern.to_owned(), Yaml::text(target)));
            }
            Err(wrong) => cx.note(
                span,
                format!(
                    "the model {pattern:?} is {}: left out ({})",
                    wrong.problem, wrong.help
                ),
            ),
        }
    }
    if mapping.pairs().len() < mapping.len() {
        let text = "models that are mapped to something that is no name are left out";
        cx.note(mapping.span, text);
    }
    if ambiguous {
        cx.note(
            mapping.span,
            "Higress tries patterns in no particular order; here an exact name comes first, then the longest prefix, then expressions in this order, then `*`",
        );
    }
    (!entries.is_empty()).then(|| ("model_mapping".to_owned(), Yaml::Map(entries)))
}

/// Whether a name may fit both, and neither is an exact name or `*`.
fn overlap(a: &ModelPattern, b: &ModelPattern) -> bool {
    use ModelPattern::{Any, Exact, Prefix, Regex};
    match (a, b) {
        (Exact(_) | Any, _) | (_, Exact(_) | Any) => false,
        (Prefix(a), Prefix(b)) => a.starts_with(b.as_str()) || b.starts_with(a.as_str()),
        (Regex(_), _) | (_, Regex(_)) => true,
    }
}
