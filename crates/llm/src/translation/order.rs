//! One block after the other: for dialects whose streams tell a block to its end before the next begins.
//!
//! OpenAI's chunks name the call that a piece of arguments belongs to, and some servers send the pieces of parallel calls in
//! turns. Anthropic's stream has no place for a piece once its block has stopped, nor has that of the Responses API. So what
//! comes while a call is open is kept until that call is whole: its arguments are a complete JSON value, its index is used
//! again, or the answer ends. In the common case, one call after the other, nothing is kept.

use std::collections::VecDeque;

use crate::ir::Event;

/// About what an event takes that waits, besides its texts.
const ITSELF: usize = 64;

/// Puts the events of one answer in order.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// The call that is being told.
    open: Option<Call>,
    /// What comes after it.
    kept: VecDeque<Kept>,
    /// About as many bytes as that is.
    bytes: usize,
}

#[derive(Debug)]
struct Call {
    index: u32,
    json: Json,
}

#[derive(Debug)]
enum Kept {
    Call {
        call: Call,
        start: Event<'static>,
        arguments: String,
    },
    Other(Event<'static>),
}

/// How far a text of JSON has come that is an object or a list; of other values nobody knows when they are whole.
#[derive(Debug, Default)]
struct Json {
    depth: u32,
    quoted: bool,
    escaped: bool,
    whole: bool,
}

impl Json {
    fn feed(&mut self, text: &str) {
        for byte in text.bytes() {
            if self.quoted {
                self.quoted = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                continue;
            }
            match byte {
                b'"' => self.quoted = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.whole |= self.depth == 0;
                }
                _ => {}
            }
        }
    }
}

impl Order {
    /// About how many bytes wait for their turn.
    pub(crate) fn kept_bytes(&self) -> usize {
        self.bytes
    }

