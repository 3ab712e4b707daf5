//! Reads a request.

use crate::fault::{Fault, FaultKind};
use crate::ir::{
    Effort, Format, Media, MediaKind, Part, Reasoning, Request, Role, Source, Text, Tool,
    ToolChoice,
};
use crate::json::{Json, Tree, value_text};

pub(crate) fn read<'a>(body: &Json<'a>) -> Result<Request<'a>, Fault> {
    let mut request = Request::default();
    match body.at("system") {
        Json::Null => {}
        Json::Str(text) => request.system.push(Text::new(text.clone())),
        Json::Array(blocks) => {
            for (at, block) in blocks.iter().enumerate() {
                request
                    .system
                    .push(read_text(block, &format!("system[{at}]"))?);
            }
        }
        _ => return Err(Fault::field("system", "a string or an array")),
    }
    let Json::Array(messages) = body.at("messages") else {
        return Err(Fault::field("messages", "an array"));
    };
    for (at, message) in messages.iter().enumerate() {
        let role = match message.at("role").text() {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            // Instructions within the conversation, which newer models take.
            Some("system") => {
                for part in read_content(message.at("content"), &format!("messages[{at}].content"))?
                {
                    if let Part::Text(text) = part {
                        request.system.push(text);
                    }
                }
                continue;
            }
            _ => {
                return Err(Fault::field(
                    format!("messages[{at}].role"),
                    "user or assistant",
                ));
            }
        };
        let parts = read_content(message.at("content"), &format!("messages[{at}].content"))?;
        request.say(role, parts);
    }
    for (at, tool) in body.at("tools").items().iter().enumerate() {
        // A tool of the caller's own has a schema; those that Anthropic runs have a versioned type.
        if !tool.at("input_schema").given() {
            return Err(Fault::new(
                FaultKind::Untranslatable,
                "tools that Anthropic runs can't be given to another provider",
            )
            .at(format!("tools[{at}].type")));
        }
        request.tools.push(Tool {
            name: tool
                .at("name")
                .cow()
                .ok_or_else(|| Fault::field(format!("tools[{at}].name"), "a string"))?,
            description: tool.at("description").cow(),
            schema: Some(value_text(tool.at("input_schema"))),
            strict: tool.at("strict").truth(),
        });
    }
    let choice = body.at("tool_choice");
    request.tool_choice = match choice.at("type").text() {
        None => None,
        Some("auto") => Some(ToolChoice::Auto),
        Some("any") => Some(ToolChoice::Any),
        Some("none") => Some(ToolChoice::None),
        Some("tool") => {
            Some(ToolChoice::Named(choice.at("name").cow().ok_or_else(
                || Fault::field("tool_choice.name", "a string"),
            )?))
        }
        Some(_) => return Err(Fault::field("tool_choice.type", "auto, any, none or tool")),
    };
    request.parallel_tools = choice
        .at("disable_parallel_tool_use")
        .truth()
        .map(|disabled| !disabled);
    request.max_tokens = body.at("max_tokens").int();
    request.temperature = body.at("temperature").float();
    request.top_p = body.at("top_p").float();
    request.top_k = body.at("top_k").int();
    request.stop = body
        .at("stop_sequences")
        .items()
        .iter()
        .filter_map(Tree::cow)
        .collect();
    request.stream = body.at("stream").truth() == Some(true);
    request.user = body.at("metadata").at("user_id").cow();
    request.reasoning = reasoning(body);
    let format = match body.at("output_config").at("format") {
        Json::Null => body.at("output_format"),
        format => format,
    };
    if format.at("type").text() == Some("json_schema") {
        request.format = Format::Schema {
            name: "answer".into(),
            schema: value_text(format.at("schema")),
            strict: Some(true),
        };
    }
    Ok(request)
}

