//! What OpenTelemetry's own variables say of where spans and metrics go; the rest of them its library reads.

use std::{collections::BTreeMap, time::Duration};

use super::reach::Reach;
use crate::settings::faults::Faults;

/// Where everything goes that has no place of its own.
const FOR_ALL: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const FOR_SPANS: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const FOR_METRICS: &str = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT";
/// Where the specification has a collector that nobody names.
const DEFAULT: &str = "http://localhost:4318";

const TRACES_EXPORTER: &str = "OTEL_TRACES_EXPORTER";
/// Who metrics are exported to: a list.
const METRICS_EXPORTER: &str = "OTEL_METRICS_EXPORTER";
const METRICS_INTERVAL: &str = "OTEL_METRIC_EXPORT_INTERVAL";
const QUEUE_SIZE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
const DELAY: &str = "OTEL_BSP_SCHEDULE_DELAY";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";

/// The protocols of both.
const PROTOCOLS: [&str; 3] = [
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
];

/// How often metrics are pushed unless it is said (the specification's default).
const PUSH_EVERY: Duration = Duration::from_secs(60);

/// How spans wait for their export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// How many of a service may wait; more are dropped, never waited for.
    pub(crate) most: usize,
    /// How long one waits for others to be exported with it.
    pub(crate) delay: Duration,
}

impl Default for Waiting {
    /// More and shorter than the specification's 2,048 and 5 s: a burst of messages is many spans, and a trace is looked for
    /// as soon as its mail is there.
    fn default() -> Self {
        Self { most: 8192, delay: Duration::from_secs(1) }
    }
}

/// Which new traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Root {
    /// All.
    All,
    /// None.
    None,
    /// This part of them, by their ids.
    Part(f64),
}

/// Which spans are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// Of traces that begin here.
    pub(crate) root: Root,
    /// Whether the decision of whoever began a trace is kept. Without it each span is sampled by `root`.
    pub(crate) parent_based: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { root: Root::All, parent_based: true }
    }
}

/// Where telemetry goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Export {
    /// Where spans go; none: nowhere.
    pub(crate) spans: Option<String>,
    /// Which of them are recorded.
    pub(crate) sampling: Sampling,
    /// How they wait for that.
    pub(crate) waiting: Waiting,
    /// How their collector is reached.
    pub(crate) spans_reach: Reach,
    /// How often metrics are pushed; none: they are not. The page `/metrics` shows them in any case.
    pub(crate) metrics: Option<Duration>,
    /// How their collector is reached.
    pub(crate) metrics_reach: Reach,
    /// Whether whoever starts us names the process.
    pub(crate) names_instance: bool,
}

impl Export {
    /// Reads the environment. What this build cannot do is a fault.
    pub(crate) fn read(variables: &BTreeMap<String, String>, faults: &mut Faults) -> Self {
        let set =
            |name: &str| variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
        let sampling = sampling(&set, faults);
        if set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Self { sampling, ..Self::default() };
        }
        let spans = match set(TRACES_EXPORTER) {
            Some("none") => None,
            None | Some("otlp") => set(FOR_SPANS).or_else(|| set(FOR_ALL)),
            Some(other) => {
                faults.add(TRACES_EXPORTER, format!("{other:?} is none of otlp, none"));
                None
            }
        };
        let metrics = pushes_metrics(&set, faults);
        if spans.is_some() || metrics.is_some() {
            for name in [FOR_ALL, FOR_SPANS, FOR_METRICS] {
                let is_address = |to: &str| to.starts_with("http://") || to.starts_with("https://");
                if let Some(to) = set(name).filter(|to| !is_address(to)) {
                    faults.add(name, format!("{to:?} is no address such as http://127.0.0.1:4318"));
                }
            }
            for name in PROTOCOLS {
                if let Some(protocol) = set(name).filter(|protocol| *protocol != "http/protobuf") {
                    let mend = "unset it, or set http/protobuf";
                    faults.add(name, format!("this build does not speak {protocol:?}: {mend}"));
                }
            }
        }
        let metrics_to = metrics.map(|_| set(FOR_METRICS).or_else(|| set(FOR_ALL)).unwrap_or(DEFAULT));
        let [spans_reach, metrics_reach] = Reach::read(&set, [spans, metrics_to], faults);
        Self {
            spans: spans.map(str::to_owned),
            sampling,
            waiting: waiting(&set, faults),
            spans_reach,
            metrics,
            metrics_reach,
            names_instance: set("OTEL_RESOURCE_ATTRIBUTES")
                .is_some_and(|attributes| attributes.contains("service.instance.id")),
        }
    }
}

