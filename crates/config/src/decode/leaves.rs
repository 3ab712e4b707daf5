//! Scalars: texts, numbers, booleans and everything that is written as one word.

use super::{Cx, Decode};
use crate::env;
use crate::node::{Kind, Node, Scalar};
use crate::schema::Defs;
use crate::values::{
    ByteSize, Cidr, GrpcStatus, HostPattern, HostPort, HttpUrl, LimitKey, Method, ModelPattern,
    Pattern, Percent, Period, RetryOn, ServiceUrl, SizeBound, StatusRange, Wrong, format_duration,
    parse_duration,
};
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::time::Duration;

/// The scalar that a node is, or a report of what it is instead.
pub(crate) fn scalar<'n>(
    node: &'n Node,
    cx: &mut Cx<'_>,
    expected: &str,
    help: &str,
) -> Option<&'n Scalar> {
    match &node.kind {
        Kind::Scalar(scalar) => Some(scalar),
        _ => {
            cx.mismatch(node, expected, help);
            None
        }
    }
}

impl Decode for String {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        scalar(node, cx, "a text", "write a text; an empty one is \"\"")
            .map(|scalar| scalar.text.to_string())
    }

    fn encode(&self) -> Json {
        Json::from(env::escape(self))
    }

    fn schema(_: &mut Defs) -> Json {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

impl Decode for bool {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let help = "write true or false, without quotes";
        let scalar = scalar(node, cx, "true or false", help)?;
        match &*scalar.text {
            "true" if !scalar.quoted || scalar.from_env => Some(true),
            "false" if !scalar.quoted || scalar.from_env => Some(false),
            _ => {
                cx.mismatch(node, "true or false", help);
                None
            }
        }
    }

    fn encode(&self) -> Json {
        Json::from(*self)
    }

    fn schema(defs: &mut Defs) -> Json {
        defs.or_variable(json!({ "type": "boolean" }))
    }
}

macro_rules! whole_number {
    ($($ty:ty),*) => { $(
        impl Decode for $ty {
            fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
                whole(node, cx, u64::from(<$ty>::MAX)).and_then(|value| <$ty>::try_from(value).ok())
            }

            fn encode(&self) -> Json {
                Json::from(*self)
            }

            fn schema(defs: &mut Defs) -> Json {
                defs.or_variable(json!({ "type": "integer", "minimum": 0, "maximum": <$ty>::MAX }))
            }
        }
    )* };
}
whole_number!(u16, u32, u64);

fn whole(node: &Node, cx: &mut Cx<'_>, max: u64) -> Option<u64> {
    let expected = "a whole number";
    let scalar = scalar(node, cx, expected, "write a number such as 5")?;
    if scalar.quoted && !scalar.from_env {
        cx.mismatch(node, expected, "remove the quotes");
        return None;
    }
    match scalar.text.parse::<i128>() {
        Ok(value) if value < 0 => cx.error(
            node.span,
            "a negative number",
            format!("write a whole number from 0 to {max}"),
        ),
        Ok(value) => match u64::try_from(value).ok().filter(|value| *value <= max) {
            Some(value) => return Some(value),
            None => cx.error(
                node.span,
                "a number that is too large",
                format!("write a whole number from 0 to {max}"),
            ),
        },
        Err(_) if scalar.text.parse::<f64>().is_ok() => {
            cx.error(
                node.span,
                "a number that is not whole",
                format!("write a whole number from 0 to {max}"),
            );
        }
        Err(_) => cx.mismatch(node, expected, "write a whole number such as 5"),
    }
    None
}

impl Decode for f64 {
    const OFF: bool = true;

    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let scalar = scalar(node, cx, "a number", "write a number such as 1.5")?;
        if scalar.quoted && !scalar.from_env {
            cx.mismatch(node, "a number", "remove the quotes");
            return None;
        }
        match scalar.text.parse::<f64>() {
            Ok(value) if value.is_finite() => Some(value),
            _ => {
                cx.mismatch(node, "a number", "write a number such as 1.5");
                None
            }
        }
    }

    fn encode(&self) -> Json {
        Json::from(*self)
    }

    fn schema(defs: &mut Defs) -> Json {
        defs.or_variable(json!({ "type": "number" }))
    }
}

/// Types that are read by `FromStr` and written by `Display`.
macro_rules! word {
    ($($ty:ty: $expected:literal, $help:literal, $json:tt;)*) => { $(
        impl Decode for $ty {
            fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
                parsed(node, cx, $expected, $help, |text| text.parse::<$ty>())
            }

            fn encode(&self) -> Json {
                Json::from(env::escape(&self.to_string()))
            }

            fn schema(_: &mut Defs) -> Json {
                json!({ "type": $json })
            }
        }
    )* };
}
word! {
    ByteSize: "a size", "write a number of bytes or a size such as 64KiB", ["string", "integer"];
    SizeBound: "a size", "write a size such as 4GiB, or off", ["string", "integer", "boolean"];
    Percent: "a percentage", "write a percentage such as 20%", ["string", "number"];
    Period: "a period", "write second, minute, hour, day or a duration", "string";
    HostPort: "an address", "write host:port", "string";
    HttpUrl: "a URL", "write http://host:port", "string";
    ServiceUrl: "a URL", "write https://host or https://host/path", "string";
    ModelPattern: "a pattern of models", "write a name, a prefix such as gpt-4*, an expression such as ~^gpt, or *", "string";
    Cidr: "a network", "write a network such as 10.0.0.0/8", "string";
    HostPattern: "a host name", "write a name, *.name or *", "string";
    LimitKey: "a key to count by", "write header:NAME, cookie:NAME, query:NAME, source_ip, host, path or method", "string";
    Method: "an HTTP method", "write a method such as GET", "string";
    Pattern: "a regular expression", "write an expression in single quotes", "string";
    crate::values::HeaderName: "a header's name", "write a name such as x-user", "string";
    GrpcStatus: "a gRPC status", "write a name such as unavailable, or a number from 0 to 16", ["string", "integer"];
    StatusRange: "a status", "write e.g. 200 or 200-299", ["string", "integer"];
    RetryOn: "an outcome", "write e.g. connect-failure or 503", ["string", "integer"];
}

/// Reads a word.
pub(crate) fn parsed<T>(
    node: &Node,
    cx: &mut Cx<'_>,
    expected: &str,
    help: &str,
    parse: impl FnOnce(&str) -> Result<T, Wrong>,
) -> Option<T> {
    let scalar = scalar(node, cx, expected, help)?;
    match parse(&scalar.text) {
        Ok(value) => Some(value),
        Err(wrong) => {
            cx.wrong(node.span, wrong);
            None
        }
    }
}

impl Decode for Duration {
    const OFF: bool = true;

    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        parsed(
            node,
            cx,
            "a duration",
            "write a number with its unit, e.g. 30s",
            parse_duration,
        )
    }

    fn encode(&self) -> Json {
        Json::from(format_duration(*self))
    }

    fn schema(_: &mut Defs) -> Json {
        json!({ "type": ["string", "integer"], "pattern": r"^((\d+(\.\d+)?|\.\d+)(ns|us|µs|ms|s|m|h|d))+$|\$\{|^0$", "maximum": 0 })
    }
}

impl Decode for SocketAddr {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let help = "write ip:port, e.g. 127.0.0.1:53";
        parsed(node, cx, "an address", help, |text| {
            text.parse().map_err(|_| Wrong::new("not ip:port", help))
        })
    }

    fn encode(&self) -> Json {
        Json::from(self.to_string())
    }

    fn schema(_: &mut Defs) -> Json {
        json!({ "type": "string" })
    }
}
