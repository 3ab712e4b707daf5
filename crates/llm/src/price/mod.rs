//! What tokens cost.
//!
//! Money is counted in whole micro-units (millionths of the currency) and never in floating point: a budget that many
//! small requests share must not drift. A price is for a million tokens, so a price of 1 micro-unit a million is the
//! finest that can be said.

/// Tokens that a price is for.
const PRICED: u128 = 1_000_000;

/// Millionths of a currency's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// An amount as people write it, `2.5`, rounded to the nearest micro-unit. What is negative or no number is nothing;
    /// what is too large is the largest amount.
    #[must_use]
    pub fn from_units(units: f64) -> Self {
        // `as` is exactly this: NaN and what is below zero become 0, what is too large the maximum.
        Self((units * 1e6).round() as u64)
    }

    /// For people: the amount in units.
    #[must_use]
    pub fn units(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

/// The price of a model's tokens, for a million of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Price {
    /// Of the prompt.
    pub input: Micros,
    /// Of the answer, reasoning included.
    pub output: Micros,
    /// Of the part of the prompt that was read from the provider's cache; `None`: as `input`.
    pub cached_input: Option<Micros>,
}

impl Price {
    /// What an answer cost.
    ///
    /// The sum is exact; it is rounded **up** to a whole micro-unit, once, at its end. So an answer is never cheaper than
    /// its price, and dearer by less than a millionth of a unit. An amount that does not fit is the largest one.
    #[must_use]
    pub fn cost(&self, usage: &crate::usage::Usage) -> Micros {
        let cached = usage.cached.min(usage.input);
        let of = |tokens: u64, price: Micros| u128::from(tokens) * u128::from(price.0);
        let parts = [
            of(usage.input - cached, self.input),
            of(cached, self.cached_input.unwrap_or(self.input)),
            of(usage.output, self.output),
        ];
        let sum = parts.into_iter().fold(0_u128, u128::saturating_add);
        Micros(u64::try_from(sum.div_ceil(PRICED)).unwrap_or(u64::MAX))
    }
}

/// Prices by the model's name at the provider. An exact name comes before the longest prefix (`gpt-4*`), `*` is last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceTable {
    /// Sorted by name.
    exact: Vec<(String, Price)>,
    /// Without the `*`; the longest first.
    prefixes: Vec<(String, Price)>,
}

impl PriceTable {
    /// A table of patterns. Of two equal ones the later counts.
    pub fn new(rows: impl IntoIterator<Item = (String, Price)>) -> Self {
        let mut table = Self::default();
        for (pattern, price) in rows {
            let (list, name) = match pattern.strip_suffix('*') {
                Some(prefix) => (&mut table.prefixes, prefix.to_owned()),
                None => (&mut table.exact, pattern),
            };
            list.retain(|(known, _)| *known != name);
            list.push((name, price));
        }
        table.exact.sort_by(|one, other| one.0.cmp(&other.0));
        table
            .prefixes
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        table
    }

    /// The price of a model; `None` if no pattern fits.
    #[must_use]
    pub fn find(&self, model: &str) -> Option<&Price> {
        let exact = self
            .exact
            .binary_search_by(|(name, _)| name.as_str().cmp(model));
        match exact {
            Ok(at) => Some(&self.exact[at].1),
            Err(_) => self
                .prefixes
                .iter()
                .find(|(prefix, _)| model.starts_with(prefix))
                .map(|(_, price)| price),
        }
    }
}

#[cfg(test)]
mod tests;
