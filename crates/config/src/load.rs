//! Files → one checked configuration.

use crate::decode::{Cx, Decode};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity};
use crate::env::Env;
use crate::files;
use crate::hash::hex_sha256;
use crate::mask;
use crate::merge::merge;
use crate::model::{Config, Endpoint, EndpointsFile};
use crate::problem::Problem;
use crate::source::{Source, Span};
use crate::yaml;
use std::path::{Path, PathBuf};

/// A configuration that passed every check.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration: defaults applied, references known to hold.
    pub config: Config,
    /// The files it came from, in order.
    pub files: Vec<PathBuf>,
    /// Files that secrets were read from (`file:PATH`): a change there changes the configuration too.
    pub secret_files: Vec<PathBuf>,
    /// SHA-256 over the effective content (secrets by fingerprint); two loads that mean the same have the same hash.
    pub hash: String,
    /// What someone should look at.
    pub warnings: Vec<Diagnostic>,
}

/// Most problems that are reported; a file of a million mistakes has one cause.
const MAX_PROBLEMS: usize = 500;

fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Loads files and folders (their `*.yaml` and `*.yml` by name), in the order given, as one configuration.
///
/// # Errors
/// Every problem of all files; no part of a bad configuration is returned.
pub fn load(paths: &[PathBuf]) -> Result<Loaded, Diagnostics> {
    load_with(paths, &process_env)
}

/// [`load`] with another source of environment variables.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    paths: &[PathBuf],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Diagnostics> {
    let found = files::read(paths);
    let incomplete = !found.problems.is_empty();
    checked(&found.sources, found.files, found.problems, env, incomplete)
}

