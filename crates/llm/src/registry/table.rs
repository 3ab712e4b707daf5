//! The table.
//!
//! Checked in November 2026 by reading stored copies of documentation (most of it from 2026), Higress's ai-proxy and other
//! clients; no request was made to any provider. Address and header of the key, and endpoints:
//!
//! - **Both as the provider's own pages have them**: cloudflare, grok, longcat, ollama, qwen, together-ai (but rerank), vllm;
//!   deepseek, minimax and moonshot as well, the endpoints by a table that quotes their pages.
//! - **Address and chat as the provider's pages have them, other endpoints as written before**: github, hunyuan, openrouter,
//!   stepfun, zhipuai. baidu's page names its interfaces (all that are here) without their paths.
//! - **As maintained clients have them**: baichuan (LangChain), doubao (Higress, but the list of models), fireworks (LiteLLM,
//!   Bifrost), mistral (clients made from its OpenAPI), spark and yi (LlamaIndex and others).
//! - **The address as clients have it, endpoints as written before**: groq.
//! - **Not looked up again**: openai, azure, anthropic, gemini, vertex, bedrock, cohere.
//! - **No current source was found**: ai360. An old Higress shows its key bare; the table says `Bearer`.
//!
//! An endpoint that is documented but not here is left out with the reason beside the row.

use super::{Auth, Continue, ProviderKind, Quirks, Row};
use crate::Dialect;
use crate::Endpoint::{self, *};

/// No provider's variant needs care unless it is said here.
const PLAIN: Quirks = Quirks {
    rename: &[],
    drop: &[],
    no_stream_options: false,
    no_developer: false,
    go_on: Continue::Never,
    new_max_tokens: false,
};

/// Servers that refuse the role `developer`, or give it to a model's template which ignores it. All know `system`.
///
/// Seen in issues of clients: deepseek, qwen, openrouter, moonshot, together-ai, zhipuai, cloudflare, grok, ollama, vllm, SGLang. The
/// other ones document system, user, assistant and tool alone. OpenAI, Azure, GitHub and Groq know it; of fireworks nothing
/// was found.
const NO_DEVELOPER: Quirks = Quirks {
    no_developer: true,
    ..PLAIN
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
    ..NO_DEVELOPER
};

/// Claude goes on from an answer's beginning up to 4.5; from 4.6 on the last message must be the user's (Anthropic's guide to
/// migration). Whether Bedrock's other models do depends on the model.
const CLAUDE: Quirks = Quirks {
    go_on: Continue::Claude,
    ..PLAIN
};

