//! Tokens used, in one shape for every provider.

mod read;
#[cfg(test)]
mod tests;

use crate::Dialect;
use crate::json::{Cursor, Malformed};

pub(crate) use read::{anthropic, bedrock, cohere, gemini, openai};

/// Bytes for a token where nobody counted.
///
/// English text has about four a token with today's vocabularies, source code about three, Chinese about three (a
/// character is three bytes and about a token). Four errs towards too few; the figures only stand in for a provider's
/// when a stream ended before they came.
const BYTES_A_TOKEN: u64 = 4;

/// Tokens of one answer.
///
/// The providers count in different ways (is what was read from a cache part of the input? is reasoning part of the
/// output?). Here `input` is everything that the model read and `output` everything that it wrote; the other fields are
/// parts of these two and never added to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Usage {
    /// All tokens of the prompt, cached ones included.
    pub input: u64,
    /// All tokens generated, reasoning included.
    pub output: u64,
    /// Part of `input` that was read from the provider's cache.
    pub cached: u64,
    /// Part of `input` that was written to the provider's cache.
    pub cache_written: u64,
    /// Part of `output` that was reasoning.
    pub reasoning: u64,
    /// Part of `input` that was audio.
    pub audio_input: u64,
    /// Part of `output` that was audio.
    pub audio_output: u64,
    /// The provider did not report all; figures are estimated from bytes.
    pub estimated: bool,
}

impl Usage {
    /// `input` and `output` together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }

    /// Reads the usage of a whole answer or of one frame of a stream, in the dialect in which it came. `None` if there is
    /// none (or the text is no JSON). Allocates nothing; what holds no usage is told by a search for bytes.
    #[must_use]
    pub fn read(dialect: Dialect, json: &[u8]) -> Option<Self> {
        let marks = marks(dialect);
        if marks
            .iter()
            .all(|mark| memchr::memmem::find(json, mark).is_none())
        {
            return None;
        }
        walk(dialect, &mut Cursor::new(json)).ok().flatten()
    }

    /// As [`Self::read`], for an answer that is to be checked as well: one walk tells whether it is JSON from its beginning to its end.
    pub(crate) fn read_checked(dialect: Dialect, json: &[u8]) -> Result<Option<Self>, Malformed> {
        let mut cursor = Cursor::new(json);
        let found = walk(dialect, &mut cursor)?;
        cursor.end()?;
        Ok(found)
    }

    /// Reads the usage from the end of a whole answer whose beginning is not at hand. `None` unless what follows the last mark
    /// of usage shows that it is the answer's own, at the top: nothing but more members and the end of the object.
    #[must_use]
    pub fn read_end(dialect: Dialect, end: &[u8]) -> Option<Self> {
        let last = |mark: &&[u8]| Some(memchr::memmem::rfind(end, mark)? + mark.len());
        let at = marks(dialect).iter().filter_map(last).max()?;
        let mut cursor = Cursor::new(&end[at..]);
        let mut usage = None;
        cursor
            .rest_of_object(|cursor| {
                if !cursor.is_object() {
                    return cursor.value().map(drop);
                }
                usage = Some(read(cursor, dialect)?);
                Ok(())
            })
            .ok()?;
        usage
    }

    /// Takes over what a later report of the same answer says. Streams report in parts (Anthropic: the input first, the
    /// output at the end) or again and again with growing figures, so the larger one stands, field by field.
    pub fn merge(&mut self, later: &Self) {
        self.input = self.input.max(later.input);
        self.output = self.output.max(later.output);
        self.cached = self.cached.max(later.cached);
        self.cache_written = self.cache_written.max(later.cache_written);
        self.reasoning = self.reasoning.max(later.reasoning);
        self.audio_input = self.audio_input.max(later.audio_input);
        self.audio_output = self.audio_output.max(later.audio_output);
        self.estimated &= later.estimated;
    }

