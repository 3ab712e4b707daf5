//! The table of providers has the shape that the rest relies on.

use std::collections::HashSet;

use http::Uri;
use tidegate_config::model::ProviderType;
use tidegate_llm::{Auth, BaseUrl, Dialect, Endpoint, ProviderKind, ProviderSpec};

#[test]
fn the_configuration_and_the_table_name_the_same_providers() {
    let configured: Vec<&str> = ProviderType::ALL.iter().map(|kind| kind.as_str()).collect();
    let known: Vec<&str> = ProviderKind::ALL.iter().map(|kind| kind.name()).collect();
    assert_eq!(known, configured);
    let unique: HashSet<&str> = known.iter().copied().collect();
    assert_eq!(unique.len(), known.len());
}

#[test]
fn an_address_is_needed_where_the_configuration_says_so() {
    for (config, kind) in ProviderType::ALL.iter().zip(ProviderKind::ALL) {
        let spec = ProviderSpec::new(*kind, None, None, Some("p"));
        assert_eq!(spec.is_err(), config.needs_base_url(), "{}", kind.name());
    }
}

#[test]
fn every_address_is_https_but_for_one_of_this_machine() {
    for kind in ProviderKind::ALL {
        let row = kind.row();
        if let Some(url) = row.base_url {
            let parsed: Uri = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
            assert!(!url.ends_with('/') && parsed.query().is_none(), "{url}");
        }
        let Ok(spec) = ProviderSpec::new(*kind, None, None, Some("p")) else {
            continue;
        };
        let BaseUrl {
            authority, prefix, ..
        } = &spec.base_url;
        let here = authority.host() == "127.0.0.1";
        assert!(spec.base_url.tls() || here, "{}", kind.name());
        assert!(here || authority.host().contains('.'), "{authority}");
        assert!(prefix.is_empty() || prefix.starts_with('/'), "{prefix}");
    }
}

#[test]
fn a_row_does_not_contradict_itself() {
    for kind in ProviderKind::ALL {
        let row = kind.row();
        let name = kind.name();
        let served: HashSet<Endpoint> = row.serves.iter().copied().collect();
        assert_eq!(served.len(), row.serves.len(), "{name} serves one twice");
        // Every one can be asked for text: what all others are translated to.
        let text = match row.dialect {
            Dialect::OpenAi | Dialect::Cohere | Dialect::Bedrock => Endpoint::Chat,
            Dialect::Anthropic => Endpoint::Messages,
            Dialect::Gemini => Endpoint::Generate,
        };
        assert!(served.contains(&text), "{name}");
        assert!(!served.contains(&Endpoint::Other), "{name}");
        assert_eq!(row.auth == Auth::Aws, *kind == ProviderKind::Bedrock);
        if let Auth::Header(header) = row.auth {
            http::HeaderName::from_static(header);
        }
        // A field is renamed or dropped, not both, and never to one that is dropped.
        for (from, to) in row.quirks.rename {
            assert!(
                !row.quirks.drop.contains(from) && !row.quirks.drop.contains(to),
                "{name}"
            );
        }
    }
}
