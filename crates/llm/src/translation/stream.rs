//! The two ends of a translated stream: one reads the provider's frames, one writes the caller's.

use super::order::Order;
use super::{Begun, Confused, Told};
use crate::ir::Event;
use crate::json::{Json, parse};
use crate::{Dialect, Endpoint, anthropic, bedrock, cohere, gemini, openai};

/// Reads a provider's frames.
#[derive(Debug)]
pub(crate) enum Decoder {
    OpenAi(openai::Decoder),
    Anthropic(anthropic::Decoder),
    Gemini(gemini::Decoder),
    Cohere(cohere::Decoder),
    Bedrock(bedrock::Decoder),
}

impl Decoder {
    pub(crate) fn new(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OpenAi => Self::OpenAi(openai::Decoder::default()),
            Dialect::Anthropic => Self::Anthropic(anthropic::Decoder::default()),
            Dialect::Gemini => Self::Gemini(gemini::Decoder::default()),
            Dialect::Cohere => Self::Cohere(cohere::Decoder::default()),
            Dialect::Bedrock => Self::Bedrock(bedrock::Decoder::default()),
        }
    }

    /// A frame: its name, if it has one, and its data.
    pub(crate) fn frame(
        &mut self,
        name: &[u8],
        data: &[u8],
        sink: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Confused> {
        if let Self::OpenAi(decoder) = self
            && data.trim_ascii() == b"[DONE]"
        {
            decoder.done(sink);
            return Ok(());
        }
        let tree: Json<'_> = parse(data).map_err(|_| Confused)?;
        match self {
            Self::OpenAi(decoder) => decoder.frame(&tree, sink),
            Self::Anthropic(decoder) => decoder.frame(&tree, sink),
            Self::Gemini(decoder) => decoder.frame(&tree, sink),
            Self::Cohere(decoder) => decoder.frame(&tree, sink),
            Self::Bedrock(decoder) => decoder.frame(name, &tree, sink),
        }
    }

    /// The stream may end here though its end was not told.
    pub(crate) fn may_end(&self) -> bool {
        match self {
            Self::OpenAi(decoder) => decoder.may_end(),
            Self::Anthropic(decoder) => decoder.may_end(),
            Self::Gemini(decoder) => decoder.may_end(),
            Self::Cohere(decoder) => decoder.may_end(),
            Self::Bedrock(decoder) => decoder.may_end(),
        }
    }
}

/// Writes a caller's frames.
#[derive(Debug)]
pub(crate) enum Encoder {
    Chat(openai::ChatStream),
    Responses(Order, Box<openai::ResponsesStream>),
    Completions(openai::CompletionsStream),
    Messages(Order, anthropic::MessagesStream),
    Gemini(gemini::GeminiStream),
}

impl Encoder {
    pub(crate) fn new(endpoint: Endpoint, told: &Told<'_>) -> Self {
        match endpoint {
            Endpoint::Responses => Self::Responses(
                Order::default(),
                Box::new(openai::ResponsesStream::new(told)),
            ),
            Endpoint::Completions => Self::Completions(openai::CompletionsStream::new(told)),
            Endpoint::Messages => {
                Self::Messages(Order::default(), anthropic::MessagesStream::new(told))
            }
            Endpoint::Generate | Endpoint::StreamGenerate => {
                Self::Gemini(gemini::GeminiStream::new(told))
            }
            _ => Self::Chat(openai::ChatStream::new(told)),
        }
    }

    /// Writes the rest of a stream that was passed on as it came; `None`: not of this endpoint.
    pub(crate) fn going_on(endpoint: Endpoint, told: &Told<'_>, begun: &Begun) -> Option<Self> {
        Some(match endpoint {
            Endpoint::Chat => Self::Chat(openai::ChatStream::going_on(told, begun)),
            Endpoint::Messages => {
                let stream = anthropic::MessagesStream::going_on(told, begun);
                Self::Messages(Order::default(), stream)
            }
            _ => return None,
        })
    }

    /// The same at the same place, where no call of a tool is being told.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Chat(stream) => Self::Chat(stream.clone()),
            Self::Responses(_, stream) => Self::Responses(Order::default(), stream.clone()),
            Self::Completions(stream) => Self::Completions(stream.clone()),
            Self::Messages(_, stream) => Self::Messages(Order::default(), stream.clone()),
            Self::Gemini(stream) => Self::Gemini(stream.clone()),
        }
    }

    /// About how many bytes are kept of what was told, to be told later or again.
    pub(crate) fn kept(&self) -> usize {
        match self {
            Self::Responses(order, stream) => order.kept_bytes() + stream.kept_bytes(),
            Self::Messages(order, stream) => order.kept_bytes() + stream.kept_bytes(),
            Self::Chat(stream) => stream.kept_bytes(),
            Self::Gemini(stream) => stream.kept_bytes(),
            Self::Completions(_) => 0,
        }
    }

    pub(crate) fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Chat(stream) => stream.event(event, out),
            Self::Responses(order, stream) => {
                order.event(event, &mut |event| stream.event(event, out));
            }
            Self::Completions(stream) => stream.event(event, out),
            Self::Messages(order, stream) => {
                order.event(event, &mut |event| stream.event(event, out));
            }
            Self::Gemini(stream) => stream.event(event, out),
        }
    }
}
