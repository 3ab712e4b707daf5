//! `inference.GRPCInferenceService`.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use http_body::Frame;
use hyper::body::Incoming;
use prost::Message;
use serde_json::{Map, Value as Json};
use tokio::sync::mpsc;

use super::contents::{from_raw, to_raw};
use super::{
    Asked, EXTENSIONS, Named, answered, call_of, check_version, infer, named, outputs,
    version_ready,
};
use crate::blocking::{HEAVY, in_place_if_heavy};
use crate::door::body::{Body, BodyFrame};
use crate::door::fault::{bad_request, grpc_response, told};
use crate::door::grpc::{self, CallHead, Messages};
use crate::door::http_api::check_model;
use crate::door::tensor::{Datatype, bad_tensor};
use crate::door::{Door, not_ready};
use crate::model::shown;
use crate::proto::inference::infer_parameter::ParameterChoice;
use crate::proto::inference::model_infer_response::InferOutputTensor;
use crate::proto::inference::model_metadata_response::TensorMetadata;
use crate::proto::inference::model_repository_parameter::ParameterChoice as RepositoryChoice;
use crate::proto::inference::repository_index_response::ModelIndex;
use crate::proto::inference::*;
use crate::{Answer, Call, Code, Fault, Tensor};

/// Asks for an answer that says that a stream's request has no more of them, even if it is empty.
const WANTS_FINAL: &str = "triton_enable_empty_final_response";

/// Answers a call.
pub(in crate::door) async fn call(
    door: Arc<Door>,
    method: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let door = &door;
    match method {
        "ModelInfer" => {
            grpc::unary(door, request, |asked: ModelInferRequest, head| async move {
                model_infer(door, asked, &head).await
            })
            .await
        }
        "ModelStreamInfer" => stream(door, request),
        "ServerLive" => {
            grpc::unary(door, request, |_: ServerLiveRequest, _| async {
                Ok(ServerLiveResponse { live: true })
            })
            .await
        }
        "ServerReady" => {
            grpc::unary(door, request, |_: ServerReadyRequest, _| async {
                Ok(ServerReadyResponse {
                    ready: door.model.ready(),
                })
            })
            .await
        }
        "ModelReady" => {
            grpc::unary(door, request, |asked: ModelReadyRequest, _| async move {
                Ok(ModelReadyResponse {
                    ready: check_model(door, &asked.name).is_ok()
                        && version_ready(door, &asked.version),
                })
            })
            .await
        }
        "ServerMetadata" => {
            grpc::unary(door, request, |_: ServerMetadataRequest, _| async {
                Ok(ServerMetadataResponse {
                    name: "tidegate".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    extensions: EXTENSIONS.map(str::to_owned).to_vec(),
                })
            })
            .await
        }
        "ModelMetadata" => {
            grpc::unary(door, request, |asked: ModelMetadataRequest, _| async move {
                metadata(door, &asked)
            })
            .await
        }
        "RepositoryIndex" => {
            grpc::unary(
                door,
                request,
                |asked: RepositoryIndexRequest, _| async move { Ok(index(door, asked.ready)) },
            )
            .await
        }
        "RepositoryModelLoad" => {
            grpc::unary(
                door,
                request,
                |asked: RepositoryModelLoadRequest, _| async move {
                    check_model(door, &asked.model_name)?;
                    let version = version(&asked.parameters)?;
                    door.model.load(&version).await?;
                    Ok(RepositoryModelLoadResponse {})
                },
            )
            .await
        }
        "RepositoryModelUnload" => {
            grpc::unary(
                door,
                request,
                |asked: RepositoryModelUnloadRequest, _| async move {
                    check_model(door, &asked.model_name)?;
                    let version = version(&asked.parameters)?;
                    door.model.release(&version).await;
                    Ok(RepositoryModelUnloadResponse {})
                },
            )
            .await
        }
        other => grpc_response(&Fault::new(
            Code::Unimplemented,
            "unknown_method",
            format!("GRPCInferenceService has no method `{other}` here"),
        )),
    }
}

fn version(parameters: &HashMap<String, ModelRepositoryParameter>) -> Result<String, Fault> {
    match parameters
        .get("version")
        .map(|parameter| &parameter.parameter_choice)
    {
        None => Ok(String::new()),
        Some(Some(RepositoryChoice::StringParam(version))) => Ok(version.clone()),
        Some(_) => Err(bad_request("the parameter `version` must be a string")),
    }
}

fn metadata(door: &Door, asked: &ModelMetadataRequest) -> Result<ModelMetadataResponse, Fault> {
    check_model(door, &asked.name)?;
    check_version(door, &asked.version)?;
    let about = door.model.about();
    let tensors = |tensors: &[Tensor]| {
        tensors
            .iter()
            .map(|tensor| TensorMetadata {
                name: tensor.name.clone(),
                datatype: tensor.datatype.clone(),
                shape: tensor.shape.clone(),
            })
            .collect()
    };
    Ok(ModelMetadataResponse {
        name: about.service.clone(),
        versions: door
            .model
            .versions()
            .into_iter()
            .map(|version| shown(&version.name).to_owned())
            .collect(),
        platform: "tidegate".to_owned(),
        inputs: tensors(&about.inputs),
        outputs: tensors(&about.outputs),
    })
}

