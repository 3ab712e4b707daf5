//! What an error's body says, whatever its shape.
//!
//! Every provider has its own: `{"error":{…}}` with a code, a type or a status inside, the same at the top level, a bare
//! string, a number in `base_resp` or `error_code`, a list of one (Gemini's streams), a nested `details` list. All of
//! them are read into the same few fields, and the table of rules sees only those.

use std::sync::LazyLock;
use std::time::Duration;

use http::HeaderMap;
use memchr::memmem::Finder;
use serde_json::Value;

use super::ProviderKind;
use super::reset;
use crate::json::{Cursor, Malformed};

/// Codes kept of one error.
const CODES: usize = 16;

/// What was found in an error.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// Codes, types, reasons and quota names, the most telling first.
    pub(super) codes: Vec<String>,
    /// The message as it stands; the whole text where the body is not JSON.
    pub(super) message: String,
    /// The status that the body itself claims (Gemini and OpenRouter write it into streams).
    pub(super) status: Option<u16>,
    /// A delay that the body states in a field of its own.
    pub(super) delay: Option<Duration>,
    /// The body is a web page or the like: something before the provider answered.
    pub(super) page: bool,
}

/// Looked for in every frame of every stream: making the finder anew costs more than the search.
static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"error"));

/// The JSON of a success holds an error after all. Allocates nothing; most answers are told apart by a search for bytes.
pub(super) fn hides_error(kind: ProviderKind, json: &[u8]) -> bool {
    let candidate = ERROR.find(json).is_some()
        || kind == ProviderKind::MiniMax && memchr::memmem::find(json, b"\"base_resp\"").is_some();
    candidate && shows_error(json).unwrap_or(false)
}

/// Looks at the keys at the top of a whole JSON text.
fn shows_error(json: &[u8]) -> Result<bool, Malformed> {
    let mut cursor = Cursor::new(json);
    let mut error = false;
    if cursor.is_array() {
        // Gemini's streams that are not SSE come as a list.
        cursor.array(|cursor| top(cursor, &mut error))?;
    } else {
        top(&mut cursor, &mut error)?;
    }
    cursor.end()?;
    Ok(error)
}

fn top(cursor: &mut Cursor<'_>, error: &mut bool) -> Result<(), Malformed> {
    cursor.object(|key, cursor| {
        *error |= match key {
            b"error" | b"errors" => cursor.says()?,
            b"error_code" => !matches!(cursor.value()?, b"0" | b"null" | b"\"\"" | b"\"0\""),
            b"type" => matches!(cursor.text()?, Some(b"error" | b"response.failed")),
            b"object" => cursor.text()? == Some(b"error"),
            b"base_resp" => {
                let mut bad = false;
                cursor.object(|key, cursor| {
                    let value = cursor.value()?;
                    bad |= key == b"status_code" && !matches!(value, b"0" | b"null");
                    Ok(())
                })?;
                bad
            }
            _ => {
                cursor.value()?;
                false
            }
        };
        Ok(())
    })
}