    /// Takes an event and gives on what is its turn.
    pub(crate) fn event(&mut self, event: &Event<'_>, sink: &mut dyn FnMut(&Event<'_>)) {
        match event {
            // These dialects have one answer, whatever becomes of the others.
            event if event.choice() > 0 => sink(event),
            // Not of the answer's content.
            Event::Start { .. } | Event::Usage(_) => sink(event),
            Event::Finish { .. } | Event::End => {
                self.open = None;
                self.advance(true, sink);
                self.open = None;
                sink(event);
            }
            Event::ToolStart { index, .. } => {
                if let Some(open) = &mut self.open
                    && open.index == *index
                {
                    open.json.whole = true;
                    self.advance(false, sink);
                }
                let call = Call {
                    index: *index,
                    json: Json::default(),
                };
                if self.is_free() {
                    sink(event);
                    self.open = Some(call);
                } else if let Some(start) = event.kept() {
                    self.bytes += ITSELF + event.length();
                    self.kept.push_back(Kept::Call {
                        call,
                        start,
                        arguments: String::new(),
                    });
                }
            }
            Event::ToolDelta {
                index,
                arguments: more,
                ..
            } => self.arguments(*index, more, event, sink),
            Event::Text { text, .. }
            | Event::Refusal { text, .. }
            | Event::Reasoning { text, .. }
                if text.is_empty() => {}
            _ if self.is_free() => {
                self.open = None;
                sink(event);
            }
            _ => {
                if let Some(kept) = event.kept() {
                    self.bytes += ITSELF + event.length();
                    self.kept.push_back(Kept::Other(kept));
                }
            }
        }
    }

    /// Whether nothing has to be told before a new block.
    fn is_free(&self) -> bool {
        self.kept.is_empty() && self.open.as_ref().is_none_or(|call| call.json.whole)
    }

    fn arguments(
        &mut self,
        index: u32,
        more: &str,
        event: &Event<'_>,
        sink: &mut dyn FnMut(&Event<'_>),
    ) {
        // The call of this index that began last: an index may be used again.
        let waiting = self.kept.iter_mut().rev().find_map(|kept| match kept {
            Kept::Call {
                call, arguments, ..
            } if call.index == index => Some((call, arguments)),
            _ => None,
        });
        if let Some((call, arguments)) = waiting {
            call.json.feed(more);
            arguments.push_str(more);
            self.bytes += more.len();
        } else if let Some(open) = &mut self.open
            && open.index == index
        {
            open.json.feed(more);
            sink(event);
            self.advance(false, sink);
        }
        // Else its block is closed: there is no place left for it.
    }

    /// Gives on what was kept, up to a call that is not whole; `all`: the answer is over.
    fn advance(&mut self, all: bool, sink: &mut dyn FnMut(&Event<'_>)) {
        while all || self.open.as_ref().is_none_or(|call| call.json.whole) {
            let next = self.kept.pop_front();
            if self.kept.is_empty() {
                self.bytes = 0;
            }
            match next {
                None => return,
                Some(Kept::Other(event)) => {
                    self.open = None;
                    sink(&event);
                }
                Some(Kept::Call {
                    call,
                    start,
                    arguments,
                }) => {
                    sink(&start);
                    if !arguments.is_empty() {
                        sink(&Event::ToolDelta {
                            choice: 0,
                            index: call.index,
                            arguments: arguments.into(),
                        });
                    }
                    self.open = Some(call);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start(index: u32) -> Event<'static> {
        Event::ToolStart {
            choice: 0,
            index,
            id: None,
            name: format!("f{index}").into(),
            signature: None,
        }
    }

    fn delta(index: u32, arguments: &str) -> Event<'static> {
        Event::ToolDelta {
            choice: 0,
            index,
            arguments: arguments.to_owned().into(),
        }
    }

    fn text(text: &str) -> Event<'static> {
        Event::Text {
            choice: 0,
            text: text.to_owned().into(),
        }
    }

    /// What is told after each event, in short.
    fn told(events: &[Event<'_>]) -> Vec<String> {
        let mut order = Order::default();
        let tell = |event: &Event<'_>| {
            let mut out = String::new();
            order.event(event, &mut |event| {
                out.push_str(&match event {
                    Event::ToolStart { index, .. } => format!("<{index}>"),
                    Event::ToolDelta { arguments, .. } => arguments.to_string(),
                    Event::Text { text, .. } => text.to_string(),
                    Event::End => ".".to_owned(),
                    other => format!("{other:?}"),
                });
            });
            out
        };
        events.iter().map(tell).collect()
    }

    #[test]
    fn one_call_after_the_other_is_told_at_once() {
        let events = [
            text("a"),
            start(0),
            delta(0, "{\"x\":\"}"),
            delta(0, "\\\"\"}"),
            start(1),
            delta(1, "{}"),
            text("b"),
            // The same index again, as some servers have it.
            start(1),
            delta(1, "{}"),
            Event::End,
        ];
        assert_eq!(
            told(&events),
            [
                "a",
                "<0>",
                "{\"x\":\"}",
                "\\\"\"}",
                "<1>",
                "{}",
                "b",
                "<1>",
                "{}",
                "."
            ]
        );
    }

    #[test]
    fn what_comes_while_a_call_is_open_waits_for_it() {
        let events = [
            start(0),
            start(1),
            delta(1, "{\"b\""),
            delta(0, "{\"a\""),
            text("t"),
            delta(1, ":1}"),
            delta(0, ":0}"),
            // Too late: nothing can be added to a closed block.
            delta(1, "x"),
            Event::End,
        ];
        assert_eq!(
            told(&events),
            ["<0>", "", "", "{\"a\"", "", "", ":0}<1>{\"b\":1}t", "", "."]
        );
    }

    #[test]
    fn calls_without_arguments_are_whole_at_the_end() {
        let events = [start(0), start(1), delta(1, "{}"), start(2), Event::End];
        assert_eq!(told(&events), ["<0>", "", "", "", "<1>{}<2>."]);
    }

    proptest! {
        #[test]
        fn however_pieces_are_mixed_each_call_gets_its_own(
            calls in proptest::collection::vec("\\{\"[a-z{}\\[\\]]{0,6}\":[0-9]{1,4}\\}", 1..5),
            cuts in proptest::collection::vec((0..5usize, 1..4usize), 0..60),
        ) {
            let mut events: Vec<_> = (0..calls.len()).map(|index| start(index as u32)).collect();
            let mut rest: Vec<&str> = calls.iter().map(String::as_str).collect();
            let all = (0..calls.len()).map(|call| (call, usize::MAX));
            for (call, length) in cuts.into_iter().chain(all) {
                let Some(left) = rest.get_mut(call).filter(|left| !left.is_empty()) else { continue };
                let (piece, more) = left.split_at(length.min(left.len()));
                events.push(delta(call as u32, piece));
                *left = more;
            }
            events.push(Event::End);
            let expected: String = calls.iter().enumerate().map(|(at, call)| format!("<{at}>{call}")).collect();
            prop_assert_eq!(told(&events).concat(), expected + ".");
        }
    }
}
