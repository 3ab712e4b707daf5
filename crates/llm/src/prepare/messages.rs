//! The list `messages` of a request in the provider's own dialect (OpenAI's chat), by place: for what
//! has to be changed within it while the rest stays byte for byte.

use std::ops::Range;

use memchr::memmem;

use crate::json::{Cursor, Edit, Malformed};

struct Message<'a> {
    /// As it is written, without its quotes; empty if there is none.
    role: &'a [u8],
    /// With its quotes.
    role_at: Range<usize>,
}

/// Where a part of a text stands in it.
fn place(text: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - text.as_ptr() as usize;
    start..start + part.len()
}

/// `None` if there is no list.
fn read(body: &[u8]) -> Option<Vec<Message<'_>>> {
    let mut list = None;
    let walked = Cursor::new(body).object(|key, cursor| {
        let value = cursor.value()?;
        if key == b"messages" && value.starts_with(b"[") {
            let mut messages = Vec::new();
            Cursor::new(value).array(|cursor| {
                messages.push(message(body, cursor.value()?)?);
                Ok(())
            })?;
            list = Some(messages);
        }
        Ok(())
    });
    walked.ok().and(list)
}

fn message<'a>(body: &'a [u8], text: &'a [u8]) -> Result<Message<'a>, Malformed> {
    let mut message = Message {
        role: b"",
        role_at: 0..0,
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
            _ => {}
        }
        Ok(())
    })?;
    Ok(message)
}

/// Writes the role `developer` as `system`.
pub(super) fn developers_are_system(body: &[u8]) -> Vec<Edit> {
    if memmem::find(body, b"\"developer\"").is_none() {
        return Vec::new();
    }
    read(body)
        .into_iter()
        .flatten()
        .filter(|message| message.role == b"developer")
        .map(|message| Edit {
            at: message.role_at,
            with: b"\"system\"".to_vec(),
        })
        .collect()
}