fn reasoning(body: &Json<'_>) -> Option<Reasoning> {
    let thinking = body.at("thinking");
    let reasoning = Reasoning {
        enabled: match thinking.at("type").text() {
            Some("enabled" | "adaptive") => Some(true),
            Some("disabled") => Some(false),
            _ => None,
        },
        effort: body
            .at("output_config")
            .at("effort")
            .text()
            .and_then(Effort::of),
        budget: thinking.at("budget_tokens").int(),
        show: None,
    };
    (reasoning != Reasoning::default()).then_some(reasoning)
}

fn read_text<'a>(block: &Json<'a>, place: &str) -> Result<Text<'a>, Fault> {
    Ok(Text {
        text: block
            .at("text")
            .cow()
            .ok_or_else(|| Fault::field(format!("{place}.text"), "a string"))?,
        cache: block.at("cache_control").given(),
    })
}

fn read_content<'a>(content: &Json<'a>, place: &str) -> Result<Vec<Part<'a>>, Fault> {
    match content {
        Json::Str(text) => Ok(vec![Part::Text(Text::new(text.clone()))]),
        Json::Array(blocks) => blocks
            .iter()
            .enumerate()
            .map(|(at, block)| read_block(block, &format!("{place}[{at}]")))
            .collect(),
        Json::Null => Ok(Vec::new()),
        _ => Err(Fault::field(place, "a string or an array")),
    }
}

fn read_block<'a>(block: &Json<'a>, place: &str) -> Result<Part<'a>, Fault> {
    let text = |field: &str| {
        block
            .at(field)
            .cow()
            .ok_or_else(|| Fault::field(format!("{place}.{field}"), "a string"))
    };
    Ok(match block.at("type").text() {
        Some("text") => Part::Text(read_text(block, place)?),
        Some("image") => Part::Media(read_media(MediaKind::Image, block, place)?),
        Some("document") => Part::Media(read_media(MediaKind::Document, block, place)?),
        Some("tool_use") => Part::ToolCall {
            id: text("id")?,
            name: text("name")?,
            arguments: match block.at("input") {
                Json::Null => "{}".into(),
                input => value_text(input).into(),
            },
            signature: None,
        },
        Some("tool_result") => Part::ToolResult {
            id: text("tool_use_id")?,
            content: read_content(block.at("content"), &format!("{place}.content"))?,
            error: block.at("is_error").truth() == Some(true),
        },
        Some("thinking") => Part::Reasoning {
            text: text("thinking")?,
            // Empty where another provider thought.
            signature: block
                .at("signature")
                .cow()
                .filter(|signature| !signature.is_empty()),
        },
        Some("redacted_thinking") => Part::Redacted(text("data")?),
        Some(_) => {
            return Err(Fault::new(
                FaultKind::Untranslatable,
                "a block of this type can't be given to another provider",
            )
            .at(format!("{place}.type")));
        }
        None => return Err(Fault::field(format!("{place}.type"), "a string")),
    })
}

fn read_media<'a>(kind: MediaKind, block: &Json<'a>, place: &str) -> Result<Media<'a>, Fault> {
    let source = block.at("source");
    let missing = |field: &str| Fault::field(format!("{place}.source.{field}"), "a string");
    let (mime, source) = match source.at("type").text() {
        Some("base64") => (
            source
                .at("media_type")
                .cow()
                .ok_or_else(|| missing("media_type"))?,
            Source::Data(source.at("data").cow().ok_or_else(|| missing("data"))?),
        ),
        Some("url") => (
            "".into(),
            Source::Url(source.at("url").cow().ok_or_else(|| missing("url"))?),
        ),
        Some("text") => (
            "text/plain".into(),
            Source::Text(source.at("data").cow().ok_or_else(|| missing("data"))?),
        ),
        Some(_) => {
            return Err(Fault::new(
                FaultKind::Untranslatable,
                "a file of Anthropic's store can't be given to another provider",
            )
            .at(format!("{place}.source.type")));
        }
        None => return Err(missing("type")),
    };
    Ok(Media {
        kind,
        mime,
        source,
        name: block.at("title").cow(),
        detail: None,
    })
}