/// How often metrics are pushed. The specification's default exporter is `otlp`, so that an endpoint for everything takes
/// metrics too; where there is none, and nobody asks for `otlp`, nothing is sent to its default address.
fn pushes_metrics<'a>(set: &impl Fn(&str) -> Option<&'a str>, faults: &mut Faults) -> Option<Duration> {
    let mut pushes = set(FOR_METRICS).or_else(|| set(FOR_ALL)).is_some();
    if let Some(list) = set(METRICS_EXPORTER) {
        pushes = false;
        for exporter in list.split(',').map(str::trim).filter(|exporter| !exporter.is_empty()) {
            match exporter {
                "otlp" => pushes = true,
                // The page is there anyway.
                "prometheus" | "none" => {}
                other => {
                    faults.add(METRICS_EXPORTER, format!("{other:?} is none of otlp, prometheus, none"));
                }
            }
        }
    }
    let every = number(set, METRICS_INTERVAL, "milliseconds", faults);
    pushes.then_some(every.map_or(PUSH_EVERY, Duration::from_millis))
}

fn waiting<'a>(set: &impl Fn(&str) -> Option<&'a str>, faults: &mut Faults) -> Waiting {
    let default = Waiting::default();
    let most = number(set, QUEUE_SIZE, "a number of spans", faults);
    let delay = number(set, DELAY, "milliseconds", faults);
    Waiting {
        most: most.and_then(|most| usize::try_from(most).ok()).unwrap_or(default.most),
        delay: delay.map_or(default.delay, Duration::from_millis),
    }
}

/// What a variable says, where it is set and says something.
pub(super) fn number<'a>(
    set: &impl Fn(&str) -> Option<&'a str>,
    name: &str,
    what: &str,
    faults: &mut Faults,
) -> Option<u64> {
    let number = set(name)?.parse().ok().filter(|number| (1..=u64::from(u32::MAX)).contains(number));
    if number.is_none() {
        faults.add(name, format!("write {what}, 1 or more"));
    }
    number
}

