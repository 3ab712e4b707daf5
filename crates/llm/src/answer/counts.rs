//! Tokens in each dialect's words, read in place.

use crate::json::{Cursor, Malformed};
use crate::usage::Usage;

/// OpenAI's `usage`, of chat completions and of responses, and what compatible providers add to it.
pub(super) fn openai(cursor: &mut Cursor<'_>) -> Result<Usage, Malformed> {
    let mut usage = Usage::default();
    cursor.object(|key, cursor| {
        match key {
            b"prompt_tokens" | b"input_tokens" => usage.input = count(cursor)?,
            b"completion_tokens" | b"output_tokens" => usage.output = count(cursor)?,
            // DeepSeek and Moonshot tell it here.
            b"prompt_cache_hit_tokens" | b"cached_tokens" => usage.cached = count(cursor)?,
            b"prompt_tokens_details" | b"input_tokens_details" => {
                cursor.object(|key, cursor| {
                    match key {
                        b"cached_tokens" => usage.cached = count(cursor)?,
                        b"audio_tokens" => usage.audio_input = count(cursor)?,
                        _ => {
                            cursor.value()?;
                        }
                    }
                    Ok(())
                })?;
            }
            b"completion_tokens_details" | b"output_tokens_details" => {
                cursor.object(|key, cursor| {
                    match key {
                        b"reasoning_tokens" => usage.reasoning = count(cursor)?,
                        b"audio_tokens" => usage.audio_output = count(cursor)?,
                        _ => {
                            cursor.value()?;
                        }
                    }
                    Ok(())
                })?;
            }
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })?;
    Ok(usage)
}

/// Anthropic's `usage`: what was cached is counted beside the input there.
pub(super) fn anthropic(cursor: &mut Cursor<'_>) -> Result<Usage, Malformed> {
    let mut usage = Usage::default();
    cursor.object(|key, cursor| {
        match key {
            b"input_tokens" => usage.input += count(cursor)?,
            b"cache_read_input_tokens" => {
                usage.cached = count(cursor)?;
                usage.input += usage.cached;
            }
            b"cache_creation_input_tokens" => {
                usage.cache_written = count(cursor)?;
                usage.input += usage.cache_written;
            }
            b"output_tokens" => usage.output = count(cursor)?,
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })?;
    Ok(usage)
}

/// Gemini's `usageMetadata`: thoughts are counted beside the candidates there.
pub(super) fn gemini(cursor: &mut Cursor<'_>) -> Result<Usage, Malformed> {
    let mut usage = Usage::default();
    cursor.object(|key, cursor| {
        match key {
            b"promptTokenCount" | b"toolUsePromptTokenCount" => usage.input += count(cursor)?,
            b"candidatesTokenCount" => usage.output += count(cursor)?,
            b"thoughtsTokenCount" => {
                usage.reasoning = count(cursor)?;
                usage.output += usage.reasoning;
            }
            b"cachedContentTokenCount" => usage.cached = count(cursor)?,
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })?;
    Ok(usage)
}

fn count(cursor: &mut Cursor<'_>) -> Result<u64, Malformed> {
    Ok(cursor.int()?.unwrap_or(0).min(u64::from(u32::MAX)))
}
