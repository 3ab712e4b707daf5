//! Reads a request.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::fault::{Fault, FaultKind};
use crate::ir::{
    Effort, Format, Media, MediaKind, Part, Reasoning, Request, Role, Source, Text, Tool,
    ToolChoice,
};
use crate::json::{Json, Tree, value_text};

use super::either;
use super::schema::to_json_schema;

/// `stream` follows from the path.
pub(crate) fn read<'a>(body: &Json<'a>, stream: bool) -> Result<Request<'a>, Fault> {
    let mut request = Request {
        stream,
        ..Request::default()
    };
    if either(body, "cachedContent", "cached_content").given() {
        return Err(untranslatable("cachedContent"));
    }
    let system = either(body, "systemInstruction", "system_instruction");
    if let Some(text) = system.cow() {
        request.system.push(Text::new(text));
    }
    for part in system.at("parts").items() {
        if let Some(text) = part.at("text").cow() {
            request.system.push(Text::new(text));
        }
    }
    let Json::Array(contents) = body.at("contents") else {
        return Err(Fault::field("contents", "an array"));
    };
    let mut calls = Calls::default();
    for (at, content) in contents.iter().enumerate() {
        let role = match content.at("role").text() {
            Some("model") => Role::Assistant,
            None | Some("user" | "function") => Role::User,
            Some(_) => {
                return Err(Fault::field(
                    format!("contents[{at}].role"),
                    "user or model",
                ));
            }
        };
        let mut parts = Vec::new();
        for (part_at, part) in content.at("parts").items().iter().enumerate() {
            let place = format!("contents[{at}].parts[{part_at}]");
            parts.push(read_part(part, &place, &mut calls)?);
        }
        request.say(role, parts);
    }
    read_tools(&mut request, body)?;
    read_config(
        &mut request,
        either(body, "generationConfig", "generation_config"),
    );
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

/// Ids for calls: they are left out here more often than not, and their answers are told by name and order.
#[derive(Default)]
struct Calls<'a> {
    made: usize,
    open: VecDeque<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Calls<'a> {
    fn call(&mut self, id: Option<Cow<'a, str>>, name: &Cow<'a, str>) -> Cow<'a, str> {
        let id = id.unwrap_or_else(|| format!("call_{}", self.made).into());
        self.made += 1;
        self.open.push_back((name.clone(), id.clone()));
        id
    }

    fn answer(&mut self, id: Option<Cow<'a, str>>, name: &str) -> Cow<'a, str> {
        let at = self.open.iter().position(|(own, known)| match &id {
            Some(id) => id == known,
            None => own == name,
        });
        match (at.and_then(|at| self.open.remove(at)), id) {
            (_, Some(id)) => id,
            (Some((_, id)), None) => id,
            (None, None) => name.to_owned().into(),
        }
    }
}

fn read_part<'a>(part: &Json<'a>, place: &str, calls: &mut Calls<'a>) -> Result<Part<'a>, Fault> {
    let missing = |field: &str| Fault::field(format!("{place}.{field}"), "a string");
    if let Some(text) = part.at("text").cow() {
        return Ok(if part.at("thought").truth() == Some(true) {
            Part::Reasoning {
                text,
                signature: None,
            }
        } else {
            Part::Text(Text::new(text))
        });
    }
    let inline = either(part, "inlineData", "inline_data");
    if inline.given() {
        let mime = either(inline, "mimeType", "mime_type")
            .cow()
            .ok_or_else(|| missing("inlineData.mimeType"))?;
        return Ok(Part::Media(Media {
            kind: kind_of(&mime),
            mime,
            source: Source::Data(
                inline
                    .at("data")
                    .cow()
                    .ok_or_else(|| missing("inlineData.data"))?,
            ),
            name: either(inline, "displayName", "display_name").cow(),
            detail: None,
        }));
    }
    let file = either(part, "fileData", "file_data");
    if file.given() {
        let mime = either(file, "mimeType", "mime_type")
            .cow()
            .unwrap_or_default();
        let url = either(file, "fileUri", "file_uri")
            .cow()
            .ok_or_else(|| missing("fileData.fileUri"))?;
        if !url.starts_with("http") || url.contains("generativelanguage.googleapis.com") {
            return Err(untranslatable(format!("{place}.fileData.fileUri")));
        }
        let kind = if mime.is_empty() {
            kind_of(crate::ir::mime_of_url(&url).unwrap_or("image/*"))
        } else {
            kind_of(&mime)
        };
        return Ok(Part::Media(Media {
            kind,
            mime,
            source: Source::Url(url),
            name: None,
            detail: None,
        }));
    }
    let call = either(part, "functionCall", "function_call");
    if call.given() {
        let name = call
            .at("name")
            .cow()
            .ok_or_else(|| missing("functionCall.name"))?;
        return Ok(Part::ToolCall {
            id: calls.call(call.at("id").cow(), &name),
            name,
            arguments: match call.at("args") {
                Json::Null => "{}".into(),
                args => value_text(args).into(),
            },
            signature: either(part, "thoughtSignature", "thought_signature").cow(),
        });
    }
    let response = either(part, "functionResponse", "function_response");
    if response.given() {
        let name = response
            .at("name")
            .cow()
            .ok_or_else(|| missing("functionResponse.name"))?;
        let said = response.at("response");
        // The SDKs wrap a plain text so.
        let (text, error) = match (said.at("result").cow(), said.at("error").cow()) {
            (Some(text), None) => (text, false),
            (None, Some(text)) => (text, true),
            _ => (value_text(said).into(), false),
        };
        return Ok(Part::ToolResult {
            id: calls.answer(response.at("id").cow(), &name),
            content: vec![Part::Text(Text::new(text))],
            error,
        });
    }
    Err(untranslatable(place))
}

