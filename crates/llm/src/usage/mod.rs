//! Tokens used, in one shape for every provider.

/// Tokens of one answer.
///
/// The providers count in different ways (is what was read from a cache part of the input? is reasoning part of the
/// output?). Here `input` is everything that the model read and `output` everything that it wrote; the other fields are
/// parts of these two and never added to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Usage {
    /// All tokens of the prompt, cached ones included.
    pub input: u64,
    /// All tokens generated, reasoning included.
    pub output: u64,
    /// Part of `input` that was read from the provider's cache.
    pub cached: u64,
    /// Part of `input` that was written to the provider's cache.
    pub cache_written: u64,
    /// Part of `output` that was reasoning.
    pub reasoning: u64,
    /// Part of `input` that was audio.
    pub audio_input: u64,
    /// Part of `output` that was audio.
    pub audio_output: u64,
    /// The provider did not report; the figures are estimated from bytes.
    pub estimated: bool,
}

impl Usage {
    /// `input` and `output` together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.input.saturating_add(self.output)
    }
}
