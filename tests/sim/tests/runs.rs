//! A few runs, and that a run is made from its seed alone.

#[test]
fn the_first_seeds_find_nothing() {
    for seed in 0..60 {
        if let Err(failure) = sim::run(seed) {
            panic!("{}\nseed {seed}: {}", failure.trace.join("\n"), failure.what);
        }
    }
}

#[test]
fn a_seed_does_the_same_every_time() {
    for seed in [1, 7, 42] {
        let (first, second) = (sim::traced(seed), sim::traced(seed));
        assert!(first.1.len() > 100, "a run leaves a trace");
        assert_eq!(first.1, second.1);
        assert_eq!(first.0.is_ok(), second.0.is_ok());
    }
    assert_ne!(sim::traced(1).1, sim::traced(2).1);
}

#[test]
fn runs_are_not_idle() {
    let mut total = sim::Summary::default();
    for seed in 100..140 {
        total += sim::run(seed).unwrap_or_else(|failure| panic!("{}", failure.what));
    }
    assert!(total.frames > 10_000, "{total:?}");
    assert!(total.arrived > 1_000, "{total:?}");
    assert!(total.rules_in_force > 100, "{total:?}");
}