    /// What two parts of an answer used together.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        Self {
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
            cached: self.cached.saturating_add(other.cached),
            cache_written: self.cache_written.saturating_add(other.cache_written),
            reasoning: self.reasoning.saturating_add(other.reasoning),
            audio_input: self.audio_input.saturating_add(other.audio_input),
            audio_output: self.audio_output.saturating_add(other.audio_output),
            estimated: self.estimated || other.estimated,
        }
    }

    /// What an answer used of which the provider's report never came (the caller left, the stream broke): from the bytes
    /// of the prompt's text and of the content sent so far, four a token, rounded up.
    #[must_use]
    pub fn estimate(prompt_bytes: u64, content_bytes: u64) -> Self {
        Self {
            input: prompt_bytes.div_ceil(BYTES_A_TOKEN),
            output: content_bytes.div_ceil(BYTES_A_TOKEN),
            estimated: true,
            ..Self::default()
        }
    }

    /// Fills what an incomplete report left out with an [estimate](Self::estimate): a figure that is still zero, or an
    /// output that is smaller than what was seen to come.
    #[must_use]
    pub fn or_estimate(self, prompt_bytes: u64, content_bytes: u64) -> Self {
        let guess = Self::estimate(prompt_bytes, content_bytes);
        let mut filled = self;
        if self.input == 0 && guess.input > 0 {
            filled.input = guess.input;
            filled.estimated = true;
        }
        if self.output < guess.output {
            filled.output = guess.output;
            filled.estimated = true;
        }
        filled
    }
}

fn walk(dialect: Dialect, cursor: &mut Cursor<'_>) -> Result<Option<Usage>, Malformed> {
    let mut found = None;
    let read = |cursor: &mut Cursor<'_>| read(cursor, dialect);
    if cursor.is_array() {
        // Gemini's streams that are not SSE: a list, the last usage counts.
        cursor.array(|cursor| look(cursor, dialect, 0, &mut found, &read))?;
    } else {
        look(cursor, dialect, 0, &mut found, &read)?;
    }
    Ok(found)
}

/// What must be in a text that has usage.
fn marks(dialect: Dialect) -> &'static [&'static [u8]] {
    match dialect {
        Dialect::Gemini => &[b"\"usageMetadata\""],
        Dialect::Cohere => &[b"\"usage\"", b"\"meta\""],
        _ => &[b"\"usage\""],
    }
}

fn read(cursor: &mut Cursor<'_>, dialect: Dialect) -> Result<Usage, Malformed> {
    match dialect {
        Dialect::OpenAi => openai(cursor),
        Dialect::Anthropic => anthropic(cursor),
        Dialect::Gemini => gemini(cursor),
        Dialect::Cohere => cohere(cursor),
        Dialect::Bedrock => bedrock(cursor),
    }
}

/// Where usage stands: at the top, or under the one key that a dialect's streams put around it.
fn look<'a>(
    cursor: &mut Cursor<'a>,
    dialect: Dialect,
    depth: u8,
    found: &mut Option<Usage>,
    read: &dyn Fn(&mut Cursor<'a>) -> Result<Usage, Malformed>,
) -> Result<(), Malformed> {
    cursor.object(|key, cursor| {
        let is_usage = match dialect {
            Dialect::Gemini => key == b"usageMetadata",
            Dialect::Cohere => key == b"usage" || key == b"meta",
            _ => key == b"usage",
        };
        if is_usage && cursor.is_object() {
            *found = Some(read(cursor)?);
            return Ok(());
        }
        let around = depth == 0
            && match dialect {
                // Responses' events, Groq's last chunk; Moonshot's stands in a choice.
                Dialect::OpenAi => matches!(key, b"response" | b"x_groq" | b"choices"),
                Dialect::Anthropic => key == b"message",
                Dialect::Cohere => key == b"delta",
                Dialect::Bedrock => key == b"metadata",
                Dialect::Gemini => false,
            };
        if around && cursor.is_object() {
            look(cursor, dialect, depth + 1, found, read)
        } else if around && cursor.is_array() {
            cursor.array(|cursor| look(cursor, dialect, depth + 1, found, read))
        } else {
            cursor.value().map(drop)
        }
    })
}
