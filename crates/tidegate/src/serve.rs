//! `tidegate serve`: `tidegate up` with a configuration made of flags, for one model.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use tidegate_config::{Diagnostic, Diagnostics};

use crate::check;
use crate::cli::Serve;
use crate::plan::{self, Elsewhere, Plan, ServePlan};
use crate::rundir::RunDir;
use crate::up;

/// Where the admin port is unless that is in use, or asked for elsewhere.
const ADMIN: &str = "127.0.0.1:9900";
/// Where it is when that is in use.
const ELSEWHERE: &str = "127.0.0.1:0";
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
            for problem in &problems.0 {
                eprintln!("error: {}", in_words(problem));
            }
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
    // Two that serve the same model's data on two ports have a state each; so have two on whatever port is free.
    let states = data.join(".tidegate");
    let state = match &options.state {
        Some(state) => absolute(state)?,
        None if options.port == 0 => free_state(&states, &name),
        None => states.join(format!("{name}-{}", options.port)),
    };
    let admin = match options.admin.as_deref() {
        Some("off") => Value::from("off"),
        address => json!({ "address": address.unwrap_or(ADMIN) }),
    };
    let python = options.python.as_deref().map(interpreter).transpose()?;
    let mut config = config(options, python, &name, &source, &data, &state, admin);
    let text = yaml(&config);
    let loaded = tidegate_config::load_str("serve", &text).map_err(Refusal::Bad)?;
    if options.print_config {
        check::print(&text);
        return Ok(None);
    }
    let loaded = check::examine(loaded).map_err(Refusal::Bad)?;
    for warning in &loaded.warnings {
        eprintln!("warning: {}", in_words(warning));
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .map_err(|error| system(&state, error))?;
    let elsewhere = match options.admin {
        Some(_) => None,
        None => {
            config["admin"]["address"] = ELSEWHERE.into();
            let text = yaml(&config);
            let loaded = tidegate_config::load_str("serve", &text).map_err(Refusal::Bad)?;
            Some(Elsewhere {
                config: text,
                sockets: plan::sockets(&loaded.config),
                hash: loaded.hash,
            })
        }
    };
    let paths = [state.join("serve.yaml")];
    let workers = up::workers(options.workers);
    let mut plan = Plan::new(&loaded, &paths, workers, options.upgrade)
        .map_err(|error| Refusal::System(format!("the current folder cannot be used: {error}")))?;
    plan.serve = Some(ServePlan {
        class: options.class.clone(),
        name,
        config: text,
        watch: options.reload,
        any_state: options.state.is_none() && options.port == 0,
        elsewhere,
    });
    Ok(Some(plan))
}

/// A bare name is looked for in PATH; a path starts at the current folder, not where the configuration lies.
fn interpreter(word: &str) -> Result<String, Refusal> {
    if !word.contains('/') {
        return Ok(word.to_owned());
    }
    let path = std::path::absolute(word)
        .map_err(|error| Refusal::System(format!("cannot use {word}: {error}")))?;
    if !path.is_file() {
        let told = format!("--python: there is no file {}", path.display());
        return Err(Refusal::Usage(told));
    }
    Ok(text(&path))
}

/// A problem of the configuration in terms of the flags that it was made of: nobody has seen its text.
fn in_words(problem: &Diagnostic) -> String {
    let flag = FLAGS
        .iter()
        .find(|(path, _)| problem.path.starts_with(path))
        .map_or(String::new(), |(_, flag)| format!("{flag}: "));
    let help = match problem.help.as_str() {
        "" => String::new(),
        help => format!(" ({help})"),
    };
    format!("{flag}{}{help}", problem.message)
}

/// Which flag a value of the configuration is of.
const FLAGS: [(&str, &str); 13] = [
    ("admin", "--admin"),
    ("state", "--state"),
    ("listeners[0].address", "--address and --port"),
    ("services[0].python.path", "--path"),
    ("services[0].python.executable", "--python"),
    ("services[0].python", "MODULE:CLASS"),
    ("services[0].name", "--name"),
    ("services[0].version", "--version"),
    ("services[0].replicas", "--replicas"),
    ("services[0].concurrency", "--concurrency"),
    ("services[0].data", "--data"),
    ("services[0].versions", "--max-loaded"),
    ("routes[0]", "--name"),
];

