//! The same seed is the same run, event by event, also in another process.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

/// One seed in so many runs twice.
const EVERY: u64 = 20;
const SEEDS: u64 = 500;

fn hashes(seed: u64) -> String {
    let program = env!("CARGO_BIN_EXE_tidings-simulation");
    let output = Command::new(program)
        .args(["--from", &seed.to_string(), "--seeds", "1", "--threads", "1", "--hashes"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with(&format!("{seed} ")), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn one_seed_in_twenty_is_the_same_in_two_processes() {
    let seeds: Vec<u64> = (1..=SEEDS).step_by(usize::try_from(EVERY).unwrap()).collect();
    let first: Vec<String> = seeds.iter().map(|seed| hashes(*seed)).collect();
    let second: Vec<String> = seeds.iter().map(|seed| hashes(*seed)).collect();
    assert_eq!(first, second);
    // Not because every run is the same.
    let distinct: std::collections::BTreeSet<&str> =
        first.iter().filter_map(|line| line.split_whitespace().last()).collect();
    assert_eq!(distinct.len(), seeds.len());
}
