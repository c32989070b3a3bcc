//! docs/metrics.md against what a run exposes, against the names in the code, and the boards against it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use reqwest::Method;
use serde_json::{Value, json};
use tidings_servers::smtp::{Act, Rule, SmtpServer, Step};
use tokio::time::timeout;

use crate::harness::{PATIENCE, Server};

/// What a row of the page says.
#[derive(Debug)]
struct Listed {
    name: String,
    exposed: String,
    kind: String,
    unit: String,
    labels: BTreeSet<String>,
    profiles: String,
    always: bool,
}

impl Listed {
    /// Without those that have a `?`, which are there where they apply.
    fn labels_always(&self) -> BTreeSet<String> {
        self.labels.iter().filter(|label| !label.ends_with('?')).cloned().collect()
    }

    fn labels_ever(&self) -> BTreeSet<String> {
        self.labels.iter().map(|label| label.trim_end_matches('?').to_owned()).collect()
    }
}

/// What `/metrics` says of one metric.
#[derive(Debug, Default)]
struct Exposed {
    kind: String,
    labels: BTreeSet<String>,
}

/// Texts of the code that look like a metric of ours and are none.
const NO_METRICS: [&str; 11] = [
    "tidings.attempts",
    "tidings.dead_letter",
    "tidings.reason",
    "tidings.retry",
    "tidings.unknown",
    "tidings.db",
    "tidings.lock",
    "tidings.toml",
    "tidings.example.com",
    "tidings.delivery.kind",
    "tidings.delivery.attempt",
];

#[tokio::test]
async fn a_run_exposes_what_the_page_lists_and_nothing_else() {
    let smtp = SmtpServer::start().await;
    let url = smtp.url();
    let server = Server::start_with(&[("SMTP_URL", &url)]).await;
    for email in ["reader@example.com", "gone@example.com"] {
        let request = json!({ "email": email, "confirmed": true });
        server.ok(server.request(Method::POST, "/v1/topics/messages/subscriptions").json(&request)).await;
    }
    smtp.rule(Rule::new(Step::Rcpt, Act::Reply("550 5.1.1 no such user")).to("gone@example.com"));
    let id = server.publish("to be counted").await;
    assert_eq!(server.finished(&id).await["state"], "dead_letter");
    smtp.clear_rules();
    let redrive =
        server.request(Method::POST, "/v1/dead-letters/redrive").json(&json!({ "reason": "refused" }));
    assert_eq!(server.ok(redrive).await["count"], 1);
    smtp.wait_for_mails(2).await;
    assert_eq!(server.finished(&id).await["state"], "done");

    // What is counted beside the message's way (the backlog, retention) may be counted a moment later.
    let page = page();
    let happened = ["tidings_dead_letters_written_total", "tidings_dead_letters_redriven_total"];
    let always = page.values().filter(|listed| listed.always && listed.profiles == "all");
    let awaited: Vec<&str> = always.map(|listed| listed.exposed.as_str()).chain(happened).collect();
    let whole = async {
        loop {
            let exposed = metrics_of(&server).await;
            if awaited.iter().all(|name| exposed.contains_key(*name)) {
                return exposed;
            }
        }
    };
    let Ok(exposed) = timeout(PATIENCE, whole).await else {
        let exposed = metrics_of(&server).await;
        let missing: Vec<_> = awaited.iter().filter(|name| !exposed.contains_key(**name)).collect();
        panic!("not exposed although it happened: {missing:?}");
    };
    for (name, exposed) in &exposed {
        let listed = page.get(name).unwrap_or_else(|| panic!("{name} is not in docs/metrics.md"));
        assert_eq!(exposed.kind, listed.kind, "the kind of {name}");
        let (needed, all) = (listed.labels_always(), listed.labels_ever());
        let has = &exposed.labels;
        assert!(needed.is_subset(has) && has.is_subset(&all), "the labels of {name}: {has:?} and {listed:?}");
    }
}

#[test]
fn the_page_gives_each_metric_the_name_that_prometheus_makes_of_it() {
    for listed in page().values() {
        let mut name = listed.name.replace('.', "_");
        match listed.unit.as_str() {
            "s" => name.push_str("_seconds"),
            "By" => name.push_str("_bytes"),
            // What is counted is no unit to Prometheus.
            "" | "{span}" => {}
            other => panic!("the unit {other:?} of {name}: what does Prometheus make of it?"),
        }
        if listed.kind == "counter" {
            name.push_str("_total");
        }
        assert_eq!(listed.exposed, name);
    }
}

