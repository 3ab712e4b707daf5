//! Writes a request.

use crate::fault::Fault;
use crate::ir::{
    Effort, Format, Media, Part, Request, Role, Source, ToolChoice, arguments, mime_of_url,
};
use crate::json::{Arr, Json, Obj, object, parse, string};

/// What stands in for a proof that a call of another model has not: Google's own word for it. Models from the third
/// generation on refuse calls of the current turn without one.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

pub(crate) fn write(request: &Request<'_>, model: &str) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::with_capacity(1024);
    let signs = model.contains("gemini-3");
    object(&mut out, |body| {
        if let Some(system) = request.system_text() {
            body.obj("systemInstruction", |out| {
                out.arr("parts", |parts| parts.obj(|part| part.str("text", &system)));
            });
        }
        body.arr("contents", |contents| {
            for turn in &request.turns {
                write_turn(request, turn.role, &turn.parts, signs, contents);
            }
        });
        if !request.tools.is_empty() {
            write_tools(request, body);
        }
        body.obj("generationConfig", |config| {
            write_config(request, model, config)
        });
    });
    Ok(out)
}

fn write_turn(
    request: &Request<'_>,
    role: Role,
    said: &[Part<'_>],
    signs: bool,
    contents: &mut Arr<'_>,
) {
    let says = |part: &&Part<'_>| match part {
        Part::Text(text) => !text.text.is_empty(),
        // Thoughts of the past are not taken back.
        Part::Reasoning { .. } | Part::Redacted(_) => false,
        _ => true,
    };
    if !said.iter().any(|part| says(&part)) {
        return;
    }
    contents.obj(|content| {
        content.str(
            "role",
            match role {
                Role::User => "user",
                Role::Assistant => "model",
            },
        );
        content.arr("parts", |parts| {
            let mut first_call = true;
            for part in said.iter().filter(says) {
                match part {
                    Part::Text(text) => parts.obj(|out| out.str("text", &text.text)),
                    Part::Media(media) => parts.obj(|out| write_media(media, out)),
                    Part::ToolCall {
                        id: _,
                        name,
                        arguments: text,
                        signature,
                    } => {
                        parts.obj(|out| {
                            out.obj("functionCall", |out| {
                                out.str("name", name);
                                out.raw("args", &arguments(text));
                            });
                            // Only the first of parallel calls has one.
                            match signature {
                                Some(signature) => out.str("thoughtSignature", signature),
                                None if signs && first_call => {
                                    out.str("thoughtSignature", NO_SIGNATURE);
                                }
                                None => {}
                            }
                        });
                        first_call = false;
                    }
                    Part::ToolResult { id, content, error } => {
                        let name = request.name_of_call(id).unwrap_or(id);
                        parts.obj(|out| {
                            out.obj("functionResponse", |out| {
                                out.str("name", name);
                                out.raw("response", &result(content, *error));
                            });
                        });
                        for part in content {
                            if let Part::Media(media) = part {
                                parts.obj(|out| write_media(media, out));
                            }
                        }
                    }
                    Part::Reasoning { .. } | Part::Redacted(_) => {}
                }
            }
        });
    });
}

/// The object that a function gave: the text itself if it is one.
fn result(content: &[Part<'_>], error: bool) -> String {
    let texts: Vec<&str> = content
        .iter()
        .filter_map(|part| match part {
            Part::Text(text) => Some(text.text.as_ref()),
            _ => None,
        })
        .collect();
    let text = texts.join("\n");
    if !error && matches!(parse(text.as_bytes()), Ok(Json::Object(_))) {
        return text;
    }
    let mut out = if error {
        br#"{"error":"#.to_vec()
    } else {
        br#"{"result":"#.to_vec()
    };
    string(&mut out, &text);
    out.push(b'}');
    String::from_utf8(out).expect("JSON that was written here is UTF-8")
}

fn write_media(media: &Media<'_>, out: &mut Obj<'_>) {
    match &media.source {
        Source::Data(data) => out.obj("inlineData", |out| {
            out.str("mimeType", &media.mime);
            out.str("data", data);
        }),
        Source::Url(url) => out.obj("fileData", |out| {
            let mime = if media.mime.is_empty() {
                mime_of_url(url)
            } else {
                Some(media.mime.as_ref())
            };
            out.opt_str("mimeType", mime);
            out.str("fileUri", url);
        }),
        Source::Text(text) => out.str("text", text),
    }
}

fn write_tools(request: &Request<'_>, body: &mut Obj<'_>) {
    body.arr("tools", |tools| {
        tools.obj(|out| {
            out.arr("functionDeclarations", |functions| {
                for tool in &request.tools {
                    functions.obj(|out| {
                        out.str("name", &tool.name);
                        out.opt_str("description", tool.description.as_deref());
                        // The whole of JSON Schema, where `parameters` takes a part of it.
                        out.opt_raw("parametersJsonSchema", tool.schema.as_deref());
                    });
                }
            });
        });
    });
    let (mode, name) = match &request.tool_choice {
        None => return,
        Some(ToolChoice::Auto) => ("AUTO", None),
        Some(ToolChoice::None) => ("NONE", None),
        Some(ToolChoice::Any) => ("ANY", None),
        Some(ToolChoice::Named(name)) => ("ANY", Some(name)),
    };
    body.obj("toolConfig", |out| {
        out.obj("functionCallingConfig", |out| {
            out.str("mode", mode);
            if let Some(name) = name {
                out.arr("allowedFunctionNames", |names| names.str(name));
            }
        });
    });
}

fn write_config(request: &Request<'_>, model: &str, config: &mut Obj<'_>) {
    config.opt_num("temperature", request.temperature);
    config.opt_num("topP", request.top_p);
    config.opt_int("topK", request.top_k);
    config.opt_int(
        "candidateCount",
        request.choices.filter(|choices| *choices > 1),
    );
    config.opt_int("maxOutputTokens", request.max_tokens);
    if !request.stop.is_empty() {
        config.arr("stopSequences", |stop| {
            for sequence in &request.stop {
                stop.str(sequence);
            }
        });
    }
    config.opt_json("seed", request.seed.as_ref());
    config.opt_num("frequencyPenalty", request.frequency_penalty);
    config.opt_num("presencePenalty", request.presence_penalty);
    if request.logprobs {
        config.bool("responseLogprobs", true);
        config.opt_int("logprobs", request.top_logprobs);
    }
    match &request.format {
        Format::Text => {}
        Format::Json => config.str("responseMimeType", "application/json"),
        Format::Schema { schema, .. } => {
            config.str("responseMimeType", "application/json");
            config.raw("responseJsonSchema", schema);
        }
    }
    let Some(reasoning) = request.reasoning else {
        return;
    };
    config.obj("thinkingConfig", |out| {
        // The third generation has levels, the second a budget.
        if model.contains("gemini-3") {
            if let Some(word) = reasoning.word() {
                let level = match word {
                    Effort::None | Effort::Minimal | Effort::Low => "low",
                    Effort::Medium | Effort::High | Effort::XHigh => "high",
                };
                out.str("thinkingLevel", level);
            }
        } else {
            out.opt_int("thinkingBudget", reasoning.tokens());
        }
        let thinks = reasoning.tokens() != Some(0);
        out.bool("includeThoughts", reasoning.show.unwrap_or(thinks));
    });
}
