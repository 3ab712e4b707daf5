//! The table. Addresses and paths are as the providers' documentation gives them (checked November 2026).

use super::{Auth, ProviderKind, Quirks, Row};
use crate::Dialect;
use crate::Endpoint::{self, *};

/// No provider's variant needs care unless it is said here.
const PLAIN: Quirks = Quirks {
    rename: &[],
    drop: &[],
    no_stream_options: false,
    new_max_tokens: false,
};

/// OpenAI's own: everything.
const ALL: &[Endpoint] = &[
    Chat,
    Responses,
    Completions,
    Embeddings,
    Models,
    ImageGenerations,
    ImageEdits,
    ImageVariations,
    Speech,
    Transcriptions,
    Translations,
    Moderations,
];

/// Self-hosted servers: whatever the operator runs answers, or says that it does not.
const SELF_HOSTED: &[Endpoint] = &[
    Chat,
    Completions,
    Embeddings,
    Models,
    ImageGenerations,
    ImageEdits,
    ImageVariations,
    Speech,
    Transcriptions,
    Translations,
    Moderations,
    Rerank,
];

/// The most common set of hosted ones.
const CHAT: &[Endpoint] = &[Chat, Embeddings, Models];

const fn openai(base_url: &'static str, serves: &'static [Endpoint]) -> Row {
    Row {
        base_url: Some(base_url),
        dialect: Dialect::OpenAi,
        auth: Auth::Bearer,
        serves,
        quirks: PLAIN,
    }
}

const fn own(
    base_url: Option<&'static str>,
    dialect: Dialect,
    auth: Auth,
    serves: &'static [Endpoint],
) -> Row {
    Row {
        base_url,
        dialect,
        auth,
        serves,
        quirks: PLAIN,
    }
}

const fn with(row: Row, quirks: Quirks) -> Row {
    Row { quirks, ..row }
}

/// Servers from before `max_completion_tokens`.
const OLD_MAX_TOKENS: Quirks = Quirks {
    rename: &[("max_completion_tokens", "max_tokens")],
    ..PLAIN
};

/// Servers to which `max_tokens` is the outdated one.
const NEW_MAX_TOKENS: Quirks = Quirks {
    new_max_tokens: true,
    ..PLAIN
};

