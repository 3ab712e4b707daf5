//! Where a provider is, from the fields that each type has for it.

use crate::import::Cx;
use crate::import::reader::Section;
use crate::import::text::Yaml;

/// What stands where an address has to be written.
const UNKNOWN: &str = "http://address.invalid";
/// Ends of OpenAI's paths, which belong to requests and not to an address.
const ENDPOINTS: [&str; 8] = [
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/responses",
    "/images/generations",
    "/images/edits",
    "/audio/speech",
    "/models",
];

/// Entries that say where the provider is.
pub(super) fn entries(kind: &str, section: &Section<'_>, cx: &mut Cx<'_>) -> Vec<(String, Yaml)> {
    let base = match kind {
        "azure" => return azure(section, cx),
        "openai" => custom("openaiCustomUrl", section, cx),
        "qwen" => domain(section, "qwenDomain"),
        "doubao" => domain(section, "doubaoDomain"),
        "ollama" => section.text("ollamaServerHost").map(|host| {
            let port = section.number("ollamaServerPort").unwrap_or(11_434);
            format!("http://{host}:{port}")
        }),
        "cloudflare" => section
            .text("cloudflareAccountId")
            .map(|account| format!("https://api.cloudflare.com/client/v4/accounts/{account}/ai")),
        "gemini" => match section.text("apiVersion") {
            Some("v1beta") | None => None,
            Some(version) => Some(format!(
                "https://generativelanguage.googleapis.com/{version}"
            )),
        },
        "vllm" => custom("vllmCustomUrl", section, cx).or_else(|| {
            section
                .text("vllmServerHost")
                .map(|host| format!("http://{host}"))
        }),
        "generic" => domain(section, "genericHost"),
        _ => None,
    };
    let needed = matches!(kind, "vllm" | "generic" | "cloudflare");
    let base = match base {
        None if needed => {
            let text = format!(
                "where the provider is stands in Higress's route or service: write it in the place of {UNKNOWN}"
            );
            cx.note(section.span, text);
            Some(UNKNOWN.to_owned())
        }
        base => base,
    };
    let mut out: Vec<(String, Yaml)> = base
        .map(|base| ("base_url".to_owned(), Yaml::Text(base)))
        .into_iter()
        .collect();
    for (key, ours, of) in [
        ("awsRegion", "region", "bedrock"),
        ("vertexRegion", "region", "vertex"),
        ("vertexProjectId", "project", "vertex"),
    ] {
        if kind == of {
            out.extend(
                section
                    .text(key)
                    .map(|value| (ours.to_owned(), Yaml::text(value))),
            );
        }
    }
    if kind == "vertex" && section.text("vertexProjectId").is_none() {
        cx.note(
            section.span,
            "vertex needs a project: write it in the place of PROJECT",
        );
        out.push(("project".to_owned(), Yaml::text("PROJECT")));
    }
    out
}

/// An address of one's own, which may be one endpoint's.
fn custom(key: &str, section: &Section<'_>, cx: &mut Cx<'_>) -> Option<String> {
    let url = section.text(key)?;
    let endpoint = ENDPOINTS
        .iter()
        .find(|end| url.trim_end_matches('/').ends_with(*end));
    if let Some(endpoint) = endpoint {
        let text = format!("every request went to {endpoint}; here the caller's endpoint is kept");
        cx.note(section.span_of(key), text);
    }
    Some(without_endpoint(url))
}

fn domain(section: &Section<'_>, key: &str) -> Option<String> {
    section.text(key).map(|domain| format!("https://{domain}"))
}

/// An address with its scheme and without what belongs to a single endpoint.
fn without_endpoint(url: &str) -> String {
    let url = match url.contains("://") {
        true => url.to_owned(),
        false => format!("https://{url}"),
    };
    let url = url.trim_end_matches('/');
    let end = ENDPOINTS.iter().find_map(|end| url.strip_suffix(end));
    end.unwrap_or(url).to_owned()
}

/// `https://RESOURCE.openai.azure.com[/openai/v1 | /openai/deployments/NAME[/…]][?api-version=…]`.
fn azure(section: &Section<'_>, cx: &mut Cx<'_>) -> Vec<(String, Yaml)> {
    let Some(url) = section.text("azureServiceUrl") else {
        cx.note(
            section.span,
            format!("azure without azureServiceUrl: write its address in the place of {UNKNOWN}"),
        );
        return vec![("base_url".to_owned(), Yaml::text(UNKNOWN))];
    };
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let version = query
        .split('&')
        .find_map(|part| part.strip_prefix("api-version="));
    let version = version.map(|version| ("api_version".to_owned(), Yaml::text(version)));
    let others = query.split('&').filter(|part| !part.is_empty());
    for part in others.filter(|part| !part.starts_with("api-version=")) {
        let name = part.split('=').next().unwrap_or(part);
        let text = format!("`{name}` in azureServiceUrl has no counterpart: left out");
        cx.note(section.span_of("azureServiceUrl"), text);
    }
    let (resource, rest) = match address.split_once("/openai/deployments/") {
        Some((resource, rest)) => (resource, Some(rest)),
        None => (address, None),
    };
    let base = resource.trim_end_matches('/').to_owned();
    let mut out = vec![("base_url".to_owned(), Yaml::Text(base))];
    out.extend(version);
    if let Some(rest) = rest {
        let (deployment, endpoint) = rest.split_once('/').unwrap_or((rest, ""));
        if !endpoint.is_empty() {
            cx.note(
                section.span_of("azureServiceUrl"),
                format!("every request went to {endpoint}; here the caller's endpoint is kept"),
            );
        }
        if section.get("modelMapping").is_some() {
            cx.note(
                section.span_of("modelMapping"),
                format!("the deployment {deployment} in azureServiceUrl decides whatever the model: modelMapping is left out"),
            );
        }
        let mapping = Yaml::Map(vec![("*".to_owned(), Yaml::text(deployment))]);
        out.push(("model_mapping".to_owned(), mapping));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::without_endpoint;

    #[test]
    fn the_endpoint_is_no_part_of_an_address() {
        let cases = [
            (
                "www.example.com/myai/v1/chat/completions",
                "https://www.example.com/myai/v1",
            ),
            ("http://h:1/v1/", "http://h:1/v1"),
            ("https://h", "https://h"),
        ];
        for (given, wanted) in cases {
            assert_eq!(without_endpoint(given), wanted);
        }
    }
}
