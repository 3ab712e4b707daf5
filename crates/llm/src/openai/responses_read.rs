//! Reads a request of the Responses API.

use crate::fault::{Fault, FaultKind};
use crate::ir::{Effort, Format, MediaKind, Part, Reasoning, Request, Role, Text, media_from_url};
use crate::json::{Json, Tree};

use super::chat_read::{function_tool, read_choice, sampling, schema_format};

pub(crate) fn read<'a>(body: &Json<'a>) -> Result<Request<'a>, Fault> {
    // What only a provider with a store of answers can do.
    for field in ["previous_response_id", "conversation", "prompt"] {
        if body.at(field).given() {
            return Err(untranslatable(field));
        }
    }
    if body.at("background").truth() == Some(true) {
        return Err(untranslatable("background"));
    }
    let mut request = Request::default();
    if let Some(text) = body.at("instructions").cow() {
        request.system.push(Text::new(text));
    }
    match body.at("input") {
        Json::Str(text) => {
            request.say(Role::User, vec![Part::Text(Text::new(text.clone()))]);
        }
        Json::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                read_item(&mut request, item, at)?;
            }
        }
        _ => return Err(Fault::field("input", "a string or an array")),
    }
    for (at, tool) in body.at("tools").items().iter().enumerate() {
        if tool.at("type").text() != Some("function") {
            return Err(untranslatable(format!("tools[{at}].type")));
        }
        request
            .tools
            .push(function_tool(tool, &format!("tools[{at}]"))?);
    }
    request.tool_choice = read_choice(body.at("tool_choice"))?;
    request.parallel_tools = body.at("parallel_tool_calls").truth();
    request.max_tokens = body.at("max_output_tokens").int();
    sampling(&mut request, body);
    request.top_logprobs = body.at("top_logprobs").int();
    request.logprobs = body
        .at("include")
        .items()
        .iter()
        .any(|item| item.text() == Some("message.output_text.logprobs"));
    let format = body.at("text").at("format");
    request.format = match format.at("type").text() {
        None | Some("text") => Format::Text,
        Some("json_object") => Format::Json,
        Some("json_schema") => schema_format(format, "text.format")?,
        Some(_) => {
            return Err(Fault::field(
                "text.format.type",
                "text, json_object or json_schema",
            ));
        }
    };
    let reasoning = body.at("reasoning");
    if let Some(effort) = reasoning.at("effort").text() {
        request.reasoning = Some(Reasoning {
            effort: Effort::of(effort),
            show: reasoning.at("summary").given().then_some(true),
            ..Reasoning::default()
        });
    }
    Ok(request)
}

fn untranslatable(param: impl Into<String>) -> Fault {
    let param = param.into();
    Fault::new(
        FaultKind::Untranslatable,
        format!("{param}: this provider has nothing like it"),
    )
    .at(param)
}

fn read_item<'a>(request: &mut Request<'a>, item: &Json<'a>, at: usize) -> Result<(), Fault> {
    let text = |field: &str| {
        item.at(field)
            .cow()
            .ok_or_else(|| Fault::field(format!("input[{at}].{field}"), "a string"))
    };
    match item.at("type").text() {
        None | Some("message") => {
            let parts = read_content(item.at("content"), &format!("input[{at}].content"))?;
            match item.at("role").text() {
                Some("system" | "developer") => {
                    for part in parts {
                        if let Part::Text(text) = part {
                            request.system.push(text);
                        }
                    }
                }
                Some("assistant") => request.say(Role::Assistant, parts),
                Some("user") => request.say(Role::User, parts),
                _ => {
                    return Err(Fault::field(
                        format!("input[{at}].role"),
                        "user, assistant, system or developer",
                    ));
                }
            }
        }
        Some("function_call") => request.say(
            Role::Assistant,
            vec![Part::ToolCall {
                id: text("call_id")?,
                name: text("name")?,
                arguments: item.at("arguments").cow().unwrap_or_default(),
                signature: None,
            }],
        ),
        Some("function_call_output") => {
            let content = read_content(item.at("output"), &format!("input[{at}].output"))?;
            request.say(
                Role::User,
                vec![Part::ToolResult {
                    id: text("call_id")?,
                    content,
                    error: false,
                }],
            );
        }
        Some("reasoning") => {
            let summary: String = item
                .at("summary")
                .items()
                .iter()
                .filter_map(|part| part.at("text").text())
                .collect();
            if !summary.is_empty() {
                request.say(
                    Role::Assistant,
                    vec![Part::Reasoning {
                        text: summary.into(),
                        signature: None,
                    }],
                );
            }
        }
        Some(_) => return Err(untranslatable(format!("input[{at}].type"))),
    }
    Ok(())
}

fn read_content<'a>(content: &Json<'a>, place: &str) -> Result<Vec<Part<'a>>, Fault> {
    let items = match content {
        Json::Null => return Ok(Vec::new()),
        Json::Str(text) => return Ok(vec![Part::Text(Text::new(text.clone()))]),
        Json::Array(items) => items,
        _ => return Err(Fault::field(place, "a string or an array")),
    };
    let mut parts = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        let missing = |field: &str| Fault::field(format!("{place}[{at}].{field}"), "a string");
        parts.push(match item.at("type").text() {
            Some("input_text" | "output_text" | "text") => Part::Text(Text::new(
                item.at("text").cow().ok_or_else(|| missing("text"))?,
            )),
            Some("refusal") => Part::Text(Text::new(
                item.at("refusal").cow().ok_or_else(|| missing("refusal"))?,
            )),
            Some("input_image") => {
                let url = item
                    .at("image_url")
                    .cow()
                    .ok_or_else(|| missing("image_url"))?;
                let mut media = media_from_url(MediaKind::Image, &url);
                media.detail = item.at("detail").cow();
                Part::Media(media)
            }
            Some("input_file") => {
                let url = item
                    .at("file_data")
                    .cow()
                    .or_else(|| item.at("file_url").cow())
                    .ok_or_else(|| untranslatable(format!("{place}[{at}].file_id")))?;
                let mut media = media_from_url(MediaKind::Document, &url);
                media.name = item.at("filename").cow();
                Part::Media(media)
            }
            Some(_) => return Err(untranslatable(format!("{place}[{at}].type"))),
            None => return Err(missing("type")),
        });
    }
    Ok(parts)
}
