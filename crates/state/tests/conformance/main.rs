//! One suite of behaviours, run against every backend; and what is special about each.

mod backends;
mod crash;
mod file;
mod model;
mod redis;
mod remote;
mod suite;

/// Makes a test of every behaviour for one backend.
macro_rules! conformance {
    ($backend:ident: $($behaviour:ident)*) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $behaviour() {
                    let place = crate::backends::$backend().await;
                    crate::suite::$behaviour(place.store()).await;
                }
            )*
        }
    };
}

/// The behaviours of the suite, for all backends.
macro_rules! everywhere {
    ($($behaviour:ident)*) => {
        mod on {
            conformance!(memory: $($behaviour)*);
            conformance!(file: $($behaviour)*);
            conformance!(remote: $($behaviour)*);
            conformance!(redis: $($behaviour)*);
        }
    };
}

everywhere! {
    what_is_written_is_read_back_and_what_is_deleted_is_gone
    values_are_any_bytes_up_to_the_limit
    of_many_writers_with_the_same_expectation_exactly_one_wins
    increments_by_compare_and_set_lose_nothing
    an_entry_that_was_made_again_is_not_the_old_one
    a_listing_has_what_is_below_its_prefix_in_order
    an_entry_ends_with_its_time_to_live_and_watchers_hear_of_it
    a_put_renews_or_removes_the_time_to_live
    a_watch_begins_with_everything_and_goes_on_with_every_change_in_order
    a_watch_hears_of_its_prefix_alone
    a_watcher_that_was_too_slow_is_given_everything_anew
    a_lease_has_one_holder_and_a_later_one_fences_the_earlier_one
    of_many_candidates_for_a_lease_one_gets_it
    a_holder_that_asks_again_keeps_its_epoch
    a_lease_that_ran_out_is_prolonged_unless_somebody_took_it
    a_lease_that_was_given_back_is_free_at_once_and_carries_no_writes
    a_counter_never_passes_its_ceiling_whoever_adds
    several_additions_are_done_all_or_none
    a_counter_does_not_go_below_zero_and_reading_changes_nothing
    a_counter_lives_from_its_first_addition
    the_callers_mistakes_are_told_apart
    one_candidate_leads_and_when_it_leaves_the_next_does
}
