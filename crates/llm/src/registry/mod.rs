//! The providers that Tidegate knows: where they are and what is particular about them.
//!
//! A provider is a row of data ([`Row`]), not code: most speak OpenAI's dialect at another address. What an operator says
//! in the configuration (another address, a region) is a [`ProviderSpec`].

mod spec;
mod table;

use crate::{Dialect, Endpoint};

pub use spec::{BaseUrl, ProviderSpec, Secret, SpecError};

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal $(| $alias:literal)*,)*) => {
        /// A provider by its type in the configuration.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ProviderKind {
            $($(#[$doc])* $kind,)*
        }

        impl ProviderKind {
            /// Every provider.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The name in the configuration.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Reads a name, or one of Higress's names.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name $(| $alias)* => Some(Self::$kind),)* _ => None }
            }
        }
    };
}

impl ProviderKind {
    /// For traces: the name that the GenAI conventions of OpenTelemetry give it, where they have one, or our own.
    pub fn convention(self) -> &'static str {
        match self {
            Self::Azure => "azure.ai.openai",
            Self::Gemini => "gcp.gemini",
            Self::Vertex => "gcp.vertex_ai",
            Self::Bedrock => "aws.bedrock",
            Self::Mistral => "mistral_ai",
            Self::Grok => "x_ai",
            other => other.name(),
        }
    }
}

kinds! {
    /// OpenAI.
    OpenAi = "openai",
    /// Azure OpenAI: deployments are the models.
    Azure = "azure",
    /// Anthropic.
    Anthropic = "anthropic" | "claude",
    /// Google's Gemini API.
    Gemini = "gemini",
    /// Google's Vertex AI.
    Vertex = "vertex",
    /// Amazon Bedrock.
    Bedrock = "bedrock",
    /// Cohere.
    Cohere = "cohere",
    /// Alibaba's Qwen (Model Studio, compatible mode).
    Qwen = "qwen",
    /// DeepSeek.
    DeepSeek = "deepseek",
    /// Moonshot (Kimi).
    Moonshot = "moonshot",
    /// Zhipu AI (GLM).
    ZhipuAi = "zhipuai",
    /// Baichuan.
    Baichuan = "baichuan",
    /// 01.AI's Yi.
    Yi = "yi",
    /// MiniMax.
    MiniMax = "minimax",
    /// StepFun.
    StepFun = "stepfun",
    /// ByteDance's Doubao (Volcengine Ark).
    Doubao = "doubao",
    /// Tencent's Hunyuan.
    Hunyuan = "hunyuan",
    /// Groq.
    Groq = "groq",
    /// xAI's Grok.
    Grok = "grok",
    /// Mistral.
    Mistral = "mistral",
    /// Together AI.
    TogetherAi = "together-ai",
    /// Fireworks AI.
    Fireworks = "fireworks",
    /// OpenRouter.
    OpenRouter = "openrouter",
    /// GitHub Models.
    GitHub = "github",
    /// Ollama's OpenAI-compatible interface.
    Ollama = "ollama",
    /// vLLM.
    Vllm = "vllm",
    /// 360 AI.
    Ai360 = "ai360",
    /// Baidu's Qianfan.
    Baidu = "baidu",
    /// Cloudflare's Workers AI; the account is a part of the address.
    Cloudflare = "cloudflare",
    /// iFlytek's Spark.
    Spark = "spark",
    /// Meituan's LongCat.
    LongCat = "longcat",
    /// Anything that speaks OpenAI's dialect at an address of its own (llama.cpp, SGLang, Triton's OpenAI frontend, …).
    Generic = "generic",
}

/// What is particular about a provider.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Where it is, with the path that its own paths are appended to; `None`: the operator must say.
    pub base_url: Option<&'static str>,
    /// What it speaks.
    pub dialect: Dialect,
    /// How a key is shown.
    pub auth: Auth,
    /// Endpoints of its dialect that it serves itself. Others are translated to one of these, or refused.
    pub serves: &'static [Endpoint],
    /// What its variant of OpenAI's dialect takes otherwise.
    pub quirks: Quirks,
}

/// How a key is shown to a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer KEY`.
    Bearer,
    /// A header of its own with the key alone.
    Header(&'static str),
    /// AWS: signature version 4 of an access key, or an API key as bearer.
    Aws,
}

/// What a provider's variant of OpenAI's dialect takes otherwise. Only what means the same is renamed, and only what has no
/// meaning for the answer is dropped: anything else is the caller's to hear about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quirks {
    /// Top-level fields of a chat request by another name.
    pub rename: &'static [(&'static str, &'static str)],
    /// Top-level fields of a chat request that it refuses though the answer does not depend on them.
    pub drop: &'static [&'static str],
    /// It refuses `stream_options`. Such providers tell the usage in the last chunk without being asked.
    pub no_stream_options: bool,
    /// It does not know the role `developer`: such messages of a chat become `system`, which means the same.
    pub no_developer: bool,
    /// How it is told to go on from an answer that broke off.
    pub go_on: Continue,
    /// A request that is written anew has `max_completion_tokens`: here `max_tokens` is outdated, or refused by newer models.
    /// Elsewhere `max_tokens` is what every server knows.
    pub new_max_tokens: bool,
}

/// How a provider is told to go on from an answer that broke off. In each case the last message is what there is of it, said
/// by the assistant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Continue {
    /// It is not known to go on: it would begin anew, or refuse.
    #[default]
    Never,
    /// By the message alone, where the model is Claude before 4.6.
    Claude,
    /// The message has a field that says so, which is true.
    Marked {
        /// The field.
        field: &'static str,
        /// The answer begins with the text that it goes on from.
        repeats: bool,
        /// The end of the address's path, and what takes its place for such requests.
        place: Option<(&'static str, &'static str)>,
    },
    /// The request has `continue_final_message: true` and `add_generation_prompt: false`.
    Flagged,
}

impl ProviderKind {
    /// Its row in the table.
    pub fn row(self) -> &'static Row {
        table::row(self)
    }

    /// What it speaks.
    pub fn dialect(self) -> Dialect {
        self.row().dialect
    }
}
