//! What was said between a caller and a model, for the access log: kept only where the configuration asks for it.

use serde_json::Value;

/// Bytes kept of a body.
const MOST: usize = 64 * 1024;

/// The beginnings of a request's body and of its answer's.
#[derive(Debug, Default)]
pub(crate) struct Said {
    request: Body,
    answer: Body,
}

#[derive(Debug, Default)]
struct Body {
    kept: Vec<u8>,
    cut: bool,
}

impl Body {
    fn add(&mut self, piece: &[u8]) {
        let room = MOST - self.kept.len();
        self.cut |= piece.len() > room;
        self.kept.extend_from_slice(&piece[..piece.len().min(room)]);
    }
}

impl Said {
    pub(crate) fn of(request: &[u8]) -> Box<Self> {
        let mut said = Self::default();
        said.request.add(request);
        Box::new(said)
    }

    /// The caller was given a piece of the answer.
    pub(crate) fn answered(&mut self, piece: &[u8]) {
        self.answer.add(piece);
    }

    pub(crate) fn log(&self, line: &mut Value) {
        for (name, body) in [("request", &self.request), ("response", &self.answer)] {
            line[format!("{name}_body")] = String::from_utf8_lossy(&body.kept).into();
            if body.cut {
                line[format!("{name}_body_cut")] = true.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_is_kept_and_it_is_told_that_there_was_more() {
        let mut said = Said::of(b"hello");
        for _ in 0..3 {
            said.answered(&[b'x'; MOST / 2]);
        }
        let mut line = Value::default();
        said.log(&mut line);
        assert_eq!(line["request_body"], "hello");
        assert_eq!(line["response_body"].as_str().map(str::len), Some(MOST));
        assert_eq!(line.get("request_body_cut"), None);
        assert_eq!(line["response_body_cut"], true);
    }
}
