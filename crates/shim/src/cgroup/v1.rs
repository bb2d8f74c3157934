//! cgroup v1: one directory per controller, each with files of its own.
//!
//! A controller that is not mounted, or a file that is not there, is left out of the figures:
//! absent, not zero, where the message can say so.

use std::fs;
use std::path::{Path, PathBuf};

use gantry_api::io::containerd::cgroups::v1::{
    BlkIoEntry, BlkIoStat, CpuStat, CpuUsage, HugetlbStat, MemoryEntry, MemoryOomControl,
    MemoryStat, Metrics, PidsStat, RdmaEntry, RdmaStat, Throttle,
};

use super::{number, pairs, value};

/// Nanoseconds per tick of `cpuacct.stat`: USER_HZ is 100 on every Linux (times(2)).
const TICK_NANOS: u64 = 10_000_000;
/// Controllers that may say which processes are in the container, best first.
const FOR_PIDS: [&str; 5] = ["devices", "pids", "memory", "cpu", "name=systemd"];

/// Directories of a cgroup, by controller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths(Vec<(String, PathBuf)>);

impl Paths {
    pub(super) fn parse(text: &str, mount: &Path) -> Self {
        let mut paths = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            for controller in controllers.split(',').filter(|name| !name.is_empty()) {
                // A named hierarchy is mounted under its name alone.
                let dir = controller.strip_prefix("name=").unwrap_or(controller);
                let root =
                    [mount.join(dir), mount.join(controllers)].into_iter().find(|p| p.exists());
                if let Some(root) = root {
                    paths.push((controller.to_owned(), root.join(path.trim_start_matches('/'))));
                }
            }
        }
        Self(paths)
    }

    pub(super) fn get(&self, controller: &str) -> Option<&Path> {
        self.0.iter().find(|(name, _)| name == controller).map(|(_, path)| path.as_path())
    }

    pub(super) fn for_pids(&self) -> Option<PathBuf> {
        FOR_PIDS.iter().find_map(|name| self.get(name)).map(Path::to_owned)
    }

    pub(super) fn exists(&self) -> bool {
        self.0.iter().any(|(_, path)| path.exists())
    }

    pub(super) fn metrics(&self) -> Metrics {
        let there = |name: &str| self.get(name).filter(|path| path.exists());
        Metrics {
            hugetlb: there("hugetlb").map(hugetlb).unwrap_or_default(),
            pids: there("pids").map(pids),
            cpu: cpu(there("cpuacct"), there("cpu")),
            memory: there("memory").map(memory),
            blkio: there("blkio").map(blkio),
            rdma: there("rdma").map(rdma),
            memory_oom_control: there("memory").map(oom_control),
            ..Metrics::default()
        }
    }
}

fn pids(dir: &Path) -> PidsStat {
    // containerd says 0 for no limit.
    let limit = number(dir, "pids.max").filter(|limit| *limit != u64::MAX).unwrap_or(0);
    PidsStat { current: number(dir, "pids.current").unwrap_or(0), limit }
}

fn cpu(cpuacct: Option<&Path>, cpu: Option<&Path>) -> Option<CpuStat> {
    if cpuacct.is_none() && cpu.is_none() {
        return None;
    }
    let usage = cpuacct.map(|dir| {
        let ticks = pairs(dir, "cpuacct.stat");
        let per_cpu = fs::read_to_string(dir.join("cpuacct.usage_percpu")).unwrap_or_default();
        CpuUsage {
            total: number(dir, "cpuacct.usage").unwrap_or(0),
            kernel: value(&ticks, "system").saturating_mul(TICK_NANOS),
            user: value(&ticks, "user").saturating_mul(TICK_NANOS),
            per_cpu: per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect(),
        }
    });
    let throttling = cpu.map(|dir| {
        let stat = pairs(dir, "cpu.stat");
        Throttle {
            periods: value(&stat, "nr_periods"),
            throttled_periods: value(&stat, "nr_throttled"),
            throttled_time: value(&stat, "throttled_time"),
        }
    });
    Some(CpuStat { usage, throttling })
}

