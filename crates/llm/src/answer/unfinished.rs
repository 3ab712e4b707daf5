//! A stream that broke off after content had begun, and what it takes for another to go on from there.

use std::borrow::Cow;

use crate::ir::Event;
use crate::json::{Tree, parse};
use crate::prepare::Plan;
use crate::sse::Frame;
use crate::translation::{Begun, Decoder, Encoder};
use crate::usage::Usage;

/// So much of an answer is remembered. One that is longer is not gone on with.
const LIMIT: usize = 256 * 1024;

/// What a caller has of an answer that broke off: its text, and the state of the stream.
#[derive(Debug)]
pub struct Unfinished {
    text: String,
    encoder: Encoder,
    /// The frames are items of an array: so many.
    pub(super) array: Option<usize>,
}

impl Unfinished {
    pub(super) fn new(said: Said, encoder: Encoder, array: Option<usize>) -> Option<Self> {
        let text = said.text?;
        (!text.is_empty()).then_some(Self {
            text,
            encoder,
            array,
        })
    }

    /// The text so far: what the request that goes on has to begin with
    /// ([`continue_from`](crate::PrepareOptions::continue_from)).
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What writes the rest.
    pub(super) fn encoder(&self) -> Encoder {
        self.encoder.again()
    }
}

/// What an answer has said.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// `None`: more than text, too much of it, or the end has been told.
    text: Option<String>,
}

impl Said {
    pub(super) fn nothing() -> Self {
        Self {
            text: Some(String::new()),
        }
    }

    pub(super) fn before(unfinished: &Unfinished) -> Self {
        Self {
            text: Some(unfinished.text.clone()),
        }
    }

    pub(super) fn event(&mut self, event: &Event<'_>) {
        match (event, &mut self.text) {
            (Event::Text { choice: 0, text }, Some(said)) if said.len() + text.len() <= LIMIT => {
                said.push_str(text);
            }
            (Event::End, _) => self.text = None,
            (event, _) if event.is_content() => self.text = None,
            _ => {}
        }
    }
}

/// Follows a stream that is passed on as it comes.
#[derive(Debug)]
pub(super) struct Listener {
    decoder: Decoder,
    said: Said,
    begun: Begun,
}

impl Listener {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            decoder: Decoder::new(plan.front),
            said: Said::nothing(),
            begun: Begun::default(),
        }
    }

    /// A frame that the caller gets, with what the provider has counted so far.
    pub(super) fn frame(&mut self, frame: &Frame<'_>, usage: Option<&Usage>) {
        let Self {
            decoder,
            said,
            begun,
        } = self;
        if said.text.is_none() || !frame.has_data() {
            return;
        }
        let data = frame.data();
        let read = decoder.frame(frame.event(), &data, &mut |event| {
            if let Event::Start { id, model } = &event {
                begun.id = id.as_deref().unwrap_or_default().to_owned();
                begun.model = model.as_deref().unwrap_or_default().to_owned();
            }
            said.event(&event);
        });
        if read.is_err() {
            said.text = None;
        }
        begun.usage = usage.copied().unwrap_or_default();
        if begun.created.is_none() || frame.event().starts_with(b"content_block_st") {
            self.place(&data);
        }
    }

    /// What the frame tells of the stream's state beside what it says.
    fn place(&mut self, data: &[u8]) {
        let Ok(tree) = parse(data) else { return };
        let begun = &mut self.begun;
        begun.created = begun.created.or(tree.at("created").int());
        let index = tree.at("index").int();
        match (tree.at("type").text(), index) {
            (Some("content_block_start"), Some(index)) => {
                (begun.block, begun.block_open) = (index, true);
            }
            (Some("content_block_stop"), Some(index)) => {
                (begun.block, begun.block_open) = (index + 1, false);
            }
            _ => {}
        }
    }

    pub(super) fn unfinished(self, plan: &Plan, array: Option<usize>) -> Option<Unfinished> {
        let encoder = Encoder::going_on(plan.endpoint, &plan.told(), &self.begun)?;
        Unfinished::new(self.said, encoder, array)
    }
}

/// Takes away what a provider repeats of the text that it was to go on from.
#[derive(Debug, Default)]
pub(super) struct Repeated {
    text: String,
    /// So much of it has come.
    seen: usize,
}

impl Repeated {
    pub(super) fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            seen: 0,
        }
    }

    /// What of a piece is new.
    pub(super) fn without<'t>(&mut self, piece: Cow<'t, str>) -> Cow<'t, str> {
        let left = &self.text[self.seen..];
        if left.is_empty() {
            return piece;
        }
        if left.starts_with(&*piece) {
            self.seen += piece.len();
            return Cow::Borrowed("");
        }
        let told = match piece.strip_prefix(left) {
            Some(new) => Cow::Owned(new.to_owned()),
            // It does not repeat after all: what was taken for that belongs to the answer.
            None => Cow::Owned(format!("{}{piece}", &self.text[..self.seen])),
        };
        self.seen = self.text.len();
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn without(text: &str, pieces: &[&str]) -> String {
        let mut repeated = Repeated::new(text);
        let new = pieces
            .iter()
            .map(|piece| repeated.without(Cow::Borrowed(piece)));
        new.collect()
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_repetition_is_taken_away_once(
            text in "[aé]{0,8}", rest in "[aéb]{0,8}", cuts in proptest::collection::vec(1..4usize, 0..20),
        ) {
            let all: Vec<char> = text.chars().chain(rest.chars()).collect();
            let mut pieces = Vec::new();
            let mut at = 0;
            for cut in cuts {
                let end = (at + cut).min(all.len());
                pieces.push(all[at..end].iter().collect::<String>());
                at = end;
            }
            pieces.push(all[at..].iter().collect());
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(without(&text, &pieces), rest);
        }
    }

    #[test]
    fn what_is_no_repetition_is_kept() {
        assert_eq!(without("so far", &["so", " good"]), "so good");
        assert_eq!(without("so far", &["and", " on"]), "and on");
        assert_eq!(without("", &["on"]), "on");
    }
}
