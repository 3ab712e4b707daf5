//! The list `messages` of a request in the provider's own dialect (OpenAI's chat, Anthropic's messages), by place: for what
//! has to be changed within it while the rest stays byte for byte.

use std::ops::Range;

use memchr::memmem;

use crate::json::{Cursor, Edit, Malformed, without};

/// The list, and where its messages stand in the body.
pub(super) struct List<'a> {
    /// From bracket to bracket.
    pub(super) at: Range<usize>,
    pub(super) messages: Vec<Message<'a>>,
}

pub(super) struct Message<'a> {
    at: Range<usize>,
    /// As it is written, without its quotes; empty if there is none.
    pub(super) role: &'a [u8],
    /// With its quotes.
    role_at: Range<usize>,
    blocks: Vec<Block>,
}

/// An item of a `content` that is a list.
struct Block {
    at: Range<usize>,
    /// Thoughts without a proof.
    unsigned: bool,
}

/// Where a part of a text stands in it.
fn place(text: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

/// `None` if there is no list.
pub(super) fn read(body: &[u8]) -> Option<List<'_>> {
    let mut list = None;
    let walked = Cursor::new(body).object(|key, cursor| {
        let value = cursor.value()?;
        if key == b"messages" && value.starts_with(b"[") {
            let mut messages = Vec::new();
            Cursor::new(value).array(|cursor| {
                messages.push(message(body, cursor.value()?)?);
                Ok(())
            })?;
            list = Some(List {
                at: place(body, value),
                messages,
            });
        }
        Ok(())
    });
    walked.ok().and(list)
}

fn message<'a>(body: &'a [u8], text: &'a [u8]) -> Result<Message<'a>, Malformed> {
    let mut message = Message {
        at: place(body, text),
        role: b"",
        role_at: 0..0,
        blocks: Vec::new(),
    };
    Cursor::new(text).object(|key, cursor| {
        let value = cursor.value()?;
        match key {
            b"role" => {
                if let [b'"', role @ .., b'"'] = value {
                    message.role = role;
                    message.role_at = place(body, value);
                }
            }
            b"content" if value.starts_with(b"[") => {
                Cursor::new(value).array(|cursor| {
                    let block = cursor.value()?;
                    message.blocks.push(Block {
                        at: place(body, block),
                        unsigned: is_unsigned(block)?,
                    });
                    Ok(())
                })?;
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(message)
}

/// Whether a block is a thought without a proof.
fn is_unsigned(block: &[u8]) -> Result<bool, Malformed> {
    let (mut thinks, mut signed) = (false, false);
    Cursor::new(block).object(|key, cursor| {
        match key {
            b"type" => thinks = cursor.text()? == Some(b"thinking"),
            b"signature" => signed = cursor.says()?,
            _ => {
                cursor.value()?;
            }
        }
        Ok(())
    })?;
    Ok(thinks && !signed)
}

/// Writes the role `developer` as `system`.
pub(super) fn developers_are_system(body: &[u8]) -> Vec<Edit> {
    if memmem::find(body, b"\"developer\"").is_none() {
        return Vec::new();
    }
    let messages = read(body).map(|list| list.messages).unwrap_or_default();
    messages
        .into_iter()
        .filter(|message| message.role == b"developer")
        .map(|message| Edit {
            at: message.role_at,
            with: b"\"system\"".to_vec(),
        })
        .collect()
}

/// Leaves out thoughts without a proof, and messages that are nothing else: they come from another provider, and Anthropic
/// refuses them.
pub(super) fn without_unsigned_thoughts(body: &[u8]) -> Vec<Edit> {
    if memmem::find(body, b"\"thinking\"").is_none() {
        return Vec::new();
    }
    let Some(list) = read(body) else {
        return Vec::new();
    };
    let empty = |message: &Message<'_>| {
        !message.blocks.is_empty() && message.blocks.iter().all(|block| block.unsigned)
    };
    let places = |message: &Message<'_>| message.at.clone();
    let messages: Vec<_> = list.messages.iter().map(places).collect();
    let mut edits = without(&messages, |at| empty(&list.messages[at]));
    for message in list.messages.iter().filter(|message| !empty(message)) {
        let blocks: Vec<_> = message
            .blocks
            .iter()
            .map(|block| block.at.clone())
            .collect();
        edits.extend(without(&blocks, |at| message.blocks[at].unsigned));
    }
    edits
}
