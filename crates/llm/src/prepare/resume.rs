//! Requests that go on from an answer that broke off.
//!
//! What the caller has already is given as the beginning of the model's turn. Only some providers go on from it, each told in
//! its own way ([`Continue`]); the others would begin a new answer, which the caller would read as the rest of the first. So
//! where it is not certain, the request is refused and nothing is sent.

use crate::anthropic;
use crate::call::{BodyKind, Call, Fields};
use crate::fault::{Fault, FaultKind};
use crate::json::{Edit, object};
use crate::registry::{Continue, ProviderSpec};
use crate::{Dialect, Endpoint};

use super::{Back, PrepareOptions, messages};

/// An answer's beginning, and how the provider is told to go on from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resume<'o> {
    pub(super) partial: &'o str,
    how: Continue,
}

fn refused() -> Fault {
    Fault::new(
        FaultKind::Untranslatable,
        "an answer that broke off can't be continued here",
    )
}

/// Whether a stream that breaks off may be gone on with, as far as the request tells.
pub(super) fn can(call: &Call, spec: &ProviderSpec, model: &str, back: Back) -> bool {
    let known = match spec.row().quirks.go_on {
        Continue::Never => false,
        Continue::Claude => anthropic::continues(model),
        Continue::Marked { .. } | Continue::Flagged => true,
    };
    let endpoint = match back {
        Back::Same => matches!(call.endpoint(), Endpoint::Chat | Endpoint::Messages),
        Back::Other(..) => call.endpoint().generates(),
    };
    known
        && endpoint
        && !spec.original
        && call.choices() == 1
        && matches!(call.kind(), BodyKind::Json { .. })
}

/// `None`: nothing of an answer came, so that it begins anew.
pub(super) fn resume<'o>(
    call: &Call,
    spec: &ProviderSpec,
    model: &str,
    options: PrepareOptions<'o>,
) -> Result<Option<Resume<'o>>, Fault> {
    let Some(partial) = options.continue_from.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let how = spec.row().quirks.go_on;
    let can = match how {
        Continue::Never => false,
        // A beginning that ends in white space is refused; without it, it would come twice.
        Continue::Claude => anthropic::continues(model) && !partial.ends_with(char::is_whitespace),
        Continue::Marked { .. } | Continue::Flagged => true,
    };
    let plain = matches!(call.kind(), BodyKind::Json { .. })
        && call.endpoint().generates()
        && call.choices() == 1
        && !spec.original;
    if !can || !plain {
        return Err(refused());
    }
    Ok(Some(Resume { partial, how }))
}

impl Resume<'_> {
    /// Whether the answer begins with what the caller has already.
    pub(super) fn repeats(&self) -> bool {
        matches!(self.how, Continue::Marked { repeats: true, .. })
    }

    /// What stands before the paths of endpoints for such a request.
    pub(super) fn prefix(&self, spec: &ProviderSpec) -> Result<String, Fault> {
        let own = &spec.base_url.prefix;
        let Continue::Marked {
            place: Some((from, to)),
            ..
        } = self.how
        else {
            return Ok(own.clone());
        };
        // An operator's own address may already be the one.
        if own.ends_with(to) {
            return Ok(own.clone());
        }
        let before = own.strip_suffix(from).ok_or_else(refused)?;
        Ok(format!("{before}{to}"))
    }

    /// Changes to a request in the provider's own dialect.
    pub(super) fn edits(&self, call: &Call) -> Result<Vec<Edit>, Fault> {
        if !matches!(call.endpoint(), Endpoint::Chat | Endpoint::Messages) {
            return Err(refused());
        }
        let body = call.body();
        let list = messages::read(body).ok_or_else(refused)?;
        // The caller's own beginning would be another message.
        if list
            .messages
            .last()
            .is_none_or(|last| last.role == b"assistant")
        {
            return Err(refused());
        }
        let fields = Fields::read_with_members(body)?;
        let has = |name: &str| fields.members.iter().any(|member| member.key == name);
        let mut message = vec![b','];
        object(&mut message, |message| {
            message.str("role", "assistant");
            message.str("content", self.partial);
            if let Continue::Marked { field, .. } = self.how {
                message.bool(field, true);
            }
        });
        let end = list.at.end - 1;
        let mut edits = vec![Edit {
            at: end..end,
            with: message,
        }];
        match self.how {
            Continue::Flagged => {
                if has("continue_final_message") || has("add_generation_prompt") {
                    return Err(refused());
                }
                // Where there is `messages` there is a member to stand before.
                let first = fields.members.first().ok_or_else(refused)?.at.start;
                edits.push(Edit {
                    at: first..first,
                    with: br#""continue_final_message":true,"add_generation_prompt":false,"#
                        .to_vec(),
                });
            }
            // Thoughts would have to come first.
            Continue::Claude if call.dialect() == Dialect::Anthropic => {
                let thinking = fields
                    .members
                    .iter()
                    .find(|member| member.key == "thinking");
                if let Some(member) = thinking
                    && memchr::memmem::find(&body[member.at.clone()], b"\"disabled\"").is_none()
                {
                    return Err(refused());
                }
            }
            _ => {}
        }
        Ok(edits)
    }
}

/// That a request which is written anew can't go on: its last turn is the model's already.
pub(super) fn own_beginning() -> Fault {
    refused()
}
