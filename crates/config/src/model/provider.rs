//! LLM providers: where they are, the keys that open them, and what is done when a key fails.

use super::{ConnectionPool, UpstreamTls};
use crate::checks::{Defines, Lasting, NotEmpty, SizeWithin, TIMER, Within};
use crate::names::Namespace;
use crate::record::{choice, one_of, record};
use crate::values::{
    ByteSize, HashKey, HeaderName, HeaderText, ModelMapping, Pattern, Secret, ServiceUrl,
};
use std::collections::BTreeMap;
use std::time::Duration;

record! {
    /// A provider of models with the keys that open it. Each key is a member of a pool; its health is kept for each model.
    pub struct Provider {
        /// Unique name; routes refer to it.
        name: String => Defines(Namespace::Provider),
        /// What it is: address, paths and dialect come from here.
        kind as "type": ProviderType,
        /// Where it is, instead of the built-in address; may have a path, which the dialect's own paths are appended to.
        base_url: Option<ServiceUrl>,
        /// What callers speak to it: openai (translated where the provider speaks another dialect) or original (passed on
        /// as it is). Default: openai for callers in that dialect; Anthropic's and Gemini's callers are always understood.
        dialect: ProviderDialect = ProviderDialect::Openai,
        /// The same as `dialect`, by Higress's name.
        protocol: Option<ProviderDialect>,
        /// Keys; `{ token, weight }` where one is to get a larger share. For bedrock `ACCESS_KEY_ID:SECRET[:SESSION]` or an API key;
        /// for vertex a service account's key file (`file:PATH`) or an access token.
        api_tokens: Vec<ApiToken>,
        /// Names of models as callers write them → as the provider knows them. An exact name comes before the longest prefix
        /// (`gpt-4*`), that before expressions in their order (`~^gpt-(.*)$`, with `$1` in the name), `*` is last; `""` keeps the name.
        model_mapping: ModelMapping = ModelMapping::default(),
        /// Models that `GET /v1/models` lists. Default: the exact names of `model_mapping`.
        models: Vec<String>,
        /// How a key is chosen among the fit ones. Default random.
        choose: Choose = Choose::Random,
        /// What a failing key is spared for and how it comes back.
        failover: Failover = Failover::default(),
        /// Bounds of one attempt.
        timeouts: ProviderTimeouts = ProviderTimeouts::default(),
        /// Headers that are added to each request.
        headers: BTreeMap<HeaderName, HeaderText>,
        /// azure: version of the API. Default 2024-10-21.
        api_version: Option<String> => NotEmpty,
        /// bedrock, vertex: region. Default us-east-1 and us-central1.
        region: Option<String> => NotEmpty,
        /// vertex: project.
        project: Option<String> => NotEmpty,
        /// TLS towards the provider, where the system's authorities do not do.
        tls: Option<UpstreamTls>,
        /// Bounds on connections and requests.
        connection_pool: ConnectionPool = ConnectionPool { connect_timeout: Duration::from_secs(5), max_connections: 8192, max_pending_requests: 8192, max_requests: 8192, ..ConnectionPool::default() },
        ; finish crate::validate::provider
    }
}

choice! {
    /// Known providers. Those without a note speak the OpenAI dialect.
    pub enum ProviderType {
        /// OpenAI.
        Openai = "openai",
        /// Azure OpenAI: deployments are the models; needs `base_url`.
        Azure = "azure",
        /// Anthropic: Messages API, translated.
        Anthropic = "anthropic",
        /// Google Gemini API, translated.
        Gemini = "gemini",
        /// Google Vertex AI, translated; needs `project`.
        Vertex = "vertex",
        /// Amazon Bedrock: Converse API, translated.
        Bedrock = "bedrock",
        /// Cohere: v2 chat, translated.
        Cohere = "cohere",
        /// Alibaba Qwen (DashScope, compatible mode).
        Qwen = "qwen",
        /// DeepSeek.
        Deepseek = "deepseek",
        /// Moonshot (Kimi).
        Moonshot = "moonshot",
        /// Zhipu AI (GLM).
        Zhipuai = "zhipuai",
        /// Baichuan.
        Baichuan = "baichuan",
        /// 01.AI Yi.
        Yi = "yi",
        /// MiniMax.
        Minimax = "minimax",
        /// StepFun.
        Stepfun = "stepfun",
        /// ByteDance Doubao (Volcengine Ark).
        Doubao = "doubao",
        /// Tencent Hunyuan.
        Hunyuan = "hunyuan",
        /// Groq.
        Groq = "groq",
        /// xAI Grok.
        Grok = "grok",
        /// Mistral.
        Mistral = "mistral",
        /// Together AI.
        TogetherAi = "together-ai",
        /// Fireworks AI.
        Fireworks = "fireworks",
        /// OpenRouter.
        Openrouter = "openrouter",
        /// GitHub Models.
        Github = "github",
        /// Ollama; needs no key.
        Ollama = "ollama",
        /// vLLM; needs `base_url`, no key.
        Vllm = "vllm",
        /// 360 AI.
        Ai360 = "ai360",
        /// Baidu Qianfan.
        Baidu = "baidu",
        /// Cloudflare Workers AI; needs `base_url`, which holds the account.
        Cloudflare = "cloudflare",
        /// iFlytek Spark.
        Spark = "spark",
        /// LongCat.
        Longcat = "longcat",
        /// Anything that speaks the OpenAI dialect (llama.cpp, SGLang, …); needs `base_url`, no key.
        Generic = "generic",
    }
}

