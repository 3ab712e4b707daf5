//! Reads a chat request.

use std::borrow::Cow;

use crate::fault::{Fault, FaultKind};
use crate::ir::{
    Effort, Format, Media, MediaKind, Part, Reasoning, Request, Role, Source, Text, Tool,
    ToolChoice, media_from_url,
};
use crate::json::{Json, Tree, value_text};

pub(crate) fn read<'a>(body: &Json<'a>) -> Result<Request<'a>, Fault> {
    let mut request = Request::default();
    let Json::Array(messages) = body.at("messages") else {
        return Err(Fault::field("messages", "an array"));
    };
    for (at, message) in messages.iter().enumerate() {
        read_message(&mut request, message, at)?;
    }
    for (at, tool) in body.at("tools").items().iter().enumerate() {
        request.tools.push(read_tool(tool, at)?);
    }
    // The form before tools.
    for function in body.at("functions").items() {
        request.tools.push(function_tool(function, "functions")?);
    }
    request.tool_choice = read_choice(body.at("tool_choice"))?;
    if request.tool_choice.is_none() {
        request.tool_choice = read_choice(body.at("function_call"))?;
    }
    request.parallel_tools = body.at("parallel_tool_calls").truth();
    request.max_tokens = body
        .at("max_completion_tokens")
        .int()
        .or(body.at("max_tokens").int());
    request.stop = match body.at("stop") {
        Json::Str(stop) => vec![stop.clone()],
        stop => stop.items().iter().filter_map(Tree::cow).collect(),
    };
    sampling(&mut request, body);
    request.choices = body.at("n").int();
    request.logprobs = body.at("logprobs").truth() == Some(true);
    request.top_logprobs = body.at("top_logprobs").int();
    request.format = read_format(body.at("response_format"))?;
    request.reasoning = reasoning(body);
    Ok(request)
}

/// Fields that chat completions, completions and responses share.
pub(super) fn sampling<'a>(request: &mut Request<'a>, body: &Json<'a>) {
    request.temperature = body.at("temperature").float();
    request.top_p = body.at("top_p").float();
    // Not OpenAI's, but understood by most of the compatible ones.
    request.top_k = body.at("top_k").int();
    request.frequency_penalty = body.at("frequency_penalty").float();
    request.presence_penalty = body.at("presence_penalty").float();
    if body.at("seed").given() {
        request.seed = Some(body.at("seed").clone());
    }
    request.stream = body.at("stream").truth() == Some(true);
    request.user = body
        .at("user")
        .cow()
        .or_else(|| body.at("safety_identifier").cow());
    if matches!(body.at("metadata"), Json::Object(_)) {
        request.metadata = Some(body.at("metadata").clone());
    }
}

fn reasoning(body: &Json<'_>) -> Option<Reasoning> {
    let effort = body.at("reasoning_effort").text().and_then(Effort::of);
    // OpenRouter's form, and that of several Chinese providers.
    let object = body.at("reasoning");
    let thinking = body.at("thinking");
    let reasoning = Reasoning {
        effort: effort.or_else(|| object.at("effort").text().and_then(Effort::of)),
        budget: object
            .at("max_tokens")
            .int()
            .or(thinking.at("budget_tokens").int()),
        enabled: match (
            thinking.at("type").text(),
            body.at("enable_thinking").truth(),
        ) {
            (Some("enabled"), _) => Some(true),
            (Some("disabled"), _) => Some(false),
            (_, enabled) => enabled,
        },
        show: None,
    };
    (reasoning != Reasoning::default()).then_some(reasoning)
}

