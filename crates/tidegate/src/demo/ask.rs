//! What callers ask, and which answer is right: only an answer that the model, the provider or the worker must give to this
//! very request counts.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::hosted::{self, SENTENCES};
use super::model::{Example, Model, Prediction, Version, held_out};
use super::provider::{self, PROMPTS, completion};
use super::traffic::{Opined, What};
use super::wire::{self, Opinion, Question};

/// What a caller asks all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The classifier, by JSON over HTTP/1.1.
    Json,
    /// The classifier, by gRPC.
    Grpc,
    /// The provider of language models; every second answer as a stream of events.
    Chat,
    /// The hosted model.
    Hosted,
}

/// Everything that is asked.
#[derive(Debug)]
pub(crate) struct Asks {
    texts: Vec<Text>,
    next_text: AtomicUsize,
    next_prompt: AtomicUsize,
    next_sentence: AtomicUsize,
}

/// A text for the classifier with what its versions say about it.
#[derive(Debug)]
pub(crate) struct Text {
    example: Example,
    expected: [Prediction; 2],
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ask<'a> {
    Json(&'a Text),
    Grpc(&'a Text),
    Chat {
        prompt: &'static str,
        stream: bool,
    },
    Hosted {
        text: &'static str,
        language: &'static str,
    },
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// With the trailers among them.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A right answer.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) what: What,
    /// The instance, key or worker that gave it.
    pub(crate) instance: String,
}

impl Asks {
    /// About the texts that no version of the model was trained on.
    pub(crate) fn new(models: &[Model; 2]) -> Self {
        let texts = held_out().map(|example| Text {
            example,
            expected: [
                models[0].predict(example.text),
                models[1].predict(example.text),
            ],
        });
        Self {
            texts: texts.collect(),
            next_text: AtomicUsize::new(0),
            next_prompt: AtomicUsize::new(0),
            next_sentence: AtomicUsize::new(0),
        }
    }

    /// The next request of this kind. One order for all callers, so that everything is asked as often as the others.
    pub(crate) fn next(&self, kind: Kind) -> Ask<'_> {
        let next = |counter: &AtomicUsize| counter.fetch_add(1, Ordering::Relaxed);
        let text = || &self.texts[next(&self.next_text) % self.texts.len()];
        match kind {
            Kind::Json => Ask::Json(text()),
            Kind::Grpc => Ask::Grpc(text()),
            Kind::Chat => {
                let number = next(&self.next_prompt);
                Ask::Chat {
                    prompt: PROMPTS[number / 2 % PROMPTS.len()],
                    stream: number % 2 == 1,
                }
            }
            Kind::Hosted => {
                let (text, language) = SENTENCES[next(&self.next_sentence) % SENTENCES.len()];
                Ask::Hosted { text, language }
            }
        }
    }
}

impl Ask<'_> {
    /// Where it is asked.
    pub(crate) fn path(&self) -> &'static str {
        match self {
            Ask::Json(_) => wire::PREDICT,
            Ask::Grpc(_) => wire::GRPC_PREDICT,
            Ask::Chat { .. } => provider::CHAT,
            Ask::Hosted { .. } => hosted::PATH,
        }
    }

    /// Over HTTP/2 as a gRPC call, not as JSON over HTTP/1.1.
    pub(crate) fn is_grpc(&self) -> bool {
        matches!(self, Ask::Grpc(_))
    }

    /// What is sent.
    pub(crate) fn body(&self) -> Bytes {
        match self {
            Ask::Json(text) => {
                let question = Question {
                    text: text.example.text.to_owned(),
                };
                serde_json::to_vec(&question).map_or_else(|_| Bytes::new(), Bytes::from)
            }
            Ask::Grpc(text) => wire::encode_question(text.example.text),
            Ask::Chat { prompt, stream } => {
                let messages = json!([{ "role": "user", "content": prompt }]);
                let body = json!({ "model": "demo-model", "messages": messages, "stream": stream });
                body.to_string().into()
            }
            Ask::Hosted { text, .. } => json!({ "text": text }).to_string().into(),
        }
    }

    /// What the answer says, if it is right; else what is wrong with it.
    pub(crate) fn judge(&self, reply: &Reply) -> Result<Said, String> {
        if reply.status != StatusCode::OK {
            return Err(format!(
                "{}: status {}{}",
                self.path(),
                reply.status,
                excerpt(&reply.body)
            ));
        }
        match self {
            Ask::Json(text) => {
                let opinion = serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?;
                text.judge(opinion, false)
            }
            Ask::Grpc(text) => {
                let header = |name: &str| reply.headers.get(name).and_then(|v| v.to_str().ok());
                let code = header("grpc-status").unwrap_or("none");
                if code != "0" {
                    let words = header("grpc-message").unwrap_or_default();
                    return Err(format!("grpc-status {code} {words}"));
                }
                let opinion = wire::decode_opinion(&reply.body).ok_or("not an Opinion")?;
                text.judge(opinion, true)
            }
            Ask::Chat { prompt, stream } => {
                let said = match stream {
                    true => streamed(&reply.body),
                    false => whole(&reply.body),
                };
                let (text, instance) =
                    said.ok_or_else(|| format!("no chat completion{}", excerpt(&reply.body)))?;
                if text != completion(prompt) {
                    return Err(format!("not the answer to {prompt:?}: {text:?}"));
                }
                Ok(Said {
                    what: What::Chat { streamed: *stream },
                    instance,
                })
            }
            Ask::Hosted { text, language } => {
                let said: Value = serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?;
                match (said["language"].as_str(), said["worker"].as_str()) {
                    (Some(found), Some(worker)) if found == *language => Ok(Said {
                        what: What::Hosted,
                        instance: worker.to_owned(),
                    }),
                    _ => Err(format!("not the language of {text:?}: {said}")),
                }
            }
        }
    }
}