fn sampling<'a>(set: &impl Fn(&str) -> Option<&'a str>, faults: &mut Faults) -> Sampling {
    let Some(name) = set(SAMPLER) else { return Sampling::default() };
    let (parent_based, root) = match name.strip_prefix("parentbased_") {
        Some(root) => (true, root),
        None => (false, name),
    };
    let root = match root {
        "always_on" => Root::All,
        "always_off" => Root::None,
        "traceidratio" => match set(SAMPLER_ARGUMENT).map(str::parse) {
            None => Root::All,
            Some(Ok(part @ 0.0..=1.0)) => Root::Part(part),
            Some(_) => {
                faults.add(SAMPLER_ARGUMENT, "write a part of all traces, 0 to 1, such as 0.01".to_owned());
                Root::All
            }
        },
        _ => {
            let known = "always_on, always_off, traceidratio, or one of these after parentbased_, which keeps the \
                 decision of whoever began a trace";
            faults.add(SAMPLER, format!("{name:?} is none of {known}"));
            Root::All
        }
    };
    Sampling { root, parent_based }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: (&str, &str) = (FOR_ALL, "http://127.0.0.1:4318");

    fn read(variables: &[(&str, &str)]) -> (Export, Faults) {
        let mut faults = Faults::default();
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (Export::read(&variables, &mut faults), faults)
    }

    fn refused(variables: &[(&str, &str)], says: &str) {
        let (_, faults) = read(variables);
        assert!(faults.to_string().contains(says), "{variables:?}: {faults}");
    }

    #[test]
    fn spans_go_where_the_standard_variables_say() {
        assert_eq!(read(&[]).0, Export::default());
        assert_eq!(read(&[ENDPOINT]).0.spans.as_deref(), Some("http://127.0.0.1:4318"));
        assert_eq!(read(&[ENDPOINT, ("OTEL_SDK_DISABLED", "true")]).0, Export::default());
        assert_eq!(read(&[ENDPOINT, (TRACES_EXPORTER, "none")]).0.spans, None);
        refused(&[ENDPOINT, (TRACES_EXPORTER, "zipkin")], "none of otlp, none");
        refused(&[ENDPOINT, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], "http/protobuf");
        refused(&[(FOR_ALL, "localhost:4317")], "no address");
    }

    #[test]
    fn metrics_are_pushed_where_an_endpoint_takes_them_unless_the_list_says_otherwise() {
        let pushed = |variables: &[(&str, &str)]| read(variables).0.metrics;
        let every = |millis| Some(Duration::from_millis(millis));
        assert_eq!(pushed(&[]), None);
        assert_eq!(pushed(&[ENDPOINT]), every(60_000));
        assert_eq!(pushed(&[(FOR_METRICS, "http://127.0.0.1:4318/v1/metrics")]), every(60_000));
        assert_eq!(pushed(&[(FOR_SPANS, "http://127.0.0.1:4318/v1/traces")]), None);
        for list in ["none", "prometheus", "prometheus, none"] {
            assert_eq!(pushed(&[ENDPOINT, (METRICS_EXPORTER, list)]), None, "{list}");
        }
        let often = (METRICS_INTERVAL, "250");
        assert_eq!(pushed(&[ENDPOINT, (METRICS_EXPORTER, "prometheus,otlp"), often]), every(250));
        assert_eq!(pushed(&[(METRICS_EXPORTER, "otlp")]), every(60_000), "to the default address");
        refused(&[ENDPOINT, (METRICS_EXPORTER, "console")], "none of otlp");
        refused(&[ENDPOINT, (METRICS_INTERVAL, "1s")], "milliseconds");
    }

    #[test]
    fn spans_wait_as_the_standard_variables_say() {
        assert_eq!(read(&[ENDPOINT]).0.waiting, Waiting::default());
        let said = read(&[ENDPOINT, (QUEUE_SIZE, "100"), (DELAY, "250")]).0.waiting;
        assert_eq!(said, Waiting { most: 100, delay: Duration::from_millis(250) });
        refused(&[ENDPOINT, (QUEUE_SIZE, "0")], "a number of spans");
    }

    #[test]
    fn sampling_is_what_the_standard_variables_say() {
        let sampling = |variables: &[(&str, &str)]| read(variables).0.sampling;
        assert_eq!(sampling(&[]), Sampling { root: Root::All, parent_based: true });
        let part = |name| sampling(&[(SAMPLER, name), (SAMPLER_ARGUMENT, "0.01")]);
        assert_eq!(part("parentbased_traceidratio"), Sampling { root: Root::Part(0.01), parent_based: true });
        assert_eq!(part("traceidratio"), Sampling { root: Root::Part(0.01), parent_based: false });
        assert_eq!(sampling(&[(SAMPLER, "parentbased_always_off")]).root, Root::None);
        refused(&[(SAMPLER, "sometimes")], "none of always_on");
        refused(&[(SAMPLER, "traceidratio"), (SAMPLER_ARGUMENT, "1%")], "0 to 1");
    }
}