fn index(door: &Door, only_ready: bool) -> RepositoryIndexResponse {
    let about = door.model.about();
    let ready = door.model.ready();
    let models = door
        .model
        .versions()
        .into_iter()
        .filter(|version| !only_ready || (version.loaded && ready))
        .map(|version| ModelIndex {
            name: about.service.clone(),
            version: shown(&version.name).to_owned(),
            state: if version.loaded && ready {
                "READY"
            } else {
                "UNAVAILABLE"
            }
            .to_owned(),
            reason: String::new(),
        })
        .collect();
    RepositoryIndexResponse { models }
}

/// A request taken apart: what is asked, whether its tensors were raw, its id.
fn taken_apart(request: ModelInferRequest) -> Result<Asked, Fault> {
    in_place_if_heavy(request.encoded_len(), || parts_of(request))
}

fn parts_of(request: ModelInferRequest) -> Result<Asked, Fault> {
    let raw = !request.raw_input_contents.is_empty();
    if raw && request.raw_input_contents.len() != request.inputs.len() {
        return Err(bad_tensor(format!(
            "{} inputs, but {} raw_input_contents",
            request.inputs.len(),
            request.raw_input_contents.len()
        )));
    }
    let mut contents = request.raw_input_contents.into_iter();
    let mut inputs = Vec::with_capacity(request.inputs.len());
    for input in request.inputs {
        let bytes = match (contents.next(), input.contents) {
            (Some(_), Some(_)) => {
                return Err(bad_tensor(format!(
                    "`{}` has both raw and typed contents",
                    input.name
                )));
            }
            (Some(raw), None) => raw,
            (None, typed) => to_raw(
                &input.name,
                Datatype::parse(&input.datatype)?,
                &typed.unwrap_or_default(),
            )?,
        };
        inputs.push(named(input.name, &input.datatype, &input.shape, bytes)?);
    }
    let mut parameters = Map::new();
    for (name, parameter) in request.parameters {
        let value = match parameter.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => Json::from(value),
            Some(ParameterChoice::Int64Param(value)) => Json::from(value),
            Some(ParameterChoice::StringParam(value)) => Json::from(value),
            Some(ParameterChoice::DoubleParam(value)) => Json::from(value),
            Some(ParameterChoice::Uint64Param(value)) => Json::from(value),
            None => Json::Null,
        };
        parameters.insert(name, value);
    }
    Ok(Asked {
        model: request.model_name,
        version: request.model_version,
        inputs,
        parameters,
        outputs: request.outputs.into_iter().map(|out| out.name).collect(),
    })
}

/// A call without what the request says.
fn blank(head: &CallHead) -> Call {
    Call {
        method: String::new(),
        version: String::new(),
        kwargs: bytes::Bytes::new(),
        parts: Vec::new(),
        deadline: head.deadline,
        retry: head.retry,
        id: head.id.clone(),
        progress: None,
    }
}

/// What an answer repeats of its request.
#[derive(Debug, Clone)]
struct Echo {
    version: String,
    id: String,
    raw: bool,
}

impl Echo {
    fn of(request: &ModelInferRequest) -> Self {
        Self {
            version: request.model_version.clone(),
            id: request.id.clone(),
            raw: request.inputs.is_empty() || !request.raw_input_contents.is_empty(),
        }
    }

    fn answer(&self, door: &Door, outputs: Vec<Named>) -> ModelInferResponse {
        let about = door.model.about();
        let mut response = ModelInferResponse {
            model_name: about.service.clone(),
            model_version: answered(&about, &self.version),
            id: self.id.clone(),
            ..Default::default()
        };
        let typed: Option<Vec<_>> = (!self.raw)
            .then(|| {
                outputs
                    .iter()
                    .map(|output| from_raw(Datatype::parse(&output.of.datatype).ok()?, &output.raw))
                    .collect()
            })
            .flatten();
        let mut contents = typed.map(Vec::into_iter);
        for output in outputs {
            response.outputs.push(InferOutputTensor {
                name: output.name,
                datatype: output.of.datatype,
                shape: output
                    .of
                    .shape
                    .iter()
                    .map(|axis| i64::try_from(*axis).unwrap_or(i64::MAX))
                    .collect(),
                parameters: HashMap::new(),
                contents: contents.as_mut().and_then(Iterator::next),
            });
            if contents.is_none() {
                response.raw_output_contents.push(output.raw);
            }
        }
        response
    }
}

async fn model_infer(
    door: &Door,
    request: ModelInferRequest,
    head: &CallHead,
) -> Result<ModelInferResponse, Fault> {
    let echo = Echo::of(&request);
    let outputs = infer(door, taken_apart(request)?, blank(head)).await?;
    Ok(echo.answer(door, outputs))
}

