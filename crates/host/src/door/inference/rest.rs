//! The Open Inference Protocol over HTTP, with the binary tensor extension.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json};

use super::{Asked, EXTENSIONS, Named, answered, check_version, infer, named, version_ready};
use crate::door::body::Body;
use crate::door::fault::{READ, bad_request, not_allowed};
use crate::door::http_api::{check_model, json, read, retry, status, unknown_path};
use crate::door::tensor::{self, Datatype, bad_tensor};
use crate::door::{Door, heavy, request_id};
use crate::model::shown;
use crate::{Call, Fault, Tensor};

/// How long the JSON at the beginning of a body with binary tensors is.
const HEADER_LENGTH: &str = "inference-header-content-length";

/// Answers what is below `/v2`.
pub(in crate::door) async fn answer(
    door: &Arc<Door>,
    path: &[&str],
    request: Request<Incoming>,
) -> Result<Response<Body>, Fault> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    let post = request.method() == Method::POST;
    match path {
        [] | [""] if get => Ok(written(&serde_json::json!({
            "name": "tidegate",
            "version": env!("CARGO_PKG_VERSION"),
            "extensions": EXTENSIONS,
        }))),
        ["health", "live"] if get => Ok(status(StatusCode::OK)),
        ["health", "ready"] if get => Ok(ready(door.model.ready())),
        ["repository", "index"] if post => Ok(index(door)),
        ["repository", "models", model, action @ ("load" | "unload")] if post => {
            check_model(door, model)?;
            let (head, body) = request.into_parts();
            let body = read(body, &head.headers, door.options.message).await?;
            let version = repository_version(&body)?;
            if *action == "load" {
                door.model.load(&version).await?;
            } else {
                door.model.release(&version).await;
            }
            Ok(written(&serde_json::json!({})))
        }
        [] | [""] | ["health", "live" | "ready"] => Ok(not_allowed(READ)),
        ["repository", "index"] | ["repository", "models", _, "load" | "unload"] => {
            Ok(not_allowed("POST"))
        }
        ["models", model, "versions", version, rest @ ..] => {
            of_model(door, model, version, rest, request).await
        }
        ["models", model, rest @ ..] => of_model(door, model, "", rest, request).await,
        _ => Err(unknown_path(request.uri().path())),
    }
}

async fn of_model(
    door: &Arc<Door>,
    model: &str,
    version: &str,
    rest: &[&str],
    request: Request<Incoming>,
) -> Result<Response<Body>, Fault> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    match rest {
        [] if get => {
            check_model(door, model)?;
            check_version(door, version)?;
            Ok(metadata(door))
        }
        ["ready"] if get => {
            check_model(door, model)?;
            Ok(ready(version_ready(door, version)))
        }
        ["infer"] if request.method() == Method::POST => {
            model_infer(door, model, version, request).await
        }
        [] | ["ready"] | ["infer"] => {
            check_model(door, model)?;
            Ok(not_allowed(if *rest == ["infer"] { "POST" } else { READ }))
        }
        _ => Err(unknown_path(request.uri().path())),
    }
}

fn ready(ready: bool) -> Response<Body> {
    status(if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    })
}

fn written(value: &impl Serialize) -> Response<Body> {
    json(Bytes::from(serde_json::to_vec(value).unwrap_or_default()))
}

fn metadata(door: &Door) -> Response<Body> {
    let about = door.model.about();
    let tensors = |tensors: &[Tensor]| -> Vec<Json> {
        tensors
            .iter()
            .map(|t| serde_json::json!({"name": t.name, "datatype": t.datatype, "shape": t.shape}))
            .collect()
    };
    let versions: Vec<String> = door
        .model
        .versions()
        .into_iter()
        .map(|version| shown(&version.name).to_owned())
        .collect();
    written(&serde_json::json!({
        "name": about.service,
        "versions": versions,
        "platform": "tidegate",
        "inputs": tensors(&about.inputs),
        "outputs": tensors(&about.outputs),
    }))
}

fn index(door: &Door) -> Response<Body> {
    let about = door.model.about();
    let ready = door.model.ready();
    let models: Vec<Json> = door
        .model
        .versions()
        .into_iter()
        .map(|version| {
            let state = if version.loaded && ready { "READY" } else { "UNAVAILABLE" };
            serde_json::json!({"name": about.service, "version": shown(&version.name), "state": state, "reason": ""})
        })
        .collect();
    written(&models)
}

fn repository_version(body: &[u8]) -> Result<String, Fault> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Asked {
        parameters: Parameters,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Parameters {
        version: String,
    }
    if body.trim_ascii().is_empty() {
        return Ok(String::new());
    }
    let asked: Asked =
        serde_json::from_slice(body).map_err(|error| bad_request(error.to_string()))?;
    Ok(asked.parameters.version)
}

#[derive(Debug, Deserialize)]
struct InferRequest<'a> {
    #[serde(default)]
    id: String,
    #[serde(default)]
    parameters: Map<String, Json>,
    #[serde(borrow)]
    inputs: Vec<InferInput<'a>>,
    #[serde(default)]
    outputs: Vec<InferOutput>,
}

#[derive(Debug, Deserialize)]
struct InferInput<'a> {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: Map<String, Json>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
struct InferOutput {
    name: String,
    #[serde(default)]
    parameters: Map<String, Json>,
}

/// A request taken apart, and how its answer is written.
struct Parsed {
    asked: Asked,
    id: String,
    /// Outputs are binary unless one says otherwise.
    binary: bool,
    /// Names of outputs that say it.
    said: Vec<(String, bool)>,
}

