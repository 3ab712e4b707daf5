//! Models' names: what callers write → what the provider knows.

use std::borrow::Cow;
use std::collections::HashMap;

use regex::Regex;
use tidegate_config::values::{self, ModelPattern};

/// A compiled `model_mapping`: an exact name, then the longest prefix, then expressions in the order of the file, then `*`.
/// An empty target keeps the caller's name, and so does a name that nothing matches.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    exact: HashMap<String, String>,
    /// Longest first.
    prefixes: Vec<(String, String)>,
    expressions: Vec<(Regex, String)>,
    any: Option<String>,
}

impl Mapping {
    /// Compiles the configuration's.
    ///
    /// # Errors
    /// An expression that does not compile; the configuration has refused those before.
    pub fn new(rules: &values::ModelMapping) -> Result<Mapping, regex::Error> {
        let mut mapping = Mapping::default();
        for (pattern, target) in &rules.0 {
            let target = target.clone();
            match pattern {
                ModelPattern::Exact(name) => {
                    mapping.exact.entry(name.clone()).or_insert(target);
                }
                ModelPattern::Prefix(prefix) => mapping.prefixes.push((prefix.clone(), target)),
                ModelPattern::Regex(expression) => {
                    let regex = Regex::new(expression.as_str())?;
                    mapping.expressions.push((regex, target));
                }
                ModelPattern::Any => {
                    mapping.any.get_or_insert(target);
                }
            }
        }
        mapping
            .prefixes
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Ok(mapping)
    }

    /// The provider's name for a caller's.
    pub fn map<'a>(&'a self, model: &'a str) -> Cow<'a, str> {
        let keep_if_empty =
            |name: &'a str| Cow::Borrowed(if name.is_empty() { model } else { name });
        if let Some(name) = self.exact.get(model) {
            return keep_if_empty(name);
        }
        if let Some((_, name)) = self
            .prefixes
            .iter()
            .find(|(p, _)| model.starts_with(p.as_str()))
        {
            return keep_if_empty(name);
        }
        for (expression, template) in &self.expressions {
            if expression.is_match(model) {
                if template.is_empty() {
                    return Cow::Borrowed(model);
                }
                // As in Higress: what the expression found is replaced, the rest of the name stays.
                let name = expression
                    .replace_all(model, template.as_str())
                    .into_owned();
                return if name.is_empty() {
                    Cow::Borrowed(model)
                } else {
                    Cow::Owned(name)
                };
            }
        }
        self.any
            .as_deref()
            .map_or(Cow::Borrowed(model), keep_if_empty)
    }

    /// A model's name at the provider that somebody has written down: something to probe with where nothing else is known.
    pub(crate) fn some_target(&self) -> Option<&str> {
        self.exact
            .iter()
            .map(|(name, target)| if target.is_empty() { name } else { target })
            .chain(self.prefixes.iter().map(|(_, target)| target))
            .chain(&self.any)
            .map(String::as_str)
            .filter(|name| !name.is_empty())
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mapping(rules: &[(&str, &str)]) -> Mapping {
        let rules = rules
            .iter()
            .map(|(pattern, name)| (pattern.parse().unwrap(), (*name).to_owned()))
            .collect();
        Mapping::new(&values::ModelMapping(rules)).unwrap()
    }

    #[test]
    fn exact_then_longest_prefix_then_expressions_in_order_then_any() {
        let mapping = mapping(&[
            ("*", "rest"),
            ("~^gpt-(.*)-turbo$", "fast-$1"),
            ("~turbo", "some-turbo"),
            ("gpt-4*", "four"),
            ("gpt-4o*", "four-o"),
            ("gpt-4o-mini", "mini"),
            ("keep-me", ""),
            ("claude*", ""),
        ]);
        for (model, name) in [
            ("gpt-4o-mini", "mini"),
            ("gpt-4o-mini-2", "four-o"),
            ("gpt-4.1", "four"),
            ("gpt-4-turbo", "four"),
            ("gpt-3.5-turbo", "fast-3.5"),
            ("x-turbo", "x-some-turbo"),
            ("keep-me", "keep-me"),
            ("claude-opus", "claude-opus"),
            ("other", "rest"),
        ] {
            assert_eq!(mapping.map(model), name, "{model}");
        }
    }

    #[test]
    fn a_name_that_nothing_matches_stays() {
        assert_eq!(mapping(&[("a", "b")]).map("c"), "c");
        assert_eq!(Mapping::default().map(""), "");
    }

    proptest! {
        #[test]
        fn the_order_of_the_file_matters_for_expressions_only(
            order in Just(vec![("*", "any"), ("gpt-4*", "p4"), ("gpt-*", "p"), ("gpt-4o", "e")]).prop_shuffle(),
            model in "(gpt-4o|gpt-4x|gpt-3|qwen)",
        ) {
            let wanted = match model.as_str() { "gpt-4o" => "e", "gpt-4x" => "p4", "gpt-3" => "p", _ => "any" };
            let mapping = mapping(&order);
            prop_assert_eq!(mapping.map(&model), wanted);
        }
    }
}
