//! The Open Inference Protocol: tensors in, tensors out.

mod contents;
pub(super) mod grpc;
mod outputs;
pub(super) mod rest;

use bytes::Bytes;
use serde_json::{Map, Value as Json};

use super::Door;
use super::http_api::check_model;
use super::kwargs;
use super::tensor::{self, Datatype};
use crate::model::{is_default, shown};
use crate::{Answer, Call, Code, Content, Fault, Part, TensorOf};

/// What the protocol calls.
const METHOD: &str = "predict";

/// What the extensions are called in the server's metadata.
const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "model_repository"];

/// Parameters that are the protocol's or Triton's, never arguments.
const THEIRS: [&str; 8] = [
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "priority",
    "timeout",
    "binary_data_output",
    "headers",
    "triton_enable_empty_final_response",
];

/// A tensor on its way.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) of: TensorOf,
    pub(super) raw: Bytes,
}

/// A request for inference, whatever it was written in.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) version: String,
    pub(super) inputs: Vec<Named>,
    pub(super) parameters: Map<String, Json>,
    /// Names of outputs; none: all.
    pub(super) outputs: Vec<String>,
}

/// Makes an input, checked.
fn named(name: String, datatype: &str, shape: &[i64], raw: Bytes) -> Result<Named, Fault> {
    let datatype = Datatype::parse(datatype)?;
    let shape = tensor::shape(shape)?;
    tensor::check(&name, datatype, &shape, &raw)?;
    Ok(Named {
        name,
        of: TensorOf {
            datatype: datatype.name().to_owned(),
            shape,
        },
        raw,
    })
}

/// The call that a request stands for.
fn call_of(door: &Door, asked: Asked, call: Call) -> Result<Call, Fault> {
    check_model(door, &asked.model)?;
    let method = door.method(METHOD)?;
    let mut arguments = Map::new();
    for (name, value) in asked.parameters {
        if !THEIRS.contains(&name.as_str()) && (method.any || method.parameters.contains(&name)) {
            arguments.insert(name, value);
        }
    }
    let mut names: Vec<&str> = asked.inputs.iter().map(|input| &input.name[..]).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(tensor::bad_tensor(format!(
            "the input `{}` is given twice",
            twice[0]
        )));
    }
    for name in names {
        arguments.remove(name);
        // An input's name is an argument's, held to the same rule.
        kwargs::check_argument(name)?;
    }
    let kwargs = Bytes::from(serde_json::to_vec(&arguments).unwrap_or_default());
    kwargs::check(&kwargs)?;
    Ok(Call {
        method: METHOD.to_owned(),
        version: asked.version,
        kwargs,
        parts: asked
            .inputs
            .into_iter()
            .map(|input| Part {
                name: input.name,
                content: Content::Inline(input.raw),
                tensor: Some(input.of),
            })
            .collect(),
        ..call
    })
}

/// Runs a request that has one answer.
async fn infer(door: &Door, asked: Asked, call: Call) -> Result<Vec<Named>, Fault> {
    let wanted = asked.outputs.clone();
    let call = call_of(door, asked, call)?;
    match door.call(call).await? {
        Answer::Value(value) => outputs::of(door, value, &wanted).await,
        Answer::Items(_) => Err(Fault::new(
            Code::Unimplemented,
            "stream_only",
            "the model gives items one by one: ask with ModelStreamInfer",
        )),
    }
}

/// The version that an answer names for a request.
fn answered(about: &crate::About, version: &str) -> String {
    shown(if is_default(version) {
        &about.version
    } else {
        version
    })
    .to_owned()
}

/// Whether a version takes calls without being loaded first.
fn version_ready(door: &Door, version: &str) -> bool {
    door.model.ready()
        && (is_default(version)
            || door
                .model
                .versions()
                .iter()
                .any(|known| known.loaded && known.name == version))
}

/// Refuses a version that nobody has heard of.
fn check_version(door: &Door, version: &str) -> Result<(), Fault> {
    if is_default(version)
        || door.model.about().version == version
        || door
            .model
            .versions()
            .iter()
            .any(|known| known.name == version)
    {
        return Ok(());
    }
    Err(Fault::new(
        Code::NotFound,
        "unknown_version",
        format!("the model has no version `{version}`"),
    ))
}