fn read_message<'a>(request: &mut Request<'a>, message: &Json<'a>, at: usize) -> Result<(), Fault> {
    let Some(role) = message.at("role").text() else {
        return Err(Fault::field(format!("messages[{at}].role"), "a string"));
    };
    let content = message.at("content");
    match role {
        "system" | "developer" => {
            for part in parts(content, at)? {
                if let Part::Text(text) = part {
                    request.system.push(text);
                }
            }
        }
        "user" => {
            let parts = parts(content, at)?;
            request.say(Role::User, parts);
        }
        "assistant" => {
            let mut said = Vec::new();
            if let Some(text) = message
                .at("reasoning_content")
                .cow()
                .or_else(|| message.at("reasoning").cow())
                && !text.is_empty()
            {
                said.push(Part::Reasoning {
                    text,
                    signature: None,
                });
            }
            said.extend(parts(content, at)?);
            if let Some(text) = message.at("refusal").cow() {
                said.push(Part::Text(Text::new(text)));
            }
            for (call_at, call) in message.at("tool_calls").items().iter().enumerate() {
                let place = || format!("messages[{at}].tool_calls[{call_at}]");
                let function = call.at("function");
                let Some(name) = function.at("name").cow() else {
                    return Err(Fault::field(
                        format!("{}.function.name", place()),
                        "a string",
                    ));
                };
                said.push(Part::ToolCall {
                    id: call
                        .at("id")
                        .cow()
                        .ok_or_else(|| Fault::field(format!("{}.id", place()), "a string"))?,
                    name,
                    arguments: function.at("arguments").cow().unwrap_or_default(),
                    // Where Google's own compatible endpoint puts it.
                    signature: call
                        .at("extra_content")
                        .at("google")
                        .at("thought_signature")
                        .cow(),
                });
            }
            let call = message.at("function_call");
            if let Some(name) = call.at("name").cow() {
                said.push(Part::ToolCall {
                    id: name.clone(),
                    name,
                    arguments: call.at("arguments").cow().unwrap_or_default(),
                    signature: None,
                });
            }
            request.say(Role::Assistant, said);
        }
        "tool" | "function" => {
            let id = message
                .at("tool_call_id")
                .cow()
                .or_else(|| message.at("name").cow())
                .ok_or_else(|| Fault::field(format!("messages[{at}].tool_call_id"), "a string"))?;
            let content = parts(content, at)?;
            request.say(
                Role::User,
                vec![Part::ToolResult {
                    id,
                    content,
                    error: false,
                }],
            );
        }
        _ => {
            return Err(Fault::field(
                format!("messages[{at}].role"),
                "system, developer, user, assistant or tool",
            ));
        }
    }
    Ok(())
}

fn parts<'a>(content: &Json<'a>, at: usize) -> Result<Vec<Part<'a>>, Fault> {
    match content {
        Json::Null => Ok(Vec::new()),
        Json::Str(text) => Ok(if text.is_empty() {
            Vec::new()
        } else {
            vec![Part::Text(Text::new(text.clone()))]
        }),
        Json::Array(items) => items
            .iter()
            .enumerate()
            .map(|(part_at, part)| read_part(part, || format!("messages[{at}].content[{part_at}]")))
            .collect(),
        _ => Err(Fault::field(
            format!("messages[{at}].content"),
            "a string or an array",
        )),
    }
}

