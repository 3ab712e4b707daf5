//! Services: names that become paths, commands that must know their port, numbers that need each other.

use crate::checks::{Check, Defines};
use crate::decode::{Cx, Fields};
use crate::model::{Config, ModelVersions, Protocol, PythonModel, Run, Service};
use crate::names::Namespace;
use crate::node::{Kind, Node};
use crate::problem::Problem;
use crate::source::Span;
use crate::values::EnvText;
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

/// A name that may also stand in a path and in a key of the store.
pub(crate) struct ServiceName;

impl Check<String> for ServiceName {
    fn check(&self, value: &String, node: &Node, cx: &mut Cx<'_>) {
        let good = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        let first = |c: char| c.is_ascii_alphanumeric();
        if value.len() > 64 || !value.starts_with(first) || !value.chars().all(good) {
            cx.error(
                node.span,
                "not a service's name",
                "write 1 to 64 letters of ASCII, digits or one of _ - . with a letter or digit first",
            );
            return;
        }
        Defines(Namespace::Service).check(value, node, cx);
    }

    fn constrain(&self, schema: &mut Json) {
        schema["pattern"] = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$|\$\{".into();
    }
}

/// Why a version's name can't be that of a folder.
fn version_problem(value: &str) -> Option<&'static str> {
    if value.chars().count() > 128 {
        Some("a version's name of more than 128 characters")
    } else if value == "." || value == ".." {
        Some("a version's name that is another folder")
    } else if value.contains(['/', '\\']) || value.chars().any(char::is_control) {
        Some("a version's name that can't be that of a folder")
    } else {
        None
    }
}

const VERSION_HELP: &str = "write a name such as v1, without slashes: it is a folder of `data`";

pub(crate) fn version_name(value: &String, node: &Node, cx: &mut Cx<'_>) {
    if let Some(problem) = version_problem(value) {
        cx.error(node.span, problem, VERSION_HELP);
    }
}

pub(crate) fn version_names(values: &Vec<String>, node: &Node, cx: &mut Cx<'_>) {
    let mut seen: HashMap<&str, Span> = HashMap::new();
    for (index, (value, node)) in values.iter().zip(node.items()).enumerate() {
        cx.below(format!("[{index}]"), |cx| {
            version_name(value, node, cx);
            if let Some(first) = seen.insert(value, node.span) {
                let problem = Problem::error(node.span, "the same version twice", "remove one");
                cx.report(problem.related("the first is here", first));
            }
        });
    }
}

pub(crate) fn environment(values: &BTreeMap<String, EnvText>, node: &Node, cx: &mut Cx<'_>) {
    for name in values.keys() {
        let span = node.get(name).map_or(node.span, |node| node.span);
        if name.is_empty() || name.contains(['=', '\0']) {
            cx.error(
                span,
                "not a variable's name",
                "write a name such as OMP_NUM_THREADS",
            );
        } else if name.starts_with("TIDEGATE_") || name == "PORT" {
            cx.error(
                span,
                format!("`{name}` is set by Tidegate itself"),
                "remove it",
            );
        }
    }
}

pub(crate) fn command(value: &Vec<String>, node: &Node, cx: &mut Cx<'_>) {
    let example = "write e.g. [\"./server\", \"--port\", \"$PORT\"]";
    match value.first() {
        None => cx.error(node.span, "an empty command", example),
        Some(program) if program.trim().is_empty() => {
            cx.error(node.span, "a command without a program", example);
        }
        Some(_) if value.iter().any(|part| part.contains('\0')) => {
            cx.error(node.span, "a command with a zero byte", example);
        }
        Some(_) => {}
    }
}

pub(crate) fn folder(value: &PathBuf, node: &Node, cx: &mut Cx<'_>) {
    if !value.is_dir() {
        let message = match std::fs::metadata(value) {
            Ok(_) => format!("{} is not a folder", value.display()),
            Err(error) => format!("cannot read the folder {}: {error}", value.display()),
        };
        let help = "write the folder that the module is in; a relative one starts at the folder of this file";
        cx.error(node.span, message, help);
    }
}

