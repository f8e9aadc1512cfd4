//! A Redis of the test's own, in a directory of its own, that can be killed and started again.

use crate::common::{Dir, PATIENCE, free_port};
use redis::{Client, Connection, FromRedisValue};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A server. Dropped, it is killed.
pub struct Server {
    dir: Dir,
    port: u16,
    child: Option<Child>,
}

/// The key that the tests relay to; without white space, for the roles of children.
const KEY: &str = "some/key:ö%20";

impl Server {
    /// Starts a server that has on disk what it has said.
    pub fn start() -> Self {
        let there = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        assert!(there.is_ok_and(|status| status.success()), "redis-server is missing: apt-get install redis-server");
        let port = free_port();
        let mut server = Self { dir: Dir::new(), port, child: None };
        server.restart();
        server
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it: connections are made, and nothing is answered.
    pub fn stop(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
        waitid(WaitId::Pid(self.pid()), WaitIdOptions::STOPPED).unwrap();
    }

    /// Lets it run on.
    pub fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    /// How often it has executed a command.
    pub fn calls(&self, command: &str) -> u64 {
        let all: String = self.ask(&["INFO", "commandstats"]);
        let begin = format!("cmdstat_{command}:calls=");
        let calls = all.lines().find_map(|line| line.strip_prefix(&begin)?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    /// Starts it again, where it was, with what it has on disk; returns when it answers.
    pub fn restart(&mut self) {
        self.kill();
        let start = Instant::now();
        loop {
            let child = self.child.get_or_insert_with(|| spawn(&self.dir, self.port));
            // Its port may be taken for a moment: by a connection that somebody makes.
            if child.try_wait().unwrap().is_some() {
                self.child = None;
            } else if self.try_ask::<String>(&["PING"]).is_ok() {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "redis-server does not start at port {}", self.port);
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it is, with the key.
    pub fn address(&self) -> String {
        self.address_as("")
    }

    /// The same for a user: `user:password@`.
    pub fn address_as(&self, login: &str) -> String {
        format!("redis://{login}127.0.0.1:{}/{KEY}", self.port)
    }

    fn connection(&self) -> redis::RedisResult<Connection> {
        let connection =
            Client::open(("127.0.0.1", self.port))?.get_connection_with_timeout(Duration::from_secs(10))?;
        connection.set_read_timeout(Some(PATIENCE))?;
        Ok(connection)
    }

    fn try_ask<T: FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        redis::cmd(command[0]).arg(&command[1..]).query(&mut self.connection()?)
    }

    /// The answer to a command. `KEY` in it is the key.
    pub fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let command: Vec<&str> = command.iter().map(|word| if *word == "KEY" { KEY } else { *word }).collect();
        self.try_ask(&command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// It dies with the thread that started it.
fn spawn(dir: &Dir, port: u16) -> Child {
    let port = port.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "redis-server", "--bind", "127.0.0.1", "--port", &port, "--save", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--dir"]).arg(dir.join(""));
    command.stdout(Stdio::null()).spawn().unwrap()
}
