//! Writes a chat request.

use crate::fault::Fault;
use crate::ir::{Format, Media, MediaKind, Part, Request, Role, Source, ToolChoice, arguments};
use crate::json::{Arr, Obj, object};
use crate::registry::{Continue, Quirks};

/// `usage`: the provider is to tell the usage at the stream's end.
pub(crate) fn write(
    request: &Request<'_>,
    model: &str,
    quirks: &Quirks,
    usage: bool,
) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::with_capacity(1024);
    let named = |name: &'static str| {
        quirks
            .rename
            .iter()
            .find(|(from, _)| *from == name)
            .map_or(name, |(_, to)| to)
    };
    let taken = |name: &str| !quirks.drop.contains(&name);
    object(&mut out, |body| {
        body.str("model", model);
        body.arr("messages", |messages| {
            write_messages(request, quirks.go_on, messages)
        });
        if !request.tools.is_empty() {
            body.arr("tools", |tools| {
                for tool in &request.tools {
                    tools.obj(|out| {
                        out.str("type", "function");
                        out.obj("function", |out| {
                            out.str("name", &tool.name);
                            out.opt_str("description", tool.description.as_deref());
                            out.opt_raw("parameters", tool.schema.as_deref());
                            if let Some(strict) = tool.strict {
                                out.bool("strict", strict);
                            }
                        });
                    });
                }
            });
            match &request.tool_choice {
                None => {}
                Some(ToolChoice::Auto) => body.str("tool_choice", "auto"),
                Some(ToolChoice::None) => body.str("tool_choice", "none"),
                Some(ToolChoice::Any) => body.str("tool_choice", "required"),
                Some(ToolChoice::Named(name)) => body.obj("tool_choice", |out| {
                    out.str("type", "function");
                    out.obj("function", |out| out.str("name", name));
                }),
            }
            if let Some(parallel) = request.parallel_tools {
                body.bool("parallel_tool_calls", parallel);
            }
        }
        let most = if quirks.new_max_tokens {
            "max_completion_tokens"
        } else {
            "max_tokens"
        };
        body.opt_int(most, request.max_tokens);
        body.opt_num("temperature", request.temperature);
        body.opt_num("top_p", request.top_p);
        body.opt_num("frequency_penalty", request.frequency_penalty);
        body.opt_num("presence_penalty", request.presence_penalty);
        body.opt_json(named("seed"), request.seed.as_ref());
        if !request.stop.is_empty() {
            body.arr("stop", |stop| {
                for sequence in &request.stop {
                    stop.str(sequence);
                }
            });
        }
        body.opt_int("n", request.choices.filter(|choices| *choices != 1));
        if request.logprobs {
            body.bool("logprobs", true);
            body.opt_int("top_logprobs", request.top_logprobs);
        }
        match &request.format {
            Format::Text => {}
            Format::Json => body.obj("response_format", |out| out.str("type", "json_object")),
            Format::Schema {
                name,
                schema,
                strict,
            } => body.obj("response_format", |out| {
                out.str("type", "json_schema");
                out.obj("json_schema", |out| {
                    out.str("name", name);
                    out.raw("schema", schema);
                    if let Some(strict) = strict {
                        out.bool("strict", *strict);
                    }
                });
            }),
        }
        if let Some(effort) = request.reasoning.and_then(|reasoning| reasoning.word()) {
            body.str("reasoning_effort", effort.word());
        }
        if let Some(user) = &request.user
            && taken("user")
        {
            body.str("user", user);
        }
        if request.continued && quirks.go_on == Continue::Flagged {
            body.bool("continue_final_message", true);
            body.bool("add_generation_prompt", false);
        }
        if request.stream {
            body.bool("stream", true);
            if usage && !quirks.no_stream_options {
                body.obj("stream_options", |out| out.bool("include_usage", true));
            }
        }
    });
    Ok(out)
}

