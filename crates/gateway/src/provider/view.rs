//! What is shown of providers.
