//! Each dialect's words for tokens, read in place: nothing is allocated.
//!
//! Every function takes the value of the dialect's usage field (`usage`, `usageMetadata`) from a walk over JSON. What is
//! not a count counts as nothing: an answer is never refused for its usage.

use super::Usage;
use crate::json::{Cursor, Malformed};

/// OpenAI's `usage`, of chat completions and of responses, and what compatible providers add to it.
///
/// Most count reasoning within the output, xAI beside it; the total tells which.
pub(crate) fn openai(cursor: &mut Cursor<'_>) -> Result<Usage, Malformed> {
    let mut usage = Usage::default();
    let mut total = 0;
    cursor.object(|key, cursor| {
        match key {
            b"prompt_tokens" | b"input_tokens" => usage.input = count(cursor)?,
            b"completion_tokens" | b"output_tokens" => usage.output = count(cursor)?,
            b"total_tokens" => total = count(cursor)?,
            // DeepSeek and Moonshot say it here.
            b"prompt_cache_hit_tokens" | b"cached_tokens" => usage.cached = count(cursor)?,
            b"prompt_tokens_details" | b"input_tokens_details" => {
                cursor.object(|key, cursor| {
                    match key {
                        b"cached_tokens" => usage.cached = count(cursor)?,
                        b"cache_write_tokens" => usage.cache_written = count(cursor)?,
                        b"audio_tokens" => usage.audio_input = count(cursor)?,
                        _ => skip(cursor)?,
                    }
                    Ok(())
                })?
            }
            b"completion_tokens_details" | b"output_tokens_details" => {
                cursor.object(|key, cursor| {
                    match key {
                        b"reasoning_tokens" => usage.reasoning = count(cursor)?,
                        b"audio_tokens" => usage.audio_output = count(cursor)?,
                        _ => skip(cursor)?,
                    }
                    Ok(())
                })?
            }
            _ => skip(cursor)?,
        }
        Ok(())
    })?;
    if usage.reasoning > 0 && total == usage.input + usage.output + usage.reasoning {
        usage.output += usage.reasoning;
    }
    Ok(usage)
}

/// Anthropic's `usage`: what was read from or written to the cache is counted beside the input.
pub(crate) fn anthropic(cursor: &mut Cursor<'_>) -> Result<Usage, Malformed> {
    let mut usage = Usage::default();
    cursor.object(|key, cursor| {
        match key {
            b"input_tokens" => usage.input = count(cursor)?,
            b"cache_read_input_tokens" => usage.cached = count(cursor)?,
            b"cache_creation_input_tokens" => usage.cache_written = count(cursor)?,
            b"output_tokens" => usage.output = count(cursor)?,
            _ => skip(cursor)?,
        }
        Ok(())
    })?;
    usage.input += usage.cached + usage.cache_written;
    Ok(usage)
}

/// Gemini's `usageMetadata`: thoughts are counted beside the candidates, the results of tools beside the prompt.
pub(crate) fn gemini(cursor: &mut Cursor<'_>) -> Result<Usage, Malformed> {
    let mut usage = Usage::default();
    let mut beside = 0;
    cursor.object(|key, cursor| {
        match key {
            b"promptTokenCount" => usage.input = count(cursor)?,
            b"toolUsePromptTokenCount" => beside = count(cursor)?,
            b"candidatesTokenCount" => usage.output = count(cursor)?,
            b"thoughtsTokenCount" => usage.reasoning = count(cursor)?,
            b"cachedContentTokenCount" => usage.cached = count(cursor)?,
            b"promptTokensDetails" => usage.audio_input = audio(cursor)?,
            b"candidatesTokensDetails" => usage.audio_output = audio(cursor)?,
            _ => skip(cursor)?,
        }
        Ok(())
    })?;
    usage.input += beside;
    usage.output += usage.reasoning;
    Ok(usage)
}

/// Bedrock's `usage` (Converse): the cache is counted beside the input.
pub(crate) fn bedrock(cursor: &mut Cursor<'_>) -> Result<Usage, Malformed> {
    let mut usage = Usage::default();
    cursor.object(|key, cursor| {
        match key {
            b"inputTokens" => usage.input = count(cursor)?,
            b"outputTokens" => usage.output = count(cursor)?,
            b"cacheReadInputTokens" => usage.cached = count(cursor)?,
            b"cacheWriteInputTokens" => usage.cache_written = count(cursor)?,
            _ => skip(cursor)?,
        }
        Ok(())
    })?;
    usage.input += usage.cached + usage.cache_written;
    Ok(usage)
}

/// Cohere's `usage` (version 2) or `meta` (rerank, embed): what the model saw if it is told, else what is billed.
pub(crate) fn cohere(cursor: &mut Cursor<'_>) -> Result<Usage, Malformed> {
    let mut billed = Usage::default();
    let mut seen = None;
    let mut cached = 0;
    cursor.object(|key, cursor| {
        match key {
            b"billed_units" => billed = cohere_units(cursor)?,
            b"tokens" => seen = Some(cohere_units(cursor)?),
            b"cached_tokens" => cached = count(cursor)?,
            _ => skip(cursor)?,
        }
        Ok(())
    })?;
    Ok(Usage {
        cached,
        ..seen.unwrap_or(billed)
    })
}

fn cohere_units(cursor: &mut Cursor<'_>) -> Result<Usage, Malformed> {
    let mut usage = Usage::default();
    cursor.object(|key, cursor| {
        match key {
            b"input_tokens" => usage.input = count(cursor)?,
            b"output_tokens" => usage.output = count(cursor)?,
            _ => skip(cursor)?,
        }
        Ok(())
    })?;
    Ok(usage)
}

/// The audio of Gemini's tokens by modality.
fn audio(cursor: &mut Cursor<'_>) -> Result<u64, Malformed> {
    let mut sum = 0;
    cursor.array(|cursor| {
        let mut is_audio = false;
        let mut tokens = 0;
        cursor.object(|key, cursor| {
            match key {
                b"modality" => is_audio = cursor.text()? == Some(b"AUDIO"),
                b"tokenCount" => tokens = count(cursor)?,
                _ => skip(cursor)?,
            }
            Ok(())
        })?;
        if is_audio {
            sum += tokens;
        }
        Ok(())
    })?;
    Ok(sum)
}

/// A count, bounded so that sums of several can't overflow.
fn count(cursor: &mut Cursor<'_>) -> Result<u64, Malformed> {
    Ok(cursor.int()?.unwrap_or(0).min(u64::from(u32::MAX)))
}

fn skip(cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
    cursor.value().map(drop)
}
