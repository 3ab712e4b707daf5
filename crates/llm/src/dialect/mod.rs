//! The languages that callers and providers speak, and what can be asked in them.

mod recognise;

pub use recognise::Front;

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
    /// Anything else: passed on as it is to a provider whose dialect is `original` ([`Call::original`](crate::Call::original)).
    Other,
}

impl Endpoint {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::Other as usize + 1;

    /// The dialect in which callers ask this. [`Endpoint::Models`] is asked in each; OpenAI's is given.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Messages | Self::CountTokens => Dialect::Anthropic,
            Self::Generate
            | Self::StreamGenerate
            | Self::EmbedContent
            | Self::BatchEmbedContents
            | Self::GeminiCountTokens => Dialect::Gemini,
            _ => Dialect::OpenAi,
        }
    }

    /// For metrics and logs: bounded, and named as the GenAI conventions of OpenTelemetry name operations where they do.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Chat | Self::Responses | Self::Messages => "chat",
            Self::Completions => "text_completion",
            Self::Generate | Self::StreamGenerate => "generate_content",
            Self::Embeddings | Self::EmbedContent | Self::BatchEmbedContents => "embeddings",
            Self::Models => "models",
            Self::ImageGenerations | Self::ImageEdits | Self::ImageVariations => "images",
            Self::Speech => "speech",
            Self::Transcriptions | Self::Translations => "transcription",
            Self::Moderations => "moderation",
            Self::Rerank => "rerank",
            Self::CountTokens | Self::GeminiCountTokens => "count_tokens",
            Self::Other => "other",
        }
    }

    /// Whether a model generates text here, that is whether the endpoint can be translated into any other of this kind.
    pub fn generates(self) -> bool {
        matches!(
            self,
            Self::Chat
                | Self::Responses
                | Self::Completions
                | Self::Messages
                | Self::Generate
                | Self::StreamGenerate
        )
    }

    /// Whether the body of a request may be a multipart form.
    pub fn takes_forms(self) -> bool {
        matches!(
            self,
            Self::ImageEdits | Self::ImageVariations | Self::Transcriptions | Self::Translations
        )
    }
}
