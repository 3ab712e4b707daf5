//! The form in between: what a request asks and an answer says, in no dialect.
//!
//! Each dialect is read into it and written from it, so that a new one costs one reader and one writer, not a translator
//! for each of the others. It holds what at least two dialects can say; what only one can is dropped or refused, and the
//! tables in [`crate::translation`] say which.

mod event;
mod reply;

use std::borrow::Cow;

use crate::json::Json;

pub(crate) use event::{Event, Finish};
pub(crate) use reply::{Block, Choice, Reply};

/// A request for a generated answer.
#[derive(Debug, Default)]
pub(crate) struct Request<'a> {
    /// Instructions, in order, from wherever the dialect has them.
    pub(crate) system: Vec<Text<'a>>,
    /// The conversation; the roles need not alternate.
    pub(crate) turns: Vec<Turn<'a>>,
    /// The last turn is the beginning of the answer, which is to go on from there.
    pub(crate) continued: bool,
    pub(crate) tools: Vec<Tool<'a>>,
    pub(crate) tool_choice: Option<ToolChoice<'a>>,
    /// Several tools may be called at once; `None`: as the provider likes.
    pub(crate) parallel_tools: Option<bool>,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<u64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) presence_penalty: Option<f64>,
    /// As text: it may be any integer.
    pub(crate) seed: Option<Json<'a>>,
    pub(crate) stop: Vec<Cow<'a, str>>,
    pub(crate) choices: Option<u64>,
    pub(crate) logprobs: bool,
    pub(crate) top_logprobs: Option<u64>,
    pub(crate) format: Format<'a>,
    pub(crate) reasoning: Option<Reasoning>,
    pub(crate) stream: bool,
    pub(crate) user: Option<Cow<'a, str>>,
    /// Pairs of the caller's own, kept with the answer by OpenAI and Bedrock.
    pub(crate) metadata: Option<Json<'a>>,
}

/// A text of the instructions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Text<'a> {
    pub(crate) text: Cow<'a, str>,
    /// Everything up to its end is worth a place in the provider's cache.
    pub(crate) cache: bool,
}

/// Something that one side said.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) role: Role,
    pub(crate) parts: Vec<Part<'a>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The caller, results of tools included.
    User,
    /// The model.
    Assistant,
}

