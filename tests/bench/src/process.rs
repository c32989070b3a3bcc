//! What the kernel says of a process: CPU time and memory.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;

/// USER_HZ is 100 on every Linux that we run on.
const TICK: Duration = Duration::from_millis(10);

/// The memory of a process, in MiB.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident: f64,
    /// Resident now, pages that several processes share counted in parts; as `resident` where the kernel does not tell.
    pub(crate) proportional: f64,
    /// The most that was ever resident.
    pub(crate) most: f64,
}

impl std::ops::AddAssign for Memory {
    fn add_assign(&mut self, other: Self) {
        self.resident += other.resident;
        self.proportional += other.proportional;
        self.most += other.most;
    }
}

/// One line of `/proc/<pid>/stat`.
struct Stat {
    parent: u32,
    /// Its own CPU, user and system, all threads.
    own: Duration,
    /// That of its children that have ended and were waited for.
    ended: Duration,
}

fn stat(pid: &str) -> anyhow::Result<Stat> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> =
        line.rsplit_once(')').context("a stat line")?.1.split_ascii_whitespace().collect();
    let ticks = |field: usize| -> anyhow::Result<u32> { Ok(fields.get(field).context("a field")?.parse()?) };
    Ok(Stat {
        parent: ticks(1)?,
        own: TICK * (ticks(11)? + ticks(12)?),
        ended: TICK * (ticks(13)? + ticks(14)?),
    })
}

/// CPU time used so far by one process, user and system.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    Ok(stat(&pid.to_string()).with_context(|| format!("process {pid}"))?.own)
}

/// CPU time used so far by this process.
pub(crate) fn own_cpu() -> anyhow::Result<Duration> {
    Ok(stat("self")?.own)
}

/// CPU time used so far by the children of this process that have ended.
pub(crate) fn ended_cpu() -> anyhow::Result<Duration> {
    Ok(stat("self")?.ended)
}

/// CPU time used so far by a process, everything below it, and what of it has ended.
pub(crate) fn tree_cpu(root: u32) -> anyhow::Result<Duration> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        // A process may end while the folder is read.
        if let Some(name) = name.to_str()
            && let Ok(pid) = name.parse::<u32>()
            && let Ok(stat) = stat(name)
        {
            all.insert(pid, stat);
        }
    }
    let mut used = Duration::ZERO;
    let mut wanted = vec![root];
    while let Some(pid) = wanted.pop() {
        if let Some(stat) = all.get(&pid) {
            used += stat.own + stat.ended;
        }
        wanted.extend(all.iter().filter(|(_, stat)| stat.parent == pid).map(|(pid, _)| *pid));
    }
    anyhow::ensure!(all.contains_key(&root), "process {root} has ended");
    Ok(used)
}

/// The memory of a process.
pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = field(&status, "VmRSS:")?;
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let proportional = field(&rollup, "Pss:").unwrap_or(resident);
    Ok(Memory { resident, proportional, most: field(&status, "VmHWM:")? })
}

/// A field of KiB in MiB.
fn field(text: &str, name: &str) -> anyhow::Result<f64> {
    let line = text.lines().find(|line| line.starts_with(name)).context("a status field")?;
    let kib: f64 = line.split_ascii_whitespace().nth(1).context("its number")?.parse()?;
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_used_something_and_is_somewhere() {
        let pid = std::process::id();
        let memory = memory(pid).unwrap();
        assert!(memory.resident > 0.0 && memory.most >= memory.resident, "{memory:?}");
        // Asked first: it only grows.
        let own = cpu(pid).unwrap();
        assert!(tree_cpu(pid).unwrap() >= own);
        assert!(cpu(0).is_err() && tree_cpu(u32::MAX).is_err());
    }
}
