//! Holds the layout: who may depend on whom, who owns which client library, and what every file keeps to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};

/// Who may depend on which of ours, in what is shipped. Tests may use more.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("tidings-domain", &[]),
    ("tidings-runtime", &["tidings-domain"]),
    ("tidings-sqlite", &["tidings-domain", "tidings-runtime"]),
    ("tidings-smtp", &["tidings-domain", "tidings-runtime"]),
    ("tidings-memory", &["tidings-domain", "tidings-runtime"]),
    ("tidings-postgres", &["tidings-domain", "tidings-runtime"]),
    ("tidings-rabbitmq", &["tidings-domain", "tidings-runtime"]),
    ("tidings-redis", &["tidings-domain", "tidings-runtime"]),
    ("tidings-api", &["tidings-domain", "tidings-runtime"]),
    ("tidings-subscriber", &["tidings-domain", "tidings-runtime"]),
    ("tidings-cdc-watcher", &["tidings-domain", "tidings-runtime"]),
    ("tidings-mailer", &["tidings-domain", "tidings-runtime"]),
    (
        "tidings",
        &[
            "tidings-api",
            "tidings-cdc-watcher",
            "tidings-domain",
            "tidings-mailer",
            "tidings-memory",
            "tidings-postgres",
            "tidings-rabbitmq",
            "tidings-redis",
            "tidings-runtime",
            "tidings-smtp",
            "tidings-sqlite",
            "tidings-subscriber",
        ],
    ),
    ("tidings-conformance", &["tidings-domain"]),
    (
        "tidings-simulation",
        &[
            "tidings-api",
            "tidings-cdc-watcher",
            "tidings-domain",
            "tidings-mailer",
            "tidings-memory",
            "tidings-runtime",
            "tidings-subscriber",
        ],
    ),
    ("tidings-servers", &["tidings-domain"]),
    (
        "tidings-bench",
        &[
            "tidings-domain",
            "tidings-postgres",
            "tidings-rabbitmq",
            "tidings-servers",
            "tidings-smtp",
            "tidings-sqlite",
        ],
    ),
    ("xtask", &[]),
];

/// Which shipped crates may use a client library: only what speaks to the thing.
const OWNERS: &[(&str, &[&str])] = &[
    ("sqlx", &["tidings-postgres", "tidings-sqlite", "tidings-bench"]),
    ("pgwire-replication", &["tidings-postgres", "tidings-bench"]),
    ("lapin", &["tidings-rabbitmq", "tidings-bench"]),
    ("redis", &["tidings-redis"]),
    // The mailer builds messages with lettre's builder; only crates/smtp speaks SMTP.
    ("lettre", &["tidings-smtp", "tidings-mailer"]),
    ("axum", &["tidings-api", "tidings", "tidings-bench", "tidings-simulation"]),
    ("hyper", &["tidings", "tidings-bench"]),
    ("hyper-util", &["tidings", "tidings-bench"]),
    ("reqwest", &["tidings", "tidings-bench", "tidings-rabbitmq"]),
    ("opentelemetry_sdk", &["tidings"]),
    ("opentelemetry-otlp", &["tidings"]),
    ("rustls", &["tidings", "tidings-postgres", "tidings-rabbitmq", "tidings-smtp"]),
    ("clap", &["tidings", "tidings-bench", "tidings-simulation"]),
];

/// Crates whose code the simulation runs: deterministic by construction.
const DETERMINISTIC: &[&str] = &[
    "crates/domain",
    "crates/runtime",
    "crates/memory",
    "services/api",
    "services/subscriber",
    "services/cdc-watcher",
    "services/mailer",
];

const MAX_LINES: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root").to_owned()
}

fn metadata() -> Metadata {
    MetadataCommand::new().current_dir(root()).no_deps().exec().expect("cargo metadata answers")
}

