//! Inputs in HTTP bodies: raw ones, and the fields and files of a form.

use std::collections::HashSet;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, header};
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use multer::Multipart;

use super::Door;
use super::fault::{bad_request, too_large};
use super::http_api::unknown_coding;
use super::kwargs::{self, put_name};
use crate::spool::{Form, InflateBounds, Target, store};
use crate::{Content, Fault, Part};

/// Small files of one form stay in memory up to here, all together.
const INLINE: usize = 8 << 20;

/// What a field costs beside its name and its text.
const FIELD: u64 = 256;

/// What a request has for a method.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) kwargs: Bytes,
    pub(super) parts: Vec<Part>,
}

/// An object of keyword arguments made of texts.
#[derive(Debug, Default)]
pub(super) struct Fields {
    text: Vec<u8>,
    names: HashSet<String>,
}

impl Fields {
    /// Adds a field: as JSON if it is, else as a string.
    pub(super) fn put(&mut self, name: &str, text: &str) -> Result<(), Fault> {
        self.name(name)?;
        self.text
            .push(if self.text.is_empty() { b'{' } else { b',' });
        put_name(&mut self.text, name);
        if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() {
            self.text.extend_from_slice(text.as_bytes());
        } else {
            // A string always serialises, and a vector always takes it.
            let _ = serde_json::to_writer(&mut self.text, text);
        }
        Ok(())
    }

    /// Takes a name once.
    fn name(&mut self, name: &str) -> Result<(), Fault> {
        if self.names.contains(name) {
            return Err(bad_request(format!("`{name}` is given twice")));
        }
        kwargs::check_argument(name)?;
        self.names.insert(name.to_owned());
        Ok(())
    }

    pub(super) fn finish(mut self) -> Bytes {
        if self.text.is_empty() {
            return Bytes::from_static(b"{}");
        }
        self.text.push(b'}');
        Bytes::from(self.text)
    }
}

/// A body that is the input.
pub(super) async fn raw(
    door: &Door,
    headers: &HeaderMap,
    body: Incoming,
    announced: Option<u64>,
) -> Result<Content, Fault> {
    let coding = headers
        .get(header::CONTENT_ENCODING)
        .map(|value| value.as_bytes().to_ascii_lowercase());
    let form = match coding.as_deref() {
        None | Some(b"identity" | b"") => {
            if let Some(length) = announced {
                door.options.spool.fits(length)?;
            }
            Form::Plain { most: u64::MAX }
        }
        Some(b"zstd") => Form::Zstd(InflateBounds {
            most: u64::MAX,
            exact: false,
            ratio: door.ratio(),
        }),
        Some(_) => return Err(unknown_coding()),
    };
    let mut pieces = Data(BodyDataStream::new(body));
    let target = Target::Call(door.options.spool.clone());
    Ok(store(&mut pieces, form, target).await?.content)
}

struct Data(BodyDataStream<Incoming>);

impl Stream for Data {
    type Item = Result<Bytes, Fault>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .poll_next_unpin(cx)
            .map(|next| next.map(|piece| piece.map_err(|error| super::left(&error))))
    }
}

/// The fields and files of a form. Files are on the disk when this returns.
pub(super) async fn multipart(
    door: &Door,
    body: Incoming,
    boundary: String,
) -> Result<Arguments, Fault> {
    let most = door.options.message;
    let mut form = Multipart::new(BodyDataStream::new(body), boundary);
    let mut fields = Fields::default();
    let mut held = 0;
    let mut inline = 0;
    let mut parts = Vec::new();
    while let Some(mut field) = form.next_field().await.map_err(broken)? {
        let Some(name) = field.name().map(str::to_owned) else {
            return Err(bad_request("a part of the form has no name"));
        };
        held += FIELD + name.len() as u64;
        if held > most {
            return Err(too_large("the fields of a form", most));
        }
        if field.file_name().is_some() {
            fields.name(&name)?;
            let mut pieces = field.map(|piece| piece.map_err(broken));
            let spool = door.options.spool.clone();
            let target = if inline < INLINE {
                Target::Call(spool)
            } else {
                Target::File(spool)
            };
            let form = Form::Plain { most: u64::MAX };
            let stored = store(&mut pieces, form, target).await?;
            if let Content::Inline(bytes) = &stored.content {
                inline += bytes.len();
            }
            parts.push(Part {
                name,
                content: stored.content,
                tensor: None,
            });
            continue;
        }
        let mut text = Vec::new();
        while let Some(piece) = field.chunk().await.map_err(broken)? {
            held += piece.len() as u64;
            if held > most {
                return Err(too_large("the fields of a form", most));
            }
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8(text)
            .map_err(|_| bad_request(format!("the field `{name}` is no UTF-8")))?;
        fields.put(&name, &text)?;
    }
    Ok(Arguments {
        kwargs: fields.finish(),
        parts,
    })
}

fn broken(error: multer::Error) -> Fault {
    match error {
        multer::Error::StreamReadFailed(source) => super::left(source.as_ref()),
        other => bad_request(format!("the form does not parse: {other}")),
    }
}