fn kind_of(mime: &str) -> MediaKind {
    match mime.split('/').next() {
        Some("image") => MediaKind::Image,
        Some("audio") => MediaKind::Audio,
        _ => MediaKind::Document,
    }
}

fn read_tools<'a>(request: &mut Request<'a>, body: &Json<'a>) -> Result<(), Fault> {
    for (at, tool) in body.at("tools").items().iter().enumerate() {
        let Json::Array(functions) = either(tool, "functionDeclarations", "function_declarations")
        else {
            // Search, code and the like, which Google runs.
            return Err(untranslatable(format!("tools[{at}]")));
        };
        for (function_at, function) in functions.iter().enumerate() {
            let json = either(function, "parametersJsonSchema", "parameters_json_schema");
            let schema = match (json.given(), function.at("parameters")) {
                (true, _) => Some(value_text(json)),
                (false, Json::Null) => None,
                (false, schema) => Some(to_json_schema(schema)),
            };
            request.tools.push(Tool {
                name: function.at("name").cow().ok_or_else(|| {
                    let place = format!("tools[{at}].functionDeclarations[{function_at}].name");
                    Fault::field(place, "a string")
                })?,
                description: function.at("description").cow(),
                schema,
                strict: None,
            });
        }
    }
    let config = either(
        either(body, "toolConfig", "tool_config"),
        "functionCallingConfig",
        "function_calling_config",
    );
    let allowed = either(config, "allowedFunctionNames", "allowed_function_names").items();
    request.tool_choice = match (config.at("mode").text(), allowed) {
        (Some("AUTO"), _) => Some(ToolChoice::Auto),
        (Some("NONE"), _) => Some(ToolChoice::None),
        (Some("ANY"), [Json::Str(name)]) => Some(ToolChoice::Named(name.clone())),
        (Some("ANY" | "VALIDATED"), _) => Some(ToolChoice::Any),
        _ => None,
    };
    Ok(())
}

fn read_config<'a>(request: &mut Request<'a>, config: &Json<'a>) {
    request.temperature = config.at("temperature").float();
    request.top_p = either(config, "topP", "top_p").float();
    request.top_k = either(config, "topK", "top_k").int();
    request.max_tokens = either(config, "maxOutputTokens", "max_output_tokens").int();
    request.choices = either(config, "candidateCount", "candidate_count").int();
    request.stop = either(config, "stopSequences", "stop_sequences")
        .items()
        .iter()
        .filter_map(Tree::cow)
        .collect();
    let seed = config.at("seed");
    request.seed = seed.given().then(|| seed.clone());
    request.frequency_penalty = either(config, "frequencyPenalty", "frequency_penalty").float();
    request.presence_penalty = either(config, "presencePenalty", "presence_penalty").float();
    request.logprobs =
        either(config, "responseLogprobs", "response_logprobs").truth() == Some(true);
    request.top_logprobs = config.at("logprobs").int();
    let json = either(config, "responseJsonSchema", "response_json_schema");
    let own = either(config, "responseSchema", "response_schema");
    let mime = either(config, "responseMimeType", "response_mime_type").text();
    request.format = if json.given() || own.given() {
        Format::Schema {
            name: "answer".into(),
            schema: if json.given() {
                value_text(json)
            } else {
                to_json_schema(own)
            },
            strict: None,
        }
    } else if mime == Some("application/json") {
        Format::Json
    } else {
        Format::Text
    };
    let thinking = either(config, "thinkingConfig", "thinking_config");
    if thinking.given() {
        let budget = either(thinking, "thinkingBudget", "thinking_budget");
        let level = either(thinking, "thinkingLevel", "thinking_level");
        request.reasoning = Some(Reasoning {
            // −1 leaves it to the model.
            enabled: (budget.float() == Some(0.0)).then_some(false),
            budget: budget.int().filter(|tokens| *tokens > 0),
            effort: level
                .text()
                .and_then(|level| Effort::of(&level.to_ascii_lowercase())),
            show: either(thinking, "includeThoughts", "include_thoughts").truth(),
        });
    }
}