fn shipped(package: &Package) -> BTreeSet<&str> {
    package
        .dependencies
        .iter()
        .filter(|d| d.kind == DependencyKind::Normal)
        .map(|d| d.name.as_str())
        .collect()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["crates", "services", "tests", "xtask"].map(|folder| root().join(folder)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of ours can be read") {
            let path = entry.expect("its entries can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<_, _> = MAY_DEPEND_ON.iter().copied().collect();
    let mut faults = Vec::new();
    for package in &metadata().packages {
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            faults.push(format!("{} is not in MAY_DEPEND_ON", package.name));
            continue;
        };
        for dependency in shipped(package) {
            let ours = dependency == "tidings" || dependency.starts_with("tidings-") || dependency == "xtask";
            if ours && !allowed.contains(&dependency) {
                faults.push(format!("{} must not depend on {dependency}", package.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_its_owner_uses_a_client_library() {
    let owners: BTreeMap<_, _> = OWNERS.iter().copied().collect();
    let mut faults = Vec::new();
    for package in &metadata().packages {
        for dependency in shipped(package) {
            if owners.get(dependency).is_some_and(|owners| !owners.contains(&package.name.as_str())) {
                faults.push(format!("{} must not use {dependency}", package.name));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_manifest_is_licensed_and_inherits_the_lints() {
    let mut faults = Vec::new();
    for package in &metadata().packages {
        if package.license.as_deref() != Some("Apache-2.0") {
            faults.push(format!("{} has no license = Apache-2.0", package.name));
        }
        let manifest = fs::read_to_string(&package.manifest_path).expect("a manifest can be read");
        if !manifest.contains("[lints]\nworkspace = true") {
            faults.push(format!("{} does not inherit the lints", package.name));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_select_is_biased_where_the_simulation_runs() {
    let mut faults = Vec::new();
    for path in sources() {
        let relative = path.strip_prefix(root()).expect("sources lie below the root").to_owned();
        if !DETERMINISTIC.iter().any(|folder| relative.starts_with(folder)) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source can be read");
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let next = lines.get(number + 1).map_or("", |next| next.trim());
            if line.contains("select! {") && next != "biased;" {
                faults.push(format!("{}:{} begins no biased select", relative.display(), number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_file_is_over_500_lines() {
    let mut faults = Vec::new();
    for path in sources() {
        let lines = fs::read_to_string(&path).expect("a source can be read").lines().count();
        if lines > MAX_LINES {
            faults.push(format!("{} has {lines} lines", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_file_is_a_drawer() {
    let drawers = ["utils.rs", "util.rs", "common.rs", "misc.rs", "types.rs", "helpers.rs"];
    let faults: Vec<_> = sources()
        .into_iter()
        .filter(|path| drawers.iter().any(|drawer| path.ends_with(drawer)))
        .map(|path| path.display().to_string())
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_test_is_ignored() {
    let ignore = concat!("#[", "ignore");
    let faults: Vec<_> = sources()
        .into_iter()
        .filter(|path| fs::read_to_string(path).expect("a source can be read").contains(ignore))
        .map(|path| path.display().to_string())
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What a source hands to a part or a dependency as the reason of its state, up to what it fills in.
fn reasons(text: &str) -> Vec<String> {
    const SAID_BY: [&str; 5] = [".waiting(", ".degraded(", "::Waiting(", "::Degraded(", "::Down("];
    let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    for marker in SAID_BY {
        for rest in shipped.split(marker).skip(1) {
            let rest = rest.trim_start();
            let rest = rest.strip_prefix("format!(").map_or(rest, str::trim_start);
            let Some(literal) = rest.strip_prefix('"') else { continue };
            let literal = literal.split(['"', '{']).next().unwrap_or_default().trim();
            if literal.split(' ').count() > 1 {
                found.push(literal.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_reason_of_readiness_is_explained() {
    let page = fs::read_to_string(root().join("docs/operate.md")).expect("docs/operate.md can be read");
    let mut faults = Vec::new();
    let mut seen = 0;
    for path in sources() {
        let relative = path.strip_prefix(root()).expect("sources lie below the root").to_owned();
        // These two have no servers, and no readers of that page.
        let is_shipped = ["crates", "services"].iter().any(|folder| relative.starts_with(folder))
            && !["crates/memory", "crates/conformance"].iter().any(|folder| relative.starts_with(folder))
            && !relative.components().any(|part| part.as_os_str() == "tests");
        if !is_shipped {
            continue;
        }
        for reason in reasons(&fs::read_to_string(&path).expect("a source can be read")) {
            seen += 1;
            if !page.contains(&reason) {
                faults.push(format!("{}: {reason:?} is not in docs/operate.md", relative.display()));
            }
        }
    }
    assert!(seen > 15, "{seen} reasons were found: the sources say them otherwise now");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
