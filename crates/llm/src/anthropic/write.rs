//! Writes a request.

use crate::ir::{
    Format, Media, MediaKind, Part, Request, Role, Source, Text, ToolChoice, arguments, plain_id,
};
use crate::json::{Arr, Obj, object};

/// Most tokens of an answer must be told here: what is taken where the caller leaves it out. Every current model can do it.
const MAX_TOKENS: u64 = 8192;

pub(crate) fn write(request: &Request<'_>, model: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    object(&mut out, |body| {
        body.str("model", model);
        let most = request.max_tokens.unwrap_or(MAX_TOKENS);
        let thinking = request.thinking_budget(most);
        body.int("max_tokens", most);
        write_system(request, body);
        body.arr("messages", |messages| write_messages(request, messages));
        if !request.tools.is_empty() {
            write_tools(request, thinking.is_some(), body);
        }
        match thinking {
            Some(tokens) => body.obj("thinking", |out| {
                out.str("type", "enabled");
                out.int("budget_tokens", tokens);
            }),
            None => {
                // OpenAI's scale ends at 2. With thinking none of these may be given.
                body.opt_num(
                    "temperature",
                    request.temperature.map(|value| value.min(1.0)),
                );
                // Newer models refuse both together.
                if request.temperature.is_none() {
                    body.opt_num("top_p", request.top_p);
                }
                body.opt_int("top_k", request.top_k);
            }
        }
        if !request.stop.is_empty() {
            body.arr("stop_sequences", |stop| {
                for sequence in &request.stop {
                    // White space alone is refused.
                    if !sequence.trim().is_empty() {
                        stop.str(sequence);
                    }
                }
            });
        }
        if let Format::Schema { schema, .. } = &request.format {
            body.obj("output_config", |out| {
                out.obj("format", |out| {
                    out.str("type", "json_schema");
                    out.raw("schema", schema);
                });
            });
        }
        if let Some(user) = &request.user {
            body.obj("metadata", |out| out.str("user_id", user));
        }
        if request.stream {
            body.bool("stream", true);
        }
    });
    out
}

/// What is asked for where a dialect has JSON without a schema and the provider has not.
pub(crate) const JSON_PLEASE: &str = "Answer with a single JSON object and nothing else.";

fn write_system(request: &Request<'_>, body: &mut Obj<'_>) {
    let json = matches!(request.format, Format::Json);
    if request.system.is_empty() && !json {
        return;
    }
    body.arr("system", |system| {
        for text in &request.system {
            if !text.text.is_empty() {
                system.obj(|out| write_text(text, out));
            }
        }
        if json {
            system.obj(|out| write_text(&Text::new(JSON_PLEASE), out));
        }
    });
}

fn write_text(text: &Text<'_>, out: &mut Obj<'_>) {
    out.str("type", "text");
    out.str("text", &text.text);
    if text.cache {
        out.obj("cache_control", |out| out.str("type", "ephemeral"));
    }
}

fn write_tools(request: &Request<'_>, thinking: bool, body: &mut Obj<'_>) {
    body.arr("tools", |tools| {
        for tool in &request.tools {
            tools.obj(|out| {
                out.str("name", &tool.name);
                out.opt_str("description", tool.description.as_deref());
                match &tool.schema {
                    Some(schema) => out.raw("input_schema", schema),
                    None => out.raw("input_schema", r#"{"type":"object","properties":{}}"#),
                }
            });
        }
    });
    let one = request.parallel_tools == Some(false);
    let choice = match &request.tool_choice {
        // A forced call and thinking exclude each other.
        Some(ToolChoice::Any | ToolChoice::Named(_)) if thinking => Some(("auto", None)),
        Some(ToolChoice::Auto) => Some(("auto", None)),
        Some(ToolChoice::None) => Some(("none", None)),
        Some(ToolChoice::Any) => Some(("any", None)),
        Some(ToolChoice::Named(name)) => Some(("tool", Some(name))),
        None => one.then_some(("auto", None)),
    };
    if let Some((kind, name)) = choice {
        body.obj("tool_choice", |out| {
            out.str("type", kind);
            out.opt_str("name", name.map(AsRef::as_ref));
            if one && kind != "none" {
                out.bool("disable_parallel_tool_use", true);
            }
        });
    }
}

fn write_messages(request: &Request<'_>, messages: &mut Arr<'_>) {
    for turn in &request.turns {
        // Results come first in a turn: they must follow the calls at once.
        let (results, rest): (Vec<_>, Vec<_>) = turn
            .parts
            .iter()
            .filter(|part| says(part))
            .partition(|part| matches!(part, Part::ToolResult { .. }));
        if results.is_empty() && rest.is_empty() {
            continue;
        }
        messages.obj(|message| {
            message.str(
                "role",
                match turn.role {
                    Role::User => "user",
                    Role::Assistant => "assistant",
                },
            );
            message.arr("content", |content| {
                for part in results.into_iter().chain(rest) {
                    content.obj(|out| write_part(part, out));
                }
            });
        });
    }
}

/// Empty texts are refused, and thoughts without their proof.
fn says(part: &Part<'_>) -> bool {
    match part {
        Part::Text(text) => !text.text.is_empty(),
        Part::Reasoning { signature, .. } => {
            signature.as_ref().is_some_and(|proof| !proof.is_empty())
        }
        // No model here hears.
        Part::Media(media) => media.kind != MediaKind::Audio,
        _ => true,
    }
}

fn write_part(part: &Part<'_>, out: &mut Obj<'_>) {
    match part {
        Part::Text(text) => write_text(text, out),
        Part::Media(media) => write_media(media, out),
        Part::ToolCall {
            id,
            name,
            arguments: text,
            ..
        } => {
            out.str("type", "tool_use");
            out.str("id", &plain_id(id));
            out.str("name", name);
            out.raw("input", &arguments(text));
        }
        Part::ToolResult { id, content, error } => {
            out.str("type", "tool_result");
            out.str("tool_use_id", &plain_id(id));
            out.arr("content", |out| {
                for part in content.iter().filter(|part| says(part)) {
                    out.obj(|out| write_part(part, out));
                }
            });
            if *error {
                out.bool("is_error", true);
            }
        }
        Part::Reasoning { text, signature } => {
            out.str("type", "thinking");
            out.str("thinking", text);
            out.opt_str("signature", signature.as_deref());
        }
        Part::Redacted(data) => {
            out.str("type", "redacted_thinking");
            out.str("data", data);
        }
    }
}

fn write_media(media: &Media<'_>, out: &mut Obj<'_>) {
    out.str(
        "type",
        match media.kind {
            MediaKind::Document => "document",
            MediaKind::Image | MediaKind::Audio => "image",
        },
    );
    out.obj("source", |out| match &media.source {
        Source::Data(data) => {
            out.str("type", "base64");
            out.str("media_type", &media.mime);
            out.str("data", data);
        }
        Source::Url(url) => {
            out.str("type", "url");
            out.str("url", url);
        }
        Source::Text(text) => {
            out.str("type", "text");
            out.str("media_type", "text/plain");
            out.str("data", text);
        }
    });
    if media.kind == MediaKind::Document {
        out.opt_str("title", media.name.as_deref());
    }
}