fn memory(dir: &Path) -> MemoryStat {
    let stat = pairs(dir, "memory.stat");
    let v = |key: &str| value(&stat, key);
    MemoryStat {
        cache: v("cache"),
        rss: v("rss"),
        rss_huge: v("rss_huge"),
        mapped_file: v("mapped_file"),
        dirty: v("dirty"),
        writeback: v("writeback"),
        pg_pg_in: v("pgpgin"),
        pg_pg_out: v("pgpgout"),
        pg_fault: v("pgfault"),
        pg_maj_fault: v("pgmajfault"),
        inactive_anon: v("inactive_anon"),
        active_anon: v("active_anon"),
        inactive_file: v("inactive_file"),
        active_file: v("active_file"),
        unevictable: v("unevictable"),
        hierarchical_memory_limit: v("hierarchical_memory_limit"),
        hierarchical_swap_limit: v("hierarchical_memsw_limit"),
        total_cache: v("total_cache"),
        total_rss: v("total_rss"),
        total_rss_huge: v("total_rss_huge"),
        total_mapped_file: v("total_mapped_file"),
        total_dirty: v("total_dirty"),
        total_writeback: v("total_writeback"),
        total_pg_pg_in: v("total_pgpgin"),
        total_pg_pg_out: v("total_pgpgout"),
        total_pg_fault: v("total_pgfault"),
        total_pg_maj_fault: v("total_pgmajfault"),
        total_inactive_anon: v("total_inactive_anon"),
        total_active_anon: v("total_active_anon"),
        total_inactive_file: v("total_inactive_file"),
        total_active_file: v("total_active_file"),
        total_unevictable: v("total_unevictable"),
        usage: entry(dir, "memory"),
        swap: entry(dir, "memory.memsw"),
        kernel: entry(dir, "memory.kmem"),
        kernel_tcp: entry(dir, "memory.kmem.tcp"),
    }
}

fn entry(dir: &Path, prefix: &str) -> Option<MemoryEntry> {
    let n = |what: &str| number(dir, &format!("{prefix}.{what}"));
    Some(MemoryEntry {
        usage: n("usage_in_bytes")?,
        limit: n("limit_in_bytes").unwrap_or(0),
        max: n("max_usage_in_bytes").unwrap_or(0),
        failcnt: n("failcnt").unwrap_or(0),
    })
}

fn oom_control(dir: &Path) -> MemoryOomControl {
    let control = pairs(dir, "memory.oom_control");
    MemoryOomControl {
        oom_kill_disable: value(&control, "oom_kill_disable"),
        under_oom: value(&control, "under_oom"),
        oom_kill: value(&control, "oom_kill"),
    }
}

/// How often the kernel killed a process of the cgroup at `dir`.
pub(super) fn oom_kills(dir: &Path) -> u64 {
    oom_control(dir).oom_kill
}

fn hugetlb(dir: &Path) -> Vec<HugetlbStat> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut sizes: Vec<String> = names
        .filter_map(|n| {
            n.strip_prefix("hugetlb.")?.strip_suffix(".usage_in_bytes").map(str::to_owned)
        })
        .filter(|size| !size.ends_with(".rsvd"))
        .collect();
    sizes.sort();
    let stat = |pagesize: String| {
        let n = |what: &str| number(dir, &format!("hugetlb.{pagesize}.{what}")).unwrap_or(0);
        HugetlbStat {
            usage: n("usage_in_bytes"),
            max: n("max_usage_in_bytes"),
            failcnt: n("failcnt"),
            pagesize: pagesize.clone(),
        }
    };
    sizes.into_iter().map(stat).collect()
}

fn blkio(dir: &Path) -> BlkIoStat {
    // The files of a scheduler if it keeps any, else those of throttling, which always count.
    let read = |name: &str| {
        let of = |prefix: &str| blkio_entries(dir, &format!("blkio.{prefix}{name}_recursive"));
        [of("bfq."), of(""), of("throttle.")]
            .into_iter()
            .find(|e| !e.is_empty())
            .unwrap_or_default()
    };
    BlkIoStat {
        io_service_bytes_recursive: read("io_service_bytes"),
        io_serviced_recursive: read("io_serviced"),
        io_queued_recursive: read("io_queued"),
        io_service_time_recursive: read("io_service_time"),
        io_wait_time_recursive: read("io_wait_time"),
        io_merged_recursive: read("io_merged"),
        io_time_recursive: read("time"),
        sectors_recursive: read("sectors"),
    }
}

