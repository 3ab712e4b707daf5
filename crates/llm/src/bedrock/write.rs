//! Writes a request. The model stands in the path.

use crate::fault::{Fault, FaultKind};
use crate::ir::{
    Format, Media, MediaKind, Part, Request, Role, Source, ToolChoice, arguments, plain_id,
};
use crate::json::{Arr, Obj, object};

pub(crate) fn write(request: &Request<'_>, model: &str) -> Result<Vec<u8>, Fault> {
    for part in request.turns.iter().flat_map(|turn| &turn.parts) {
        if let Part::Media(Media {
            source: Source::Url(_),
            ..
        }) = part
        {
            return Err(Fault::new(
                FaultKind::Untranslatable,
                "this provider takes no URLs of images and documents: send the data itself",
            ));
        }
    }
    let claude = model.contains("anthropic.claude");
    // Only Claude thinks by budget here; what it may say at most is its own default if the caller says nothing.
    let thinking = match claude {
        true => request.thinking_budget(request.max_tokens.unwrap_or(u64::MAX)),
        false => None,
    };
    let mut out = Vec::with_capacity(1024);
    object(&mut out, |body| {
        let json = matches!(request.format, Format::Json);
        if !request.system.is_empty() || json {
            body.arr("system", |system| {
                for text in request.system.iter().filter(|text| !text.text.is_empty()) {
                    system.obj(|out| out.str("text", &text.text));
                    if text.cache {
                        cache_point(system);
                    }
                }
                if json {
                    system.obj(|out| out.str("text", crate::anthropic::JSON_PLEASE));
                }
            });
        }
        body.arr("messages", |messages| write_messages(request, messages));
        body.obj("inferenceConfig", |config| {
            config.opt_int("maxTokens", request.max_tokens);
            if thinking.is_none() {
                config.opt_num(
                    "temperature",
                    request.temperature.map(|value| value.min(1.0)),
                );
                if !claude || request.temperature.is_none() {
                    config.opt_num("topP", request.top_p);
                }
            }
            if !request.stop.is_empty() {
                config.arr("stopSequences", |stop| {
                    for sequence in &request.stop {
                        stop.str(sequence);
                    }
                });
            }
        });
        write_tools(request, thinking.is_some(), body);
        if let Format::Schema { name, schema, .. } = &request.format {
            body.obj("outputConfig", |out| {
                out.obj("textFormat", |out| {
                    out.str("type", "json_schema");
                    out.obj("structure", |out| {
                        out.obj("jsonSchema", |out| {
                            // As text, here.
                            out.str("schema", schema);
                            out.str("name", name);
                        });
                    });
                });
            });
        }
        if thinking.is_some() || (claude && request.top_k.is_some()) {
            body.obj("additionalModelRequestFields", |out| match thinking {
                Some(tokens) => out.obj("thinking", |out| {
                    out.str("type", "enabled");
                    out.int("budget_tokens", tokens);
                }),
                None => out.opt_int("top_k", request.top_k),
            });
        }
    });
    Ok(out)
}

fn cache_point(list: &mut Arr<'_>) {
    list.obj(|out| out.obj("cachePoint", |out| out.str("type", "default")));
}

