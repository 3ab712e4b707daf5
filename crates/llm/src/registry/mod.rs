//! The providers that Tidegate knows: where they are and what is particular about them.

/// A provider by its type in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the names of companies and products")]
pub enum ProviderKind {
    OpenAi,
    Azure,
    Anthropic,
    Gemini,
    Vertex,
    Bedrock,
    Cohere,
    Qwen,
    DeepSeek,
    Moonshot,
    ZhipuAi,
    Baichuan,
    Yi,
    MiniMax,
    StepFun,
    Doubao,
    Hunyuan,
    Groq,
    Grok,
    Mistral,
    TogetherAi,
    Fireworks,
    OpenRouter,
    GitHub,
    Ollama,
    Vllm,
    Ai360,
    Baidu,
    Cloudflare,
    Spark,
    LongCat,
    Triton,
    /// Anything that speaks OpenAI's dialect at a base URL of its own.
    Generic,
}