fn config(
    options: &Serve,
    executable: Option<String>,
    name: &str,
    source: &Path,
    data: &Path,
    state: &Path,
    admin: Value,
) -> Value {
    let mut python = json!({ "path": text(source), "class": options.class });
    if let Some(executable) = executable {
        python["executable"] = executable.into();
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

/// The first state folder for a model on any port that no other runs on. One that was left behind is used again, with what lives there.
fn free_state(states: &Path, name: &str) -> PathBuf {
    let mut state = states.join(format!("{name}-0"));
    let mut number = 2_u32;
    while RunDir::is_taken(&state.join("run")) {
        state = states.join(format!("{name}-0-{number}"));
        number += 1;
    }
    state
}

/// `module:Class`.
pub(crate) fn class(text: &str) -> Result<String, String> {
    let name = |text: &str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_alphanumeric() || c == '_')
            && !text.starts_with(|c: char| c.is_ascii_digit())
    };
    let dotted = |text: &str| text.split('.').all(name);
    let (module, class) = text.split_once(':').unwrap_or((text, ""));
    if dotted(module) && dotted(class) && !module.ends_with(".py") {
        return Ok(text.to_owned());
    }
    let module = Path::new(module);
    let folder = module.parent().filter(|folder| folder.as_os_str() != "");
    let file = module
        .extension()
        .is_some_and(|extension| extension == "py");
    let stem = module.file_stem().and_then(|stem| stem.to_str());
    match stem.filter(|stem| name(stem)) {
        Some(stem) if folder.is_some() || file => {
            let class = if dotted(class) { class } else { "Class" };
            let path = folder.map_or(String::new(), |f| format!(" --path {}", f.display()));
            Err(format!(
                "the module is named without its folder and .py: {stem}:{class}{path}"
            ))
        }
        _ => Err("write module:Class, e.g. model:Sentiment for the class in model.py".into()),
    }
}

/// A service's name.
pub(crate) fn name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if text.len() <= LONGEST_NAME
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(good)
    {
        return Ok(text.to_owned());
    }
    Err(
        "write 1 to 64 letters of ASCII, digits or one of _ - . with a letter or digit first"
            .into(),
    )
}

/// The name of a version.
pub(crate) fn version(text: &str) -> Result<String, String> {
    let folder = !text.contains(['/', '\\']) && text != "." && text != "..";
    if folder && text.chars().count() <= 128 && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err("write a name such as v1, without slashes: it is a folder of --data".into())
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
    fn on_any_port_each_has_the_first_state_folder_that_nobody_runs_on() {
        let states = tempfile::tempdir().unwrap();
        let take = || {
            let state = free_state(states.path(), "m");
            let lock = RunDir::open(&state.join("run")).unwrap().lock().unwrap();
            (state.file_name().unwrap().to_owned(), lock)
        };
        let (first, lock) = take();
        let (second, _lock) = take();
        let (third, _other_lock) = take();
        assert_eq!([first, second, third], ["m-0", "m-0-2", "m-0-3"]);
        drop(lock);
        assert_eq!(take().0, "m-0");
    }

    #[test]
    fn a_class_is_named_by_its_module_not_by_its_file() {
        assert_eq!(class("a.b:Outer.Inner").as_deref(), Ok("a.b:Outer.Inner"));
        for (word, told) in [
            ("m", "write module:Class"),
            ("m:", "write module:Class"),
            ("m:M:x", "write module:Class"),
            ("not a module:M", "write module:Class"),
            ("../m:M", "m:M --path .."),
            ("sub/m.py:M", "m:M --path sub"),
            ("m.py:M", ": m:M"),
            ("./m.py", "m:Class --path ."),
        ] {
            let problem = class(word).unwrap_err();
            assert!(problem.contains(told), "{word}: {problem}");
        }
    }

    #[test]
    fn problems_are_told_in_words_of_the_flags() {
        let value = json!({
            "admin": { "address": "nowhere" },
            "listeners": [{ "name": "main", "address": "0.0.0.0:2" }],
            "routes": [{ "name": "r", "to": [{ "service": "r" }] }],
            "services": [{ "name": "r", "python": { "path": ".", "class": "m:C" }, "replicas": 300 }],
        });
        let problems = tidegate_config::load_str("t.yaml", &yaml(&value)).unwrap_err();
        let told: Vec<_> = problems.iter().map(in_words).collect();
        assert!(
            told.iter().any(|line| line.starts_with("--admin: ")),
            "{told:?}"
        );
        assert!(
            told.iter().any(|line| line.starts_with("--replicas: ")),
            "{told:?}"
        );
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