pub(crate) fn python_class(value: &String, node: &Node, cx: &mut Cx<'_>) {
    let name = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_alphanumeric() || c == '_')
            && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    let dotted = |text: &str| text.split('.').all(name);
    let good = value
        .split_once(':')
        .is_some_and(|(module, class)| dotted(module) && dotted(class));
    if good {
        return;
    }
    let help = match value.rsplit_once(['.', '/', ':']) {
        Some((module, class)) if name(class) && !module.contains("py") => {
            format!("write {}:{class}", module.replace('/', "."))
        }
        _ => "write module:Class, e.g. model:Sentiment".into(),
    };
    cx.error(node.span, "not a class", help);
}

pub(crate) fn python(python: &mut PythonModel, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    let start = fields.span();
    if fields.node("path").is_none() {
        python.path = cx.resolve(&python.path, start);
        if python.path.as_os_str().is_empty() {
            python.path = PathBuf::from(".");
        }
    }
    // A bare name is looked for in PATH, anything with a slash is a path.
    if python.executable.contains('/') {
        let at = fields.node("executable").map_or(start, |node| node.span);
        let path = cx.resolve(python.executable.as_ref(), at);
        python.executable = path.to_string_lossy().into_owned();
    }
}

pub(crate) fn model_versions(versions: &mut ModelVersions, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    if versions.preload.len() > versions.max_loaded as usize
        && let Some(span) = fields.span_of("preload")
    {
        let help = format!("set `max_loaded` to at least {}", versions.preload.len());
        cx.error(span, "more versions to load than may be kept", help);
    }
}

pub(crate) fn service(service: &mut Service, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    match &service.run {
        Run::Python(_) => {
            if fields.node("data").is_none() {
                service.data = cx.resolve(&service.data, fields.span());
            }
            if let Some(span) = fields.span_of("protocol") {
                let help = "a Python model is spoken to in every protocol: remove it";
                cx.error(span, "`protocol` without `command`", help);
            }
            if let Some(span) = fields.span_of("health_check") {
                let help = "a Python model is ready when it is loaded and warm: remove it";
                cx.error(span, "`health_check` without `command`", help);
            }
            if let Some(span) = fields.span_of(RESTARTS) {
                let help = "a worker that hangs is found without it: remove it";
                cx.error(span, "`restart_after` without `command`", help);
            }
            let mut all: Vec<&str> = service.versions.preload.iter().map(|v| &**v).collect();
            all.push(&service.version);
            all.sort_unstable();
            all.dedup();
            if all.len() > service.versions.max_loaded as usize
                && service.versions.preload.len() <= service.versions.max_loaded as usize
                && let Some(node) = fields.node("versions").and_then(|n| n.get("preload"))
            {
                let help = format!(
                    "with the default version they are {}: set `max_loaded` to at least that",
                    all.len()
                );
                cx.error(node.span, "more versions to load than may be kept", help);
            }
        }
        Run::Command(_) => {
            restarts(service, fields, cx);
            if service
                .health_check
                .as_ref()
                .is_some_and(|c| c.port.is_some())
                && let Some(span) = fields.span_of("health_check")
            {
                let help = "remove `port`: each instance has its own, `$PORT`";
                cx.error(span, "a port for the checks of a `command`", help);
            }
            for key in PYTHON_ONLY {
                if let Some(span) = fields.span_of(key) {
                    let message = format!("`{key}` means nothing to a `command`");
                    cx.error(
                        span,
                        message,
                        "remove it: the program is spoken to as it is",
                    );
                }
            }
            if let Some(Kind::Map(limits)) = fields.node("limits").map(|node| &node.kind) {
                for (key, _) in limits.iter().filter(|(key, _)| &*key.text != ANY_PROCESS) {
                    let message = format!("`{}` means nothing to a `command`", key.text);
                    cx.error(
                        key.span,
                        message,
                        "its calls are not looked into: remove it",
                    );
                }
            }
            let port = |part: &String| part.contains("$PORT");
            if let (Run::Command(command), Some(node)) = (&service.run, fields.node("command"))
                && !command.is_empty()
                && !command.iter().any(port)
            {
                cx.warn(
                    node.span,
                    "the command does not say `$PORT`",
                    "add it where the program takes its port, unless it reads the variable PORT itself",
                );
            }
        }
    }
}

