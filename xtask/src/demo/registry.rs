//! A real registry on loopback with an image of busybox in it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::run;

const ANSWER: Duration = Duration::from_secs(20);

/// Debian's docker-registry; killed when dropped.
pub(super) struct Registry {
    child: Child,
    /// Host, port, repository and tag of the image.
    pub(super) reference: String,
}

impl Registry {
    /// Starts it below `home`, makes the image and pushes it.
    pub(super) fn start(home: &Path) -> Result<Self> {
        // A port that is free now; the registry fails loudly should it be taken meanwhile.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let config = home.join("registry.yml");
        let folder = home.join("registry");
        fs::write(
            &config,
            format!(
                "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 http: {{addr: 127.0.0.1:{port}}}\n",
                folder.display()
            ),
        )?;
        let log = fs::File::create(home.join("registry.log"))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|e| format!("docker-registry: {e}"))?;
        let registry = Self { child, reference: format!("127.0.0.1:{port}/busybox:latest") };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if start.elapsed() > ANSWER {
                return Err("docker-registry does not listen".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        let image = image(home)?;
        let (from, to) = (format!("oci:{image}"), format!("docker://{}", registry.reference));
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["copy", "-q", "--dest-tls-verify=false", &from, &to]);
        run("skopeo copy", &mut skopeo, ANSWER)?;
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have ended by itself; then both fail, and that is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An image of Debian's busybox-static as an OCI layout; returns `layout:tag`.
fn image(home: &Path) -> Result<String> {
    let [layout, bundle] = ["oci", "bundle"].map(|name| home.join(name));
    let image = format!("{}:demo", layout.display());
    let umoci = |args: &[&str]| {
        let mut command = Command::new("umoci");
        command.args(args).stdout(Stdio::null());
        run(&format!("umoci {}", args.join(" ")), &mut command, ANSWER)
    };
    let rootfs = bundle.join("rootfs/bin");
    let bundle = bundle.display().to_string();
    umoci(&["init", "--layout", &layout.display().to_string()])?;
    umoci(&["new", "--image", &image])?;
    umoci(&["unpack", "--image", &image, &bundle])?;
    fs::create_dir_all(&rootfs)?;
    fs::copy("/bin/busybox", rootfs.join("busybox"))?;
    for name in ["sh", "sleep", "true", "echo"] {
        std::os::unix::fs::symlink("busybox", rootfs.join(name))?;
    }
    umoci(&["repack", "--image", &image, &bundle])?;
    umoci(&["config", "--image", &image, "--config.cmd", "sh"])?;
    Ok(image)
}