/// A piece of a turn.
#[derive(Clone, Debug)]
pub(crate) enum Part<'a> {
    Text(Text<'a>),
    Media(Media<'a>),
    ToolCall {
        id: Cow<'a, str>,
        name: Cow<'a, str>,
        /// JSON text of an object.
        arguments: Cow<'a, str>,
        /// Gemini's proof of the thought behind the call.
        signature: Option<Cow<'a, str>>,
    },
    ToolResult {
        id: Cow<'a, str>,
        /// Text and media.
        content: Vec<Part<'a>>,
        error: bool,
    },
    /// What the model thought, with the provider's proof that it did.
    Reasoning {
        text: Cow<'a, str>,
        signature: Option<Cow<'a, str>>,
    },
    /// What the model thought, readable for the provider alone.
    Redacted(Cow<'a, str>),
}

/// An image, a sound, a document.
#[derive(Clone, Debug)]
pub(crate) struct Media<'a> {
    pub(crate) kind: MediaKind,
    /// `image/png`; empty if only the URL knows.
    pub(crate) mime: Cow<'a, str>,
    pub(crate) source: Source<'a>,
    /// The name of a file.
    pub(crate) name: Option<Cow<'a, str>>,
    /// OpenAI's `detail` of an image.
    pub(crate) detail: Option<Cow<'a, str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MediaKind {
    Image,
    Audio,
    Document,
}

#[derive(Clone, Debug)]
pub(crate) enum Source<'a> {
    /// Base64.
    Data(Cow<'a, str>),
    Url(Cow<'a, str>),
    /// A document that is plain text.
    Text(Cow<'a, str>),
}

/// A function that the model may call.
#[derive(Debug)]
pub(crate) struct Tool<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) description: Option<Cow<'a, str>>,
    /// JSON Schema of the arguments, as JSON text.
    pub(crate) schema: Option<String>,
    pub(crate) strict: Option<bool>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum ToolChoice<'a> {
    Auto,
    None,
    /// At least one.
    Any,
    Named(Cow<'a, str>),
}

/// The form of the answer.
#[derive(Debug, Default)]
pub(crate) enum Format<'a> {
    #[default]
    Text,
    /// Any JSON object.
    Json,
    Schema {
        name: Cow<'a, str>,
        /// JSON text.
        schema: String,
        strict: Option<bool>,
    },
}

/// How much the model is to think before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reasoning {
    /// Switched off, or on; `None`: as the rest says.
    pub(crate) enabled: Option<bool>,
    pub(crate) effort: Option<Effort>,
    /// Most tokens.
    pub(crate) budget: Option<u64>,
    /// The thoughts are to be shown.
    pub(crate) show: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effort {
    None,
    Minimal,
    Low,
    Medium,
    High,
    XHigh,
}

impl Effort {
    pub(crate) fn of(word: &str) -> Option<Self> {
        Some(match word {
            "none" => Self::None,
            "minimal" => Self::Minimal,
            "low" => Self::Low,
            "medium" => Self::Medium,
            "high" => Self::High,
            "xhigh" | "max" => Self::XHigh,
            _ => return None,
        })
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::XHigh => "xhigh",
        }
    }

    /// Tokens for providers that count. The steps that others use for the same translation: 1024 is the least that
    /// Anthropic takes.
    pub(crate) fn budget(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Minimal | Self::Low => 1024,
            Self::Medium => 8192,
            Self::High => 16_384,
            Self::XHigh => 32_768,
        }
    }

    /// The word for a number of tokens: the inverse of [`budget`](Self::budget).
    pub(crate) fn of_budget(tokens: u64) -> Self {
        match tokens {
            0 => Self::None,
            1..=2048 => Self::Low,
            2049..=12_288 => Self::Medium,
            _ => Self::High,
        }
    }
}

impl Reasoning {
    /// Most tokens of thinking; `None` if the request leaves it to the provider, 0 if there is to be none.
    pub(crate) fn tokens(self) -> Option<u64> {
        if self.enabled == Some(false) {
            return Some(0);
        }
        self.budget.or(self.effort.map(Effort::budget))
    }

    /// The word.
    pub(crate) fn word(self) -> Option<Effort> {
        if self.enabled == Some(false) {
            return Some(Effort::None);
        }
        self.effort.or(self.budget.map(Effort::of_budget))
    }
}

impl<'a> Text<'a> {
    pub(crate) fn new(text: impl Into<Cow<'a, str>>) -> Self {
        Self {
            text: text.into(),
            cache: false,
        }
    }
}

impl<'a> Request<'a> {
    /// Adds parts to the conversation; to the last turn if it is the same side's.
    pub(crate) fn say(&mut self, role: Role, parts: Vec<Part<'a>>) {
        if parts.is_empty() {
            return;
        }
        match self.turns.last_mut() {
            Some(last) if last.role == role => last.parts.extend(parts),
            _ => self.turns.push(Turn { role, parts }),
        }
    }

    /// The name of the tool that was called with an id.
    pub(crate) fn name_of_call(&self, wanted: &str) -> Option<&str> {
        self.turns
            .iter()
            .flat_map(|turn| &turn.parts)
            .find_map(|part| match part {
                Part::ToolCall { id, name, .. } if id == wanted => Some(name.as_ref()),
                _ => None,
            })
    }

    /// Tokens that Claude may think, where the whole answer may have `most`; `None`: it is not asked to. What the caller allows
    /// is never exceeded (it may have been reserved from an account): a wish for thinking gives way.
    pub(crate) fn thinking_budget(&self, most: u64) -> Option<u64> {
        /// The least that Anthropic takes.
        const LEAST: u64 = 1024;
        // What is gone on with has its thoughts behind it.
        if self.continued {
            return None;
        }
        let reasoning = self.reasoning?;
        let wanted = reasoning.tokens().filter(|tokens| *tokens > 0)?;
        // A turn that thinks must begin with its thoughts: the last one called tools without them.
        if self.has_bare_calls() {
            return None;
        }
        match reasoning.budget {
            Some(budget) if budget >= LEAST && budget < most => Some(budget),
            // A quarter is left for the answer.
            _ => {
                let room = most / 4 * 3;
                (room >= LEAST).then(|| wanted.clamp(LEAST, room))
            }
        }
    }

