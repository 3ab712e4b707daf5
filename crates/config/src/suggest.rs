//! "Did you mean": the known word that is nearest to a wrong one.

/// What other systems call our keys, with what to know about the difference.
const FOREIGN: [(&str, &str, &str); 22] = [
    ("retry_on", "on", ""),
    (
        "num_retries",
        "attempts",
        " It counts the first attempt too.",
    ),
    ("max_attempts", "attempts", ""),
    ("cluster", "upstream", ""),
    ("clusters", "upstreams", ""),
    ("backend", "upstream", ""),
    ("backends", "upstreams", ""),
    ("servers", "endpoints", ""),
    ("hosts", "endpoints", ""),
    ("virtual_hosts", "routes", ""),
    ("domains", "hosts", ""),
    ("host", "hosts", ""),
    ("lb_policy", "balance", ""),
    ("load_balancer", "balance", ""),
    ("consecutive_5xx_errors", "consecutive_5xx", ""),
    (
        "consecutive_errors",
        "consecutive_5xx",
        " For failures within a time, `errors: { count, within }`.",
    ),
    (
        "consecutive_gateway_errors",
        "consecutive_gateway_failure",
        "",
    ),
    ("prefix_rewrite", "prefix", ""),
    ("requests_per_unit", "requests", ""),
    ("unit", "per", ""),
    ("destination", "to", ""),
    ("listen", "address", ""),
];

/// What Higress's ai-proxy calls its keys, where we have no key of that very name.
const HIGRESS: [&str; 22] = [
    "activeProviderId",
    "apiTokens",
    "azureServiceUrl",
    "awsAccessKey",
    "awsRegion",
    "awsSecretKey",
    "cooldownDuration",
    "failoverOnStatus",
    "failureThreshold",
    "firstByteTimeout",
    "healthCheckInterval",
    "healthCheckModel",
    "healthCheckTimeout",
    "maxRetries",
    "modelMapping",
    "openaiCustomUrl",
    "pluginConfig",
    "retryOnFailure",
    "retryOnStatus",
    "successThreshold",
    "vertexProjectId",
    "vertexRegion",
];

/// Whether a file that has this key was written for Higress.
pub(crate) fn is_higress(word: &str) -> bool {
    HIGRESS.contains(&word)
}

/// A key that was probably meant, with a remark.
pub(crate) fn key(word: &str, candidates: &[&'static str]) -> Option<(&'static str, &'static str)> {
    if let Some(right) = closest(word, candidates.iter().copied()) {
        return Some((right, ""));
    }
    let snake = snake_case(word);
    let foreign = FOREIGN.iter().filter(|(theirs, _, _)| *theirs == snake);
    foreign
        .filter_map(|(_, ours, remark)| {
            candidates
                .iter()
                .copied()
                .find(|c| c == ours)
                .map(|c| (c, *remark))
        })
        .next()
}

/// The candidate that is so near to `word` that a slip of the finger explains the difference.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Long texts are no slips of a key, and the distance takes quadratic time.
    if word.len() > 64 {
        return None;
    }
    let word = snake_case(word);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= 64)
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &snake_case(candidate)),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `perTryTimeout` and `per-try-timeout` as we write it.
fn snake_case(word: &str) -> String {
    let mut out = String::with_capacity(word.len() + 4);
    for c in word.chars() {
        match c {
            '-' | '.' | ' ' => out.push('_'),
            c if c.is_ascii_uppercase() => {
                if out.ends_with(|last: char| last.is_ascii_lowercase() || last.is_ascii_digit()) {
                    out.push('_');
                }
                out.push(c.to_ascii_lowercase());
            }
            c => out.push(c),
        }
    }
    out
}