/// Providers that go on from an answer's beginning which has `partial: true`: their documentation says so, and that the answer
/// does not repeat it.
const PARTIAL: Continue = Continue::Marked {
    field: "partial",
    repeats: false,
    place: None,
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
static ANTHROPIC: Row = with(
    own(
        Some("https://api.anthropic.com/v1"),
        Dialect::Anthropic,
        Auth::Header("x-api-key"),
        &[Messages, CountTokens, Models],
    ),
    CLAUDE,
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
static BEDROCK: Row = with(own(None, Dialect::Bedrock, Auth::Aws, &[Chat]), CLAUDE);
static COHERE: Row = own(
    Some("https://api.cohere.com/v2"),
    Dialect::Cohere,
    Auth::Bearer,
    &[Chat, Embeddings, Rerank, Models],
);
// Its Responses (`/responses`, since 2026) silently ignores what it does not know: chat, translated, keeps more.
static QWEN: Row = with(
    openai(
        "https://dashscope.aliyuncs.com/compatible-mode/v1",
        &[Chat, Completions, Embeddings, Models],
    ),
    Quirks {
        go_on: PARTIAL,
        ..NO_DEVELOPER
    },
);
// `https://api.deepseek.com/v1` is the same as without `/v1`; beta features are at `/beta`.
static DEEPSEEK: Row = with(
    openai("https://api.deepseek.com/v1", &[Chat, Models]),
    Quirks {
        // "Chat prefix completion", a beta feature.
        go_on: Continue::Marked {
            field: "prefix",
            repeats: false,
            place: Some(("/v1", "/beta")),
        },
        ..OLD_MAX_TOKENS
    },
);
// The international address is https://api.moonshot.ai/v1. Only there Responses are documented, so they are translated.
static MOONSHOT: Row = with(
    openai("https://api.moonshot.cn/v1", &[Chat, Models]),
    Quirks {
        go_on: PARTIAL,
        ..OLD_MAX_TOKENS
    },
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
    Quirks {
        no_developer: true,
        ..NEW_MAX_TOKENS
    },
);
static STEPFUN: Row = with(
    openai(
        "https://api.stepfun.com/v1",
        &[Chat, Models, ImageGenerations, Speech, Transcriptions],
    ),
    OLD_MAX_TOKENS,
);
// A last message of the assistant is continued by some models; the others silently begin anew.
static DOUBAO: Row = with(
    openai(
        "https://ark.cn-beijing.volces.com/api/v3",
        &[Chat, Responses, Embeddings, ImageGenerations, Models],
    ),
    NO_DEVELOPER,
);
// Tencent's newer platform, TokenHub, is another one: `generic` with https://tokenhub.tencentmaas.com/v1.
static HUNYUAN: Row = with(
    openai("https://api.hunyuan.cloud.tencent.com/v1", CHAT),
    OLD_MAX_TOKENS,
);
// Its page on prefilling is older than most of its models.
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
// Edits of images are taken as JSON, not as a form.
static GROK: Row = with(
    openai(
        "https://api.x.ai/v1",
        &[
            Chat,
            Responses,
            Completions,
            Models,
            ImageGenerations,
            ImageEdits,
        ],
    ),
    NO_DEVELOPER,
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
        // Without the field a last message of the assistant is refused. That the prefix is repeated is told by clients
        // (SillyTavern's issue 2557), not by the documentation.
        go_on: Continue::Marked {
            field: "prefix",
            repeats: true,
            place: None,
        },
        ..NO_DEVELOPER
    },
);
static TOGETHER_AI: Row = with(
    openai(
        "https://api.together.ai/v1",
        &[
            Chat,
            Completions,
            Embeddings,
            Models,
            ImageGenerations,
            Speech,
            Transcriptions,
            Translations,
            Rerank,
        ],
    ),
    OLD_MAX_TOKENS,
);
// Transcriptions have hosts of their own.
static FIREWORKS: Row = openai(
    "https://api.fireworks.ai/inference/v1",
    &[Chat, Responses, Completions, Embeddings, Models, Rerank],
);
static OPENROUTER: Row = with(
    openai(
        "https://openrouter.ai/api/v1",
        &[Chat, Responses, Completions, Embeddings, Models],
    ),
    NO_DEVELOPER,
);
// Models are listed elsewhere (`/catalog/models`), in a form of its own.
static GITHUB: Row = with(
    openai("https://models.github.ai/inference", &[Chat, Embeddings]),
    NEW_MAX_TOKENS,
);
// Responses came with 0.13.3; translated to chat they work with every version. Pictures and sound are newer still.
static OLLAMA: Row = with(
    openai(
        "http://127.0.0.1:11434/v1",
        &[
            Chat,
            Completions,
            Embeddings,
            Models,
            ImageGenerations,
            Speech,
            Transcriptions,
        ],
    ),
    OLD_MAX_TOKENS,
);
// SGLang and llama.cpp (since May 2026) take the same flags: with this type their answers can be continued as well.
static VLLM: Row = Row {
    base_url: None,
    quirks: Quirks {
        go_on: Continue::Flagged,
        ..NO_DEVELOPER
    },
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
static BAIDU: Row = with(
    openai(
        "https://qianfan.baidubce.com/v2",
        &[Chat, Embeddings, ImageGenerations, Rerank, Models],
    ),
    NO_DEVELOPER,
);
// Responses are for some of its models only; translated to chat they work with all.
static CLOUDFLARE: Row = Row {
    base_url: None,
    quirks: NO_DEVELOPER,
    ..openai("", &[Chat, Embeddings])
};
// The reasoning models (X1) are at /v2.
static SPARK: Row = with(
    openai("https://spark-api-open.xf-yun.com/v1", &[Chat]),
    OLD_MAX_TOKENS,
);
static LONGCAT: Row = with(
    openai("https://api.longcat.chat/openai/v1", &[Chat, Models]),
    OLD_MAX_TOKENS,
);
// Nobody knows what runs there, so that a broken answer is not continued.
static GENERIC: Row = Row {
    base_url: None,
    quirks: NO_DEVELOPER,
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
        ProviderKind::Generic => &GENERIC,
    }
}
