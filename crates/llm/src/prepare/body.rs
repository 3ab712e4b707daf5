//! The body of a request to a provider.

use bytes::Bytes;

use super::resume::{self, Resume};
use super::{PrepareOptions, messages};
use crate::Endpoint;
use crate::call::{BodyKind, Call, Fields};
use crate::fault::{Fault, FaultKind};
use crate::ir::{Part, Role, Text};
use crate::json::{self, Edit, splice, without};
use crate::registry::ProviderSpec;
use crate::translation::{self, embeddings};

/// A body, and whether the usage in the answer is for us alone.
pub(super) struct Written {
    pub(super) body: Bytes,
    pub(super) hide_usage: bool,
}

/// The caller's own bytes but for the model's name and what the provider's variant can't take.
pub(super) fn same(
    call: &Call,
    spec: &ProviderSpec,
    model: &str,
    options: PrepareOptions<'_>,
    resume: Option<Resume<'_>>,
) -> Result<Written, Fault> {
    let body = call.body();
    let mut written = Written {
        body: body.clone(),
        hide_usage: false,
    };
    let mut edits = Vec::new();
    match call.kind() {
        BodyKind::Form { model: at, .. } => {
            if model != call.model() {
                edits.push(Edit {
                    at: at.clone(),
                    with: model.as_bytes().to_vec(),
                });
            }
        }
        BodyKind::Opaque { model: at } => {
            if let Some(at) = at
                && model != call.model()
            {
                edits.push(Edit {
                    at: at.clone(),
                    with: quoted(model),
                });
            }
        }
        BodyKind::Json { model: at } => {
            if let Some(at) = at
                && model != call.model()
            {
                edits.push(Edit {
                    at: at.clone(),
                    with: quoted(model),
                });
            }
            let chat = matches!(call.endpoint(), Endpoint::Chat | Endpoint::Completions);
            if chat && !spec.original {
                written.hide_usage = openai_edits(call, spec, options, &mut edits)?;
                if spec.row().quirks.no_developer && call.endpoint() == Endpoint::Chat {
                    edits.extend(messages::developers_are_system(body));
                }
            }
            let claude = matches!(call.endpoint(), Endpoint::Messages | Endpoint::CountTokens);
            if claude && !spec.original {
                edits.extend(messages::without_unsigned_thoughts(body));
            }
            if let Some(resume) = resume {
                edits.extend(resume.edits(call)?);
            }
        }
    }
    written.body = splice(body, edits);
    Ok(written)
}

fn quoted(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 2);
    json::string(&mut out, text);
    out
}

/// Changes to a chat request in OpenAI's dialect; true if the usage is asked for on our own account.
fn openai_edits(
    call: &Call,
    spec: &ProviderSpec,
    options: PrepareOptions<'_>,
    edits: &mut Vec<Edit>,
) -> Result<bool, Fault> {
    let quirks = spec.row().quirks;
    let ask =
        call.stream() && !call.include_usage() && options.count_usage && !quirks.no_stream_options;
    if !ask && quirks.rename.is_empty() && quirks.drop.is_empty() && !quirks.no_stream_options {
        return Ok(false);
    }
    let fields = Fields::read_with_members(call.body())?;
    let has = |name: &str| fields.members.iter().any(|member| member.key == name);
    // No client spells keys with escapes; whoever does is not helped.
    if fields.escaped_keys {
        return Ok(false);
    }
    let dropped = |name: &str| {
        quirks.drop.contains(&name) || (quirks.no_stream_options && name == "stream_options")
    };
    let places: Vec<_> = fields
        .members
        .iter()
        .map(|member| member.at.clone())
        .collect();
    edits.extend(without(&places, |at| dropped(fields.members[at].key)));
    for member in &fields.members {
        if let Some((_, to)) = quirks.rename.iter().find(|(from, _)| *from == member.key)
            && !has(to)
        {
            edits.push(Edit {
                at: member.key_at.clone(),
                with: quoted(to),
            });
        }
    }
    if ask {
        const ASK: &[u8] = br#"{"include_usage":true}"#;
        match fields.stream_options {
            Some(at) => edits.push(Edit {
                at,
                with: ASK.to_vec(),
            }),
            // Where there is `stream: true` there is a member to stand before.
            None => {
                if let Some(first) = fields.members.first() {
                    let mut with = br#""stream_options":"#.to_vec();
                    with.extend_from_slice(ASK);
                    with.push(b',');
                    edits.push(Edit {
                        at: first.at.start..first.at.start,
                        with,
                    });
                }
            }
        }
    }
    Ok(ask)
}

/// The request in another dialect.
pub(super) fn translated(
    call: &Call,
    spec: &ProviderSpec,
    model: &str,
    options: PrepareOptions<'_>,
    resume: Option<Resume<'_>>,
) -> Result<Written, Fault> {
    if !call.endpoint().generates() {
        let body = embeddings::request(call.endpoint(), call.body(), spec.dialect(), model)?;
        return Ok(Written {
            body: body.into(),
            hide_usage: false,
        });
    }
    let tree = json::parse(call.body())
        .map_err(|_| Fault::new(FaultKind::NotJson, "the body is no JSON"))?;
    let mut request = translation::read_request(call.endpoint(), &tree, spec.dialect())?;
    if let Some(resume) = resume {
        if request
            .turns
            .last()
            .is_none_or(|last| last.role == Role::Assistant)
        {
            return Err(resume::own_beginning());
        }
        request.say(Role::Assistant, vec![Part::Text(Text::new(resume.partial))]);
        request.continued = true;
    }
    // The caller's stream is written anew: what it did not ask for is not written.
    let usage = call.include_usage() || options.count_usage || call.endpoint() != Endpoint::Chat;
    let body = translation::write_request(&request, spec, model, usage)?;
    Ok(Written {
        body: body.into(),
        hide_usage: false,
    })
}
