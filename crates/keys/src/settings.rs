//! A provider as the configuration has it, made ready for use.

use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use tidegate_config::model as config;
use tidegate_llm::ProviderKind;
use tidegate_llm::registry::{ProviderSpec, SpecError};
use tidegate_llm::service_account::AccountError;

use crate::choice::Choice;
use crate::failover::Failover;
use crate::key::Token;
use crate::mapping::Mapping;

/// Everything that a [`Provider`](crate::Provider) is told.
#[derive(Debug)]
pub struct Settings {
    /// Unique name.
    pub name: Arc<str>,
    /// What requests are built from.
    pub spec: ProviderSpec,
    /// Keys with their weights, at least 1 each. None: a provider that needs no key.
    pub keys: Vec<(Token, u32)>,
    /// Models' names.
    pub mapping: Mapping,
    /// Models that are listed.
    pub models: Vec<String>,
    /// How a key is chosen.
    pub choice: Choice,
    /// When a key is spared.
    pub failover: Failover,
    /// Bounds of an attempt.
    pub timeouts: config::ProviderTimeouts,
}

/// Why a provider can't be made from its configuration. The configuration refuses most of it before, with a place.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A type that this build does not know.
    #[error("{0:?} is no known type of provider")]
    Kind(&'static str),
    /// Its address or what else its type needs.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// An expression in `model_mapping` or `on_status`.
    #[error("an expression does not compile: {0}")]
    Expression(#[from] regex::Error),
    /// A service account's key file.
    #[error("a key is no key file of a service account: {0}")]
    Account(#[from] AccountError),
    /// A header that can't be sent.
    #[error("header {0:?} can't be sent")]
    Header(String),
}

impl Settings {
    /// Reads the configuration's section.
    ///
    /// # Errors
    /// See [`SettingsError`].
    pub fn of(section: &config::Provider) -> Result<Settings, SettingsError> {
        let kind = section.kind.as_str();
        let kind = ProviderKind::from_name(kind).ok_or(SettingsError::Kind(kind))?;
        let base_url = section.base_url.as_ref().map(ToString::to_string);
        let mut spec = ProviderSpec::new(
            kind,
            base_url.as_deref(),
            section.region.as_deref(),
            section.project.as_deref(),
        )?;
        spec.original =
            section.protocol.unwrap_or(section.dialect) == config::ProviderDialect::Original;
        if let Some(version) = &section.api_version {
            spec.api_version = version.clone();
        }
        for (name, value) in &section.headers {
            let bad = || SettingsError::Header(name.as_str().to_owned());
            let header = HeaderName::try_from(name.as_str()).map_err(|_| bad())?;
            let mut text = HeaderValue::try_from(value.expose()).map_err(|_| bad())?;
            text.set_sensitive(value.is_sensitive());
            spec.headers.push((header, text));
        }
        let mapping = Mapping::new(&section.model_mapping)?;
        let models = match section.models.is_empty() {
            true => section
                .model_mapping
                .0
                .iter()
                .filter_map(exact_name)
                .collect(),
            false => section.models.clone(),
        };
        Ok(Settings {
            name: section.name.as_str().into(),
            spec,
            keys: section
                .api_tokens
                .iter()
                .map(|key| Ok((Token::of(kind, key.token.expose())?, key.weight.max(1))))
                .collect::<Result<_, AccountError>>()?,
            mapping,
            models,
            choice: Choice::of(&section.choose),
            failover: Failover::new(&section.failover)?,
            timeouts: section.timeouts.clone(),
        })
    }

    /// Where the provider is, as a part of its keys' identity: scheme, host and port.
    pub fn origin(&self) -> String {
        let base = &self.spec.base_url;
        format!(
            "{}://{}:{}",
            base.scheme,
            base.authority.host(),
            base.port()
        )
    }
}

fn exact_name((pattern, _): &(tidegate_config::values::ModelPattern, String)) -> Option<String> {
    match pattern {
        tidegate_config::values::ModelPattern::Exact(name) => Some(name.clone()),
        _ => None,
    }
}
