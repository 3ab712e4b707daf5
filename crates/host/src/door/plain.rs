//! `POST /{service}/{method}`: keyword arguments in, a result or events out.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::body::Body;
use super::http_api::{announced, check_model, json, read, retry};
use super::upload::{self, Arguments};
use super::{Door, events, heavy, kwargs, request_id, value};
use crate::{Answer, Call, Content, Fault, Part, Value};

/// What a file is read in.
const PIECE: usize = 256 << 10;

/// The kinds of body.
enum Kind {
    Json,
    Multipart(String),
    Binary,
}

fn kind(headers: &HeaderMap) -> Result<Kind, Fault> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else {
        return Ok(Kind::Json);
    };
    let text = given.to_str().unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim();
    // `curl -d` says that JSON is a form.
    let json = ["", "application/json", "application/x-www-form-urlencoded"];
    if json.iter().any(|json| essence.eq_ignore_ascii_case(json)) {
        return Ok(Kind::Json);
    }
    if essence.eq_ignore_ascii_case("multipart/form-data") {
        return multer::parse_boundary(text)
            .map(Kind::Multipart)
            .map_err(|error| super::fault::bad_request(error.to_string()));
    }
    Ok(Kind::Binary)
}

/// Answers a call.
pub(super) async fn call(
    door: &Arc<Door>,
    service: &str,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Fault> {
    check_model(door, service)?;
    let method = door.method(name)?;
    let (head, body) = request.into_parts();
    let headers = &head.headers;
    let query = head.uri.query().unwrap_or("");
    let mut version = String::new();
    let mut rest = Vec::new();
    for (key, text) in form_urlencoded::parse(query.as_bytes()) {
        if key == "version" {
            version = text.into_owned();
        } else {
            rest.push((key, text));
        }
    }
    let arguments = match kind(headers)? {
        Kind::Json => {
            let text = read(body, headers, door.options.message).await?;
            let text = if text.trim_ascii().is_empty() {
                Bytes::from_static(b"{}")
            } else {
                text
            };
            let checked = text.clone();
            heavy(text.len(), move || kwargs::check(&checked)).await??;
            Arguments {
                kwargs: text,
                parts: Vec::new(),
            }
        }
        Kind::Multipart(boundary) => upload::multipart(door, body, boundary).await?,
        Kind::Binary => {
            if method.binary.is_none() && !method.any {
                return Err(super::fault::bad_arguments(format!(
                    "`{name}` takes no binary input: send a JSON object as application/json"
                )));
            }
            let content = upload::raw(door, headers, body, announced(headers)).await?;
            let mut kwargs = upload::Fields::default();
            for (key, text) in rest {
                kwargs.put(&key, &text)?;
            }
            Arguments {
                kwargs: kwargs.finish(),
                parts: vec![Part {
                    name: String::new(),
                    content,
                    tensor: None,
                }],
            }
        }
    };
    let call = Call {
        method: name.to_owned(),
        version,
        kwargs: arguments.kwargs,
        parts: arguments.parts,
        deadline: None,
        retry: retry(headers),
        id: request_id(headers),
        progress: None,
    };
    let wants_events = headers.get_all(header::ACCEPT).iter().any(|accepted| {
        accepted
            .to_str()
            .is_ok_and(|list| list.contains("text/event-stream"))
    });
    if wants_events || method.stream {
        return events::answer(door.clone(), call).await;
    }
    match door.call(call).await? {
        Answer::Value(value) => whole(door, value).await,
        items @ Answer::Items(_) => events::begun(door.clone(), items).await,
    }
}

/// A value as an answer of its own.
async fn whole(door: &Door, value: Value) -> Result<Response<Body>, Fault> {
    let Some(part) = value::only_bytes(&value) else {
        return Ok(json(value::whole(value, door.options.message).await?));
    };
    let mut response = match &part.content {
        Content::Inline(bytes) => Response::new(Body::whole(bytes.clone())),
        Content::File(file) => {
            let file = file.clone();
            let source = tokio::fs::File::open(file.path())
                .await
                .map_err(|error| crate::spool::disk(&error))?;
            let len = file.len();
            let (pieces, receiver) = mpsc::channel(2);
            tokio::spawn(async move {
                let mut source = source.take(file.len());
                loop {
                    let mut piece = Vec::with_capacity(PIECE);
                    let read = (&mut source)
                        .take(PIECE as u64)
                        .read_to_end(&mut piece)
                        .await;
                    let frame = match read {
                        Ok(0) => break,
                        Ok(_) => Ok(Frame::data(Bytes::from(piece))),
                        Err(error) => Err(error.into()),
                    };
                    if pieces.send(frame).await.is_err() {
                        break;
                    }
                }
            });
            let mut response = Response::new(Body::Channel(receiver));
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, HeaderValue::from(len));
            response
        }
    };
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    Ok(response)
}

/// `GET /{service}`: what can be called.
pub(super) fn describe(door: &Door, service: &str) -> Result<Response<Body>, Fault> {
    #[derive(Serialize)]
    struct Version {
        name: String,
        loaded: bool,
    }
    #[derive(Serialize)]
    struct Described<'a> {
        ready: bool,
        #[serde(flatten)]
        about: &'a crate::About,
        versions: Vec<Version>,
    }
    check_model(door, service)?;
    let about = door.model.about();
    let described = Described {
        ready: door.model.ready(),
        about: &about,
        versions: door
            .model
            .versions()
            .into_iter()
            .map(|version| Version {
                name: version.name,
                loaded: version.loaded,
            })
            .collect(),
    };
    Ok(json(Bytes::from(
        serde_json::to_vec(&described).unwrap_or_default(),
    )))
}
