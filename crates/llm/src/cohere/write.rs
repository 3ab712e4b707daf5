//! Writes a chat request.

use crate::ir::{Format, Media, MediaKind, Part, Request, Role, Source, ToolChoice, arguments};
use crate::json::{Arr, Obj, object};

pub(crate) fn write(request: &Request<'_>, model: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    object(&mut out, |body| {
        body.str("model", model);
        body.bool("stream", request.stream);
        body.arr("messages", |messages| write_messages(request, messages));
        // One tool can't be named: where only one may be called, it is the only one that is offered.
        let only = match &request.tool_choice {
            Some(ToolChoice::Named(name)) => Some(name),
            _ => None,
        };
        if !request.tools.is_empty() {
            body.arr("tools", |tools| {
                for tool in &request.tools {
                    if only.is_none_or(|name| *name == tool.name) {
                        tools.obj(|out| {
                            out.str("type", "function");
                            out.obj("function", |out| {
                                out.str("name", &tool.name);
                                out.opt_str("description", tool.description.as_deref());
                                match &tool.schema {
                                    Some(schema) => out.raw("parameters", schema),
                                    None => out
                                        .raw("parameters", r#"{"type":"object","properties":{}}"#),
                                }
                            });
                        });
                    }
                }
            });
            match &request.tool_choice {
                Some(ToolChoice::Any | ToolChoice::Named(_)) => body.str("tool_choice", "REQUIRED"),
                Some(ToolChoice::None) => body.str("tool_choice", "NONE"),
                Some(ToolChoice::Auto) | None => {}
            }
        }
        body.opt_int("max_tokens", request.max_tokens);
        body.opt_num(
            "temperature",
            request.temperature.map(|value| value.min(1.0)),
        );
        body.opt_num("p", request.top_p);
        body.opt_int("k", request.top_k);
        body.opt_num(
            "frequency_penalty",
            request.frequency_penalty.map(|value| value.clamp(0.0, 1.0)),
        );
        body.opt_num(
            "presence_penalty",
            request.presence_penalty.map(|value| value.clamp(0.0, 1.0)),
        );
        body.opt_json("seed", request.seed.as_ref());
        if !request.stop.is_empty() {
            body.arr("stop_sequences", |stop| {
                for sequence in &request.stop {
                    stop.str(sequence);
                }
            });
        }
        if request.logprobs {
            body.bool("logprobs", true);
        }
        match &request.format {
            Format::Text => {}
            Format::Json => body.obj("response_format", |out| out.str("type", "json_object")),
            Format::Schema { schema, .. } => body.obj("response_format", |out| {
                out.str("type", "json_object");
                out.raw("json_schema", schema);
            }),
        }
        if let Some(tokens) = request.reasoning.and_then(|reasoning| reasoning.tokens()) {
            body.obj("thinking", |out| {
                if tokens == 0 {
                    out.str("type", "disabled");
                } else {
                    out.str("type", "enabled");
                    out.int("token_budget", tokens);
                }
            });
        }
    });
    out
}

fn write_messages(request: &Request<'_>, messages: &mut Arr<'_>) {
    if let Some(system) = request.system_text() {
        messages.obj(|message| {
            message.str("role", "system");
            message.str("content", &system);
        });
    }
    for turn in &request.turns {
        match turn.role {
            Role::User => write_user(&turn.parts, messages),
            Role::Assistant => write_assistant(&turn.parts, messages),
        }
    }
}

fn write_user(parts: &[Part<'_>], messages: &mut Arr<'_>) {
    for part in parts {
        if let Part::ToolResult { id, content, .. } = part {
            let texts: Vec<&str> = content
                .iter()
                .filter_map(|part| match part {
                    Part::Text(text) => Some(text.text.as_ref()),
                    _ => None,
                })
                .collect();
            messages.obj(|message| {
                message.str("role", "tool");
                message.str("tool_call_id", id);
                message.str("content", &texts.join("\n"));
            });
        }
    }
    let said: Vec<&Part<'_>> = parts
        .iter()
        .filter(|part| match part {
            Part::Text(_) => true,
            Part::Media(media) => media.kind == MediaKind::Image,
            _ => false,
        })
        .collect();
    if said.is_empty() {
        return;
    }
    messages.obj(|message| {
        message.str("role", "user");
        message.arr("content", |content| {
            for part in said {
                match part {
                    Part::Text(text) => content.obj(|out| {
                        out.str("type", "text");
                        out.str("text", &text.text);
                    }),
                    Part::Media(media) => content.obj(|out| write_image(media, out)),
                    _ => {}
                }
            }
        });
    });
}

fn write_image(media: &Media<'_>, out: &mut Obj<'_>) {
    out.str("type", "image_url");
    out.obj("image_url", |out| match &media.source {
        Source::Data(data) => out.str("url", &format!("data:{};base64,{data}", media.mime)),
        Source::Url(url) => out.str("url", url),
        Source::Text(text) => out.str("url", text),
    });
}

fn write_assistant(parts: &[Part<'_>], messages: &mut Arr<'_>) {
    let text: String = parts
        .iter()
        .filter_map(|part| match part {
            Part::Text(text) => Some(text.text.as_ref()),
            _ => None,
        })
        .collect();
    let calls = parts
        .iter()
        .any(|part| matches!(part, Part::ToolCall { .. }));
    if text.is_empty() && !calls {
        return;
    }
    messages.obj(|message| {
        message.str("role", "assistant");
        // What is said beside calls is their plan.
        if !text.is_empty() {
            message.str(if calls { "tool_plan" } else { "content" }, &text);
        }
        if !calls {
            return;
        }
        message.arr("tool_calls", |out| {
            for part in parts {
                if let Part::ToolCall {
                    id,
                    name,
                    arguments: text,
                    ..
                } = part
                {
                    out.obj(|call| {
                        call.str("id", id);
                        call.str("type", "function");
                        call.obj("function", |function| {
                            function.str("name", name);
                            function.str("arguments", &arguments(text));
                        });
                    });
                }
            }
        });
    });
}