fn read_part<'a>(part: &Json<'a>, place: impl Fn() -> String) -> Result<Part<'a>, Fault> {
    let missing = |field: &str| Fault::field(format!("{}.{field}", place()), "a string");
    match part.at("type").text() {
        Some("text" | "input_text" | "output_text") => Ok(Part::Text(Text {
            text: part.at("text").cow().ok_or_else(|| missing("text"))?,
            cache: part.at("cache_control").given(),
        })),
        Some("refusal") => Ok(Part::Text(Text::new(
            part.at("refusal").cow().ok_or_else(|| missing("refusal"))?,
        ))),
        Some("image_url") => {
            let image = part.at("image_url");
            let url = image
                .cow()
                .or_else(|| image.at("url").cow())
                .ok_or_else(|| missing("image_url.url"))?;
            let mut media = media_from_url(MediaKind::Image, &url);
            media.detail = image.at("detail").cow();
            Ok(Part::Media(media))
        }
        Some("input_audio") => {
            let audio = part.at("input_audio");
            let mime = match audio.at("format").text() {
                Some("mp3") => "audio/mpeg".into(),
                Some(format) => Cow::Owned(format!("audio/{format}")),
                None => "audio/wav".into(),
            };
            Ok(Part::Media(Media {
                kind: MediaKind::Audio,
                mime,
                source: Source::Data(
                    audio
                        .at("data")
                        .cow()
                        .ok_or_else(|| missing("input_audio.data"))?,
                ),
                name: None,
                detail: None,
            }))
        }
        Some("file") => {
            let file = part.at("file");
            let Some(data) = file.at("file_data").cow() else {
                return Err(Fault::new(
                    FaultKind::Untranslatable,
                    "a file of the provider's own store can't be given to another provider",
                )
                .at(place()));
            };
            let mut media = media_from_url(MediaKind::Document, &data);
            media.name = file.at("filename").cow();
            Ok(Part::Media(media))
        }
        Some(other) => Err(Fault::new(
            FaultKind::Untranslatable,
            format!(
                "content of the type {:?} can't be given to this provider",
                other.chars().take(40).collect::<String>()
            ),
        )
        .at(place())),
        None => Err(missing("type")),
    }
}

fn read_tool<'a>(tool: &Json<'a>, at: usize) -> Result<Tool<'a>, Fault> {
    match tool.at("type").text() {
        Some("function") => function_tool(tool.at("function"), &format!("tools[{at}].function")),
        _ => Err(Fault::new(
            FaultKind::Untranslatable,
            "only tools of the type function can be given to this provider",
        )
        .at(format!("tools[{at}].type"))),
    }
}

/// A function's name, description and parameters: the same object in all of OpenAI's interfaces.
pub(super) fn function_tool<'a>(function: &Json<'a>, place: &str) -> Result<Tool<'a>, Fault> {
    Ok(Tool {
        name: function
            .at("name")
            .cow()
            .ok_or_else(|| Fault::field(format!("{place}.name"), "a string"))?,
        description: function.at("description").cow(),
        schema: match function.at("parameters") {
            Json::Null => None,
            schema => Some(value_text(schema)),
        },
        strict: function.at("strict").truth(),
    })
}

pub(super) fn read_choice<'a>(choice: &Json<'a>) -> Result<Option<ToolChoice<'a>>, Fault> {
    Ok(match choice {
        Json::Null => None,
        Json::Str(word) => Some(match word.as_ref() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" | "any" => ToolChoice::Any,
            _ => {
                return Err(Fault::field(
                    "tool_choice",
                    "auto, none, required or a function",
                ));
            }
        }),
        choice => match choice
            .at("function")
            .at("name")
            .cow()
            .or_else(|| choice.at("name").cow())
        {
            Some(name) => Some(ToolChoice::Named(name)),
            None => {
                return Err(Fault::new(
                    FaultKind::Untranslatable,
                    "this choice of tools can't be told to this provider",
                )
                .at("tool_choice"));
            }
        },
    })
}

fn read_format<'a>(format: &Json<'a>) -> Result<Format<'a>, Fault> {
    Ok(match format.at("type").text() {
        None | Some("text") => Format::Text,
        Some("json_object") => Format::Json,
        Some("json_schema") => {
            schema_format(format.at("json_schema"), "response_format.json_schema")?
        }
        Some(_) => {
            return Err(Fault::field(
                "response_format.type",
                "text, json_object or json_schema",
            ));
        }
    })
}

pub(super) fn schema_format<'a>(format: &Json<'a>, place: &str) -> Result<Format<'a>, Fault> {
    if !matches!(format.at("schema"), Json::Object(_)) {
        return Err(Fault::field(format!("{place}.schema"), "an object"));
    }
    Ok(Format::Schema {
        name: format.at("name").cow().unwrap_or("answer".into()),
        schema: value_text(format.at("schema")),
        strict: format.at("strict").truth(),
    })
}
