use super::*;
use FailureKind::{Gateway, LocalOrigin, Refused, Status5xx};

fn thresholds(split: bool) -> Thresholds {
    let thresholds = Thresholds::default();
    thresholds.set(Some(&OutlierDetection {
        split_local_origin: split,
        ..OutlierDetection::default()
    }));
    thresholds
}

fn fire_on(kinds: &[FailureKind], thresholds: &Thresholds) -> Fired {
    let cell = Cell::default();
    kinds
        .iter()
        .map(|kind| cell.failure(*kind, thresholds, Time::ZERO))
        .last()
        .unwrap()
}

#[test]
fn five_in_a_row_fire_once_and_count_anew() {
    let (cell, limits) = (Cell::default(), thresholds(false));
    let fired: Vec<_> = (0..12)
        .map(|_| cell.failure(Status5xx, &limits, Time::ZERO).consecutive_5xx)
        .collect();
    assert_eq!(
        fired
            .iter()
            .enumerate()
            .filter(|(_, f)| **f)
            .map(|(i, _)| i)
            .collect::<Vec<_>>(),
        [4, 9]
    );
}

#[test]
fn a_success_ends_every_run() {
    let (cell, limits) = (Cell::default(), thresholds(false));
    for _ in 0..4 {
        cell.failure(LocalOrigin, &limits, Time::ZERO);
    }
    cell.ok();
    for _ in 0..4 {
        assert!(!cell.failure(LocalOrigin, &limits, Time::ZERO).any());
    }
    assert!(
        cell.failure(LocalOrigin, &limits, Time::ZERO)
            .consecutive_local
    );
}

#[test]
fn a_plain_500_ends_the_run_of_gateway_failures() {
    let runs = [Gateway, Gateway, Gateway, Gateway, Status5xx, Gateway];
    assert_eq!(
        fire_on(&runs[..5], &thresholds(false)),
        Fired {
            consecutive_5xx: true,
            ..Fired::default()
        }
    );
    assert_eq!(fire_on(&runs, &thresholds(false)), Fired::default());
    let fired = fire_on(&[Gateway; 5], &thresholds(false));
    assert!(fired.consecutive_5xx && fired.consecutive_gateway && !fired.consecutive_local);
}

#[test]
fn connection_failures_count_as_5xx_unless_split() {
    assert!(
        fire_on(
            &[LocalOrigin, Status5xx, LocalOrigin, Gateway, LocalOrigin],
            &thresholds(false)
        )
        .consecutive_5xx
    );
    let split = fire_on(&[LocalOrigin; 5], &thresholds(true));
    assert_eq!(
        split,
        Fired {
            consecutive_local: true,
            ..Fired::default()
        }
    );
}

#[test]
fn a_run_is_told_by_what_it_consisted_of() {
    let limits = thresholds(false);
    let told = |kinds: &[FailureKind]| {
        let fired = fire_on(kinds, &limits);
        assert!(fired.consecutive_5xx);
        (fired.bad, fired.gateway)
    };
    use Origin::{Answers, Connections, Mixed};
    assert_eq!(told(&[Status5xx; 5]), (Answers, Answers));
    assert_eq!(told(&[LocalOrigin; 5]), (Connections, Connections));
    let mixed = [LocalOrigin, LocalOrigin, Gateway, LocalOrigin, LocalOrigin];
    assert_eq!(told(&mixed), (Mixed, Answers));
    // What an earlier run consisted of is forgotten, whether it fired or ended.
    let cell = Cell::default();
    let five = |kind| [(); 5].map(|()| cell.failure(kind, &limits, Time::ZERO))[4].bad;
    assert_eq!([five(Status5xx), five(LocalOrigin)], [Answers, Connections]);
    cell.failure(LocalOrigin, &limits, Time::ZERO);
    cell.ok();
    assert_eq!(five(Gateway), Answers);
    // The gateway's run is younger than the other.
    let fired = fire_on(
        &[[Status5xx; 3].as_slice(), &[LocalOrigin; 5]].concat(),
        &limits,
    );
    assert_eq!((fired.consecutive_5xx, fired.gateway), (false, Connections));
}

