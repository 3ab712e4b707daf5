//! `${NAME}` and `${NAME:-default}` in texts.

/// Where variables come from.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A text with its variables replaced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) text: String,
    /// Whether anything came from the environment (or from a default).
    pub(crate) from_env: bool,
}

/// What is wrong with a variable: message and help.
pub(crate) type EnvProblem = (String, String);

/// Replaces variables. `$${` stands for a literal `${`; a `$` alone is itself. As in a shell, `:-` also replaces an empty value.
pub(crate) fn replace(text: &str, env: Env<'_>) -> Result<Option<Replaced>, Vec<EnvProblem>> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut out = String::with_capacity(text.len());
    let mut problems = Vec::new();
    let mut from_env = false;
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}') else {
            problems.push((
                "a variable without its closing `}`".into(),
                "write ${NAME}; for a literal `${` write `$${`".into(),
            ));
            rest = "";
            break;
        };
        let inside = &rest[at + 2..at + end];
        rest = &rest[at + end + 1..];
        let (name, default) = inside
            .split_once(":-")
            .map_or((inside, None), |(name, default)| (name, Some(default)));
        if !is_name(name) {
            let help = "a name has letters, digits and _ and begins with no digit; for a literal `${` write `$${`";
            problems.push((
                "not the name of an environment variable".into(),
                help.into(),
            ));
            continue;
        }
        from_env = true;
        match (env(name), default) {
            (Some(value), default) if !value.is_empty() || default.is_none() => {
                out.push_str(&value)
            }
            (_, Some(default)) => out.push_str(default),
            (_, None) => problems.push((
                format!("the environment variable {name} is not set"),
                format!("set {name}, or give a default: ${{{name}:-value}}"),
            )),
        }
    }
    out.push_str(rest);
    if problems.is_empty() {
        Ok(Some(Replaced {
            text: out,
            from_env,
        }))
    } else {
        Err(problems)
    }
}

/// A text that [`replace`] turns back into this one.
pub(crate) fn escape(text: &str) -> String {
    text.replace("${", "$${")
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}
