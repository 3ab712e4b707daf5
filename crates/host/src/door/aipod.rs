//! `ai.AI`'s unary methods, as aipod's clients call them.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;

use super::body::Body;
use super::fault::result_too_large;
use super::grpc::{self, CallHead};
use super::{Door, heavy, kwargs, value};
use crate::proto::ai::{Input, Output};
use crate::{Answer, Call, Content, Fault, Items, Method, Part};

/// The method of a path, if it is one of these.
pub(super) fn method(path: &str) -> Option<&'static str> {
    match path.strip_prefix("/ai.AI/")? {
        "predict" => Some("predict"),
        "train" => Some("train"),
        "log" => Some("log"),
        "initialize" => Some("initialize"),
        _ => None,
    }
}

/// Answers a call.
pub(super) async fn unary(
    door: &Arc<Door>,
    name: &'static str,
    request: Request<Incoming>,
) -> Response<Body> {
    grpc::unary(door, request, |input: Input, head| async move {
        let always = door.known(name, Method::always_binary)?;
        let call = call(name, always, input, head).await?;
        let most = door.options.message;
        let data_json = match door.call(call).await? {
            Answer::Value(value) => value::whole(value, most).await?,
            Answer::Items(items) => list(items, most).await?,
        };
        Ok(Output { data_json })
    })
    .await
}

/// The call; `always`: the method gets a binary argument even if it is empty.
async fn call(
    name: &'static str,
    always: bool,
    input: Input,
    head: CallHead,
) -> Result<Call, Fault> {
    let text = if input.kwargs_json.is_empty() {
        Bytes::from_static(b"{}")
    } else {
        input.kwargs_json
    };
    let read = text.clone();
    heavy(text.len(), move || kwargs::check(&read)).await??;
    let wanted = always || !input.binary_data.is_empty();
    let parts = wanted.then(|| Part {
        name: String::new(),
        content: Content::Inline(input.binary_data),
        tensor: None,
    });
    Ok(Call {
        method: name.to_owned(),
        version: input.version,
        kwargs: text,
        parts: parts.into_iter().collect(),
        deadline: head.deadline,
        retry: head.retry,
        id: head.id,
        progress: None,
    })
}

/// The items of a generator as one JSON list, for callers that can't take them one by one.
pub(super) async fn list(mut items: Items, most: u64) -> Result<Bytes, Fault> {
    let mut list = vec![b'['];
    while let Some(item) = items.receiver.recv().await {
        let json = value::whole(item?, most).await?;
        if (list.len() + json.len()) as u64 > most {
            return Err(result_too_large("a list of a generator's items", most));
        }
        if list.len() > 1 {
            list.push(b',');
        }
        list.extend_from_slice(&json);
    }
    list.push(b']');
    Ok(Bytes::from(list))
}
