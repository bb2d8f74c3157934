//! Starting a program: clone3(2) with a pidfd, then execve(2).
//!
//! What happens between the two calls happens in a copy of the caller's memory in which other
//! threads do not exist: everything that needs memory is prepared before, and the child makes
//! system calls only. A failure there (say, a missing working directory) comes back as the error
//! of [`Command::spawn`], not as an exit code.
//!
//! Invariants: the child's signal mask is empty and `SIGPIPE` has its default action (Rust
//! programs ignore it, and an ignored signal survives execve(2)); it holds descriptors 0 to 2, the
//! ones mapped with [`Command::fd`], and no other that is close-on-exec.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::{Ending, Pidfd};

/// Where mapped descriptors are parked before they take their final numbers.
const PARKING: RawFd = 100;

/// A program to start, with everything the child needs.
#[derive(Debug)]
pub struct Command<'fd> {
    program: OsString,
    args: Vec<CString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<CString>,
    fds: Vec<(BorrowedFd<'fd>, RawFd)>,
    new_session: bool,
    new_group: bool,
    dies_with_parent: bool,
    bad: bool,
}

impl<'fd> Command<'fd> {
    /// A program by path, or by name to be found on `PATH`; it inherits the environment.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: std::env::vars_os().collect(),
            cwd: None,
            fds: Vec::new(),
            new_session: false,
            new_group: false,
            dies_with_parent: false,
            bad: false,
        };
        let name = command.c_string(program.as_ref());
        command.args.push(name);
        command
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        let arg = self.c_string(arg.as_ref());
        self.args.push(arg);
        self
    }
    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }
    /// Forgets the inherited environment.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.env.clear();
        self
    }
    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.as_ref().to_owned()));
        self
    }
    /// Removes a variable.
    #[must_use]
    pub fn env_remove(mut self, name: &str) -> Self {
        self.env.retain(|(known, _)| known != name);
        self
    }
    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, dir: &Path) -> Self {
        self.cwd = Some(self.c_string(dir.as_os_str()));
        self
    }
    /// Gives the child a copy of `fd` under the number `number`.
    #[must_use]
    pub fn fd(mut self, fd: BorrowedFd<'fd>, number: RawFd) -> Self {
        self.fds.push((fd, number));
        self
    }
    /// Makes the child the leader of a session of its own, without a terminal.
    #[must_use]
    pub fn new_session(mut self) -> Self {
        self.new_session = true;
        self
    }
    /// Makes the child the leader of a process group of its own.
    #[must_use]
    pub fn new_group(mut self) -> Self {
        self.new_group = true;
        self
    }
    /// Has the kernel kill the child when the thread that started it ends (`PR_SET_PDEATHSIG`).
    #[must_use]
    pub fn dies_with_parent(mut self) -> Self {
        self.dies_with_parent = true;
        self
    }

    fn c_string(&mut self, text: &OsStr) -> CString {
        CString::new(text.as_bytes()).unwrap_or_else(|_| {
            self.bad = true;
            CString::default()
        })
    }

    /// Starts the program. Descriptors 0 to 2 that are not mapped are `/dev/null`.
    ///
    /// # Errors
    /// `InvalidInput` for a text with a zero byte; `NotFound` when no such program is on `PATH`;
    /// else what the kernel said to the child.
    pub fn spawn(mut self) -> io::Result<Child> {
        let program = find_program(&self.program, self.lookup("PATH"))?;
        let program = self.c_string(program.as_os_str());
        let mut env = Vec::with_capacity(self.env.len());
        for (name, value) in std::mem::take(&mut self.env) {
            let mut pair = name.into_vec();
            pair.push(b'=');
            pair.extend_from_slice(value.as_bytes());
            env.push(self.c_string(OsStr::from_bytes(&pair)));
        }
        if self.bad {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "text with a zero byte"));
        }
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let mut fds: Vec<(RawFd, RawFd)> =
            self.fds.iter().map(|(fd, to)| (fd.as_raw_fd(), *to)).collect();
        for number in 0..3 {
            if !fds.iter().any(|(_, to)| *to == number) {
                fds.push((null.as_raw_fd(), number));
            }
        }
        let argv = pointers(&self.args);
        let envp = pointers(&env);
        let mut parked = vec![0; fds.len()];
        let (report_read, report_write) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;

        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let pidfd: RawFd = -1;
        // SAFETY: an all-zero clone_args is a valid value of that plain C struct.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        // CLONE_VFORK: the parent goes on when the child has its own program, so that the read of
        // the report below cannot last; memory is copied, not shared.
        args.flags = (libc::CLONE_PIDFD | libc::CLONE_VFORK) as u64;
        args.pidfd = &raw const pidfd as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        // SAFETY: clone3(2) reads `args` of the given size and writes one descriptor to `pidfd`.
        // Without CLONE_VM the child runs on a copy of this stack; it only makes system calls
        // on memory prepared above and leaves by execve(2) or _exit(2).
        let pid = unsafe {
            libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>())
        };
        if pid == 0 {
            let plan = Plan {
                program: &program,
                argv: &argv,
                envp: &envp,
                cwd: self.cwd.as_deref(),
                fds: &fds,
                new_session: self.new_session,
                new_group: self.new_group,
                dies_with: self.dies_with_parent.then_some(parent),
            };
            // SAFETY: this is the child of the clone3 above, as the function demands.
            unsafe { become_program(&plan, &mut parked, report_write.as_raw_fd()) }
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just stored a new descriptor here for us alone; the read is
        // volatile because the compiler does not see clone3(2) write it.
        let pidfd = unsafe { OwnedFd::from_raw_fd(std::ptr::read_volatile(&raw const pidfd)) };
        let child = Child { pidfd: Pidfd::from_parts(i32::try_from(pid).unwrap_or(-1), pidfd) };
        drop(report_write);
        let mut report = [0u8; 4];
        match rustix::io::retry_on_intr(|| rustix::io::read(&report_read, &mut report))? {
            0 => Ok(child),
            _ => {
                // The child is past its last word: this wait ends at once.
                child.reap_blocking();
                Err(io::Error::from_raw_os_error(i32::from_ne_bytes(report)))
            }
        }
    }

    fn lookup(&self, name: &str) -> Option<&OsStr> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }
}

