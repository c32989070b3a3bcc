//! Seeds that hold.

/// How many seeds CI runs; `cargo xtask simulate --seeds N` runs more.
const SEEDS: u64 = 500;

#[test]
fn every_seed_holds() {
    let failures = std::sync::Mutex::new(Vec::new());
    let summary = tidings_simulation::run_all(1, SEEDS, 2, &|run| {
        if !run.violations.is_empty() {
            failures.lock().unwrap().push(run.failure());
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}\n{summary}", failures.join("\n"));
    // A simulation in which nothing happens would hold as well.
    assert!(summary.mails > 10 * SEEDS && summary.items > 10 * SEEDS, "{summary}");
    assert!(summary.crashes > SEEDS && summary.unknowns > SEEDS / 2, "{summary}");
    let missing: Vec<_> =
        tidings_simulation::Kind::ALL.into_iter().filter(|kind| !summary.faults.contains_key(kind)).collect();
    assert!(missing.is_empty(), "no seed met {missing:?}: {summary}");
}
