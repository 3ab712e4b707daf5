//! The demo's model: a real one, small enough to be trained in a millisecond while the program starts.
//!
//! Naive Bayes over words tells praise from complaint: the score of a text is the sum of its words' log-odds, which are
//! at the same time the explanation of the answer. Version 1 takes words as they are, so that "never late" counts as
//! "late". Version 2 knows negation: after "not" or "never" a word counts as its own opposite (Das and Chen's marks),
//! and a negated word that was never seen counts against the plain one. That is a true reason to want version 2 in
//! front of callers, and a difference that the demo's traffic measures.

use std::collections::HashMap;
use std::str::FromStr;

const TRAIN: &str = include_str!("corpus/train.txt");
const HELD_OUT: &str = include_str!("corpus/heldout.txt");

/// Words after a negation that it reaches, unless punctuation or "but" ends it.
const REACH: usize = 4;
/// How much of a plain word's weight a negated one takes with the other sign when training never saw it negated.
const FLIPPED: f64 = -0.8;
/// Features that an answer names as its reasons.
const REASONS: usize = 3;

const NEGATIONS: [&str; 9] = [
    "not", "no", "never", "nothing", "nobody", "none", "cannot", "without", "hardly",
];
/// Words that carry no opinion: a negation reaches over them.
const FILLERS: [&str; 23] = [
    "the", "a", "an", "is", "was", "were", "are", "it", "i", "to", "and", "of", "in", "with", "my",
    "this", "that", "at", "for", "be", "been", "one", "or",
];

/// Which of the two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Version {
    /// Words.
    V1,
    /// Words with negation.
    V2,
}

impl Version {
    /// Both.
    pub(crate) const ALL: [Version; 2] = [Version::V1, Version::V2];

    /// `v1` or `v2`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
        }
    }

    /// Its place in arrays by version.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Version::ALL
            .into_iter()
            .find(|version| version.name() == text)
            .ok_or_else(|| format!("no version {text:?}: v1 or v2"))
    }
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    /// Praise.
    Positive,
    /// Complaint.
    Negative,
}

impl Label {
    /// The word in answers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Label::Positive => "positive",
            Label::Negative => "negative",
        }
    }
}

/// A text with what it truly is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Example {
    /// The text.
    pub(crate) text: &'static str,
    /// What it is.
    pub(crate) label: Label,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prediction {
    /// What the text is.
    pub(crate) label: Label,
    /// How sure the model is, 0.5 to 1.
    pub(crate) confidence: f64,
    /// The features that weighed most with their log-odds; above zero speaks for praise.
    pub(crate) because: Vec<(String, f64)>,
}

/// A trained model.
#[derive(Debug)]
pub(crate) struct Model {
    version: Version,
    weights: HashMap<String, f64>,
}

impl Model {
    /// Trains a version on the corpus: the same weights every time.
    pub(crate) fn train(version: Version) -> Self {
        let mut counts: HashMap<String, [u32; 2]> = HashMap::new();
        let mut totals = [0_u32; 2];
        for example in examples(TRAIN) {
            for feature in features(version, example.text) {
                counts.entry(feature).or_default()[example.label as usize] += 1;
                totals[example.label as usize] += 1;
            }
        }
        // Add-one smoothing: a word of one class only is strong, not certain.
        let vocabulary = counts.len() as f64;
        let share = |count: u32, label: usize| {
            (f64::from(count) + 1.0) / (f64::from(totals[label]) + vocabulary)
        };
        let weights = counts
            .into_iter()
            .map(|(feature, count)| {
                let odds = share(count[Label::Positive as usize], Label::Positive as usize)
                    / share(count[Label::Negative as usize], Label::Negative as usize);
                (feature, odds.ln())
            })
            .collect();
        Self { version, weights }
    }

    /// Which version this is.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Classifies a text.
    pub(crate) fn predict(&self, text: &str) -> Prediction {
        let mut because: Vec<(String, f64)> = features(self.version, text)
            .into_iter()
            .filter_map(|feature| self.weight(&feature).map(|weight| (feature, weight)))
            .collect();
        let score: f64 = because.iter().map(|(_, weight)| weight).sum();
        // A stable sort: equal weights stay in the order of the text, so that an answer is always the same.
        because.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
        because.truncate(REASONS);
        Prediction {
            label: if score > 0.0 {
                Label::Positive
            } else {
                Label::Negative
            },
            confidence: 1.0 / (1.0 + (-score.abs()).exp()),
            because,
        }
    }

