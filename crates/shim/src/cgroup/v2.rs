//! cgroup v2: one directory, flat files, microseconds.

use std::fs;
use std::path::Path;

use gantry_api::io::containerd::cgroups::v2::{
    CpuStat, HugeTlbStat, IoEntry, IoStat, MemoryEvents, MemoryStat, Metrics, PidsStat, PsiData,
    PsiStats, RdmaEntry, RdmaStat,
};

use super::{number, pairs, value};

pub(super) fn metrics(dir: &Path) -> Metrics {
    let there = |file: &str| dir.join(file).exists();
    Metrics {
        pids: there("pids.current").then(|| PidsStat {
            current: number(dir, "pids.current").unwrap_or(0),
            limit: number(dir, "pids.max").unwrap_or(0),
        }),
        cpu: there("cpu.stat").then(|| cpu(dir)),
        memory: there("memory.stat").then(|| memory(dir)),
        rdma: there("rdma.current").then(|| rdma(dir)),
        io: there("io.stat").then(|| io(dir)),
        hugetlb: hugetlb(dir),
        memory_events: there("memory.events").then(|| memory_events(dir)),
        network: Vec::new(),
    }
}

fn cpu(dir: &Path) -> CpuStat {
    let stat = pairs(dir, "cpu.stat");
    CpuStat {
        usage_usec: value(&stat, "usage_usec"),
        user_usec: value(&stat, "user_usec"),
        system_usec: value(&stat, "system_usec"),
        nr_periods: value(&stat, "nr_periods"),
        nr_throttled: value(&stat, "nr_throttled"),
        throttled_usec: value(&stat, "throttled_usec"),
        nr_bursts: value(&stat, "nr_bursts"),
        burst_usec: value(&stat, "burst_usec"),
        psi: psi(dir, "cpu.pressure"),
    }
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = pairs(dir, "memory.stat");
    let v = |key: &str| value(&stat, key);
    MemoryStat {
        anon: v("anon"),
        file: v("file"),
        kernel_stack: v("kernel_stack"),
        slab: v("slab"),
        sock: v("sock"),
        shmem: v("shmem"),
        file_mapped: v("file_mapped"),
        file_dirty: v("file_dirty"),
        file_writeback: v("file_writeback"),
        anon_thp: v("anon_thp"),
        inactive_anon: v("inactive_anon"),
        active_anon: v("active_anon"),
        inactive_file: v("inactive_file"),
        active_file: v("active_file"),
        unevictable: v("unevictable"),
        slab_reclaimable: v("slab_reclaimable"),
        slab_unreclaimable: v("slab_unreclaimable"),
        pgfault: v("pgfault"),
        pgmajfault: v("pgmajfault"),
        // One number until 5.8, then one for each kind of page.
        workingset_refault: v("workingset_refault")
            + v("workingset_refault_anon")
            + v("workingset_refault_file"),
        workingset_activate: v("workingset_activate")
            + v("workingset_activate_anon")
            + v("workingset_activate_file"),
        workingset_nodereclaim: v("workingset_nodereclaim"),
        pgrefill: v("pgrefill"),
        pgscan: v("pgscan"),
        pgsteal: v("pgsteal"),
        pgactivate: v("pgactivate"),
        pgdeactivate: v("pgdeactivate"),
        pglazyfree: v("pglazyfree"),
        pglazyfreed: v("pglazyfreed"),
        thp_fault_alloc: v("thp_fault_alloc"),
        thp_collapse_alloc: v("thp_collapse_alloc"),
        // The root has no limit files; its usage is what is in use at all.
        usage: number(dir, "memory.current").unwrap_or_else(|| v("anon") + v("file")),
        usage_limit: number(dir, "memory.max").unwrap_or(u64::MAX),
        swap_usage: number(dir, "memory.swap.current").unwrap_or(0),
        swap_limit: number(dir, "memory.swap.max").unwrap_or(0),
        max_usage: number(dir, "memory.peak").unwrap_or(0),
        swap_max_usage: number(dir, "memory.swap.peak").unwrap_or(0),
        psi: psi(dir, "memory.pressure"),
    }
}

fn memory_events(dir: &Path) -> MemoryEvents {
    let events = pairs(dir, "memory.events");
    MemoryEvents {
        low: value(&events, "low"),
        high: value(&events, "high"),
        max: value(&events, "max"),
        oom: value(&events, "oom"),
        oom_kill: value(&events, "oom_kill"),
        oom_group_kill: value(&events, "oom_group_kill"),
    }
}

/// How often the kernel killed a process of the cgroup at `dir`.
pub(super) fn oom_kills(dir: &Path) -> u64 {
    memory_events(dir).oom_kill
}

/// Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`.
fn psi(dir: &Path, file: &str) -> Option<PsiStats> {
    let text = fs::read_to_string(dir.join(file)).ok()?;
    let mut stats = PsiStats::default();
    for line in text.lines() {
        let mut data = PsiData::default();
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(("avg10", n)) => data.avg10 = n.parse().unwrap_or(0.0),
                Some(("avg60", n)) => data.avg60 = n.parse().unwrap_or(0.0),
                Some(("avg300", n)) => data.avg300 = n.parse().unwrap_or(0.0),
                Some(("total", n)) => data.total = n.parse().unwrap_or(0),
                _ => {}
            }
        }
        match line.split_whitespace().next() {
            Some("some") => stats.some = Some(data),
            Some("full") => stats.full = Some(data),
            _ => {}
        }
    }
    Some(stats)
}