/// `ModelStreamInfer`: as many requests of a stream at a time as the instance runs; answers go as they come, each with its request's id.
fn stream(door: &Arc<Door>, request: Request<Incoming>) -> Response<Body> {
    let head = match CallHead::read(request.headers()) {
        Ok(head) => head,
        Err(fault) => return grpc_response(&fault),
    };
    let (answers, receiver) = mpsc::channel(4);
    let response = grpc::answer_head(door, Body::Channel(receiver));
    let streamed = Streamed {
        door: door.clone(),
        head,
        answers,
    };
    tokio::spawn(streamed.run(request.into_body()));
    response
}

struct Streamed {
    door: Arc<Door>,
    head: CallHead,
    answers: mpsc::Sender<BodyFrame>,
}

impl Streamed {
    async fn run(self, body: Incoming) {
        let result = tokio::select! {
            result = grpc::until(self.head.deadline, self.all(body)) => result,
            () = self.answers.closed() => return,
        };
        let trailers = match result {
            Ok(()) => grpc::well(),
            Err(fault) => grpc::badly(&fault),
        };
        let _ = self.answers.send(Ok(Frame::trailers(trailers))).await;
    }

    async fn all(&self, body: Incoming) -> Result<(), Fault> {
        let limit = self.door.options.message;
        let mut messages = Messages::new(body, limit);
        let mut running = FuturesUnordered::new();
        // What ends the stream when the requests that run are answered.
        let mut end = None;
        loop {
            let reads = end.is_none() && running.len() < self.door.options.parallel;
            let message = tokio::select! {
                Some(answered) = running.next(), if !running.is_empty() => {
                    answered?;
                    continue;
                }
                message = messages.next(), if reads => message,
                () = self.door.closed(), if end.is_none() => {
                    end = Some(Err(not_ready()));
                    continue;
                }
                else => return end.unwrap_or(Ok(())),
            };
            match message {
                None => end = Some(Ok(())),
                Some(Err(fault)) => end = Some(Err(fault)),
                Some(Ok(message)) => match self.request(message, limit) {
                    Ok(request) => running.push(self.answered(request)),
                    Err(fault) => end = Some(Err(fault)),
                },
            }
        }
    }

    fn request(
        &self,
        (compressed, message): (bool, bytes::Bytes),
        limit: u64,
    ) -> Result<ModelInferRequest, Fault> {
        // What is compressed may be much more than it seems.
        let heavy = if compressed { HEAVY } else { message.len() };
        in_place_if_heavy(heavy, || {
            let message = grpc::plain(compressed, message, self.head.encoding, limit)?;
            ModelInferRequest::decode(message)
                .map_err(|error| bad_request(format!("a message does not parse: {error}")))
        })
    }

    /// Answers one request. Its failure is its own, the stream goes on.
    async fn answered(&self, request: ModelInferRequest) -> Result<(), Fault> {
        let echo = Echo::of(&request);
        let Err(fault) = self.one(request, &echo).await else {
            return Ok(());
        };
        self.send(ModelStreamInferResponse {
            error_message: told(&fault).into_owned(),
            infer_response: Some(echo.answer(&self.door, Vec::new())),
        })
        .await
    }

    async fn one(&self, request: ModelInferRequest, echo: &Echo) -> Result<(), Fault> {
        let asked = taken_apart(request)?;
        let wants_final = asked.parameters.get(WANTS_FINAL) == Some(&Json::Bool(true));
        let wanted = asked.outputs.clone();
        let call = call_of(&self.door, asked, blank(&self.head))?;
        match self.door.call(call).await? {
            Answer::Value(value) => {
                let outputs = outputs::of(&self.door, value, &wanted).await?;
                let last = wants_final.then_some(true);
                self.answer(echo, outputs, last).await
            }
            Answer::Items(mut items) => {
                while let Some(item) = items.receiver.recv().await {
                    let outputs = outputs::of(&self.door, item?, &wanted).await?;
                    self.answer(echo, outputs, wants_final.then_some(false))
                        .await?;
                }
                if wants_final {
                    self.answer(echo, Vec::new(), Some(true)).await?;
                }
                Ok(())
            }
        }
    }

    async fn answer(
        &self,
        echo: &Echo,
        outputs: Vec<Named>,
        last: Option<bool>,
    ) -> Result<(), Fault> {
        let mut response = echo.answer(&self.door, outputs);
        if let Some(last) = last {
            response.parameters.insert(
                "triton_final_response".to_owned(),
                InferParameter {
                    parameter_choice: Some(ParameterChoice::BoolParam(last)),
                },
            );
        }
        self.send(ModelStreamInferResponse {
            error_message: String::new(),
            infer_response: Some(response),
        })
        .await
    }

    async fn send(&self, message: ModelStreamInferResponse) -> Result<(), Fault> {
        self.answers
            .send(Ok(Frame::data(grpc::framed(&message))))
            .await
            .map_err(|_| Fault::new(Code::Cancelled, "cancelled", "the caller left"))
    }
}
