//! Streams: FIFOs, files, loggers, terminals, and readers that come late, leave, or never come.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::time::Duration;

use gantry_api::containerd::task::v2::*;
use rustix::fs::OFlags;

use crate::harness::{Shim, able, eventually, plan};

fn reader(path: &str) -> File {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap();
    OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap()
}

/// Reads to the end of the stream.
async fn all(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 65536];
    eventually("the stream ends", || {
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return true,
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await;
    bytes
}

/// Reads until the text is there.
async fn until(file: &mut File, text: &str) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    eventually(&format!("{text:?} comes"), || {
        if let Ok(n) = file.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..n]);
        }
        String::from_utf8_lossy(&bytes).contains(text)
    })
    .await;
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn end(shim: &Shim, id: &str) {
    shim.wait(id, "").await;
    shim.delete(id, "").await;
}

#[tokio::test]
async fn output_and_errors_reach_their_fifos_whole() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let (out, err) = (shim.fifo("out"), shim.fifo("err"));
    let (out_end, err_end) = (reader(&out), reader(&err));
    let script = "seq 1 20000; echo oops >&2";
    let task = crate::harness::Plan { stdout: out, stderr: err, ..plan(script) };
    shim.run("t", &task).await;
    let (text, errors) = tokio::join!(all(out_end), all(err_end));
    let wanted: String = (1..=20000).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8(text).unwrap(), wanted);
    assert_eq!(errors, b"oops\n");
    end(&shim, "t").await;
}

#[tokio::test]
async fn input_ends_when_client_and_daemon_have_both_closed_it() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let (input, out) = (shim.fifo("in"), shim.fifo("out"));
    let mut out_end = reader(&out);
    let task = crate::harness::Plan { stdin: input.clone(), stdout: out, ..plan("cat; echo end") };
    shim.run("t", &task).await;
    let mut writer = OpenOptions::new().write(true).open(&input).unwrap();
    writer.write_all(b"first\n").unwrap();
    assert_eq!(until(&mut out_end, "first\n").await, "first\n");
    drop(writer);
    // A client that left may come back.
    let mut writer = OpenOptions::new().write(true).open(&input).unwrap();
    writer.write_all(b"second\n").unwrap();
    assert_eq!(until(&mut out_end, "second\n").await, "second\n");
    writer.write_all(b"last\n").unwrap();
    let close = CloseIoRequest { id: "t".into(), stdin: true, ..Default::default() };
    shim.call::<_, ()>("CloseIO", &close).await;
    drop(writer);
    assert_eq!(all(out_end).await, b"last\nend\n", "what was on its way arrives");
    end(&shim, "t").await;
}

#[tokio::test]
async fn a_fifo_without_a_reader_holds_up_no_call() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let out = shim.fifo("out");
    let task = crate::harness::Plan { stdout: out.clone(), ..plan("echo early; sleep 1000") };
    let begun = std::time::Instant::now();
    shim.run("t", &task).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
    let mut late = reader(&out);
    assert_eq!(until(&mut late, "early\n").await, "early\n");
    shim.kill("t", 9).await;
    end(&shim, "t").await;
    assert!(begun.elapsed() < Duration::from_secs(25));
}

#[tokio::test]
async fn readers_come_and_go_and_nothing_is_lost() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let (input, out) = (shim.fifo("in"), shim.fifo("out"));
    let task = crate::harness::Plan { stdin: input.clone(), stdout: out.clone(), ..plan("cat") };
    shim.run("t", &task).await;
    let mut writer = OpenOptions::new().write(true).open(&input).unwrap();
    let mut first = reader(&out);
    writer.write_all(b"one\n").unwrap();
    assert_eq!(until(&mut first, "one\n").await, "one\n");
    drop(first);
    writer.write_all(b"two\n").unwrap();
    assert_eq!(shim.state("t", "").await.status, 2, "no broken pipe");
    let mut second = reader(&out);
    assert_eq!(until(&mut second, "two\n").await, "two\n");
    shim.kill("t", 9).await;
    end(&shim, "t").await;
}

#[tokio::test]
async fn a_reader_that_stands_still_delays_a_deletion_only_so_long() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let out = shim.fifo("out");
    let still = reader(&out);
    let task = crate::harness::Plan { stdout: out, ..plan("yes") };
    shim.run("t", &task).await;
    eventually("the fifo is full", || rustix::io::ioctl_fionread(&still).unwrap() >= 60 << 10)
        .await;
    assert_eq!(shim.state("t", "").await.status, 2);
    shim.kill("t", 9).await;
    shim.wait("t", "").await;
    let begun = std::time::Instant::now();
    shim.delete("t", "").await;
    assert!(begun.elapsed() < Duration::from_secs(9), "within a client's ten seconds");
}

#[tokio::test]
async fn a_grandchild_that_holds_the_pipe_does_not_delay_a_deletion() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    let out = shim.fifo("out");
    let out_end = reader(&out);
    let exec = crate::harness::Plan { stdout: out, ..plan("sleep 999 & echo said") };
    shim.exec("t", "e", &exec).await;
    shim.wait("t", "e").await;
    let begun = std::time::Instant::now();
    shim.delete("t", "e").await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(all(out_end).await, b"said\n");
    shim.kill("t", 9).await;
    end(&shim, "t").await;
}

