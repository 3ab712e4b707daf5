use proptest::prelude::*;

use super::*;
use crate::usage::Usage;

fn price(input: f64, output: f64, cached: Option<f64>) -> Price {
    Price {
        input: Micros::from_units(input),
        output: Micros::from_units(output),
        cached_input: cached.map(Micros::from_units),
    }
}

fn used(input: u64, cached: u64, output: u64) -> Usage {
    Usage {
        input,
        cached,
        output,
        ..Usage::default()
    }
}

#[test]
fn an_answer_costs_what_its_tokens_cost_rounded_up_once() {
    let price = price(2.5, 10.0, Some(1.25));
    assert_eq!(price.cost(&used(1_000_000, 0, 0)), Micros(2_500_000));
    assert_eq!(
        price.cost(&used(1_000_000, 400_000, 100_000)),
        Micros(1_500_000 + 500_000 + 1_000_000)
    );
    // 2.5 + 10 micro-units; a part alone would round to 3.
    assert_eq!(price.cost(&used(1, 0, 1)), Micros(13));
    assert_eq!(price.cost(&used(0, 0, 0)), Micros(0));
    // Reasoning is in the output already, and a cached part larger than the whole is a provider's slip.
    assert_eq!(
        price.cost(&Usage {
            reasoning: 50,
            ..used(0, 0, 100)
        }),
        Micros(1_000)
    );
    assert_eq!(price.cost(&used(10, 99, 0)), Micros(13));
}

#[test]
fn without_a_price_for_cached_tokens_they_cost_what_others_do() {
    assert_eq!(
        price(4.0, 0.0, None).cost(&used(1_000, 900, 0)),
        Micros(4_000)
    );
}

#[test]
fn amounts_that_make_no_sense_are_bounded() {
    for (units, micros) in [
        (f64::NAN, 0),
        (-1.0, 0),
        (f64::INFINITY, u64::MAX),
        (0.000_000_4, 0),
        (0.1, 100_000),
    ] {
        assert_eq!(Micros::from_units(units), Micros(micros), "{units}");
    }
    let dearest = Price {
        input: Micros(u64::MAX),
        output: Micros(u64::MAX),
        cached_input: None,
    };
    assert_eq!(dearest.cost(&used(u64::MAX, 0, u64::MAX)), Micros(u64::MAX));
}

#[test]
fn an_exact_name_comes_before_the_longest_prefix_and_the_star_is_last() {
    let table = PriceTable::new([
        ("*".to_owned(), price(1.0, 0.0, None)),
        ("gpt-4*".to_owned(), price(2.0, 0.0, None)),
        ("gpt-4o*".to_owned(), price(3.0, 0.0, None)),
        ("gpt-4o-mini".to_owned(), price(9.0, 0.0, None)),
        ("gpt-4o-mini".to_owned(), price(4.0, 0.0, None)),
    ]);
    for (model, units) in [
        ("gpt-4o-mini", 4.0),
        ("gpt-4o-2026", 3.0),
        ("gpt-4", 2.0),
        ("qwen", 1.0),
        ("", 1.0),
    ] {
        assert_eq!(table.find(model), Some(&price(units, 0.0, None)), "{model}");
    }
    assert_eq!(
        PriceTable::new([("a".to_owned(), Price::default())]).find("b"),
        None
    );
}

proptest! {
    #[test]
    fn a_cost_is_never_less_than_exact_and_less_than_a_micro_more(
        input in 0u64..10_000_000, cached in 0u64..10_000_000, output in 0u64..10_000_000,
        prices in any::<[u32; 3]>(),
    ) {
        let price = Price {
            input: Micros(prices[0].into()),
            output: Micros(prices[1].into()),
            cached_input: Some(Micros(prices[2].into())),
        };
        let cost = u128::from(price.cost(&used(input, cached, output)).0) * 1_000_000;
        let cached = cached.min(input);
        let exact = u128::from(input - cached) * u128::from(prices[0])
            + u128::from(cached) * u128::from(prices[2])
            + u128::from(output) * u128::from(prices[1]);
        prop_assert!(exact <= cost && cost < exact + 1_000_000);
    }

    #[test]
    fn more_tokens_never_cost_less(one in any::<[u32; 3]>(), more in any::<[u16; 2]>(), prices in any::<[u32; 2]>()) {
        let price = Price { input: Micros(prices[0].into()), output: Micros(prices[1].into()), cached_input: None };
        let [input, cached, output] = one.map(u64::from);
        let less = price.cost(&used(input, cached, output));
        let grown = price.cost(&used(input + u64::from(more[0]), cached, output + u64::from(more[1])));
        prop_assert!(less <= grown);
    }
}
