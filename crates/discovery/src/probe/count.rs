//! From single results to "healthy" or not: pure counting.

/// What an endpoint's results say so far.
///
/// The first result decides at once, whichever it is: a new endpoint must not wait for `healthy_after` intervals, and one that
/// does not answer must not be trusted for `unhealthy_after`. Afterwards a change needs that many equal results in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// No result yet.
    New,
    /// Known, with the number of results in a row that say otherwise.
    Known { healthy: bool, against: u32 },
}

impl Count {
    /// Takes a result; returns whether the endpoint is healthy now, and whether that is new.
    pub(crate) fn result(
        &mut self,
        ok: bool,
        healthy_after: u32,
        unhealthy_after: u32,
    ) -> (bool, bool) {
        let (healthy, against, changed) = match *self {
            Self::New => (ok, 0, true),
            Self::Known { healthy, .. } if healthy == ok => (healthy, 0, false),
            Self::Known { healthy, against } => {
                let needed = if ok { healthy_after } else { unhealthy_after };
                if against + 1 >= needed {
                    (ok, 0, true)
                } else {
                    (healthy, against + 1, false)
                }
            }
        };
        *self = Self::Known { healthy, against };
        (healthy, changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_result_decides_at_once() {
        assert_eq!(Count::New.result(true, 5, 5), (true, true));
        assert_eq!(Count::New.result(false, 5, 5), (false, true));
    }

    #[test]
    fn a_change_needs_its_number_of_results_in_a_row() {
        let mut count = Count::New;
        let mut result = |ok| count.result(ok, 2, 3);
        assert_eq!(result(true), (true, true));
        assert_eq!(
            (result(false), result(false), result(true)),
            ((true, false), (true, false), (true, false)),
            "interrupted"
        );
        assert_eq!(
            (result(false), result(false), result(false)),
            ((true, false), (true, false), (false, true))
        );
        assert_eq!((result(true), result(true)), ((false, false), (true, true)));
    }

    proptest! {
        #[test]
        fn it_is_what_the_last_long_enough_run_says(results in prop::collection::vec(any::<bool>(), 1..200), up in 1u32..5, down in 1u32..5) {
            let mut count = Count::New;
            let (mut expected, mut run, mut last) = (results[0], 0u32, results[0]);
            for (index, &ok) in results.iter().enumerate() {
                run = if ok == last { run + 1 } else { 1 };
                last = ok;
                let before = expected;
                if ok != expected && run >= if ok { up } else { down } {
                    expected = ok;
                }
                prop_assert_eq!(count.result(ok, up, down), (expected, index == 0 || before != expected));
            }
        }
    }
}
