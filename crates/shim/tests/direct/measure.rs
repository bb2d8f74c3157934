//! Measurements, not tests: `cargo test -p gantry-shim --test direct -- --ignored --nocapture measure`,
//! with `GANTRY_SHIM` naming a release build of the shim.

use std::fs;
use std::time::{Duration, Instant};

use crate::harness::{Shim, able, plan};

const ROUNDS: usize = 20;

fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[0])
}

fn memory(pid: i32) -> String {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let wanted = ["Rss:", "Pss:", "Private_Dirty:"];
    let lines = rollup.lines().filter(|l| wanted.iter().any(|w| l.starts_with(w)));
    lines.map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_a_lifecycle() {
    if !able() {
        return;
    }
    let mut steps: [Vec<Duration>; 5] = Default::default();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let shim = Shim::start("t").await;
        let request = shim.create_request("t", &plan("true"));
        if round == 0 {
            println!("shim without a container: {}", memory(shim.child.pid()));
        }
        steps[0].push(begun.elapsed());
        let mut last = Instant::now();
        let mut lap = |step: &mut Vec<Duration>| {
            step.push(last.elapsed());
            last = Instant::now();
        };
        shim.call::<_, gantry_api::containerd::task::v2::CreateTaskResponse>("Create", &request)
            .await;
        lap(&mut steps[1]);
        shim.start_task("t").await;
        lap(&mut steps[2]);
        shim.wait("t", "").await;
        lap(&mut steps[3]);
        shim.delete("t", "").await;
        lap(&mut steps[4]);
        shim.shutdown().await;
    }
    for (name, times) in ["spawn and bundle", "create", "start", "wait", "delete"].iter().zip(steps)
    {
        let (middle, least) = median(times);
        println!("{name}: median {middle:?}, least {least:?}");
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn measure_memory_and_execs() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    println!("running: {}", memory(shim.child.pid()));
    let mut times = Vec::new();
    for n in 0..300 {
        let begun = Instant::now();
        let id = format!("e{n}");
        shim.exec("t", &id, &plan("true")).await;
        shim.wait("t", &id).await;
        shim.delete("t", &id).await;
        times.push(begun.elapsed());
        if [0, 99, 199, 299].contains(&n) {
            println!("after {} execs: {}", n + 1, memory(shim.child.pid()));
        }
    }
    let (middle, least) = median(times);
    println!("exec, start, wait, delete: median {middle:?}, least {least:?}");
    let threads = fs::read_dir(format!("/proc/{}/task", shim.child.pid())).unwrap().count();
    println!("threads: {threads}");
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    shim.delete("t", "").await;
}
