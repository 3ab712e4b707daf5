//! The index of blocking queries: pure, because each of its rules is a trap.

/// What to ask next. The rules are Consul's ("Implementation details" of its blocking queries):
/// an index that goes backwards (a restored or rebuilt cluster) starts anew from 0; an index below 1 would make the next
/// query return at once, for ever; and after trouble the next question must not block, so that the present state is known
/// as soon as there is an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    index: u64,
}

impl Cursor {
    /// The index to wait beyond; none: answer at once.
    pub(crate) fn index(self) -> Option<u64> {
        (self.index > 0).then_some(self.index)
    }

    /// A good answer came with this `X-Consul-Index` (none: missing or no number).
    pub(crate) fn answered(&mut self, index: Option<u64>) {
        let index = index.unwrap_or(0).max(1);
        self.index = if index < self.index { 0 } else { index };
    }

    /// No good answer.
    pub(crate) fn failed(&mut self) {
        self.index = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_question_does_not_block_and_later_ones_wait_beyond_the_answer() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.index(), None);
        cursor.answered(Some(7));
        assert_eq!(cursor.index(), Some(7));
        cursor.answered(Some(7));
        assert_eq!(cursor.index(), Some(7), "a return does not imply a change");
    }

    #[test]
    fn an_index_that_goes_backwards_starts_anew() {
        let mut cursor = Cursor { index: 100 };
        cursor.answered(Some(99));
        assert_eq!(cursor.index(), None);
        cursor.answered(Some(99));
        assert_eq!(cursor.index(), Some(99));
    }

    #[test]
    fn an_index_of_zero_or_none_never_makes_a_busy_loop() {
        let mut cursor = Cursor::default();
        for broken in [Some(0), None] {
            cursor.answered(broken);
            assert_eq!(cursor.index(), Some(1));
        }
    }

    #[test]
    fn after_trouble_the_next_question_does_not_block() {
        let mut cursor = Cursor { index: 5 };
        cursor.failed();
        assert_eq!(cursor.index(), None);
    }

    proptest! {
        #[test]
        fn it_never_waits_beyond_an_index_that_consul_did_not_give(answers in prop::collection::vec(prop::option::of(0u64..10), 1..50)) {
            let mut cursor = Cursor::default();
            for answer in answers {
                cursor.answered(answer);
                let given = answer.unwrap_or(0).max(1);
                prop_assert!(cursor.index().is_none_or(|index| index == given));
            }
        }
    }
}