/// Loads texts that were read from these files before: what [`load`] answered while the files held them. For a process
/// that must come back with the configuration that was accepted, whatever the files, and the environment, hold by now.
///
/// # Errors
/// Every problem of the texts.
pub fn load_texts(
    texts: &[(PathBuf, String)],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Diagnostics> {
    let source = |(file, text): &(PathBuf, String)| {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        Source::new(
            file.display().to_string(),
            text.to_owned(),
            file.parent().map(Path::to_owned).unwrap_or_default(),
        )
    };
    let sources: Vec<Source> = texts.iter().map(source).collect();
    let files = texts.iter().map(|(file, _)| file.clone()).collect();
    checked(&sources, files, Vec::new(), env, sources.is_empty())
}

/// Loads one text; `name` stands for the file in diagnostics. Relative paths stay relative.
///
/// # Errors
/// Every problem of the text.
pub fn load_str(name: &str, text: &str) -> Result<Loaded, Diagnostics> {
    load_str_with(name, text, &process_env)
}

/// [`load_str`] with another source of environment variables.
///
/// # Errors
/// As [`load_str`].
pub fn load_str_with(
    name: &str,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Diagnostics> {
    let (sources, problems) = one_source(name, text, PathBuf::new());
    let incomplete = sources.is_empty();
    checked(&sources, Vec::new(), problems, env, incomplete)
}

fn checked(
    sources: &[Source],
    files: Vec<PathBuf>,
    problems: Vec<Problem>,
    env: Env<'_>,
    incomplete: bool,
) -> Result<Loaded, Diagnostics> {
    let (config, mut reading) = Reading::run::<Config>(sources, env, problems, incomplete);
    let unresolved = reading.names.problems(reading.incomplete);
    reading.problems.extend(unresolved);
    if reading
        .problems
        .iter()
        .all(|problem| problem.severity == Severity::Warning)
    {
        // Among errors this would be noise: the reference may be what is wrong.
        reading.problems.extend(reading.names.unused());
        if config
            .as_ref()
            .is_some_and(|config| config.listeners.is_empty())
        {
            let help = "add `listeners: [ { name: main, address: 0.0.0.0:8080 } ]`";
            reading
                .problems
                .push(Problem::without_place("no listeners: nothing can connect", help).warning());
        }
    }
    let secret_files = std::mem::take(&mut reading.secret_files);
    let diagnostics = reading.diagnostics(sources);
    match config {
        Some(config) if diagnostics.errors() == 0 => {
            let hash = hex_sha256(config.encode().to_string().as_bytes());
            Ok(Loaded {
                config,
                files,
                secret_files,
                hash,
                warnings: diagnostics.0,
            })
        }
        _ => Err(diagnostics),
    }
}

/// Reads the content of a `discover: { file }`: `{ endpoints: [ … ] }`, YAML or JSON. The list may be empty; addresses may repeat
/// only if they mean the same member, so the first counts. Variables of the environment are not replaced.
///
/// # Errors
/// Every problem of the text.
pub fn load_endpoints(file: &Path, text: &str) -> Result<Vec<Endpoint>, Diagnostics> {
    let base = file.parent().map(Path::to_owned).unwrap_or_default();
    let (sources, problems) = one_source(&file.display().to_string(), text, base);
    let (content, reading) = Reading::run::<EndpointsFile>(&sources, &|_| None, problems, false);
    let diagnostics = reading.diagnostics(&sources);
    match content {
        Some(content) if diagnostics.errors() == 0 => {
            let mut seen = std::collections::HashSet::new();
            Ok(content
                .endpoints
                .into_iter()
                .filter(|e| seen.insert(e.address.clone()))
                .collect())
        }
        _ => Err(diagnostics),
    }
}

fn one_source(name: &str, text: &str, base: PathBuf) -> (Vec<Source>, Vec<Problem>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.len() > yaml::MAX_BYTES {
        return (Vec::new(), vec![files::too_large(name)]);
    }
    (
        vec![Source::new(name.to_owned(), text.to_owned(), base)],
        Vec::new(),
    )
}

/// Problems of texts in which any line may hold a secret: none of those is shown.
pub(crate) fn diagnostics(problems: Vec<Problem>, sources: &[Source]) -> Diagnostics {
    let whole = |(source, text): (usize, &Source)| Span {
        source,
        start: 0,
        end: text.text.len(),
    };
    let reading = Reading {
        problems,
        names: crate::names::Names::default(),
        secrets: Vec::new(),
        secret_files: Vec::new(),
        broken: sources.iter().enumerate().map(whole).collect(),
        incomplete: false,
    };
    reading.diagnostics(sources)
}

/// What one run over all texts found.
struct Reading {
    problems: Vec<Problem>,
    names: crate::names::Names,
    secrets: Vec<Span>,
    secret_files: Vec<PathBuf>,
    broken: Vec<Span>,
    incomplete: bool,
}

impl Reading {
    fn run<T: Decode>(
        sources: &[Source],
        env: Env<'_>,
        mut problems: Vec<Problem>,
        mut incomplete: bool,
    ) -> (Option<T>, Self) {
        let mut roots = Vec::new();
        let mut broken = Vec::new();
        let mut secrets = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            let parsed = yaml::parse(index, source, env, &mut problems);
            incomplete |= parsed.incomplete;
            broken.extend(parsed.broken);
            roots.extend(parsed.root);
        }
        for root in &roots {
            mask::hide_by_name(root, false, sources, &mut secrets);
            mask::hide_headers(root, sources, &mut secrets);
        }
        let root = merge(roots, &mut problems);
        let mut cx = Cx::new(sources);
        // systemd's `StateDirectory=` (a list when it names several), and the container image: a configuration in /etc cannot have
        // its state beside it.
        cx.state_folder = env("STATE_DIRECTORY")
            .and_then(|list| list.split(':').next().map(PathBuf::from))
            .filter(|folder| folder.is_absolute());
        let value = if sources.is_empty() {
            None
        } else {
            T::decode(&root, &mut cx)
        };
        problems.append(&mut cx.problems);
        secrets.append(&mut cx.secrets);
        let reading = Self {
            problems,
            names: cx.names,
            secrets,
            secret_files: cx.secret_files,
            broken,
            incomplete,
        };
        (value, reading)
    }

    /// In the order of files and lines, each once (an alias shows a mistake several times), excerpts without secrets.
    fn diagnostics(mut self, sources: &[Source]) -> Diagnostics {
        self.secrets.sort_unstable();
        self.secrets.dedup();
        self.problems.sort_by(|a, b| {
            a.span
                .cmp(&b.span)
                .then_with(|| a.severity.cmp(&b.severity))
        });
        self.problems
            .dedup_by(|a, b| a.span == b.span && a.message == b.message);
        let more = self.problems.len().saturating_sub(MAX_PROBLEMS);
        let lost_errors = self
            .problems
            .iter()
            .skip(MAX_PROBLEMS)
            .any(|p| p.severity == Severity::Error);
        self.problems.truncate(MAX_PROBLEMS);
        let place = |span: Span| {
            let source = sources.get(span.source)?;
            let first = self.secrets.partition_point(|s| {
                (s.source, s.end) < (span.source, source.line_start(span.start))
            });
            let line_end = source.line_end(span.start);
            let count = self.secrets[first..]
                .iter()
                .take_while(|s| s.source == span.source && s.start <= line_end)
                .count();
            let in_broken = self
                .broken
                .iter()
                .any(|b| b.source == span.source && b.start <= span.start && span.start <= b.end);
            let hide = in_broken && mask::line_may_hold_secret(source, source.line_of(span.start));
            Some(source.place(span, &self.secrets[first..first + count], hide))
        };
        let mut diagnostics: Vec<Diagnostic> = self
            .problems
            .iter()
            .map(|problem| Diagnostic {
                severity: problem.severity,
                path: printable(&problem.path),
                message: printable(&problem.message),
                place: problem.span.and_then(place),
                related: problem
                    .related
                    .and_then(|(role, span)| place(span).map(|place| (role.to_owned(), place))),
                help: printable(&problem.help),
            })
            .collect();
        if more > 0 {
            let severity = if lost_errors {
                Severity::Error
            } else {
                Severity::Warning
            };
            let problem = Problem::without_place(
                format!("and {more} more problems"),
                "mend those above first",
            );
            diagnostics.push(Diagnostic {
                severity,
                path: String::new(),
                message: problem.message,
                place: None,
                related: None,
                help: problem.help,
            });
        }
        Diagnostics(diagnostics)
    }
}

/// Texts from a file do not steer a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
