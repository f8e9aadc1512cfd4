//! A NATS server of a test's own: killed with the test, restarted on the same port and with the same storage.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use async_nats::jetstream::{self, Context};

use crate::common::{eventually, free_port};

/// A server; dropped, it is killed.
pub struct Server {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
    more: Vec<String>,
}

impl Server {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// With more arguments.
    pub fn with(more: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("disk-chan-nats-").tempdir().unwrap();
        let more: Vec<String> = more.iter().map(|&arg| arg.to_owned()).collect();
        loop {
            let port = free_port();
            // Somebody else may have taken the port since.
            if let Some(child) = start(dir.path(), port, &more) {
                return Self { dir, port, child, more };
            }
        }
    }

    /// Kills it, as nothing can be handled.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again.
    pub fn restart(&mut self) {
        self.child = start(self.dir.path(), self.port, &self.more).expect("the server does not start again");
    }

    /// Puts what it stores, while it is killed, somewhere else.
    pub fn copy_data(&self, from: &str, to: &str) {
        let [from, to] = [from, to].map(|name| self.dir.path().join(name));
        let _ = std::fs::remove_dir_all(&to);
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    }

    /// What there is of it, as an address.
    pub fn address(&self, path: &str) -> String {
        format!("nats://127.0.0.1:{}/{path}", self.port)
    }

    /// A connection.
    pub async fn connect(&self) -> Context {
        jetstream::new(async_nats::connect(self.address("")).await.unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nothing if it has ended at once.
fn start(dir: &Path, port: u16, more: &[String]) -> Option<Child> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let is_there = std::env::split_paths(&path).any(|dir| dir.join("nats-server").is_file());
    assert!(is_there, "nats-server is missing: apt-get install nats-server");
    let log = dir.join("log");
    let _ = std::fs::remove_file(&log);
    // It is killed with the thread that started it.
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "nats-server", "-a", "127.0.0.1", "-p", &port.to_string(), "-js"])
        .arg("-sd")
        .arg(dir.join("data"))
        .arg("-l")
        .arg(&log)
        .args(more)
        .env("PATH", path)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let is_ready = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("Server is ready"));
    let mut ended = false;
    eventually("the server is ready", || {
        ended = child.try_wait().unwrap().is_some();
        ended || is_ready()
    });
    (!ended).then_some(child)
}
