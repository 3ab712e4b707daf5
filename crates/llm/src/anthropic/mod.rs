//! Anthropic's dialect: messages.

mod decode;
mod read;
mod stream;
mod whole;
mod write;

pub(crate) use decode::Decoder;
pub(crate) use read::read;
pub(crate) use stream::MessagesStream;
pub(crate) use whole::whole;
pub(crate) use write::{JSON_PLEASE, write};

use crate::json::Obj;
use crate::usage::Usage;

/// The `usage`: what was cached is counted beside the input.
fn usage(body: &mut Obj<'_>, usage: Usage) {
    body.obj("usage", |out| {
        let fresh = usage
            .input
            .saturating_sub(usage.cached)
            .saturating_sub(usage.cache_written);
        out.int("input_tokens", fresh);
        out.int("cache_creation_input_tokens", usage.cache_written);
        out.int("cache_read_input_tokens", usage.cached);
        out.int("output_tokens", usage.output);
    });
}

/// Whether a model goes on from a last message of the assistant: those before 4.6 do, later ones refuse it. By Anthropic's or
/// Bedrock's name (`claude-sonnet-4-5-20250929`, `us.anthropic.claude-3-haiku-20240307-v1:0`); of a name that tells no version
/// nobody knows.
pub(crate) fn continues(model: &str) -> bool {
    let number = |word: &str| -> Option<u32> {
        // Longer ones are dates.
        (word.len() <= 2).then(|| word.parse().ok()).flatten()
    };
    let Some((_, name)) = model.split_once("claude") else {
        return false;
    };
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    let Some(major) = words.find_map(|word| number(word.strip_prefix('v').unwrap_or(word))) else {
        return false;
    };
    let minor = words.next().and_then(number).unwrap_or(0);
    (major, minor) < (4, 6)
}

#[cfg(test)]
mod tests {
    use super::continues;

    #[test]
    fn models_before_4_6_go_on_from_a_beginning() {
        for model in [
            "claude-3-opus-20240229",
            "claude-3-5-sonnet-latest",
            "claude-sonnet-4-20250514",
            "claude-opus-4-1",
            "claude-haiku-4-5-20251001",
            "anthropic.claude-v2:1",
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "anthropic.claude-opus-4-20250514-v1:0",
        ] {
            assert!(continues(model), "{model}");
        }
        for model in [
            "claude-opus-4-6",
            "claude-sonnet-4-6-20260217",
            "us.anthropic.claude-opus-4-6-v1",
            "claude-opus-4-10",
            "claude-sonnet-5",
            "claude-sonnet",
            "amazon.nova-pro-v1:0",
            "arn:aws:bedrock:us-east-1:1:application-inference-profile/x",
            "",
        ] {
            assert!(!continues(model), "{model}");
        }
    }
}
