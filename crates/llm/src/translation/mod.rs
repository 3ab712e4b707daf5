//! What is lost between the dialects: tables for operators.
//!
//! Where caller and provider speak the same dialect nothing is lost: the bytes pass as they are, but for the model's name
//! and what the provider is known to refuse though another word for it means the same (the role `developer`) or nobody can
//! make anything of it (Anthropic: thoughts of another provider, which have no proof, are left out).
//! Where they do not, a request is read into a form in between and written in the provider's dialect, and the answer the
//! other way round, piece by piece as it comes. Everything that the table does not name survives: instructions,
//! conversation, tools with their calls and results, images, JSON mode and schemas, reasoning, stop sequences, sampling,
//! usage, reasons of the end, streaming.
//!
//! # Requests
//!
//! | asked | of | what happens |
//! |---|---|---|
//! | `n` > 1 | anthropic, bedrock, cohere | refused |
//! | `n` > 1 | gemini | `candidateCount` |
//! | `seed`, `frequency_penalty`, `presence_penalty` | anthropic, bedrock | dropped |
//! | `logprobs` | anthropic, bedrock | dropped |
//! | `top_logprobs` | cohere | dropped |
//! | `logit_bias`, `prediction`, `modalities`, `audio`, `store`, `service_tier`, `verbosity`, `web_search_options` | all that are translated | dropped |
//! | `metadata` | all that are translated | dropped; `user` becomes Anthropic's `metadata.user_id` and is dropped elsewhere |
//! | `top_k` | openai | dropped |
//! | temperature above 1 | anthropic, bedrock, cohere | 1 |
//! | temperature and `top_p` together | anthropic (bedrock: Claude) | `top_p` is dropped |
//! | JSON without a schema | anthropic, bedrock | asked for in the instructions |
//! | schema's name and `strict` | anthropic, gemini, cohere | dropped |
//! | reasoning effort | anthropic, gemini 2, bedrock (Claude), cohere | a budget: low 1024, medium 8192, high 16384, xhigh 32768 |
//! | reasoning with few `max_tokens` | anthropic, bedrock (Claude) | at most three quarters of them; none below 1366 |
//! | reasoning budget | openai, gemini 3 | the nearest effort |
//! | reasoning with a forced tool | anthropic, bedrock | `auto` instead of the tool |
//! | reasoning when the last turn called tools without signed thoughts | anthropic | no reasoning |
//! | thoughts of earlier turns | openai, gemini, cohere | dropped; unsigned ones everywhere |
//! | max tokens left out | anthropic | 8192 |
//! | audio | anthropic, bedrock, cohere | dropped |
//! | documents | cohere | dropped |
//! | documents by URL | openai | the URL as text |
//! | images by URL | bedrock | refused: send the data |
//! | images by URL | gemini | `fileData`; whether Google fetches it is Google's to say |
//! | images in a tool's result | openai, gemini | beside the result |
//! | images in a tool's result | cohere | dropped |
//! | a tool's result that is an error | openai, cohere | text that begins with `Error:`; cohere: plain text |
//! | `tool_choice` with one tool's name | cohere | `REQUIRED` with this tool alone |
//! | `parallel_tool_calls: false` | gemini, bedrock, cohere | dropped |
//! | instructions within the conversation | all but openai | moved to the front |
//! | names of speakers (`messages[].name`) | all that are translated | dropped |
//! | cache marks (`cache_control`) on text | anthropic, bedrock | kept; dropped elsewhere and on tools |
//! | tools that the provider runs (web search, code, …) | all others | refused |
//! | files in the provider's store (`file_id`) | all others | refused |
//! | custom tools (`type: custom`) | all that are translated | refused |
//! | responses: `previous_response_id`, `conversation`, `prompt`, `background` | all that are translated | refused |
//! | responses: `store`, `include`, `truncation` | all that are translated | dropped |
//! | completions: several prompts, tokens, `suffix`, `echo` | all that are translated | refused |
//! | gemini: `safetySettings`, `cachedContent` | all others | dropped; refused |
//! | embeddings: tokens instead of text | gemini, cohere | refused |
//!
//! # Answers
//!
//! | answered | to a caller of | what happens |
//! |---|---|---|
//! | thoughts | openai chat | `reasoning_content`, as most compatible providers have it |
//! | thoughts | openai responses | an item `reasoning` with a summary |
//! | proofs of thoughts, redacted thoughts | openai, gemini | dropped |
//! | proof of a tool's call (Gemini) | openai chat | `extra_content.google.thought_signature`; dropped elsewhere |
//! | images made by the model | openai chat | `images`, as OpenRouter has it; dropped for anthropic |
//! | log probabilities | openai chat | kept from openai and gemini; dropped elsewhere |
//! | citations, grounding, safety ratings | all others | dropped |
//! | choices after the first | anthropic, openai responses | dropped |
//! | a tool's arguments, piece by piece | gemini | as a whole, once they are complete |
//! | arguments of parallel calls in turns | anthropic, openai responses | one call after the other; later ones wait |
//! | `pause_turn` | openai, gemini | `stop`, `STOP` |
//! | usage at the beginning of a stream | anthropic | 0 unless the provider says it there; right at the end |