choice! {
    /// What callers speak to a provider.
    pub enum ProviderDialect {
        /// OpenAI's, translated where needed.
        Openai = "openai",
        /// The provider's own, passed on as it is but for the key and the model's name.
        Original = "original",
    }
}

record! {
    /// A key.
    pub struct ApiToken {
        /// The key itself: `"${NAME}"` or `file:PATH`.
        token: Secret,
        /// Share relative to the others, 1 to 1000000, with `choose: weighted`. Default 1.
        weight: u32 = 1 => Within(1, 1_000_000),
        ; short "token"
    }
}

/// How a key is chosen among the fit ones.
#[derive(Debug, Clone, PartialEq)]
pub enum Choose {
    /// Any.
    Random,
    /// In turn.
    RoundRobin,
    /// Any, by weight.
    Weighted,
    /// The one with the fewest requests in flight.
    LeastUsed,
    /// The same one for the same caller, so that the provider's prompt cache is used.
    Sticky(Sticky),
}

record! {
    /// The same key for the same caller, by rendezvous hashing; a key taken for want of a better one is kept until `ttl`.
    pub struct Sticky {
        /// Time after the last request until a caller is forgotten. Default 5m.
        ttl: Duration = Duration::from_secs(300) => TIMER,
        ; flatten
        /// What makes the caller.
        by: StickyBy
    }
}

one_of! {
    /// What makes a caller the same.
    pub enum StickyBy {
        /// A value of the request: `{ request: { header: x-session } }`.
        Request(HashKey) = "request",
        /// What the body says.
        Body(StickyField) = "body",
    }
}

choice! {
    /// A field of the body.
    pub enum StickyField {
        /// `user` (OpenAI), `metadata.user_id` (Anthropic).
        User = "user",
        /// `prompt_cache_key`.
        PromptCacheKey = "prompt_cache_key",
        /// The beginning of the conversation: system text and first message.
        Prefix = "prefix",
    }
}

record! {
    /// When a key is spared and how it comes back. As it stands, answers are classified (dead key, limited until, quota, provider
    /// down, caller's fault); with `on_status` the statuses alone decide, as in Higress.
    pub default struct Failover {
        /// Failures in a row of one key until it is spared; a good answer counts anew. A dead key or one that is limited is spared at once. Default 3.
        failure_threshold: u32 = 3 => Within(1, 1_000),
        /// Good probes that bring a key back; a failed one between them takes none away. Default 1.
        success_threshold: u32 = 1 => Within(1, 1_000),
        /// Time between probes. Default 5s.
        health_check_interval: Duration = Duration::from_secs(5) => TIMER,
        /// Bound of a probe. Default 5s.
        health_check_timeout: Duration = Duration::from_secs(5) => TIMER,
        /// Model of the probe, as callers name it. Default: the model that failed.
        health_check_model: Option<String> => NotEmpty,
        /// A spared key comes back after this time; 0: only by a probe or when the provider's own time is over. Default 0s.
        cooldown: Duration = Duration::ZERO => Lasting(Duration::ZERO, Duration::from_secs(30 * 86_400)),
        /// Statuses that count as failures, as expressions over the whole number (`"4.."`, `"5.."`), instead of the classification.
        on_status: Vec<Pattern>,
        /// What happens when no key is fit. Default error: 429 or 503 with the time of the first return.
        when_exhausted: WhenKeysExhausted = WhenKeysExhausted::Error,
    }
}

choice! {
    /// What happens when no key is fit.
    pub enum WhenKeysExhausted {
        /// An error with `Retry-After`.
        Error = "error",
        /// The key that is the least bad is used.
        UseLeastBad = "use_least_bad",
    }
}

record! {
    /// Bounds of one attempt at a provider.
    pub default struct ProviderTimeouts {
        /// From the request's end to the first content of the answer; pings are no content. Default: off.
        first_content: Option<Duration> => TIMER,
        /// Between two pieces of content of a stream; pings are no content. Default 1m.
        idle: Option<Duration> = Some(Duration::from_secs(60)) => TIMER,
    }
}

record! {
    /// Bodies of requests to providers: kept whole until the answer's content begins, so that another key can be tried.
    pub default struct RequestBodies {
        /// Longest body, 1KiB to 1GiB; longer ones are answered 413. Default 32MiB.
        max: ByteSize = ByteSize::kib(32 * 1024) => SizeWithin(ByteSize::kib(1), ByteSize::kib(1024 * 1024)),
        /// Bytes kept by all requests together; a request beyond it is answered 503. Default 512MiB.
        memory: ByteSize = ByteSize::kib(512 * 1024) => SizeWithin(ByteSize::kib(1), ByteSize::kib(1024 * 1024 * 1024)),
    }
}

record! {
    /// Prices, for budgets in money.
    pub default struct Prices {
        /// Currency, for people. Default USD.
        currency: String = "USD".into() => NotEmpty,
        /// By the model's name at the provider; an exact name comes before the longest prefix (`gpt-4*`), `*` is last.
        models: BTreeMap<String, Price>,
    }
}

record! {
    /// Price of a model for a million tokens.
    pub struct Price {
        /// Of the request.
        input: f64 => Within(0.0, 1e9),
        /// Of the answer.
        output: f64 => Within(0.0, 1e9),
        /// Of the request's tokens that were in the provider's cache. Default: as `input`.
        cached_input: Option<f64> => Within(0.0, 1e9),
    }
}

choice! {
    /// Whether callers need a virtual key.
    pub enum VirtualKeys {
        /// They are not looked at: a caller's key goes nowhere.
        Off = "off",
        /// A caller without one is served, one with a wrong one is not.
        Optional = "optional",
        /// A caller without a valid one is answered 401.
        Required = "required",
    }
}
