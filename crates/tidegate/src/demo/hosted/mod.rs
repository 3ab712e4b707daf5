//! The hosted model: a Python class in workers of `tidegate up`'s own, if this machine has a Python to run them with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::DemoError;
use super::fleet::replace;

/// Name of the service, and the beginning of its path.
pub(crate) const SERVICE: &str = "language";
/// Path of the method.
pub(crate) const PATH: &str = "/language/predict";
/// Its workers.
pub(crate) const WORKERS: usize = 2;
/// Sentences that callers ask about, and what the model must say.
pub(crate) const SENTENCES: [(&str, &str); 4] = [
    ("The tide turns and it is not late", "en"),
    ("Die Flut kommt und das Wasser ist nicht kalt", "de"),
    ("La marea sube y el agua no es fría", "es"),
    ("La marée monte et l'eau ne dort pas dans le port", "fr"),
];

const SOURCE: &str = include_str!("language.py");
/// Time that an interpreter has to tell its version.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tells where the interpreter is and its version; what a worker imports must be there, which not every small image has.
const QUESTION: &str = "import asyncio, dataclasses, json, sys\n\
    assert sys.version_info >= (3, 9)\n\
    print(sys.executable)\n\
    print('%d.%d.%d' % sys.version_info[:3])";

/// A Python that can run workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Python {
    /// Path of the interpreter.
    pub(crate) executable: PathBuf,
    /// `3.11.2`.
    pub(crate) version: String,
}

/// The `python3` of the search path, if it is 3.9 or newer and complete.
pub(crate) async fn find() -> Option<Python> {
    ask("python3").await
}

async fn ask(program: &str) -> Option<Python> {
    let mut command = Command::new(program);
    command
        .args(["-I", "-c", QUESTION])
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output());
    let output = output.await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (executable, version) = text.trim().split_once('\n')?;
    (output.status.success() && !executable.is_empty()).then(|| Python {
        executable: executable.into(),
        version: version.to_owned(),
    })
}

/// The folder that the model lies in.
pub(crate) fn model_folder(folder: &Path) -> PathBuf {
    folder.join("model")
}

/// Writes the model.
pub(crate) fn write(folder: &Path) -> Result<(), DemoError> {
    let model = model_folder(folder);
    std::fs::create_dir(&model).map_err(DemoError::Folder)?;
    replace(&model.join("language.py"), SOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_no_python_of_today_is_not_used() {
        for program in ["tidegate-no-such-program", "true", "false"] {
            assert_eq!(ask(program).await, None, "{program}");
        }
    }

    #[test]
    fn the_model_has_a_word_for_every_sentence() {
        for (sentence, language) in SENTENCES {
            let line = SOURCE
                .lines()
                .find_map(|line| line.trim().strip_prefix(&format!("\"{language}\": \"")))
                .unwrap();
            let common: Vec<&str> = line.split('"').next().unwrap().split(' ').collect();
            let sentence = sentence.to_lowercase();
            assert!(sentence.split(' ').any(|word| common.contains(&word)));
        }
    }
}