    /// The share of the held-out texts that it gets right, 0 to 1.
    pub(crate) fn accuracy(&self) -> f64 {
        let (mut right, mut all) = (0_u32, 0_u32);
        for example in held_out() {
            all += 1;
            right += u32::from(self.predict(example.text).label == example.label);
        }
        f64::from(right) / f64::from(all)
    }

    fn weight(&self, feature: &str) -> Option<f64> {
        let known = |feature: &str| self.weights.get(feature).copied();
        known(feature).or_else(|| known(feature.strip_prefix("not ")?).map(|w| w * FLIPPED))
    }
}

/// The texts that no version was trained on.
pub(crate) fn held_out() -> impl Iterator<Item = Example> {
    examples(HELD_OUT)
}

/// Number of texts that both versions are trained on.
pub(crate) fn training_size() -> usize {
    examples(TRAIN).count()
}

fn examples(corpus: &'static str) -> impl Iterator<Item = Example> {
    corpus.lines().filter_map(|line| {
        let (label, text) = match (line.strip_prefix("+ "), line.strip_prefix("- ")) {
            (Some(text), _) => (Label::Positive, text),
            (_, Some(text)) => (Label::Negative, text),
            _ => return None,
        };
        Some(Example { text, label })
    })
}

fn features(version: Version, text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    match version {
        Version::V1 => words(&text).map(str::to_owned).collect(),
        Version::V2 => {
            let mut found = Vec::new();
            for clause in text.split([',', '.', ';', ':', '!', '?']) {
                negated(clause, &mut found);
            }
            found
        }
    }
}

/// The words of a clause, those that a negation reaches with a mark.
fn negated(clause: &str, found: &mut Vec<String>) {
    let mut reach = 0;
    for word in words(clause) {
        if word == "but" {
            reach = 0;
        } else if NEGATIONS.contains(&word) || word.ends_with("n't") {
            reach = REACH;
        } else if reach == 0 {
            found.push(word.to_owned());
        } else if !FILLERS.contains(&word) {
            found.push(format!("not {word}"));
            reach -= 1;
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn version_2_is_better_on_texts_it_never_saw_and_both_are_better_than_a_coin() {
        let [v1, v2] = Version::ALL.map(|version| Model::train(version).accuracy());
        assert!(v1 > 0.65, "{v1}");
        assert!(v2 > 0.88, "{v2}");
        assert!(v2 > v1 + 0.1, "{v1} {v2}");
    }

    #[test]
    fn training_twice_gives_the_same_answers() {
        for version in Version::ALL {
            let (one, two) = (Model::train(version), Model::train(version));
            for example in held_out() {
                assert_eq!(one.predict(example.text), two.predict(example.text));
            }
        }
    }

    #[test]
    fn negation_turns_version_2_and_not_version_1() {
        let [v1, v2] = Version::ALL.map(Model::train);
        for (plain, negated) in [
            ("The train was late", "The train was not late"),
            ("It is broken", "It isn't broken"),
        ] {
            assert_eq!(v2.predict(plain).label, Label::Negative, "{plain}");
            assert_eq!(v2.predict(negated).label, Label::Positive, "{negated}");
            assert_eq!(v1.predict(negated).label, Label::Negative, "{negated}");
        }
    }

    #[test]
    fn a_negation_ends_with_its_clause() {
        let found = features(Version::V2, "Not cheap, but good. No regrets");
        assert_eq!(found, ["not cheap", "good", "not regrets"]);
    }

    #[test]
    fn the_reasons_are_the_strongest_features() {
        let answer = Model::train(Version::V2).predict("The staff were never rude");
        assert_eq!(answer.because[0].0, "not rude");
        assert!(answer.because[0].1 > 0.0);
        assert!((0.5..=1.0).contains(&answer.confidence));
    }

    #[test]
    fn no_held_out_text_was_trained_on_and_both_classes_are_even() {
        let trained: HashSet<&str> = examples(TRAIN).map(|e| e.text).collect();
        let held: Vec<Example> = held_out().collect();
        assert!(held.iter().all(|e| !trained.contains(e.text)));
        let positive = held.iter().filter(|e| e.label == Label::Positive).count();
        assert!(positive.abs_diff(held.len() - positive) <= 5, "{positive}");
    }

    #[test]
    fn a_text_without_known_words_is_answered_without_confidence() {
        for text in ["", "zzz qqq", "…"] {
            let answer = Model::train(Version::V1).predict(text);
            assert!((answer.confidence - 0.5).abs() < 1e-9 && answer.because.is_empty());
        }
    }
}