fn write_tools(request: &Request<'_>, thinking: bool, body: &mut Obj<'_>) {
    let called = request
        .turns
        .iter()
        .flat_map(|turn| &turn.parts)
        .any(|part| matches!(part, Part::ToolCall { .. } | Part::ToolResult { .. }));
    // There is no word for "none": without tools in the history they are left out.
    let none = request.tool_choice == Some(ToolChoice::None);
    if request.tools.is_empty() || (none && !called) {
        return;
    }
    body.obj("toolConfig", |config| {
        config.arr("tools", |tools| {
            for tool in &request.tools {
                tools.obj(|out| {
                    out.obj("toolSpec", |out| {
                        out.str("name", &tool.name);
                        out.opt_str("description", tool.description.as_deref());
                        out.obj("inputSchema", |out| match &tool.schema {
                            Some(schema) => out.raw("json", schema),
                            None => out.raw("json", r#"{"type":"object","properties":{}}"#),
                        });
                    });
                });
            }
        });
        match &request.tool_choice {
            Some(ToolChoice::Any) if !thinking => {
                config.obj("toolChoice", |out| out.obj("any", |_| {}));
            }
            Some(ToolChoice::Named(name)) if !thinking => config.obj("toolChoice", |out| {
                out.obj("tool", |out| out.str("name", name));
            }),
            Some(ToolChoice::None) | None => {}
            Some(_) => config.obj("toolChoice", |out| out.obj("auto", |_| {})),
        }
    });
}

fn write_messages(request: &Request<'_>, messages: &mut Arr<'_>) {
    for turn in &request.turns {
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
                for (at, part) in results.into_iter().chain(rest).enumerate() {
                    content.obj(|out| write_part(part, at, out));
                    if matches!(part, Part::Text(text) if text.cache) {
                        cache_point(content);
                    }
                }
            });
        });
    }
}

fn says(part: &Part<'_>) -> bool {
    match part {
        Part::Text(text) => !text.text.is_empty(),
        Part::Reasoning { signature, .. } => {
            signature.as_ref().is_some_and(|proof| !proof.is_empty())
        }
        Part::Media(media) => media.kind != MediaKind::Audio,
        _ => true,
    }
}

fn write_part(part: &Part<'_>, at: usize, out: &mut Obj<'_>) {
    match part {
        Part::Text(text) => out.str("text", &text.text),
        Part::Media(media) => write_media(media, at, out),
        Part::ToolCall {
            id,
            name,
            arguments: text,
            ..
        } => out.obj("toolUse", |out| {
            out.str("toolUseId", &plain_id(id));
            out.str("name", name);
            out.raw("input", &arguments(text));
        }),
        Part::ToolResult { id, content, error } => out.obj("toolResult", |out| {
            out.str("toolUseId", &plain_id(id));
            out.arr("content", |out| {
                for part in content {
                    match part {
                        Part::Text(text) => out.obj(|out| out.str("text", &text.text)),
                        Part::Media(media) => out.obj(|out| write_media(media, at, out)),
                        _ => {}
                    }
                }
            });
            if *error {
                out.str("status", "error");
            }
        }),
        Part::Reasoning { text, signature } => out.obj("reasoningContent", |out| {
            out.obj("reasoningText", |out| {
                out.str("text", text);
                out.opt_str("signature", signature.as_deref());
            });
        }),
        Part::Redacted(data) => out.obj("reasoningContent", |out| {
            out.str("redactedContent", data);
        }),
    }
}

fn write_media(media: &Media<'_>, at: usize, out: &mut Obj<'_>) {
    let end = media.mime.rsplit('/').next().unwrap_or_default();
    match (&media.source, media.kind) {
        (Source::Text(text), _) => out.str("text", text),
        (Source::Url(url), _) => out.str("text", url),
        (Source::Data(data), MediaKind::Document) => out.obj("document", |out| {
            out.str(
                "format",
                match end {
                    "plain" => "txt",
                    "markdown" => "md",
                    "msword" => "doc",
                    "vnd.openxmlformats-officedocument.wordprocessingml.document" => "docx",
                    "vnd.ms-excel" => "xls",
                    "vnd.openxmlformats-officedocument.spreadsheetml.sheet" => "xlsx",
                    "csv" | "html" | "pdf" => end,
                    _ => "pdf",
                },
            );
            // Letters, digits and single spaces; two of one name are refused.
            let name: String = media
                .name
                .as_deref()
                .unwrap_or("document")
                .chars()
                .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
                .take(100)
                .collect();
            out.str("name", &format!("{name}-{at}"));
            out.obj("source", |out| out.str("bytes", data));
        }),
        (Source::Data(data), _) => out.obj("image", |out| {
            out.str("format", if end == "jpg" { "jpeg" } else { end });
            out.obj("source", |out| out.str("bytes", data));
        }),
    }
}
