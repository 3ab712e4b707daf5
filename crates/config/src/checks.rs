//! Checks of single values: what a type alone does not say.

use crate::decode::Cx;
use crate::names::Namespace;
use crate::node::Node;
use crate::values::{ByteSize, format_duration};
use serde_json::Value as Json;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

/// A condition on a value.
pub(crate) trait Check<T> {
    /// Reports what is wrong with the value.
    fn check(&self, value: &T, node: &Node, cx: &mut Cx<'_>);

    /// Says the condition in the value's JSON Schema, where it can be said.
    fn constrain(&self, _schema: &mut Json) {}
}

/// No condition.
pub(crate) struct Anything;
impl<T> Check<T> for Anything {
    fn check(&self, _: &T, _: &Node, _: &mut Cx<'_>) {}
}

/// A number from the first to the second.
pub(crate) struct Within<T>(pub(crate) T, pub(crate) T);

macro_rules! within {
    ($($ty:ty),*) => { $(
        impl Check<$ty> for Within<$ty> {
            fn check(&self, value: &$ty, node: &Node, cx: &mut Cx<'_>) {
                if *value < self.0 || *value > self.1 {
                    cx.error(node.span, "a number out of range", format!("write a number from {} to {}", self.0, self.1));
                }
            }

            fn constrain(&self, schema: &mut Json) {
                bounds(schema, &Json::from(self.0), &Json::from(self.1));
            }
        }

        impl Check<Option<$ty>> for Within<$ty> {
            fn check(&self, value: &Option<$ty>, node: &Node, cx: &mut Cx<'_>) {
                if let Some(value) = value {
                    self.check(value, node, cx);
                }
            }

            fn constrain(&self, schema: &mut Json) {
                Check::<$ty>::constrain(self, schema);
            }
        }
    )* };
}
within!(u16, u32, u64, f64);

fn bounds(schema: &mut Json, min: &Json, max: &Json) {
    if let Some(alternatives) = schema.get_mut("anyOf").and_then(Json::as_array_mut) {
        alternatives
            .iter_mut()
            .for_each(|schema| bounds(schema, min, max));
    } else if schema
        .get("type")
        .is_some_and(|t| t == "integer" || t == "number")
    {
        schema["minimum"] = min.clone();
        schema["maximum"] = max.clone();
    }
}

/// A duration from the first to the second.
pub(crate) struct Lasting(pub(crate) Duration, pub(crate) Duration);

/// More than nothing, up to a day: every timeout and interval.
pub(crate) const TIMER: Lasting = Lasting(Duration::from_micros(1), Duration::from_secs(86_400));

impl Check<Duration> for Lasting {
    fn check(&self, value: &Duration, node: &Node, cx: &mut Cx<'_>) {
        if *value < self.0 || *value > self.1 {
            let message = if value.is_zero() {
                "a time of no length"
            } else {
                "a time out of range"
            };
            cx.error(
                node.span,
                message,
                format!(
                    "write a time from {} to {}",
                    format_duration(self.0),
                    format_duration(self.1)
                ),
            );
        }
    }
}

impl Check<Option<Duration>> for Lasting {
    fn check(&self, value: &Option<Duration>, node: &Node, cx: &mut Cx<'_>) {
        match value {
            Some(Duration::ZERO) => {
                cx.error(node.span, "a time of no length", "write `off` for no bound")
            }
            Some(value) => self.check(value, node, cx),
            None => {}
        }
    }
}

/// A size from the first to the second.
pub(crate) struct SizeWithin(pub(crate) ByteSize, pub(crate) ByteSize);
impl Check<ByteSize> for SizeWithin {
    fn check(&self, value: &ByteSize, node: &Node, cx: &mut Cx<'_>) {
        if *value < self.0 || *value > self.1 {
            cx.error(
                node.span,
                "a size out of range",
                format!("write a size from {} to {}", self.0, self.1),
            );
        }
    }
}

/// Not empty.
pub(crate) struct NotEmpty;
impl Check<String> for NotEmpty {
    fn check(&self, value: &String, node: &Node, cx: &mut Cx<'_>) {
        if value.trim().is_empty() {
            cx.error(node.span, "an empty text", "write a text");
        }
    }

    fn constrain(&self, schema: &mut Json) {
        schema["minLength"] = 1.into();
    }
}
impl<T> Check<Vec<T>> for NotEmpty {
    fn check(&self, value: &Vec<T>, node: &Node, cx: &mut Cx<'_>) {
        if value.is_empty() && !matches!(node.kind, crate::node::Kind::Broken) {
            cx.error(node.span, "an empty list", "add at least one entry");
        }
    }
}
impl Check<Option<String>> for NotEmpty {
    fn check(&self, value: &Option<String>, node: &Node, cx: &mut Cx<'_>) {
        if let Some(value) = value {
            self.check(value, node, cx);
        }
    }
}

/// The name of something, by which other parts refer to it and which metrics carry as a label.
pub(crate) struct Defines(pub(crate) Namespace);
impl Check<String> for Defines {
    fn check(&self, value: &String, node: &Node, cx: &mut Cx<'_>) {
        let good = |c: char| c.is_alphanumeric() || "_-.:/@".contains(c);
        if value.is_empty() || value.chars().count() > 128 || !value.chars().all(good) {
            cx.error(
                node.span,
                "not a name",
                "write 1 to 128 letters, digits or one of _ - . : / @",
            );
            return;
        }
        let path = cx.path_string();
        cx.names.define(self.0, value, node.span, path);
    }