#[tokio::test]
async fn a_file_takes_both_streams() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let path = shim.dir.path().join("logs/of/t.log");
    let task = crate::harness::Plan {
        stdout: format!("file://{}", path.display()),
        stderr: format!("file://{}", path.display()),
        ..plan("echo out; echo err >&2")
    };
    shim.run("t", &task).await;
    end(&shim, "t").await;
    let mut lines: Vec<String> =
        fs::read_to_string(&path).unwrap().lines().map(Into::into).collect();
    lines.sort();
    assert_eq!(lines, ["err", "out"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    let again = shim.create_request("t", &task);
    shim.call::<_, CreateTaskResponse>("Create", &again).await;
    shim.start_task("t").await;
    end(&shim, "t").await;
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 4, "appended");
}

fn script(shim: &Shim, name: &str, text: &str) -> String {
    let path = shim.dir.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[tokio::test]
async fn a_logger_reads_the_output_itself() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let log = shim.dir.path().join("logged").display().to_string();
    let text = format!(
        "echo \"$1 $2 $CONTAINER_ID $CONTAINER_NAMESPACE $HOME\" > {log}\nexec 5>&-\ncat <&3 >> {log}\ncat <&4 >> {log}"
    );
    let logger = script(&shim, "logger", &text);
    let task = crate::harness::Plan {
        stdout: format!("binary://{logger}?key=some+value"),
        ..plan("echo to out; echo to err >&2")
    };
    shim.run("t", &task).await;
    end(&shim, "t").await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "key some value t shim-test \nto out\nto err\n");
}

#[tokio::test]
async fn a_logger_that_is_not_ready_fails_the_creation() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let crashes = script(&shim, "crashes", "exit 1");
    let strict = crate::harness::Plan { stdout: format!("binary-v2://{crashes}"), ..plan("true") };
    let (_, text) = shim.refused("Create", &shim.create_request("t", &strict)).await;
    assert!(text.contains("did not call ready"), "{text}");
    // The older form takes the end of the pipe for readiness.
    let lenient = crate::harness::Plan { stdout: format!("binary://{crashes}"), ..plan("exit 3") };
    shim.run("t", &lenient).await;
    assert_eq!(shim.wait("t", "").await.exit_status, 3);
    shim.delete("t", "").await;
    let hangs = script(&shim, "hangs", "sleep 1000");
    let slow = crate::harness::Plan { stdout: format!("binary://{hangs}"), ..plan("true") };
    let request = shim.create_request("t", &slow);
    let bound = Duration::from_secs(2);
    let late = shim.try_call_within::<_, CreateTaskResponse>("Create", &request, bound).await;
    assert!(late.is_err());
    eventually("the logger is killed", || shim.children() == 0).await;
}

#[tokio::test]
async fn an_unknown_scheme_is_refused() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let task = crate::harness::Plan { stdout: "https://example".into(), ..plan("true") };
    let (_, text) = shim.refused("Create", &shim.create_request("t", &task)).await;
    assert!(text.contains("unknown STDIO scheme https"), "{text}");
}

#[tokio::test]
async fn a_terminal_has_a_size_takes_input_and_gives_all_its_output() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let (input, out) = (shim.fifo("in"), shim.fifo("out"));
    let mut out_end = reader(&out);
    let task = crate::harness::Plan {
        stdin: input.clone(),
        stdout: out,
        terminal: true,
        ..plan("tty; read line; stty size; echo got $line; seq 1 2000")
    };
    shim.run("t", &task).await;
    assert!(shim.state("t", "").await.terminal);
    let resize = ResizePtyRequest { id: "t".into(), width: 123, height: 45, ..Default::default() };
    shim.call::<_, ()>("ResizePty", &resize).await;
    let mut typing = OpenOptions::new().write(true).open(&input).unwrap();
    typing.write_all(b"typed\n").unwrap();
    let text = String::from_utf8(all_of(&mut out_end, &shim, "t").await).unwrap();
    assert!(text.contains("/dev/pts/0"), "{text}");
    assert!(text.contains("45 123"), "{text}");
    assert!(text.contains("got typed"), "{text}");
    assert!(text.ends_with("1999\r\n2000\r\n"), "cut: {:?}", &text[text.len() - 40..]);
}

/// The whole output of a task that ends, drained while it is deleted.
async fn all_of(file: &mut File, shim: &Shim, id: &str) -> Vec<u8> {
    let file = file.try_clone().unwrap();
    let (bytes, ()) = tokio::join!(all(file), end(shim, id));
    bytes
}

#[tokio::test]
async fn a_terminal_whose_client_is_gone_for_good_hangs_up() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    shim.run("t", &plan("sleep 1000")).await;
    let (input, out) = (shim.fifo("in"), shim.fifo("out"));
    let _reader = reader(&out);
    let exec = crate::harness::Plan {
        stdin: input.clone(),
        stdout: out,
        terminal: true,
        ..plan("sleep 1000")
    };
    shim.exec("t", "e", &exec).await;
    drop(OpenOptions::new().write(true).open(&input).unwrap());
    let close = CloseIoRequest { id: "t".into(), exec_id: "e".into(), stdin: true };
    shim.call::<_, ()>("CloseIO", &close).await;
    assert_eq!(shim.wait("t", "e").await.exit_status, 128 + 1, "SIGHUP");
    shim.delete("t", "e").await;
    shim.kill("t", 9).await;
    end(&shim, "t").await;
}

#[tokio::test]
async fn a_detached_terminal_does_not_block() {
    if !able() {
        return;
    }
    let shim = Shim::start("t").await;
    let task = crate::harness::Plan { terminal: true, ..plan("seq 1 100000; exit 2") };
    shim.run("t", &task).await;
    assert_eq!(shim.wait("t", "").await.exit_status, 2);
    shim.delete("t", "").await;
}
