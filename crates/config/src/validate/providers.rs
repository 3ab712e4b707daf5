//! Providers: what each type needs, keys that are given twice, routes that ask of a target what it can't do.

use crate::decode::{Cx, Fields};
use crate::model::{
    Destination, FallbackDestination, FallbackTarget, Provider, ProviderType, Route, Target,
    VirtualKeys,
};
use crate::problem::Problem;
use std::collections::HashMap;

impl ProviderType {
    /// Whether it answers without a key.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Ollama | Self::Vllm | Self::Generic)
    }

    /// Whether there is no address that fits everybody.
    #[must_use]
    pub fn needs_base_url(self) -> bool {
        matches!(
            self,
            Self::Azure | Self::Vllm | Self::Cloudflare | Self::Generic
        )
    }
}

pub(crate) fn provider(provider: &mut Provider, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if let Some(protocol) = provider.protocol.take() {
        if let (Some(span), Some(other)) = (fields.span_of("protocol"), fields.span_of("dialect")) {
            let problem = Problem::error(
                span,
                "`protocol` and `dialect` are the same",
                "keep one of them",
            );
            cx.report(problem.related("the other is here", other));
        }
        provider.dialect = protocol;
    }
    let kind = provider.kind;
    if kind.needs_base_url() && provider.base_url.is_none() && !fields.misspelt {
        let help = match kind {
            ProviderType::Azure => "add `base_url: https://RESOURCE.openai.azure.com`",
            ProviderType::Cloudflare => {
                "add `base_url: https://api.cloudflare.com/client/v4/accounts/ACCOUNT/ai/v1`"
            }
            _ => "add `base_url: http://HOST:PORT`",
        };
        cx.error(
            fields.span(),
            format!("`{}` has no address of its own", kind.as_str()),
            help,
        );
    }
    if kind == ProviderType::Vertex && provider.project.is_none() && !fields.misspelt {
        cx.error(
            fields.span(),
            "`vertex` without a project",
            "add `project: NAME`",
        );
    }
    for (key, used) in [
        ("api_version", kind == ProviderType::Azure),
        (
            "region",
            matches!(kind, ProviderType::Bedrock | ProviderType::Vertex),
        ),
        ("project", kind == ProviderType::Vertex),
    ] {
        if let (false, Some(span)) = (used, fields.span_of(key)) {
            cx.error(
                span,
                format!("`{key}` means nothing to `{}`", kind.as_str()),
                "remove it",
            );
        }
    }
    let failover = &provider.failover;
    if !failover.on_status.is_empty()
        && failover.health_check_model.is_none()
        && failover.cooldown.is_zero()
        && let Some(span) = fields.span_of("failover")
    {
        cx.error(
            span,
            "`on_status` without `health_check_model` and without `cooldown`: a key that is out would never come back",
            "add `health_check_model: MODEL`, so that probes bring keys back, or `cooldown: 1m`",
        );
    }
    keys(provider, fields, cx);
}

fn keys(provider: &Provider, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    let node = fields.node("api_tokens");
    if provider.api_tokens.is_empty() && !provider.kind.is_open() && !fields.misspelt {
        let span = node.map_or(fields.span(), |node| node.span);
        cx.error(
            span,
            "a provider without keys",
            "add `api_tokens: [ \"${NAME}\" ]`",
        );
    }
    let Some(node) = node else { return };
    let mut seen = HashMap::new();
    for (index, (token, node)) in provider.api_tokens.iter().zip(node.items()).enumerate() {
        if let Some(first) = seen.insert(token.token.expose(), node.span) {
            let problem = Problem::error(
                node.span,
                "the same key a second time",
                "give it a larger share by `{ token, weight }` and `choose: weighted`, or remove it",
            );
            cx.below(format!("api_tokens[{index}]"), |cx| {
                cx.report(problem.related("the first is here", first))
            });
        }
    }
}

pub(crate) fn target(target: &mut Target, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    model_needs_provider(
        matches!(target.destination, Destination::Provider(_)),
        fields,
        cx,
    );
}

pub(crate) fn fallback(target: &mut FallbackTarget, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    let provider = matches!(target.destination, FallbackDestination::Provider(_));
    model_needs_provider(provider, fields, cx);
}

fn model_needs_provider(provider: bool, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if let (false, Some(span)) = (provider, fields.span_of("model")) {
        cx.error(
            span,
            "`model` without a provider",
            "an upstream gets the request as it is: remove it",
        );
    }
}

/// Keys of a route that only providers can honour, or that they can't.
pub(crate) fn route_to_providers(route: &Route, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    let first = |t: &Target| matches!(t.destination, Destination::Provider(_));
    let next = |t: &FallbackTarget| matches!(t.destination, FallbackDestination::Provider(_));
    let all = route.to.iter().all(first) && route.fallback.iter().all(next);
    let any = route.to.iter().any(first) || route.fallback.iter().any(next);
    if !all {
        let set = [
            ("heartbeat", route.heartbeat.is_some()),
            ("continue", route.continue_stream),
        ];
        for (key, _) in set.iter().filter(|(_, set)| *set) {
            if let Some(span) = fields.span_of(key) {
                let message = format!("`{key}` on a route whose targets are not all providers");
                let help = "what an upstream answers is passed on as it is: nothing can be put in front of it";
                cx.error(span, message, help);
            }
        }
    }
    if !any
        && route.virtual_keys != VirtualKeys::Off
        && let Some(span) = fields.span_of("virtual_keys")
    {
        cx.error(
            span,
            "`virtual_keys` on a route without a provider",
            "remove it",
        );
    }
    if any
        && route.hedge.is_some()
        && let Some(span) = fields.span_of("hedge")
    {
        let help = "two providers would be paid for one answer: remove it";
        cx.error(span, "`hedge` on a route to a provider", help);
    }
}
