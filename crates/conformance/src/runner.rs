//! Behaviours as tests of libtest's look.

use std::{sync::Arc, time::Duration};

use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Conclusion, Trial};

use crate::{Adapter, Fixture, Need, Suite};

/// How long a behaviour may take, in the time of its runtime: one that hangs fails with its name.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// One behaviour of one port.
pub(crate) struct Behaviour {
    pub(crate) suite: Suite,
    pub(crate) name: &'static str,
    pub(crate) needs: &'static [Need],
    pub(crate) run: fn(Arc<dyn Fixture>) -> LocalBoxFuture<'static, ()>,
}

/// Lists a suite's behaviours: `suite!(Bus { name, other [BusLease], third [Disturb(Restart)] })`.
macro_rules! suite {
    ($suite:ident { $($name:ident $([$($need:expr),+])?),+ $(,)? }) => {
        pub(crate) fn behaviours() -> Vec<$crate::runner::Behaviour> {
            vec![$($crate::runner::Behaviour {
                suite: $crate::Suite::$suite,
                name: stringify!($name),
                needs: &[$($($need),+)?],
                run: |fixture| Box::pin($name(fixture)),
            }),+]
        }
    };
}
pub(crate) use suite;

/// Runs the suites of `adapter` as the command line says (a filter, `--list`, `--exact`, ...), each behaviour in a
/// runtime and on an installation of its own.
pub fn main(adapter: impl Adapter) -> Conclusion {
    main_of(vec![("", Arc::new(adapter))])
}

/// The same for several adapters: the tests of each have its name before theirs.
pub fn main_of(adapters: Vec<(&'static str, Arc<dyn Adapter>)>) -> Conclusion {
    let arguments = Arguments::from_args();
    let trials = adapters.iter().flat_map(|(name, adapter)| trials(name, adapter)).collect();
    libtest_mimic::run(&arguments, trials)
}

fn trials(adapter_name: &str, adapter: &Arc<dyn Adapter>) -> Vec<Trial> {
    let suites = adapter.suites();
    let all = [
        crate::bus::behaviours(),
        crate::consuming::behaviours(),
        crate::topology::behaviours(),
        crate::items::behaviours(),
        crate::changes::behaviours(),
        crate::catalog::behaviours(),
        crate::subscriptions::behaviours(),
        crate::planning::behaviours(),
        crate::deliveries::behaviours(),
        crate::dead_letters::behaviours(),
        crate::limits::behaviours(),
        crate::mail::behaviours(),
        crate::mailbox::behaviours(),
    ];
    let prefix = if adapter_name.is_empty() { String::new() } else { format!("{adapter_name}::") };
    let wanted = all.into_iter().flatten().filter(|behaviour| suites.contains(&behaviour.suite));
    wanted.map(|behaviour| trial(&prefix, adapter, behaviour)).collect()
}

fn trial(prefix: &str, adapter: &Arc<dyn Adapter>, behaviour: Behaviour) -> Trial {
    let cannot = behaviour.needs.iter().find_map(|need| adapter.cannot(*need));
    let name = format!("{prefix}{}::{}", behaviour.suite.as_str(), behaviour.name);
    let adapter = Arc::clone(adapter);
    let trial = Trial::test(name, move || {
        let runtime = adapter.runtime();
        let finished = runtime.block_on(async {
            let fixture: Arc<dyn Fixture> = Arc::from(adapter.install().await);
            tokio::time::timeout(TIME_LIMIT, (behaviour.run)(fixture)).await
        });
        runtime.shutdown_background();
        finished.map_err(|_| format!("not finished after {} s", TIME_LIMIT.as_secs()).into())
    });
    match cannot {
        Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
        None => trial,
    }
}