/// A started program.
#[derive(Debug)]
pub struct Child {
    pidfd: Pidfd,
}

impl Child {
    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pidfd.pid()
    }
    /// Its handle.
    pub fn pidfd(&self) -> &Pidfd {
        &self.pidfd
    }
    /// Its handle, for keeping.
    pub fn into_pidfd(self) -> Pidfd {
        self.pidfd
    }
    /// Waits on the calling thread until it ends; for programs without a reactor.
    pub fn wait_blocking(&self) -> io::Result<Ending> {
        loop {
            if let Some(ending) = self.pidfd.try_wait()? {
                return Ok(ending);
            }
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                self.pidfd.as_fd(),
                rustix::event::PollFlags::IN,
            )];
            match rustix::event::poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    fn reap_blocking(&self) {
        // Nothing to tell anyone: the caller reports why the program never ran.
        let _ = self.wait_blocking();
    }
}

fn pointers(texts: &[CString]) -> Vec<*const libc::c_char> {
    texts.iter().map(|t| t.as_ptr()).chain([std::ptr::null()]).collect()
}

fn find_program(program: &OsStr, path: Option<&OsStr>) -> io::Result<OsString> {
    if program.as_bytes().contains(&b'/') {
        return Ok(program.to_owned());
    }
    let executable = |candidate: &Path| {
        rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file()
    };
    std::env::split_paths(path.unwrap_or(OsStr::new("/usr/sbin:/usr/bin:/sbin:/bin")))
        .map(|dir| dir.join(program))
        .find(|candidate| executable(candidate))
        .map(Into::into)
        .ok_or_else(|| {
            let name = program.to_string_lossy();
            io::Error::new(io::ErrorKind::NotFound, format!("{name}: not found on PATH"))
        })
}

/// What the child does; pointers only to memory prepared by the parent.
struct Plan<'a> {
    program: &'a CString,
    argv: &'a [*const libc::c_char],
    envp: &'a [*const libc::c_char],
    cwd: Option<&'a std::ffi::CStr>,
    fds: &'a [(RawFd, RawFd)],
    new_session: bool,
    new_group: bool,
    dies_with: Option<i32>,
}

/// # Safety
/// Only in the child of a clone without `CLONE_VM`; `parked` has a place for each of `plan.fds`.
unsafe fn become_program(plan: &Plan<'_>, parked: &mut [RawFd], report: RawFd) -> ! {
    // SAFETY: system calls on integers and on memory that lives in the frame of `spawn`, which
    // this copy of the process never leaves.
    unsafe {
        if prepare(plan, parked) {
            libc::execve(plan.program.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr());
        }
        let errno = *libc::__errno_location();
        libc::write(report, (&raw const errno).cast(), size_of::<i32>());
        libc::_exit(127)
    }
}