impl Text {
    /// Only an answer that the named version's model gives to this text is right.
    fn judge(&self, opinion: Opinion, grpc: bool) -> Result<Said, String> {
        let version: Version = opinion.version.parse()?;
        let expected = &self.expected[version.index()];
        let same = opinion.label == expected.label.name()
            && (opinion.confidence - expected.confidence).abs() < 1e-9
            && (grpc || !opinion.because.is_empty() || expected.because.is_empty());
        if !same {
            return Err(format!("not the answer of {}: {opinion:?}", version.name()));
        }
        Ok(Said {
            what: What::Opinion(Opined {
                text: self.example.text,
                label: expected.label,
                reason: expected.because.first().cloned(),
                version,
                hit: expected.label == self.example.label,
                grpc,
            }),
            instance: opinion.instance,
        })
    }
}

/// Text and key of a chat completion.
fn whole(body: &[u8]) -> Option<(String, String)> {
    let whole: Value = serde_json::from_slice(body).ok()?;
    let text = whole["choices"][0]["message"]["content"].as_str()?;
    let key = whole["system_fingerprint"].as_str()?;
    Some((text.to_owned(), key.to_owned()))
}

/// Text and key of a streamed one that came to its end.
fn streamed(body: &[u8]) -> Option<(String, String)> {
    let events = std::str::from_utf8(body).ok()?;
    let (mut text, mut key) = (String::new(), None);
    for data in events
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
    {
        if data == "[DONE]" {
            return Some((text, key?));
        }
        let chunk: Value = serde_json::from_str(data).ok()?;
        text.push_str(
            chunk["choices"][0]["delta"]["content"]
                .as_str()
                .unwrap_or(""),
        );
        key = chunk["system_fingerprint"]
            .as_str()
            .map(str::to_owned)
            .or(key);
    }
    None
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(160)]);
    let text = text.trim();
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks() -> Asks {
        Asks::new(&Version::ALL.map(Model::train))
    }

    fn ok(body: impl Into<Bytes>) -> Reply {
        Reply {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: body.into(),
        }
    }

    #[test]
    fn a_stream_that_does_not_come_to_its_end_is_no_answer() {
        let asks = asks();
        let _ = asks.next(Kind::Chat);
        let ask = asks.next(Kind::Chat);
        let Ask::Chat {
            prompt,
            stream: true,
        } = ask
        else {
            panic!("{ask:?}");
        };
        let chunk = json!({ "system_fingerprint": "sk-…0002", "choices": [{ "delta": { "content": completion(prompt) } }] });
        let cut = format!("data: {chunk}\n\n");
        assert!(ask.judge(&ok(cut.clone())).is_err());
        let said = ask.judge(&ok(format!("{cut}data: [DONE]\n\n"))).unwrap();
        assert_eq!(said.instance, "sk-…0002");
    }

    #[test]
    fn an_answer_to_another_question_is_wrong() {
        let asks = asks();
        let chat = asks.next(Kind::Chat);
        let other = json!({ "system_fingerprint": "sk-…0001", "choices": [{ "message": { "content": "something" } }] });
        let problem = chat.judge(&ok(other.to_string())).unwrap_err();
        assert!(problem.contains("not the answer"), "{problem}");
        let hosted = asks.next(Kind::Hosted);
        let said = |language: &str| json!({ "language": language, "worker": "language-0" });
        assert!(hosted.judge(&ok(said("xx").to_string())).is_err());
        let right = hosted.judge(&ok(said(SENTENCES[0].1).to_string())).unwrap();
        assert_eq!(right.instance, "language-0");
    }

    #[test]
    fn a_status_that_is_not_200_is_told_with_the_beginning_of_the_body() {
        let asks = asks();
        for kind in [Kind::Json, Kind::Grpc, Kind::Chat, Kind::Hosted] {
            let mut reply = ok("no key is left");
            reply.status = StatusCode::TOO_MANY_REQUESTS;
            let problem = asks.next(kind).judge(&reply).unwrap_err();
            assert!(
                problem.contains("429") && problem.contains("no key is left"),
                "{problem}"
            );
        }
    }
}
