//! Running the command.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

/// The command with these arguments, not yet started.
pub fn disk_chan<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_disk-chan"));
    command.args(args).stdin(Stdio::null());
    command
}

/// What it said, and its status.
pub fn output<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Output {
    disk_chan(args).output().unwrap()
}

/// The same with something to read on standard input.
pub fn output_of<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>, input: &[u8]) -> Output {
    let mut command = disk_chan(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // A command that ends before it has read everything is one of the cases.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

/// Its standard output as text; fails unless it said that it is done.
pub fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Its standard error and its status; fails if it said that it is done.
pub fn failure(output: &Output) -> (String, i32) {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code().unwrap())
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Starts it, with its three streams as pipes.
pub fn start<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Running {
    let mut command = disk_chan(args);
    Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

/// A command that runs. Dropped, it is killed.
pub struct Running(pub Child);

impl Running {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Its status, or the number of the signal that ended it; what it said on standard output and on standard error.
    /// What is left of its input ends.
    pub fn end(mut self) -> (i32, Vec<u8>, String) {
        use std::os::unix::process::ExitStatusExt;
        drop(self.0.stdin.take());
        let (mut out, mut err) = (Vec::new(), Vec::new());
        thread::scope(|scope| {
            let (stdout, stderr) = (self.0.stdout.take(), self.0.stderr.take());
            scope.spawn(|| stdout.map(|mut from| from.read_to_end(&mut out).unwrap()));
            stderr.map(|mut from| from.read_to_end(&mut err).unwrap());
        });
        let status = self.0.wait().unwrap();
        let number = status.code().or(status.signal()).unwrap();
        (number, out, String::from_utf8(err).unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