static OPENAI: Row = with(openai("https://api.openai.com/v1", ALL), NEW_MAX_TOKENS);
static AZURE: Row = Row {
    base_url: None,
    auth: Auth::Header("api-key"),
    ..with(openai("", ALL), NEW_MAX_TOKENS)
};
static ANTHROPIC: Row = own(
    Some("https://api.anthropic.com/v1"),
    Dialect::Anthropic,
    Auth::Header("x-api-key"),
    &[Messages, CountTokens, Models],
);
static GEMINI: Row = own(
    Some("https://generativelanguage.googleapis.com/v1beta"),
    Dialect::Gemini,
    Auth::Header("x-goog-api-key"),
    &[
        Generate,
        StreamGenerate,
        EmbedContent,
        BatchEmbedContents,
        GeminiCountTokens,
        Models,
    ],
);
// The address follows from the region: see `ProviderSpec`.
static VERTEX: Row = own(
    None,
    Dialect::Gemini,
    Auth::Bearer,
    &[Generate, StreamGenerate, GeminiCountTokens],
);
static BEDROCK: Row = own(None, Dialect::Bedrock, Auth::Aws, &[Chat]);
static COHERE: Row = own(
    Some("https://api.cohere.com/v2"),
    Dialect::Cohere,
    Auth::Bearer,
    &[Chat, Embeddings, Rerank, Models],
);
static QWEN: Row = openai(
    "https://dashscope.aliyuncs.com/compatible-mode/v1",
    &[Chat, Completions, Embeddings, Models],
);
static DEEPSEEK: Row = with(
    openai("https://api.deepseek.com/v1", &[Chat, Models]),
    OLD_MAX_TOKENS,
);
static MOONSHOT: Row = with(
    openai("https://api.moonshot.cn/v1", &[Chat, Models]),
    OLD_MAX_TOKENS,
);
static ZHIPUAI: Row = with(
    openai(
        "https://open.bigmodel.cn/api/paas/v4",
        &[Chat, Embeddings, ImageGenerations, Rerank, Models],
    ),
    OLD_MAX_TOKENS,
);
static BAICHUAN: Row = with(
    openai("https://api.baichuan-ai.com/v1", &[Chat, Embeddings]),
    OLD_MAX_TOKENS,
);
static YI: Row = with(
    openai("https://api.lingyiwanwu.com/v1", &[Chat, Models]),
    OLD_MAX_TOKENS,
);
// The international address is https://api.minimax.io/v1.
static MINIMAX: Row = with(
    openai("https://api.minimaxi.com/v1", &[Chat, Responses, Models]),
    NEW_MAX_TOKENS,
);
static STEPFUN: Row = with(
    openai(
        "https://api.stepfun.com/v1",
        &[Chat, Models, ImageGenerations, Speech, Transcriptions],
    ),
    OLD_MAX_TOKENS,
);
static DOUBAO: Row = openai(
    "https://ark.cn-beijing.volces.com/api/v3",
    &[Chat, Responses, Embeddings, ImageGenerations, Models],
);
static HUNYUAN: Row = with(
    openai("https://api.hunyuan.cloud.tencent.com/v1", CHAT),
    OLD_MAX_TOKENS,
);
static GROQ: Row = with(
    openai(
        "https://api.groq.com/openai/v1",
        &[
            Chat,
            Responses,
            Models,
            Speech,
            Transcriptions,
            Translations,
        ],
    ),
    NEW_MAX_TOKENS,
);
static GROK: Row = openai(
    "https://api.x.ai/v1",
    &[Chat, Responses, Completions, Models, ImageGenerations],
);
// Extra fields are refused with 422 (`extra_forbidden`).
static MISTRAL: Row = with(
    openai(
        "https://api.mistral.ai/v1",
        &[Chat, Embeddings, Models, Moderations, Transcriptions],
    ),
    Quirks {
        rename: &[
            ("max_completion_tokens", "max_tokens"),
            ("seed", "random_seed"),
        ],
        drop: &["user", "store", "metadata", "service_tier"],
        no_stream_options: true,
        new_max_tokens: false,
    },
);
static TOGETHER_AI: Row = with(
    openai(
        "https://api.together.xyz/v1",
        &[
            Chat,
            Completions,
            Embeddings,
            Models,
            ImageGenerations,
            Speech,
            Transcriptions,
            Rerank,
        ],
    ),
    OLD_MAX_TOKENS,
);
static FIREWORKS: Row = openai(
    "https://api.fireworks.ai/inference/v1",
    &[Chat, Responses, Completions, Embeddings, Models, Rerank],
);
static OPENROUTER: Row = openai(
    "https://openrouter.ai/api/v1",
    &[Chat, Responses, Completions, Embeddings, Models],
);
static GITHUB: Row = with(
    openai("https://models.github.ai/inference", &[Chat, Embeddings]),
    NEW_MAX_TOKENS,
);
static OLLAMA: Row = with(
    openai(
        "http://127.0.0.1:11434/v1",
        &[Chat, Completions, Embeddings, Models],
    ),
    OLD_MAX_TOKENS,
);
static VLLM: Row = Row {
    base_url: None,
    ..openai("", VLLM_SERVES)
};
const VLLM_SERVES: &[Endpoint] = &[
    Chat,
    Responses,
    Completions,
    Embeddings,
    Models,
    Transcriptions,
    Translations,
    Rerank,
];
static AI360: Row = with(openai("https://api.360.cn/v1", CHAT), OLD_MAX_TOKENS);
static BAIDU: Row = openai(
    "https://qianfan.baidubce.com/v2",
    &[Chat, Embeddings, ImageGenerations, Rerank, Models],
);
static CLOUDFLARE: Row = Row {
    base_url: None,
    ..openai("", &[Chat, Embeddings])
};
static SPARK: Row = with(
    openai("https://spark-api-open.xf-yun.com/v1", &[Chat]),
    OLD_MAX_TOKENS,
);
static LONGCAT: Row = with(
    openai("https://api.longcat.chat/openai/v1", &[Chat, Models]),
    OLD_MAX_TOKENS,
);
static TRITON: Row = Row {
    base_url: None,
    ..openai("", &[Chat, Completions, Embeddings, Models])
};
static GENERIC: Row = Row {
    base_url: None,
    ..openai("", SELF_HOSTED)
};

pub(super) fn row(kind: ProviderKind) -> &'static Row {
    match kind {
        ProviderKind::OpenAi => &OPENAI,
        ProviderKind::Azure => &AZURE,
        ProviderKind::Anthropic => &ANTHROPIC,
        ProviderKind::Gemini => &GEMINI,
        ProviderKind::Vertex => &VERTEX,
        ProviderKind::Bedrock => &BEDROCK,
        ProviderKind::Cohere => &COHERE,
        ProviderKind::Qwen => &QWEN,
        ProviderKind::DeepSeek => &DEEPSEEK,
        ProviderKind::Moonshot => &MOONSHOT,
        ProviderKind::ZhipuAi => &ZHIPUAI,
        ProviderKind::Baichuan => &BAICHUAN,
        ProviderKind::Yi => &YI,
        ProviderKind::MiniMax => &MINIMAX,
        ProviderKind::StepFun => &STEPFUN,
        ProviderKind::Doubao => &DOUBAO,
        ProviderKind::Hunyuan => &HUNYUAN,
        ProviderKind::Groq => &GROQ,
        ProviderKind::Grok => &GROK,
        ProviderKind::Mistral => &MISTRAL,
        ProviderKind::TogetherAi => &TOGETHER_AI,
        ProviderKind::Fireworks => &FIREWORKS,
        ProviderKind::OpenRouter => &OPENROUTER,
        ProviderKind::GitHub => &GITHUB,
        ProviderKind::Ollama => &OLLAMA,
        ProviderKind::Vllm => &VLLM,
        ProviderKind::Ai360 => &AI360,
        ProviderKind::Baidu => &BAIDU,
        ProviderKind::Cloudflare => &CLOUDFLARE,
        ProviderKind::Spark => &SPARK,
        ProviderKind::LongCat => &LONGCAT,
        ProviderKind::Triton => &TRITON,
        ProviderKind::Generic => &GENERIC,
    }
}