impl Signals {
    /// Reads the body of an error; `body` may be cut.
    pub(super) fn read(body: &[u8], headers: &HeaderMap, now_unix: u64) -> Self {
        let mut signals = Self::default();
        // AWS names the error in a header, with or without a namespace behind a colon.
        if let Some(name) = headers
            .get("x-amzn-errortype")
            .and_then(|value| value.to_str().ok())
        {
            signals.code(name.split(':').next().unwrap_or(name));
        }
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => signals.value(&value, now_unix),
            Err(_) => signals.text(body),
        }
        signals
    }

    fn value<'v>(&mut self, value: &'v Value, now_unix: u64) {
        // Gemini's streams hold errors in a list, OpenAI's responses under `response`.
        let faulty = |list: &'v Vec<Value>| {
            list.iter()
                .find(|item| item.get("error").is_some())
                .or(list.first())
        };
        let value = value.as_array().and_then(faulty).unwrap_or(value);
        let failed = value.get("type").and_then(Value::as_str) == Some("response.failed");
        let value = value.get("response").filter(|_| failed).unwrap_or(value);

        let error = value.get("error").filter(|error| !error.is_null());
        let listed = value.get("errors").and_then(|errors| errors.get(0));
        match error.or(listed) {
            Some(Value::String(message)) => self.message.clone_from(message),
            Some(error) => self.error(error, now_unix),
            None => {}
        }
        if let Some(resp) = value.get("base_resp") {
            self.code_of(resp.get("status_code"));
            self.say(resp.get("status_msg"));
        }
        self.code_of(value.get("error_code"));
        self.say(value.get("error_msg"));
        self.code_of(value.get("code"));
        if let Some(name) = value.get("__type").and_then(Value::as_str) {
            self.code(name.rsplit('#').next().unwrap_or(name));
        }
        if value.get("type").is_some_and(|name| name != "error") {
            self.code_of(value.get("type"));
        }
        self.say(value.get("message"));
        self.say(value.get("Message"));
        self.say(value.get("detail"));
    }

    fn error(&mut self, error: &Value, now_unix: u64) {
        let details = error
            .get("details")
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        for detail in details {
            let violations = detail
                .get("violations")
                .and_then(Value::as_array)
                .map_or(&[][..], Vec::as_slice);
            for violation in violations {
                self.code_of(violation.get("quotaId"));
            }
            self.code_of(detail.pointer("/metadata/quota_limit"));
            self.code_of(detail.get("reason"));
            let delay = detail
                .get("retryDelay")
                .and_then(Value::as_str)
                .and_then(reset::duration);
            self.delay = self.delay.max(delay);
        }
        self.code_of(error.pointer("/innererror/code"));
        self.code_of(error.get("code"));
        self.code_of(error.get("type"));
        self.code_of(error.get("status"));
        self.say(error.get("message"));
        // OpenRouter repeats in the body the headers that would have told when a limit resets.
        if let Some(Value::Object(fields)) = error.pointer("/metadata/headers") {
            let headers: HeaderMap = fields
                .iter()
                .filter_map(|(name, value)| {
                    Some((name.parse().ok()?, value.as_str()?.parse().ok()?))
                })
                .collect();
            self.delay = self.delay.max(reset::exhausted(&headers, "", now_unix));
        }
    }

    /// Takes over a code: a word, or a number that is a status (which it claims) or the provider's own.
    fn code_of(&mut self, value: Option<&Value>) {
        match value {
            Some(Value::String(text)) => {
                self.claim(text.parse().ok());
                self.code(text);
            }
            Some(Value::Number(number)) => {
                self.claim(number.as_u64());
                self.code(&number.to_string());
            }
            _ => {}
        }
    }

    fn claim(&mut self, number: Option<u64>) {
        if let Some(status @ 400..=599) = number {
            self.status.get_or_insert(status as u16);
        }
    }

    fn code(&mut self, code: &str) {
        let code = code.trim();
        if !code.is_empty() && code != "0" && self.codes.len() < CODES {
            self.codes.push(code.to_owned());
        }
    }

    /// The first message found stands.
    fn say(&mut self, value: Option<&Value>) {
        if self.message.is_empty() {
            match value {
                Some(Value::String(text)) => self.message.clone_from(text),
                Some(other @ (Value::Array(_) | Value::Object(_))) => {
                    self.message = other.to_string()
                }
                _ => {}
            }
        }
    }

    /// A body that is not JSON: an edge's page, a proxy's line, or JSON that was cut.
    fn text(&mut self, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        let start = text.trim_start();
        self.page = start.starts_with('<');
        self.message = if self.page {
            title(start)
        } else {
            text.into_owned()
        };
    }
}

/// The title of a web page, or its text without the tags.
fn title(page: &str) -> String {
    let lower = page.to_ascii_lowercase();
    if let (Some(from), Some(to)) = (lower.find("<title>"), lower.find("</title>"))
        && from + 7 <= to
    {
        return page[from + 7..to].to_owned();
    }
    let mut inside = false;
    page.chars()
        .filter(|letter| {
            let shown = !inside && *letter != '<';
            inside = (inside || *letter == '<') && *letter != '>';
            shown
        })
        .collect()
}
