//! A whole answer, put together from its events.

use super::{Event, Finish};
use crate::json::value_text;
use crate::usage::Usage;

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) id: Option<String>,
    pub(crate) model: Option<String>,
    pub(crate) choices: Vec<Choice>,
    pub(crate) usage: Option<Usage>,
}

/// One of the answers that were asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    pub(crate) blocks: Vec<Block>,
    /// JSON texts of the items of OpenAI's `logprobs.content`.
    pub(crate) logprobs: Vec<String>,
    pub(crate) finish: Option<Finish>,
    pub(crate) sequence: Option<String>,
}

/// A piece of an answer of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Block {
    Text(String),
    Refusal(String),
    Reasoning {
        text: String,
        signature: Option<String>,
    },
    Redacted(String),
    Tool {
        index: u32,
        id: Option<String>,
        name: String,
        arguments: String,
        signature: Option<String>,
    },
    Image {
        mime: String,
        base64: String,
    },
}

impl Reply {
    /// A choice; those before it are there too.
    pub(crate) fn choice(&mut self, choice: u32) -> &mut Choice {
        // Providers bound `n`; a wild index must not fill the memory.
        let at = choice.min(255) as usize;
        if self.choices.len() <= at {
            self.choices.resize_with(at + 1, Choice::default);
        }
        &mut self.choices[at]
    }

    pub(crate) fn add(&mut self, event: &Event<'_>) {
        match event {
            Event::Start { id, model } => {
                if let Some(id) = id {
                    self.id = Some(id.to_string());
                }
                if let Some(model) = model {
                    self.model = Some(model.to_string());
                }
            }
            Event::Text { choice, text } => match self.choice(*choice).blocks.last_mut() {
                Some(Block::Text(all)) => all.push_str(text),
                _ if text.is_empty() => {}
                _ => self
                    .choice(*choice)
                    .blocks
                    .push(Block::Text(text.to_string())),
            },
            Event::Logprobs { choice, content } => {
                let items = crate::json::Tree::items(content).iter().map(value_text);
                self.choice(*choice).logprobs.extend(items);
            }
            Event::Refusal { choice, text } => match self.choice(*choice).blocks.last_mut() {
                Some(Block::Refusal(all)) => all.push_str(text),
                _ => self
                    .choice(*choice)
                    .blocks
                    .push(Block::Refusal(text.to_string())),
            },
            Event::Reasoning { choice, text } => match self.choice(*choice).blocks.last_mut() {
                Some(Block::Reasoning {
                    text: all,
                    signature: None,
                }) => all.push_str(text),
                _ => self.choice(*choice).blocks.push(Block::Reasoning {
                    text: text.to_string(),
                    signature: None,
                }),
            },
            Event::Signature { choice, signature } => {
                let blocks = &mut self.choice(*choice).blocks;
                match blocks.last_mut() {
                    Some(Block::Reasoning { signature: own, .. }) => {
                        own.get_or_insert_default().push_str(signature);
                    }
                    _ => blocks.push(Block::Reasoning {
                        text: String::new(),
                        signature: Some(signature.to_string()),
                    }),
                }
            }
            Event::Redacted { choice, data } => {
                let block = Block::Redacted(data.to_string());
                self.choice(*choice).blocks.push(block);
            }
            Event::ToolStart {
                choice,
                index,
                id,
                name,
                signature,
            } => self.choice(*choice).blocks.push(Block::Tool {
                index: *index,
                id: id.as_ref().map(ToString::to_string),
                name: name.to_string(),
                arguments: String::new(),
                signature: signature.as_ref().map(ToString::to_string),
            }),
            Event::ToolDelta {
                choice,
                index,
                arguments,
            } => {
                let call = self.choice(*choice).blocks.iter_mut().rev();
                for block in call {
                    if let Block::Tool {
                        index: own,
                        arguments: all,
                        ..
                    } = block
                        && own == index
                    {
                        all.push_str(arguments);
                        break;
                    }
                }
            }
            Event::Image {
                choice,
                mime,
                base64,
            } => self.choice(*choice).blocks.push(Block::Image {
                mime: mime.to_string(),
                base64: base64.to_string(),
            }),
            Event::Finish {
                choice,
                reason,
                sequence,
            } => {
                let choice = self.choice(*choice);
                choice.finish = Some(*reason);
                choice.sequence = sequence.as_ref().map(ToString::to_string);
            }
            Event::Usage(usage) => self.usage = Some(*usage),
            Event::End => {}
        }
    }
}

impl Choice {
    /// All text.
    pub(crate) fn text(&self) -> String {
        self.blocks
            .iter()
            .filter_map(|block| match block {
                Block::Text(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }
}
