//! The tree, with the accessors that translation needs: a missing key is null, a wrong type is `None`.

use std::borrow::Cow;

/// A JSON value that borrows its strings from the text and keeps the order of keys (in a schema the order tells a model
/// what to generate first).
pub(crate) type Json<'a> = serde_json_borrow::Value<'a>;

static NULL: Json<'static> = Json::Null;

/// Parses a whole text. Depth is bounded by the parser (128).
pub(crate) fn parse(text: &[u8]) -> Result<Json<'_>, serde_json::Error> {
    serde_json::from_slice(text)
}

/// Reading a tree.
pub(crate) trait Tree<'a> {
    /// The value of a key; null where there is none.
    fn at<'t>(&'t self, key: &str) -> &'t Json<'a>;
    /// A string.
    fn text(&self) -> Option<&str>;
    /// A string that borrows from the text where it can.
    fn cow(&self) -> Option<Cow<'a, str>>;
    /// An array's items; empty for all else.
    fn items(&self) -> &[Json<'a>];
    /// An integer, also one written as `1.0`.
    fn int(&self) -> Option<u64>;
    /// Any number.
    fn float(&self) -> Option<f64>;
    /// A truth value.
    fn truth(&self) -> Option<bool>;
    /// Not null.
    fn given(&self) -> bool;
}

impl<'a> Tree<'a> for Json<'a> {
    fn at<'t>(&'t self, key: &str) -> &'t Json<'a> {
        match self {
            Json::Object(object) => object
                .as_vec()
                .iter()
                .find(|(name, _)| name == &key)
                .map_or(null(), |(_, value)| value),
            _ => null(),
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Json::Str(text) => Some(text),
            _ => None,
        }
    }

    fn cow(&self) -> Option<Cow<'a, str>> {
        match self {
            Json::Str(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn items(&self) -> &[Json<'a>] {
        match self {
            Json::Array(items) => items,
            _ => &[],
        }
    }

    fn int(&self) -> Option<u64> {
        match self {
            Json::Number(number) => number.as_u64().or_else(|| {
                let value = number.as_f64()?;
                // Beyond 2^53 a float is no exact integer.
                (value.fract() == 0.0 && (0.0..9.007e15).contains(&value)).then_some(value as u64)
            }),
            _ => None,
        }
    }

    fn float(&self) -> Option<f64> {
        match self {
            Json::Number(number) => number.as_f64(),
            _ => None,
        }
    }

    fn truth(&self) -> Option<bool> {
        match self {
            Json::Bool(value) => Some(*value),
            _ => None,
        }
    }

    fn given(&self) -> bool {
        !matches!(self, Json::Null)
    }
}

fn null<'t, 'a>() -> &'t Json<'a> {
    &NULL
}
