//! Secrets of an import: references by default, so that a configuration can be shown and committed.

use super::text::Yaml;

/// What is printed in the place of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// `${NAME}`, with a note.
    References,
    /// The secret itself.
    Kept,
}

/// The names that were given so far.
#[derive(Debug)]
pub(super) struct References {
    how: Secrets,
    given: Vec<(String, String)>,
}

impl References {
    pub(super) fn new(how: Secrets) -> Self {
        Self {
            how,
            given: Vec::new(),
        }
    }

    /// What is printed for a secret, and the name of the variable that someone has to set. Equal secrets get one name.
    pub(super) fn place(&mut self, secret: &str, wanted: &str) -> (Yaml, Option<String>) {
        if is_reference(secret) {
            return (Yaml::Reference(secret.to_owned()), None);
        }
        if self.how == Secrets::Kept {
            return (Yaml::Text(secret.to_owned()), None);
        }
        let known = self.given.iter().find(|(value, _)| value == secret);
        let name = match known {
            Some((_, name)) => name.clone(),
            None => {
                let taken = |name: &str| self.given.iter().any(|(_, given)| given == name);
                let wanted = variable(wanted);
                let mut name = wanted.clone();
                let mut next = 2;
                while taken(&name) {
                    name = format!("{wanted}_{next}");
                    next += 1;
                }
                self.given.push((secret.to_owned(), name.clone()));
                name
            }
        };
        (Yaml::Reference(format!("${{{name}}}")), Some(name))
    }
}

/// `${NAME}` and nothing else.
fn is_reference(text: &str) -> bool {
    let name = text.strip_prefix("${").and_then(|t| t.strip_suffix('}'));
    name.is_some_and(|name| {
        !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    })
}

fn variable(text: &str) -> String {
    let mut name: String = text
        .chars()
        .map(|c| match c.is_ascii_alphanumeric() {
            true => c.to_ascii_uppercase(),
            false => '_',
        })
        .collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_secrets_share_a_name_and_others_get_one_of_their_own() {
        let mut references = References::new(Secrets::References);
        let name = |r: &mut References, secret| r.place(secret, "my-key").1;
        assert_eq!(name(&mut references, "a").as_deref(), Some("MY_KEY"));
        assert_eq!(name(&mut references, "b").as_deref(), Some("MY_KEY_2"));
        assert_eq!(name(&mut references, "a").as_deref(), Some("MY_KEY"));
        assert_eq!(name(&mut references, "${GIVEN}"), None);
        assert_eq!(variable("360-ai"), "_360_AI");
    }
}
