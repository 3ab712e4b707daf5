//! `tidegate serve`: `tidegate up` with a configuration made of flags, for one model.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use tidegate_config::Diagnostics;

use crate::check;
use crate::cli::Serve;
use crate::plan::{Plan, ServePlan};
use crate::up;

/// Where the admin port is unless that is in use, or asked for elsewhere.
const ADMIN: &str = "127.0.0.1:9900";
/// Longest name of a service.
const LONGEST_NAME: usize = 64;

/// Runs the command. On success this does not return: the process becomes the supervisor.
pub(crate) fn run(options: &Serve, log: &str) -> ExitCode {
    match prepare(options) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(plan)) => {
            let error = plan.execute(log);
            eprintln!("error: cannot start the supervisor: {error}");
            ExitCode::FAILURE
        }
        Err(Refusal::Bad(problems)) => {
            check::tell(&problems);
            ExitCode::from(check::BAD)
        }
        Err(Refusal::Usage(problem)) => {
            eprintln!("error: {problem}");
            ExitCode::from(check::BAD)
        }
        Err(Refusal::System(problem)) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// Why nothing is started.
enum Refusal {
    Bad(Diagnostics),
    Usage(String),
    System(String),
}

/// The plan; `None` where the configuration was only to be printed.
fn prepare(options: &Serve) -> Result<Option<Plan>, Refusal> {
    let system = |what: &Path, error: std::io::Error| {
        Refusal::System(format!("cannot use {}: {error}", what.display()))
    };
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| system(path, error));
    let source = absolute(&options.path)?;
    if !source.is_dir() {
        return Err(Refusal::Usage(format!(
            "{} is no folder: give the folder that the module is in by --path",
            source.display()
        )));
    }
    let name = match &options.name {
        Some(name) => name.clone(),
        None => name_of(&options.class),
    };
    let data = absolute(&options.data)?;
    // Two that serve the same model's data on two ports have a state each.
    let state = match &options.state {
        Some(state) => absolute(state)?,
        None => data
            .join(".tidegate")
            .join(format!("{name}-{}", options.port)),
    };
    let admin = match options.admin.as_deref() {
        Some("off") => Value::from("off"),
        Some(address) => json!({ "address": address }),
        None => json!({ "address": free_admin() }),
    };
    let config = config(options, &name, &source, &data, &state, admin);
    let text = yaml(&config);
    if options.print_config {
        tidegate_config::load_str("serve", &text).map_err(Refusal::Bad)?;
        check::print(&text);
        return Ok(None);
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .map_err(|error| system(&state, error))?;
    let file = state.join("serve.yaml");
    std::fs::write(&file, text).map_err(|error| system(&file, error))?;
    let paths = [file];
    let loaded = check::load(&paths).map_err(Refusal::Bad)?;
    check::tell(&Diagnostics(loaded.warnings.clone()));
    let address = SocketAddr::new(options.address, options.port);
    eprintln!(
        "serving {} as {name} on {address} (HTTP and gRPC)",
        options.class
    );
    if let Some(address) = config["admin"]["address"].as_str() {
        eprintln!("dashboard and metrics on http://{address}");
    }
    let workers = up::workers(options.workers);
    let mut plan = Plan::new(&loaded, &paths, workers, options.upgrade)
        .map_err(|error| Refusal::System(format!("the current folder cannot be used: {error}")))?;
    plan.serve = Some(ServePlan {
        watch: options.reload,
    });
    Ok(Some(plan))
}

fn config(
    options: &Serve,
    name: &str,
    source: &Path,
    data: &Path,
    state: &Path,
    admin: Value,
) -> Value {
    let mut python = json!({ "path": text(source), "class": options.class });
    if let Some(executable) = &options.python {
        python["executable"] = executable.as_str().into();
    }
    let mut service = json!({
        "name": name,
        "python": python,
        "replicas": options.replicas,
        "concurrency": options.concurrency,
        "data": text(data),
        "versions": { "max_loaded": options.max_loaded },
    });
    if let Some(version) = &options.version {
        service["version"] = version.as_str().into();
    }
    json!({
        "admin": admin,
        "state": { "url": format!("file:{}", state.display()) },
        "listeners": [{ "name": "main", "address": SocketAddr::new(options.address, options.port).to_string() }],
        "routes": [{ "name": name, "to": [{ "service": name }] }],
        "services": [service],
    })
}

/// `${` in a value means itself, not the environment.
fn text(path: &Path) -> String {
    path.display().to_string().replace("${", "$${")
}

/// The configuration for people: a section a line or more, each entry as a flow mapping.
fn yaml(config: &Value) -> String {
    let mut out = String::new();
    for (key, value) in config.as_object().into_iter().flatten() {
        match value {
            Value::Array(entries) => {
                out.push_str(&format!("{key}:\n"));
                for entry in entries {
                    out.push_str("  -");
                    for (n, (key, value)) in entry.as_object().into_iter().flatten().enumerate() {
                        out.push_str(if n == 0 { " " } else { "    " });
                        out.push_str(&format!("{key}: {value}\n"));
                    }
                }
            }
            value => out.push_str(&format!("{key}: {value}\n")),
        }
    }
    out
}

/// `model:SentimentModel` → `sentimentmodel`.
fn name_of(class: &str) -> String {
    let last = class.rsplit([':', '.']).next().unwrap_or(class);
    let name: String = last
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .skip_while(|c| *c == '_')
        .take(LONGEST_NAME)
        .collect();
    if name.is_empty() {
        "model".into()
    } else {
        name
    }
}

/// The usual port, or another one when that is in use.
fn free_admin() -> String {
    if TcpListener::bind(ADMIN).is_ok() {
        return ADMIN.into();
    }
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map_or_else(|_| ADMIN.into(), |address| address.to_string())
}

/// `module:Class`.
pub(crate) fn class(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        Some((module, class)) if !module.is_empty() && !class.is_empty() => Ok(text.to_owned()),
        _ => Err("write module:Class, e.g. model:Sentiment for the class in model.py".into()),
    }
}

/// Where callers are taken unless it is said: everywhere, as containers need it.
pub(crate) const EVERYWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// The models' folder.
pub(crate) fn data() -> PathBuf {
    PathBuf::from("appdata")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_gives_the_service_its_name() {
        for (class, name) in [
            ("model:Sentiment", "sentiment"),
            ("a.b:Outer.Inner_2", "inner_2"),
            ("m:_Hidden", "hidden"),
            ("m:Größe", "gre"),
            ("m:日本", "model"),
        ] {
            assert_eq!(name_of(class), name);
        }
    }

    #[test]
    fn what_is_printed_is_what_is_read() {
        let value = json!({
            "admin": { "address": "127.0.0.1:1" },
            "listeners": [{ "name": "main", "address": "0.0.0.0:2" }],
            "routes": [{ "name": "r", "to": [{ "service": "r" }] }],
            "services": [{ "name": "r", "python": { "path": ".", "class": "m:C" }, "replicas": 2 }],
        });
        let loaded = tidegate_config::load_str("t.yaml", &yaml(&value)).expect("a configuration");
        assert_eq!(loaded.config.services[0].replicas, 2);
        assert_eq!(loaded.config.routes[0].name, "r");
    }
}