/// A program is not ended while it still gets requests.
fn restarts(service: &Service, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    let after = service.restart_after;
    match &service.health_check {
        None => {
            if let Some(span) = fields.span_of(RESTARTS) {
                let help = "add a `health_check`, or remove it: a program that ends is started anew in any case";
                cx.error(span, "`restart_after` without `health_check`", help);
            }
        }
        Some(check) if after > 0 && after < check.unhealthy_after => {
            if let Some(span) = fields.span_of(RESTARTS) {
                let message = format!(
                    "`restart_after` ({after}) is less than the check's `unhealthy_after` ({})",
                    check.unhealthy_after
                );
                let help = "a program is ended only when it gets no requests any more: raise `restart_after`, or write 0 for never";
                cx.error(span, message, help);
            }
        }
        Some(_) => {}
    }
}

/// How many checks in a row may fail.
const RESTARTS: &str = "restart_after";
/// Keys that only a hosted class can honour.
const PYTHON_ONLY: [&str; 3] = ["versions", "data", "concurrency"];
/// The bound of `limits` that holds for any process.
const ANY_PROCESS: &str = "memory";

/// Defaults of keys that say nothing beside a command, or beside a class.
pub(crate) fn service_tidy(service: &Service, map: &mut Map<String, Json>) {
    match &service.run {
        Run::Python(_) => {
            map.remove("protocol");
            map.remove(RESTARTS);
        }
        Run::Command(_) => {
            if service.health_check.is_none() {
                map.remove(RESTARTS);
            }
            for key in PYTHON_ONLY {
                map.remove(key);
            }
            if let Some(Json::Object(limits)) = map.get_mut("limits") {
                limits.retain(|key, _| key == ANY_PROCESS);
            }
        }
    }
}

impl Service {
    /// Failed checks in a row after which a `command` is started anew; `None`: it never is.
    #[must_use]
    pub fn restarts(&self) -> Option<u32> {
        let check = self.health_check.as_ref()?;
        let after = self.restart_after.max(check.unhealthy_after);
        (self.restart_after > 0).then_some(after)
    }

    /// What is spoken to its instances: doors of hosted classes speak HTTP/1.1 and HTTP/2.
    #[must_use]
    pub fn spoken(&self) -> Protocol {
        match &self.run {
            Run::Python(_) => Protocol::Auto,
            Run::Command(_) => self.protocol,
        }
    }
}

/// Upstreams and services stand beside each other in metrics and on the dashboard: one name, one thing.
pub(super) fn names(config: &Config, fields: &Fields<'_>, cx: &mut Cx<'_>) {
    let of = |key: &str| fields.node(key).map_or(&[][..], Node::items);
    for (kind, names) in [
        (
            "upstream",
            config.upstreams.iter().map(|u| &u.name).collect::<Vec<_>>(),
        ),
        (
            "provider",
            config.providers.iter().map(|p| &p.name).collect(),
        ),
    ] {
        let key = format!("{kind}s");
        let taken: HashMap<&str, Option<Span>> = names
            .into_iter()
            .zip(of(&key))
            .map(|(name, node)| (&**name, node.get("name").map(|node| node.span)))
            .collect();
        for (index, (service, node)) in config.services.iter().zip(of("services")).enumerate() {
            let (Some(first), Some(name)) = (taken.get(&*service.name), node.get("name")) else {
                continue;
            };
            let message = format!("a service and a {kind} of the same name");
            let problem = Problem::error(name.span, message, "give each its own name")
                .at(format!("services[{index}].name"));
            cx.report(match first {
                Some(first) => problem.related("the other is here", *first),
                None => problem,
            });
        }
    }
}