fn write_messages(request: &Request<'_>, go_on: Continue, messages: &mut Arr<'_>) {
    if let Some(system) = request.system_text() {
        messages.obj(|message| {
            message.str("role", "system");
            message.str("content", &system);
        });
    }
    let last = request.turns.len().saturating_sub(1);
    for (at, turn) in request.turns.iter().enumerate() {
        let mark = match go_on {
            Continue::Marked { field, .. } if request.continued && at == last => Some(field),
            _ => None,
        };
        match turn.role {
            Role::User => write_user(&turn.parts, messages),
            Role::Assistant => write_assistant(&turn.parts, mark, messages),
        }
    }
}

/// Results of tools are messages of their own here, and come first: they must follow the calls.
fn write_user(parts: &[Part<'_>], messages: &mut Arr<'_>) {
    // Pictures in a result can't stand in a message of a tool.
    let mut pictures = Vec::new();
    for part in parts {
        if let Part::ToolResult { id, content, error } = part {
            messages.obj(|message| {
                message.str("role", "tool");
                message.str("tool_call_id", id);
                message.str("content", &result_text(content, *error, &mut pictures));
            });
        }
    }
    let said: Vec<&Part<'_>> = parts
        .iter()
        .filter(|part| matches!(part, Part::Text(_) | Part::Media(_)))
        .chain(pictures)
        .collect();
    match said.as_slice() {
        [] => {}
        [Part::Text(text)] => messages.obj(|message| {
            message.str("role", "user");
            message.str("content", &text.text);
        }),
        said => messages.obj(|message| {
            message.str("role", "user");
            message.arr("content", |content| {
                for part in said {
                    match part {
                        Part::Text(text) => content.obj(|out| {
                            out.str("type", "text");
                            out.str("text", &text.text);
                        }),
                        Part::Media(media) => content.obj(|out| write_media(media, out)),
                        _ => {}
                    }
                }
            });
        }),
    }
}

/// The text of a result; media are put into `pictures`.
fn result_text<'p, 'a>(
    content: &'p [Part<'a>],
    error: bool,
    pictures: &mut Vec<&'p Part<'a>>,
) -> String {
    let mut text = String::new();
    if error {
        text.push_str("Error: ");
    }
    let mut first = true;
    for part in content {
        match part {
            Part::Text(part) => {
                if !first {
                    text.push('\n');
                }
                first = false;
                text.push_str(&part.text);
            }
            Part::Media(_) => pictures.push(part),
            _ => {}
        }
    }
    text
}

fn write_media(media: &Media<'_>, out: &mut Obj<'_>) {
    match (media.kind, &media.source) {
        (MediaKind::Image, source) => {
            out.str("type", "image_url");
            out.obj("image_url", |out| {
                match source {
                    Source::Url(url) => out.str("url", url),
                    Source::Data(data) => {
                        out.str("url", &format!("data:{};base64,{data}", media.mime));
                    }
                    Source::Text(text) => out.str("url", text),
                }
                out.opt_str("detail", media.detail.as_deref());
            });
        }
        (MediaKind::Audio, Source::Data(data)) => {
            out.str("type", "input_audio");
            out.obj("input_audio", |out| {
                out.str("data", data);
                let format = media.mime.rsplit('/').next().unwrap_or("wav");
                out.str("format", if format == "mpeg" { "mp3" } else { format });
            });
        }
        (_, Source::Text(text)) => {
            out.str("type", "text");
            out.str("text", text);
        }
        (_, Source::Data(data)) => {
            out.str("type", "file");
            out.obj("file", |out| {
                out.str("filename", media.name.as_deref().unwrap_or("document.pdf"));
                out.str("file_data", &format!("data:{};base64,{data}", media.mime));
            });
        }
        (_, Source::Url(url)) => {
            // Chat completions take no URL of a document; the model is at least told where it is.
            out.str("type", "text");
            out.str("text", url);
        }
    }
}

/// `mark`: a field that says that the answer goes on from here.
fn write_assistant(parts: &[Part<'_>], mark: Option<&str>, messages: &mut Arr<'_>) {
    let text: Vec<&str> = parts
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
        // Nothing but thoughts, which no other provider takes back.
        return;
    }
    messages.obj(|message| {
        message.str("role", "assistant");
        if text.is_empty() {
            message.null("content");
        } else {
            message.str("content", &text.concat());
        }
        if let Some(mark) = mark {
            message.bool(mark, true);
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
