//! Lists of models, made from the names in the configuration: no provider is asked, so they are the names that work here.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::Dialect;
use crate::json::{Obj, object};

/// A model that callers can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model<'m> {
    /// Its name, as callers write it.
    pub name: &'m str,
    /// Who serves it: the provider's name in the configuration.
    pub owner: &'m str,
}

/// The answer to `GET …/models` in a dialect; `created` is when the configuration was loaded (Unix time, seconds).
pub fn list(
    dialect: Dialect,
    models: &[Model<'_>],
    created: u64,
) -> (StatusCode, HeaderMap, Bytes) {
    let mut out = Vec::with_capacity(64 + 128 * models.len());
    object(&mut out, |body| match dialect {
        Dialect::Anthropic => {
            body.arr("data", |data| {
                for model in models {
                    data.obj(|out| write(out, dialect, model, created));
                }
            });
            body.bool("has_more", false);
            body.str_or_null("first_id", models.first().map(|model| model.name));
            body.str_or_null("last_id", models.last().map(|model| model.name));
        }
        Dialect::Gemini => body.arr("models", |data| {
            for model in models {
                data.obj(|out| write(out, dialect, model, created));
            }
        }),
        _ => {
            body.str("object", "list");
            body.arr("data", |data| {
                for model in models {
                    data.obj(|out| write(out, dialect, model, created));
                }
            });
        }
    });
    answer(out)
}

/// The answer to `GET …/models/NAME`; `None` if there is no such model ([`FaultKind::UnknownModel`](crate::FaultKind)).
pub fn one(
    dialect: Dialect,
    models: &[Model<'_>],
    name: &str,
    created: u64,
) -> Option<(StatusCode, HeaderMap, Bytes)> {
    let model = models.iter().find(|model| model.name == name)?;
    let mut out = Vec::with_capacity(128);
    object(&mut out, |out| write(out, dialect, model, created));
    Some(answer(out))
}

fn answer(body: Vec<u8>) -> (StatusCode, HeaderMap, Bytes) {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (StatusCode::OK, headers, body.into())
}

fn write(out: &mut Obj<'_>, dialect: Dialect, model: &Model<'_>, created: u64) {
    match dialect {
        Dialect::Anthropic => {
            out.str("type", "model");
            out.str("id", model.name);
            out.str("display_name", model.name);
            out.str("created_at", &rfc3339(created));
        }
        Dialect::Gemini => {
            out.str("name", &format!("models/{}", model.name));
            out.str("displayName", model.name);
            out.arr("supportedGenerationMethods", |methods| {
                methods.str("generateContent");
                methods.str("streamGenerateContent");
            });
        }
        _ => {
            out.str("id", model.name);
            out.str("object", "model");
            out.int("created", created);
            out.str("owned_by", model.owner);
        }
    }
}

/// A Unix time in the form of RFC 3339 (days to dates by Howard Hinnant's `civil_from_days`).
fn rfc3339(unix: u64) -> String {
    // Beyond the year 9999 the form has no digits.
    let unix = unix.min(253_402_300_799);
    let (days, rest) = (unix / 86_400, unix % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODELS: &[Model<'_>] = &[
        Model {
            name: "gpt-5",
            owner: "openai",
        },
        Model {
            name: "claude",
            owner: "anthropic",
        },
    ];

    #[test]
    fn each_dialect_has_its_list() {
        let text = |dialect| {
            let (status, headers, body) = list(dialect, MODELS, 1_700_000_000);
            assert_eq!((status.as_u16(), headers.len()), (200, 1));
            String::from_utf8(body.to_vec()).unwrap()
        };
        assert_eq!(
            text(Dialect::OpenAi),
            r#"{"object":"list","data":[{"id":"gpt-5","object":"model","created":1700000000,"owned_by":"openai"},{"id":"claude","object":"model","created":1700000000,"owned_by":"anthropic"}]}"#
        );
        assert_eq!(
            text(Dialect::Anthropic),
            r#"{"data":[{"type":"model","id":"gpt-5","display_name":"gpt-5","created_at":"2023-11-14T22:13:20Z"},{"type":"model","id":"claude","display_name":"claude","created_at":"2023-11-14T22:13:20Z"}],"has_more":false,"first_id":"gpt-5","last_id":"claude"}"#
        );
        assert!(text(Dialect::Gemini).starts_with(r#"{"models":[{"name":"models/gpt-5""#));
    }

    #[test]
    fn a_model_that_is_not_there_is_none() {
        assert!(one(Dialect::OpenAi, MODELS, "gpt-5", 0).is_some());
        assert!(one(Dialect::Anthropic, MODELS, "x", 0).is_none());
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