    /// Whether the model's last turn called tools without the signed thoughts that led there.
    fn has_bare_calls(&self) -> bool {
        let last = self
            .turns
            .iter()
            .rev()
            .find(|turn| turn.role == Role::Assistant);
        last.is_some_and(|turn| {
            let any = |test: fn(&Part<'_>) -> bool| turn.parts.iter().any(test);
            any(|part| matches!(part, Part::ToolCall { .. }))
                && !any(|part| {
                    matches!(
                        part,
                        Part::Redacted(_)
                            | Part::Reasoning {
                                signature: Some(_),
                                ..
                            }
                    )
                })
        })
    }

    /// All instructions as one text.
    pub(crate) fn system_text(&self) -> Option<String> {
        let texts: Vec<&str> = self.system.iter().map(|text| text.text.as_ref()).collect();
        (!texts.is_empty()).then(|| texts.join("\n\n"))
    }
}

/// The arguments of a call as JSON text of an object: a model's text may be none, and empty means no arguments.
pub(crate) fn arguments(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    if text.is_empty() {
        return "{}".into();
    }
    match crate::json::parse(text.as_bytes()) {
        Ok(Json::Object(_)) => text.into(),
        Ok(value) => format!(r#"{{"value":{}}}"#, crate::json::value_text(&value)).into(),
        Err(_) => {
            let mut out = br#"{"value":"#.to_vec();
            crate::json::string(&mut out, text);
            out.push(b'}');
            String::from_utf8(out)
                .expect("JSON that was written here is UTF-8")
                .into()
        }
    }
}

/// The id of a call as Anthropic and Bedrock take it: letters, digits, `_` and `-`, at most 64. Others make ids of other
/// signs (`functions.look:0`), and a conversation may come from any of them.
pub(crate) fn plain_id<'t>(id: &'t str) -> Cow<'t, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if id.len() <= 64 && !id.is_empty() && id.chars().all(plain) {
        return Cow::Borrowed(id);
    }
    // What is cut or changed might no longer differ: the hash of the whole does.
    let kept: String = id
        .chars()
        .map(|c| if plain(c) { c } else { '_' })
        .take(47)
        .collect();
    let hash = tidegate_core::hash::hash64(id.as_bytes(), 0);
    Cow::Owned(format!("{kept}_{hash:016x}"))
}

/// Splits `data:image/png;base64,AAAA`; `None` for any other URL.
pub(crate) fn data_url(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    let mime = head.strip_suffix(";base64")?;
    // `data:image/png;charset=x;base64,`
    Some((mime.split(';').next().unwrap_or(mime), data))
}

/// Media from a URL that may hold the data itself.
pub(crate) fn media_from_url<'a>(kind: MediaKind, url: &Cow<'a, str>) -> Media<'a> {
    let (mime, source): (Cow<'a, str>, Source<'a>) = match url {
        Cow::Borrowed(url) => match data_url(url) {
            Some((mime, data)) => (mime.into(), Source::Data(data.into())),
            None => ("".into(), Source::Url((*url).into())),
        },
        Cow::Owned(url) => match data_url(url) {
            Some((mime, data)) => (mime.to_owned().into(), Source::Data(data.to_owned().into())),
            None => ("".into(), Source::Url(url.clone().into())),
        },
    };
    Media {
        kind,
        mime,
        source,
        name: None,
        detail: None,
    }
}

/// The media type that the end of a URL's path tells.
pub(crate) fn mime_of_url(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next()?;
    let end = path.rsplit_once('.')?.1;
    Some(match end.to_ascii_lowercase().as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "pdf" => "application/pdf",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        _ => return None,
    })
}