async fn model_infer(
    door: &Arc<Door>,
    model: &str,
    version: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Fault> {
    check_model(door, model)?;
    door.takes()?;
    let (head, body) = request.into_parts();
    let body = read(body, &head.headers, door.options.message).await?;
    let split = header_length(&head.headers, body.len())?;
    let parsed = heavy(body.len(), move || parse(&body, split)).await??;
    let mut asked = parsed.asked;
    asked.model = model.to_owned();
    asked.version = version.to_owned();
    let call = Call {
        method: String::new(),
        version: String::new(),
        kwargs: Bytes::new(),
        parts: Vec::new(),
        deadline: None,
        retry: retry(&head.headers),
        id: request_id(&head.headers),
        progress: None,
    };
    let outputs = infer(door, asked, call).await?;
    let about = door.model.about();
    let answer = Answered {
        model: about.service.clone(),
        version: answered(&about, version),
        id: parsed.id,
        binary: parsed.binary,
        said: parsed.said,
    };
    let size = outputs.iter().map(|output| output.raw.len()).sum();
    heavy(size, move || answer.write(&outputs)).await?
}

fn header_length(headers: &HeaderMap, body: usize) -> Result<usize, Fault> {
    let Some(value) = headers.get(HEADER_LENGTH) else {
        return Ok(body);
    };
    value
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|length| *length <= body)
        .ok_or_else(|| bad_request("Inference-Header-Content-Length is no length within the body"))
}

fn parse(body: &Bytes, split: usize) -> Result<Parsed, Fault> {
    let request: InferRequest<'_> = serde_json::from_slice(&body[..split])
        .map_err(|error| bad_request(format!("the request does not parse: {error}")))?;
    let mut binary = body.slice(split..);
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in request.inputs {
        let size = input.parameters.get("binary_data_size");
        if input.parameters.contains_key("shared_memory_region") {
            return Err(bad_tensor("shared memory is not offered"));
        }
        let raw = match (size, input.data) {
            (Some(size), None) => {
                let size = size
                    .as_u64()
                    .and_then(|size| usize::try_from(size).ok())
                    .filter(|size| *size <= binary.len())
                    .ok_or_else(|| {
                        bad_tensor(format!(
                            "`{}`: binary_data_size is no size within the body",
                            input.name
                        ))
                    })?;
                binary.split_to(size)
            }
            (None, Some(data)) => Bytes::from(tensor::from_json(
                &input.name,
                Datatype::parse(&input.datatype)?,
                data.get(),
            )?),
            _ => {
                return Err(bad_tensor(format!(
                    "`{}` needs either data or binary_data_size",
                    input.name
                )));
            }
        };
        inputs.push(named(input.name, &input.datatype, &input.shape, raw)?);
    }
    if !binary.is_empty() {
        return Err(bad_tensor(format!(
            "{} bytes behind the last binary tensor",
            binary.len()
        )));
    }
    let is_true = |map: &Map<String, Json>, name: &str| map.get(name).and_then(Json::as_bool);
    let mut said = Vec::new();
    for output in &request.outputs {
        if output.parameters.contains_key("classification")
            || output.parameters.contains_key("shared_memory_region")
        {
            return Err(bad_tensor(
                "classification and shared memory are not offered",
            ));
        }
        if let Some(binary) = is_true(&output.parameters, "binary_data") {
            said.push((output.name.clone(), binary));
        }
    }
    Ok(Parsed {
        id: request.id,
        binary: is_true(&request.parameters, "binary_data_output").unwrap_or(false),
        said,
        asked: Asked {
            inputs,
            parameters: request.parameters,
            outputs: request.outputs.into_iter().map(|out| out.name).collect(),
            ..Default::default()
        },
    })
}

/// An answer as it is written.
struct Answered {
    model: String,
    version: String,
    id: String,
    binary: bool,
    said: Vec<(String, bool)>,
}

impl Answered {
    fn write(&self, outputs: &[Named]) -> Result<Response<Body>, Fault> {
        #[derive(Serialize)]
        struct Head<'a> {
            model_name: &'a str,
            model_version: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            id: &'a str,
            outputs: Vec<Output<'a>>,
        }
        #[derive(Serialize)]
        struct Output<'a> {
            name: &'a str,
            datatype: &'a str,
            shape: &'a [u64],
            #[serde(skip_serializing_if = "Option::is_none")]
            parameters: Option<Json>,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<Box<RawValue>>,
        }
        let mut blobs = Vec::new();
        let mut written = Vec::with_capacity(outputs.len());
        for output in outputs {
            let said = self.said.iter().find(|(name, _)| *name == output.name);
            let binary = said.map_or(self.binary, |(_, binary)| *binary);
            let (parameters, data) = if binary {
                blobs.extend_from_slice(&output.raw);
                (
                    Some(serde_json::json!({"binary_data_size": output.raw.len()})),
                    None,
                )
            } else {
                let mut text = Vec::new();
                tensor::put_json(&mut text, &output.name, &output.of, &output.raw, false)?;
                let data = String::from_utf8(text)
                    .ok()
                    .and_then(|text| RawValue::from_string(text).ok());
                (None, data)
            };
            written.push(Output {
                name: &output.name,
                datatype: &output.of.datatype,
                shape: &output.of.shape,
                parameters,
                data,
            });
        }
        let any_binary = written.iter().any(|output| output.parameters.is_some());
        let mut body = serde_json::to_vec(&Head {
            model_name: &self.model,
            model_version: &self.version,
            id: &self.id,
            outputs: written,
        })
        .unwrap_or_default();
        if !any_binary {
            return Ok(json(Bytes::from(body)));
        }
        let length = body.len();
        body.extend_from_slice(&blobs);
        let mut response = Response::new(Body::whole(Bytes::from(body)));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        headers.insert(HEADER_LENGTH, HeaderValue::from(length));
        Ok(response)
    }
}