#[test]
fn every_metric_of_the_code_is_on_the_page() {
    let page: BTreeSet<String> = page().into_values().map(|listed| listed.name).collect();
    let mut found = BTreeSet::new();
    for folder in ["crates", "services"] {
        for member in fs::read_dir(repository().join(folder)).unwrap() {
            read_sources(&member.unwrap().path().join("src"), &mut |source| {
                found.extend(texts(source).filter(|text| is_metric(text)).map(str::to_owned));
            });
        }
    }
    let ours: BTreeSet<String> = page.iter().filter(|name| name.starts_with("tidings.")).cloned().collect();
    assert_eq!(ours, found, "left: the page; right: the code (what is no metric goes into NO_METRICS)");
}

#[test]
fn the_boards_ask_for_what_the_page_lists() {
    let page = page();
    let mut asked = BTreeSet::new();
    for board in fs::read_dir(repository().join("deploy/grafana/boards")).unwrap() {
        let text = fs::read_to_string(board.unwrap().path()).unwrap();
        let board: Value = serde_json::from_str(&text).unwrap();
        let expressions = text_members(&board, "expr");
        let words = expressions
            .iter()
            .flat_map(|expr| expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
        let ours = words.filter(|word| {
            ["tidings_", "http_server_request", "messaging_", "otel_sdk_"].iter().any(|p| word.starts_with(p))
        });
        asked.extend(ours.map(|word| {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
            base.unwrap_or(word).to_owned()
        }));
    }
    assert!(asked.len() > 10, "the boards ask for something: {asked:?}");
    let unknown: Vec<_> = asked.iter().filter(|name| !page.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "on a board and not in docs/metrics.md: {unknown:?}");
}

/// The rows of the page's tables, by the name in Prometheus.
fn page() -> BTreeMap<String, Listed> {
    let text = fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<String> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let [name, exposed, kind, unit, labels, profiles, seen, _] = cells.as_slice() else {
            panic!("not eight cells: {line}");
        };
        assert!(["always", "fault", "spans"].contains(&seen.as_str()), "seen {seen:?}: {line}");
        assert!(["all", "selfhosted"].contains(&profiles.as_str()), "from {profiles:?}: {line}");
        let listed = Listed {
            name: name.clone(),
            exposed: exposed.clone(),
            kind: kind.clone(),
            unit: unit.clone(),
            labels: labels
                .split(',')
                .map(|label| label.trim().replace('.', "_"))
                .filter(|label| !label.is_empty())
                .collect(),
            profiles: profiles.clone(),
            always: seen == "always",
        };
        assert!(rows.insert(exposed.clone(), listed).is_none(), "{exposed} is listed twice");
    }
    assert!(rows.len() > 10, "the page has rows");
    rows
}

async fn metrics_of(server: &Server) -> BTreeMap<String, Exposed> {
    let answer = server.client.get(format!("{}/metrics", server.admin_url)).send().await.unwrap();
    exposed(&answer.text().await.unwrap())
}

/// What is exposed, by name, without what every series has and what describes the process.
fn exposed(text: &str) -> BTreeMap<String, Exposed> {
    let mut metrics: BTreeMap<String, Exposed> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').unwrap();
            name.clone_into(&mut current);
            metrics.entry(current.clone()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') {
            let labels =
                line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map(|(labels, _)| labels);
            let names = labels.into_iter().flat_map(label_names);
            let of_all = ["otel_scope_name", "le"];
            metrics
                .get_mut(&current)
                .unwrap()
                .labels
                .extend(names.filter(|name| !of_all.contains(&name.as_str())));
        }
    }
    metrics.remove("target_info");
    metrics
}

/// The names in `a="x",b="y"`, where a value may hold anything.
fn label_names(labels: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = labels;
    while let Some((name, after)) = rest.split_once("=\"") {
        names.push(name.trim_start_matches(',').to_owned());
        let mut escaped = false;
        let end = after.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        rest = &after[end.unwrap() + 1..];
    }
    names
}

fn is_metric(text: &str) -> bool {
    let rest = text.strip_prefix("tidings.").unwrap_or_default();
    !rest.is_empty()
        && rest.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '.')
        && !NO_METRICS.contains(&text)
}

/// The texts in quotes of a source.
fn texts(source: &str) -> impl Iterator<Item = &str> {
    source.lines().flat_map(|line| line.split('"').skip(1).step_by(2))
}

fn read_sources(folder: &Path, read: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, read);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            read(&fs::read_to_string(path).unwrap());
        }
    }
}

/// Every text that is the member `name` of an object, anywhere in `value`.
fn text_members(value: &Value, name: &str) -> Vec<String> {
    match value {
        Value::Array(values) => values.iter().flat_map(|value| text_members(value, name)).collect(),
        Value::Object(members) => members
            .iter()
            .flat_map(|(key, value)| match value {
                Value::String(text) if key == name => vec![text.clone()],
                other => text_members(other, name),
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