/// Lines `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`.
fn io(dir: &Path) -> IoStat {
    let text = fs::read_to_string(dir.join("io.stat")).unwrap_or_default();
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let mut entry = IoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            ..IoEntry::default()
        };
        for word in words {
            let (key, count) = word.split_once('=')?;
            let place = match key {
                "rbytes" => &mut entry.rbytes,
                "wbytes" => &mut entry.wbytes,
                "rios" => &mut entry.rios,
                "wios" => &mut entry.wios,
                _ => continue,
            };
            *place = count.parse().ok()?;
        }
        Some(entry)
    };
    IoStat { usage: text.lines().filter_map(entry).collect(), psi: psi(dir, "io.pressure") }
}

fn hugetlb(dir: &Path) -> Vec<HugeTlbStat> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut sizes: Vec<String> = names
        .filter_map(|n| n.strip_prefix("hugetlb.")?.strip_suffix(".current").map(str::to_owned))
        .filter(|size| !size.ends_with(".rsvd"))
        .collect();
    sizes.sort();
    let stat = |pagesize: String| HugeTlbStat {
        current: number(dir, &format!("hugetlb.{pagesize}.current")).unwrap_or(0),
        max: number(dir, &format!("hugetlb.{pagesize}.max")).unwrap_or(0),
        failcnt: value(&pairs(dir, &format!("hugetlb.{pagesize}.events")), "max"),
        pagesize,
    };
    sizes.into_iter().map(stat).collect()
}

fn rdma(dir: &Path) -> RdmaStat {
    let read = |file: &str| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        let entry = |line: &str| {
            let (device, hca_handles, hca_objects) = super::rdma_line(line)?;
            Some(RdmaEntry { device, hca_handles, hca_objects })
        };
        text.lines().filter_map(entry).collect()
    };
    RdmaStat { current: read("rdma.current"), limit: read("rdma.max") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files as a 6.1 kernel shows them for a container with limits.
    const TREE: &[(&str, &str)] = &[
        ("pids.current", "3\n"),
        ("pids.max", "max\n"),
        (
            "cpu.stat",
            "usage_usec 1000\nuser_usec 700\nsystem_usec 300\nnr_periods 4\nnr_throttled 1\nthrottled_usec 9\n",
        ),
        ("cpu.pressure", "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\n"),
        (
            "memory.stat",
            "anon 100\nfile 200\nworkingset_refault_anon 1\nworkingset_refault_file 2\npgfault 7\n",
        ),
        ("memory.current", "4096\n"),
        ("memory.max", "max\n"),
        ("memory.swap.current", "0\n"),
        ("memory.swap.max", "1024\n"),
        ("memory.peak", "8192\n"),
        ("memory.events", "low 0\nhigh 1\nmax 2\noom 3\noom_kill 4\noom_group_kill 5\n"),
        ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\nbad line\n"),
        ("hugetlb.2MB.current", "0\n"),
        ("hugetlb.2MB.rsvd.current", "0\n"),
        ("hugetlb.2MB.max", "max\n"),
        ("hugetlb.2MB.events", "max 6\n"),
        ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
        ("rdma.max", "mlx4_0 hca_handle=max hca_object=3000\n"),
    ];

    #[test]
    fn a_recorded_tree_reads_as_containerd_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        for (file, text) in TREE {
            fs::write(dir.path().join(file), text).unwrap();
        }
        let metrics = metrics(dir.path());
        assert_eq!(metrics.pids, Some(PidsStat { current: 3, limit: u64::MAX }));
        let cpu = metrics.cpu.unwrap();
        assert_eq!((cpu.usage_usec, cpu.throttled_usec), (1000, 9));
        let some = cpu.psi.unwrap().some.unwrap();
        assert_eq!((some.avg10, some.total), (1.5, 42));
        let memory = metrics.memory.unwrap();
        assert_eq!((memory.usage, memory.usage_limit, memory.max_usage), (4096, u64::MAX, 8192));
        assert_eq!((memory.workingset_refault, memory.swap_limit), (3, 1024));
        assert_eq!(metrics.memory_events.unwrap().oom_group_kill, 5);
        let io = metrics.io.unwrap().usage;
        assert_eq!(io, [IoEntry { major: 8, minor: 0, rbytes: 1, wbytes: 2, rios: 3, wios: 4 }]);
        assert_eq!(metrics.hugetlb.len(), 1);
        assert_eq!((metrics.hugetlb[0].max, metrics.hugetlb[0].failcnt), (u64::MAX, 6));
        let rdma = metrics.rdma.unwrap();
        assert_eq!((rdma.current[0].hca_objects, rdma.limit[0].hca_handles), (2000, u32::MAX));
    }

    #[test]
    fn an_empty_directory_has_no_figures() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(metrics(dir.path()), Metrics::default());
    }
}
