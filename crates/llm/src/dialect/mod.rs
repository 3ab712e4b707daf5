//! The languages that callers and providers speak, and what can be asked in them.

/// A family of request and answer formats.
///
/// A front (what a caller speaks) is one of the first three; a provider may speak any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's API: chat completions, responses, completions, embeddings, images, audio.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Google's `generateContent`.
    Gemini,
    /// Cohere's API, version 2.
    Cohere,
    /// Amazon Bedrock's Converse.
    Bedrock,
}

/// What is asked of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// OpenAI `POST /v1/chat/completions`.
    Chat,
    /// OpenAI `POST /v1/responses`.
    Responses,
    /// OpenAI `POST /v1/completions` (legacy).
    Completions,
    /// OpenAI `POST /v1/embeddings`.
    Embeddings,
    /// `GET` of the list of models, or of one, in any dialect.
    Models,
    /// OpenAI `POST /v1/images/generations`.
    ImageGenerations,
    /// OpenAI `POST /v1/images/edits` (multipart or JSON).
    ImageEdits,
    /// OpenAI `POST /v1/images/variations` (multipart).
    ImageVariations,
    /// OpenAI `POST /v1/audio/speech`.
    Speech,
    /// OpenAI `POST /v1/audio/transcriptions` (multipart).
    Transcriptions,
    /// OpenAI `POST /v1/audio/translations` (multipart).
    Translations,
    /// OpenAI `POST /v1/moderations`.
    Moderations,
    /// `POST /v1/rerank` (Cohere's format, spoken by several).
    Rerank,
    /// Anthropic `POST /v1/messages`.
    Messages,
    /// Anthropic `POST /v1/messages/count_tokens`.
    CountTokens,
    /// Gemini `models/{model}:generateContent`.
    Generate,
    /// Gemini `models/{model}:streamGenerateContent`.
    StreamGenerate,
    /// Gemini `models/{model}:embedContent`.
    EmbedContent,
    /// Gemini `models/{model}:batchEmbedContents`.
    BatchEmbedContents,
    /// Gemini `models/{model}:countTokens`.
    GeminiCountTokens,
}