    fn constrain(&self, schema: &mut Json) {
        schema["minLength"] = 1.into();
        schema["maxLength"] = 128.into();
    }
}

/// A reference to something by its name.
pub(crate) struct Refers(pub(crate) Namespace);
impl Check<String> for Refers {
    fn check(&self, value: &String, node: &Node, cx: &mut Cx<'_>) {
        let path = cx.path_string();
        cx.names.refer(self.0, value, node.span, path);
    }
}
impl Check<Vec<String>> for Refers {
    fn check(&self, value: &Vec<String>, node: &Node, cx: &mut Cx<'_>) {
        for (index, (name, node)) in value.iter().zip(node.items()).enumerate() {
            cx.below(format!("[{index}]"), |cx| self.check(name, node, cx));
        }
        if value.is_empty() {
            cx.error(node.span, "an empty list", "add at least one name");
        }
    }
}

/// The path of a request: begins with `/`, has no query.
pub(crate) struct RequestPath;
impl Check<String> for RequestPath {
    fn check(&self, value: &String, node: &Node, cx: &mut Cx<'_>) {
        if !value.starts_with('/') {
            cx.error(
                node.span,
                "a path that does not begin with `/`",
                format!("write /{}", value.trim_start_matches('*')),
            );
        } else if value.contains(['?', '#']) {
            cx.error(
                node.span,
                "a path with a query or a fragment",
                "a path ends before `?`; query parameters are matched by `query`",
            );
        } else if value.chars().any(|c| c.is_control() || c == ' ') {
            cx.error(
                node.span,
                "a path with blanks or control characters",
                "write it as it is on the wire, percent-encoded",
            );
        } else if value.contains('\\') {
            cx.error(
                node.span,
                "a path with a backslash",
                "no path on the wire holds one: write `/`, or %5C for one that is data",
            );
        } else if !escapes_hold(value) {
            cx.error(
                node.span,
                "a path with a broken escape",
                "`%` is followed by two hexadecimal digits, not 00; a percent sign is %25",
            );
        }
    }

    fn constrain(&self, schema: &mut Json) {
        schema["pattern"] = r"^/|\$\{".into();
    }
}
impl Check<Option<String>> for RequestPath {
    fn check(&self, value: &Option<String>, node: &Node, cx: &mut Cx<'_>) {
        if let Some(value) = value {
            self.check(value, node, cx);
        }
    }

    fn constrain(&self, schema: &mut Json) {
        Check::<String>::constrain(self, schema);
    }
}

/// Whether each `%` begins a byte's escape. A zero byte is refused in requests, so that none would match.
fn escapes_hold(path: &str) -> bool {
    path.split('%').skip(1).all(|after| {
        after
            .get(..2)
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()) && digits != "00")
    })
}

/// `true`: the key is there to choose something, and choosing nothing is done by leaving it out.
pub(crate) struct True;
impl Check<bool> for True {
    fn check(&self, value: &bool, node: &Node, cx: &mut Cx<'_>) {
        if !value {
            cx.error(
                node.span,
                "false where only true has a meaning",
                "remove the key instead",
            );
        }
    }

    fn constrain(&self, schema: &mut Json) {
        *schema = serde_json::json!({ "const": true });
    }
}

/// One of several numbers.
pub(crate) struct OneOfNumbers(pub(crate) &'static [u16]);
impl Check<u16> for OneOfNumbers {
    fn check(&self, value: &u16, node: &Node, cx: &mut Cx<'_>) {
        if !self.0.contains(value) {
            let known = self
                .0
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            cx.error(
                node.span,
                "not one of the known statuses",
                format!("write one of {known}"),
            );
        }
    }

    fn constrain(&self, schema: &mut Json) {
        *schema = serde_json::json!({ "enum": self.0 });
    }
}

/// A PEM file that can be read and holds a block with this label.
pub(crate) struct Pem(pub(crate) &'static str);

/// Larger than any bundle of authorities.
const MAX_PEM: u64 = 4 << 20;

impl Check<PathBuf> for Pem {
    fn check(&self, path: &PathBuf, node: &Node, cx: &mut Cx<'_>) {
        let mut text = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| {
            if file.metadata()?.is_file() {
                file.take(MAX_PEM).read_to_end(&mut text)
            } else {
                Err(std::io::Error::other("not a file"))
            }
        });
        let label = self.0;
        if let Err(error) = read {
            let help = format!(
                "a PEM file with a {} block; a relative path starts at the folder of this file",
                label.to_lowercase()
            );
            cx.error(
                node.span,
                format!("cannot read {}: {error}", path.display()),
                help,
            );
            return;
        }
        let text = String::from_utf8_lossy(&text);
        let found = text.lines().any(|line| {
            line.starts_with("-----BEGIN ")
                && line.trim_end().trim_end_matches('-').ends_with(label)
        });
        if !found {
            let help = format!("the file needs a `-----BEGIN {label}-----` block");
            cx.error(
                node.span,
                format!("no {} in {}", label.to_lowercase(), path.display()),
                help,
            );
        }
    }
}
impl Check<Option<PathBuf>> for Pem {
    fn check(&self, value: &Option<PathBuf>, node: &Node, cx: &mut Cx<'_>) {
        if let Some(value) = value {
            self.check(value, node, cx);
        }
    }
}

/// A condition that a function checks.
pub(crate) struct By<T>(pub(crate) fn(&T, &Node, &mut Cx<'_>));
impl<T> Check<T> for By<T> {
    fn check(&self, value: &T, node: &Node, cx: &mut Cx<'_>) {
        (self.0)(value, node, cx);
    }
}