/// # Safety
/// As [`become_program`].
unsafe fn prepare(plan: &Plan<'_>, parked: &mut [RawFd]) -> bool {
    // SAFETY: see `become_program`.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        if plan.new_session && libc::setsid() < 0 {
            return false;
        }
        if plan.new_group && libc::setpgid(0, 0) < 0 {
            return false;
        }
        if let Some(parent) = plan.dies_with {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return false;
            }
            // The parent may have died before the request was in place.
            if libc::getppid() != parent {
                libc::_exit(127);
            }
        }
        if let Some(cwd) = plan.cwd
            && libc::chdir(cwd.as_ptr()) < 0
        {
            return false;
        }
        // Two rounds: a final number may be the present number of another descriptor.
        for ((from, _), park) in plan.fds.iter().zip(parked.iter_mut()) {
            *park = libc::fcntl(*from, libc::F_DUPFD_CLOEXEC, PARKING);
            if *park < 0 {
                return false;
            }
        }
        for ((_, to), park) in plan.fds.iter().zip(parked.iter()) {
            if libc::dup2(*park, *to) < 0 {
                return false;
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn run(command: Command<'_>) -> (Ending, String) {
        let out = crate::fd::memory_file("out").unwrap();
        let child = command.fd(out.as_fd(), 1).spawn().unwrap();
        let ending = child.wait_blocking().unwrap();
        (ending, crate::fd::contents(&out, 4096).map(|b| String::from_utf8(b).unwrap()).unwrap())
    }

    #[test]
    fn a_program_gets_arguments_environment_and_directory() {
        let script = "echo $0 $1 $A; pwd; exit 3";
        let dir = tempfile::tempdir().unwrap();
        let command =
            Command::new("sh").args(["-c", script, "name", "one"]).env("A", "b c").cwd(dir.path());
        let (ending, out) = run(command);
        assert_eq!(ending, Ending::Code(3));
        assert_eq!(out, format!("name one b c\n{}\n", dir.path().display()));
    }

    #[test]
    fn descriptors_may_swap_their_numbers() {
        let first = crate::fd::memory_file("first").unwrap();
        let second = crate::fd::memory_file("second").unwrap();
        let (a, b) = (first.as_raw_fd(), second.as_raw_fd());
        let child = Command::new("sh")
            .args(["-c", &format!("echo to-b >&{b}; echo to-a >&{a}")])
            .fd(first.as_fd(), b)
            .fd(second.as_fd(), a)
            .spawn()
            .unwrap();
        assert!(child.wait_blocking().unwrap().success());
        assert_eq!(crate::fd::contents(&first, 64).unwrap(), b"to-b\n");
        assert_eq!(crate::fd::contents(&second, 64).unwrap(), b"to-a\n");
    }

    #[test]
    fn what_fails_before_the_program_is_the_error_of_spawn() {
        let missing = Command::new("/no/such/program").spawn().unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOENT));
        let nowhere = Command::new("true").cwd(Path::new("/no/such/dir")).spawn().unwrap_err();
        assert_eq!(nowhere.raw_os_error(), Some(libc::ENOENT));
        let unknown = Command::new("no-such-program-at-all").spawn().unwrap_err();
        assert_eq!(unknown.kind(), io::ErrorKind::NotFound);
        let zero = Command::new("true").arg("a\0b").spawn().unwrap_err();
        assert_eq!(zero.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_signal_is_told_apart_from_a_code() {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        assert_eq!(child.pidfd().try_wait().unwrap(), None);
        child.pidfd().signal(libc::SIGTERM).unwrap();
        let ending = child.wait_blocking().unwrap();
        assert_eq!(ending, Ending::Signal(15));
        assert_eq!(ending.status(), 143);
        assert_eq!(child.pidfd().signal(0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn a_closed_pipe_kills_the_child_as_it_should() {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        drop(read);
        // The test's own runtime ignores SIGPIPE; were that inherited, `echo` would exit 1.
        let child = Command::new("sh")
            .args(["-c", "while :; do echo x; done"])
            .fd(write.as_fd(), 1)
            .spawn()
            .unwrap();
        assert_eq!(child.wait_blocking().unwrap(), Ending::Signal(13));
    }

    #[test]
    fn unmapped_standard_descriptors_are_null() {
        let (ending, out) = run(Command::new("sh").args(["-c", "cat; readlink /proc/self/fd/0"]));
        assert!(ending.success());
        assert_eq!(out, "/dev/null\n");
        let mut file = std::fs::File::from(crate::fd::memory_file("x").unwrap());
        file.write_all(b"hello").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }
}