pub(crate) mod embeddings;
mod order;
mod stream;

use crate::fault::{Fault, FaultKind};
use crate::ir::{Event, Reply, Request};
use crate::json::{Json, parse};
use crate::registry::ProviderSpec;
use crate::usage::Usage;
use crate::{Dialect, Endpoint, anthropic, bedrock, cohere, gemini, openai};

pub(crate) use stream::{Decoder, Encoder};

/// What a provider said makes no sense in its dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confused;

/// What goes into an answer that the provider did not say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told<'t> {
    /// The model as the provider knows it.
    pub(crate) model: &'t str,
    /// Unix time, seconds.
    pub(crate) created: u64,
    pub(crate) include_usage: bool,
    /// For an id where the provider gives none.
    pub(crate) seed: u64,
}

/// What a caller has of a stream that was passed on as it came, for whoever writes the rest of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begun {
    pub(crate) id: String,
    pub(crate) model: String,
    /// Unix time, seconds.
    pub(crate) created: Option<u64>,
    /// Anthropic: the block of text that is open, or the number of the next one.
    pub(crate) block: u64,
    pub(crate) block_open: bool,
    pub(crate) usage: Usage,
}

impl Told<'_> {
    pub(crate) fn id(&self, prefix: &str) -> String {
        format!("{prefix}{:016x}", self.seed)
    }
}

/// Reads a caller's request to a provider of the dialect `to`. What is wrong with it is told with the names of the caller's own
/// fields.
pub(crate) fn read_request<'a>(
    endpoint: Endpoint,
    body: &Json<'a>,
    to: Dialect,
) -> Result<Request<'a>, Fault> {
    let (request, turns) = match endpoint {
        Endpoint::Chat => (openai::read_chat(body)?, "messages"),
        Endpoint::Responses => (openai::read_responses(body)?, "input"),
        Endpoint::Completions => (openai::read_completions(body)?, "prompt"),
        Endpoint::Messages => (anthropic::read(body)?, "messages"),
        Endpoint::Generate => (gemini::read(body, false)?, "contents"),
        Endpoint::StreamGenerate => (gemini::read(body, true)?, "contents"),
        _ => {
            return Err(Fault::new(
                FaultKind::UnsupportedEndpoint,
                "the provider has no endpoint like this",
            ));
        }
    };
    if request.turns.is_empty() {
        return Err(Fault::field(turns, "a conversation with at least one turn"));
    }
    let one_answer = matches!(to, Dialect::Anthropic | Dialect::Bedrock | Dialect::Cohere);
    if one_answer && request.choices.is_some_and(|choices| choices > 1) {
        let field = match endpoint.dialect() {
            Dialect::Gemini => "generationConfig.candidateCount",
            _ => "n",
        };
        let words = format!("this provider gives one answer: {field} must be 1");
        return Err(Fault::new(FaultKind::Untranslatable, words).at(field));
    }
    Ok(request)
}

/// Writes it for a provider. `usage`: streams are to end with the usage.
pub(crate) fn write_request(
    request: &Request<'_>,
    spec: &ProviderSpec,
    model: &str,
    usage: bool,
) -> Result<Vec<u8>, Fault> {
    match spec.dialect() {
        Dialect::OpenAi => openai::write_chat(request, model, &spec.row().quirks, usage),
        Dialect::Anthropic => Ok(anthropic::write(request, model)),
        Dialect::Gemini => gemini::write(request, model),
        Dialect::Bedrock => bedrock::write(request, model),
        Dialect::Cohere => Ok(cohere::write(request, model)),
    }
}

/// Translates an answer in one piece.
pub(crate) fn whole(
    from: Dialect,
    to: Endpoint,
    body: &[u8],
    usage: Option<Usage>,
    told: &Told<'_>,
) -> Result<Vec<u8>, Confused> {
    let tree = parse(body).map_err(|_| Confused)?;
    let mut reply = Reply {
        usage,
        ..Reply::default()
    };
    let mut sink = |event: Event<'_>| reply.add(&event);
    match from {
        Dialect::OpenAi => openai::Decoder::whole(&tree, &mut sink)?,
        Dialect::Anthropic => anthropic::Decoder::whole(&tree, &mut sink)?,
        Dialect::Gemini => gemini::Decoder::whole(&tree, &mut sink)?,
        Dialect::Bedrock => bedrock::Decoder::whole(&tree, &mut sink)?,
        Dialect::Cohere => cohere::Decoder::whole(&tree, &mut sink)?,
    }
    if reply.choices.is_empty() {
        return Err(Confused);
    }
    Ok(match to {
        Endpoint::Responses => openai::write_response(&reply, told),
        Endpoint::Completions => openai::write_completion(&reply, told),
        Endpoint::Messages => anthropic::whole(&reply, told),
        Endpoint::Generate | Endpoint::StreamGenerate => gemini::whole(&reply, told),
        _ => openai::write_chat_answer(&reply, told),
    })
}
