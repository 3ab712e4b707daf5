//! What an answer says, piece by piece: the same for a stream and for an answer in one piece.

use std::borrow::Cow;

use crate::json::{Json, Tree};
use crate::usage::Usage;

/// A piece of an answer. `choice` counts from 0; without `n` there is only one.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The provider has begun.
    Start {
        id: Option<Cow<'a, str>>,
        model: Option<Cow<'a, str>>,
    },
    Text {
        choice: u32,
        text: Cow<'a, str>,
    },
    /// Of the text that came last, in OpenAI's form: the array `content`.
    Logprobs {
        choice: u32,
        content: Json<'a>,
    },
    Refusal {
        choice: u32,
        text: Cow<'a, str>,
    },
    Reasoning {
        choice: u32,
        text: Cow<'a, str>,
    },
    /// The proof of the reasoning that came last.
    Signature {
        choice: u32,
        signature: Cow<'a, str>,
    },
    Redacted {
        choice: u32,
        data: Cow<'a, str>,
    },
    /// A call begins. `index` tells the calls of a choice apart.
    ToolStart {
        choice: u32,
        index: u32,
        id: Option<Cow<'a, str>>,
        name: Cow<'a, str>,
        signature: Option<Cow<'a, str>>,
    },
    /// More of a call's arguments: JSON text, cut anywhere.
    ToolDelta {
        choice: u32,
        index: u32,
        arguments: Cow<'a, str>,
    },
    /// A picture that the model made.
    Image {
        choice: u32,
        mime: Cow<'a, str>,
        base64: Cow<'a, str>,
    },
    Finish {
        choice: u32,
        reason: Finish,
        /// The sequence that stopped it.
        sequence: Option<Cow<'a, str>>,
    },
    /// The count so far.
    Usage(Usage),
    /// Nothing follows.
    End,
}

impl Event<'_> {
    /// The choice that it is of; 0 for what is of the whole answer.
    pub(crate) fn choice(&self) -> u32 {
        match self {
            Self::Text { choice, .. }
            | Self::Logprobs { choice, .. }
            | Self::Refusal { choice, .. }
            | Self::Reasoning { choice, .. }
            | Self::Signature { choice, .. }
            | Self::Redacted { choice, .. }
            | Self::ToolStart { choice, .. }
            | Self::ToolDelta { choice, .. }
            | Self::Image { choice, .. }
            | Self::Finish { choice, .. } => *choice,
            Self::Start { .. } | Self::Usage(_) | Self::End => 0,
        }
    }

    /// About how many bytes it tells.
    pub(crate) fn length(&self) -> usize {
        const LOGPROB: usize = 64;
        let long = |text: &Option<Cow<'_, str>>| text.as_ref().map_or(0, |text| text.len());
        match self {
            Self::Text { text, .. } | Self::Refusal { text, .. } | Self::Reasoning { text, .. } => {
                text.len()
            }
            Self::Logprobs { content, .. } => LOGPROB * Tree::items(content).len(),
            Self::Signature { signature, .. } => signature.len(),
            Self::Redacted { data, .. } => data.len(),
            Self::ToolStart {
                id,
                name,
                signature,
                ..
            } => long(id) + name.len() + long(signature),
            Self::ToolDelta { arguments, .. } => arguments.len(),
            Self::Image { mime, base64, .. } => mime.len() + base64.len(),
            Self::Finish { sequence, .. } => long(sequence),
            Self::Start { id, model } => long(id) + long(model),
            Self::Usage(_) | Self::End => 0,
        }
    }

    /// The same with a text of its own, to be told later. `None` for what belongs to no block.
    pub(crate) fn kept(&self) -> Option<Event<'static>> {
        fn own(text: &str) -> Cow<'static, str> {
            Cow::Owned(text.to_owned())
        }
        let choice = self.choice();
        Some(match self {
            Self::Text { text, .. } => Event::Text {
                choice,
                text: own(text),
            },
            Self::Refusal { text, .. } => Event::Refusal {
                choice,
                text: own(text),
            },
            Self::Reasoning { text, .. } => Event::Reasoning {
                choice,
                text: own(text),
            },
            Self::Signature { signature, .. } => Event::Signature {
                choice,
                signature: own(signature),
            },
            Self::Redacted { data, .. } => Event::Redacted {
                choice,
                data: own(data),
            },
            Self::ToolStart {
                index,
                id,
                name,
                signature,
                ..
            } => Event::ToolStart {
                choice,
                index: *index,
                id: id.as_deref().map(own),
                name: own(name),
                signature: signature.as_deref().map(own),
            },
            Self::ToolDelta {
                index, arguments, ..
            } => Event::ToolDelta {
                choice,
                index: *index,
                arguments: own(arguments),
            },
            Self::Image { mime, base64, .. } => Event::Image {
                choice,
                mime: own(mime),
                base64: own(base64),
            },
            _ => return None,
        })
    }

    /// Whether the caller asked for this: an attempt that has given it can't be thrown away.
    pub(crate) fn is_content(&self) -> bool {
        match self {
            Self::Text { text, .. } | Self::Refusal { text, .. } | Self::Reasoning { text, .. } => {
                !text.is_empty()
            }
            Self::Redacted { .. }
            | Self::Signature { .. }
            | Self::ToolStart { .. }
            | Self::ToolDelta { .. }
            | Self::Image { .. }
            | Self::Finish { .. } => true,
            Self::Start { .. } | Self::Logprobs { .. } | Self::Usage(_) | Self::End => false,
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The model was done.
    Stop,
    /// A stop sequence came.
    Sequence,
    Length,
    ToolCalls,
    /// A filter of the provider's.
    Filter,
    /// The model would not.
    Refusal,
    /// Anthropic: a long turn is paused and can be gone on with.
    Pause,
}

impl Finish {
    pub(crate) fn openai(self) -> &'static str {
        match self {
            Self::Stop | Self::Sequence | Self::Pause => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
            Self::Filter | Self::Refusal => "content_filter",
        }
    }

    pub(crate) fn anthropic(self) -> &'static str {
        match self {
            Self::Stop => "end_turn",
            Self::Sequence => "stop_sequence",
            Self::Length => "max_tokens",
            Self::ToolCalls => "tool_use",
            Self::Filter | Self::Refusal => "refusal",
            Self::Pause => "pause_turn",
        }
    }

    pub(crate) fn gemini(self) -> &'static str {
        match self {
            Self::Length => "MAX_TOKENS",
            Self::Filter | Self::Refusal => "SAFETY",
            Self::Stop | Self::Sequence | Self::ToolCalls | Self::Pause => "STOP",
        }
    }
}