#[test]
fn what_fires_tells_whether_it_counted_refusals_of_our_own() {
    let limits = thresholds(false);
    let last_of = |kinds: &[FailureKind]| {
        let fired = fire_on(kinds, &limits);
        assert!(fired.consecutive_5xx);
        fired.refused
    };
    let own = [LocalOrigin; 5];
    assert_eq!(last_of(&own), [false; 4]);
    let mixed = [Refused, LocalOrigin, LocalOrigin, LocalOrigin, LocalOrigin];
    assert_eq!(last_of(&mixed), [true, true, true, false]);
    // It is over with the run that held it.
    assert_eq!(last_of(&[mixed, own].concat()), [false; 4]);
    // An answer ended the run without one, not that of bad ones.
    let answered = [Refused, Status5xx, Gateway, Gateway, Gateway];
    assert_eq!(last_of(&answered), [true, false, false, false]);
    let split = thresholds(true);
    let fired = fire_on(&mixed, &split);
    assert_eq!(fired.refused, [false, false, true, false]);
    let own = fire_on(&[[Refused; 4], [Status5xx; 4]].concat(), &split);
    assert_eq!(own, Fired::default());

    let cell = Cell::default();
    cell.set_window(Some(&ErrorsWithin {
        count: 3,
        within: Duration::from_secs(10),
    }));
    let window = |kinds: [FailureKind; 3]| {
        let off = Thresholds::default();
        let fired = kinds.map(|kind| cell.failure(kind, &off, Time::from_secs(5)))[2];
        (fired.window, fired.refused[3])
    };
    let kinds = [Gateway, Gateway, Refused];
    for turn in 0..3 {
        let mut kinds = kinds;
        kinds.rotate_left(turn);
        assert_eq!(window(kinds), (true, true), "{kinds:?}");
    }
    assert_eq!(window([Gateway; 3]), (true, false));
}

#[test]
fn long_runs_do_not_spill_into_their_neighbours() {
    let limits = Thresholds::default();
    limits.set(Some(&OutlierDetection {
        consecutive_5xx: u32::MAX,
        consecutive_gateway_failure: 5,
        ..OutlierDetection::default()
    }));
    let cell = Cell::default();
    let full = Runs {
        lengths: [MASK as u32, 0, 0],
        held: [true, false, false],
        refused: [false; 3],
    };
    cell.runs.store(full.pack(), Relaxed);
    let fired: Vec<_> = (0..5)
        .map(|_| {
            cell.failure(Gateway, &limits, Time::ZERO)
                .consecutive_gateway
        })
        .collect();
    assert_eq!(fired, [false, false, false, false, true]);
}

#[test]
fn windowed_errors_fire_whatever_succeeds_in_between() {
    let cell = Cell::default();
    cell.set_window(Some(&ErrorsWithin {
        count: 5,
        within: Duration::from_secs(300),
    }));
    let limits = Thresholds::default();
    for minute in 0..4 {
        assert!(
            !cell
                .failure(Status5xx, &limits, Time::from_secs(60 * minute))
                .window
        );
        cell.ok();
    }
    assert!(
        cell.failure(Status5xx, &limits, Time::from_secs(300))
            .window,
        "the fifth, five minutes after the first"
    );
}

#[test]
fn windowed_errors_further_apart_do_not_fire() {
    let cell = Cell::default();
    cell.set_window(Some(&ErrorsWithin {
        count: 5,
        within: Duration::from_secs(300),
    }));
    let limits = Thresholds::default();
    for step in 0..100 {
        assert!(
            !cell
                .failure(Status5xx, &limits, Time::from_secs(76 * step))
                .window
        );
    }
}

#[test]
fn a_window_of_one_fires_at_once() {
    let cell = Cell::default();
    cell.set_window(Some(&ErrorsWithin {
        count: 1,
        within: Duration::from_secs(1),
    }));
    assert!(
        cell.failure(Gateway, &Thresholds::default(), Time::ZERO)
            .window
    );
}

#[test]
fn an_idle_cell_is_known_as_such() {
    let (cell, limits) = (Cell::default(), thresholds(false));
    cell.set_window(Some(&ErrorsWithin {
        count: 3,
        within: Duration::from_secs(10),
    }));
    assert!(cell.is_idle(Time::ZERO));
    cell.failure(Status5xx, &limits, Time::ZERO);
    assert!(!cell.is_idle(Time::ZERO));
    cell.ok();
    cell.take_interval();
    assert!(
        !cell.is_idle(Time::from_secs(9)),
        "the window still holds the failure"
    );
    assert!(cell.is_idle(Time::from_secs(11)));
}

#[test]
fn intervals_are_taken_once() {
    let (cell, limits) = (Cell::default(), thresholds(false));
    cell.ok();
    cell.ok();
    cell.failure(Status5xx, &limits, Time::ZERO);
    assert_eq!(cell.take_interval(), (3, 1));
    assert_eq!(cell.take_interval(), (0, 0));
}

#[test]
fn a_threshold_fires_exactly_once_across_threads() {
    let (cell, limits) = (Cell::default(), thresholds(false));
    let fired: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..5_000)
                        .filter(|_| cell.failure(Status5xx, &limits, Time::ZERO).consecutive_5xx)
                        .count()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap() as u32).sum()
    });
    assert_eq!(fired, 4 * 5_000 / 5);
}