/// Lines `8:0 Read 4096`, or `8:0 4096` without an operation; a line of totals has no device.
fn blkio_entries(dir: &Path, file: &str) -> Vec<BlkIoEntry> {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let entry = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (device, op, count) = match words[..] {
            [device, op, count] => (device, op, count),
            [device, count] => (device, "", count),
            _ => return None,
        };
        let (major, minor) = device.split_once(':')?;
        Some(BlkIoEntry {
            op: op.to_owned(),
            device: String::new(),
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            value: count.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

fn rdma(dir: &Path) -> RdmaStat {
    let read = |file: &str| {
        let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
        text.lines().filter_map(rdma_entry).collect()
    };
    RdmaStat { current: read("rdma.current"), limit: read("rdma.max") }
}

fn rdma_entry(line: &str) -> Option<RdmaEntry> {
    let (device, hca_handles, hca_objects) = super::rdma_line(line)?;
    Some(RdmaEntry { device, hca_handles, hca_objects })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn a_recorded_tree_reads_as_containerd_reads_it() {
        let dir = tree(&[
            ("pids/a/pids.current", "3\n"),
            ("pids/a/pids.max", "max\n"),
            ("cpuacct/a/cpuacct.usage", "1234567\n"),
            ("cpuacct/a/cpuacct.stat", "user 7\nsystem 5\n"),
            ("cpuacct/a/cpuacct.usage_percpu", "1000000 234567 \n"),
            ("cpu/a/cpu.stat", "nr_periods 4\nnr_throttled 3\nthrottled_time 2\n"),
            ("memory/a/memory.stat", "cache 10\ntotal_rss 20\nhierarchical_memsw_limit 30\n"),
            ("memory/a/memory.usage_in_bytes", "4096\n"),
            ("memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/a/memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n"),
            (
                "blkio/a/blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 4096\n8:0 Write 1\nTotal 4097\n",
            ),
            ("hugetlb/a/hugetlb.2MB.usage_in_bytes", "2097152\n"),
            ("hugetlb/a/hugetlb.2MB.rsvd.usage_in_bytes", "1\n"),
        ]);
        let text =
            "9:pids:/a\n8:hugetlb:/a\n7:blkio:/a\n6:memory:/a\n5:cpu:/a\n4:cpuacct:/a\n0::/\n";
        let paths = Paths::parse(text, dir.path());
        let metrics = paths.metrics();
        assert_eq!(metrics.pids, Some(PidsStat { current: 3, limit: 0 }));
        let cpu = metrics.cpu.unwrap();
        let usage = cpu.usage.unwrap();
        assert_eq!((usage.total, usage.user, usage.kernel), (1_234_567, 70_000_000, 50_000_000));
        assert_eq!(usage.per_cpu, [1_000_000, 234_567]);
        assert_eq!(cpu.throttling.unwrap().throttled_time, 2);
        let memory = metrics.memory.unwrap();
        assert_eq!((memory.cache, memory.total_rss, memory.hierarchical_swap_limit), (10, 20, 30));
        assert_eq!(memory.usage.unwrap().limit, 9_223_372_036_854_771_712);
        assert_eq!(memory.swap, None);
        assert_eq!(metrics.memory_oom_control.unwrap().oom_kill, 2);
        let io = metrics.blkio.unwrap().io_service_bytes_recursive;
        assert_eq!(
            io.iter().map(|e| (e.op.as_str(), e.value)).collect::<Vec<_>>(),
            [("Read", 4096), ("Write", 1)]
        );
        assert_eq!(metrics.hugetlb.len(), 1);
        assert_eq!(metrics.rdma, None, "a controller that is not there is left out");
    }

    #[test]
    fn controllers_mounted_together_are_found() {
        let dir =
            tree(&[("cpu,cpuacct/a/cpuacct.usage", "5\n"), ("systemd/a/cgroup.procs", "1\n")]);
        let paths = Paths::parse("2:cpu,cpuacct:/a\n1:name=systemd:/a\n", dir.path());
        assert_eq!(paths.metrics().cpu.unwrap().usage.unwrap().total, 5);
        assert_eq!(paths.for_pids(), Some(dir.path().join("cpu,cpuacct/a")));
        assert_eq!(paths.get("name=systemd"), Some(dir.path().join("systemd/a").as_path()));
    }
}
