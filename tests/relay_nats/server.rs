//! A NATS server of the test's own.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, Context, Message};
use futures::StreamExt;

use crate::common::{Dir, PATIENCE, free_port};

/// It is killed when this is dropped.
pub struct Server {
    dir: Dir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// Starts one on a free port, with an empty store.
    pub fn start() -> Self {
        let port = free_port();
        let mut server = Self { dir: Dir::new(), port, child: None };
        server.restart();
        server
    }

    /// Starts it again, with what it stored.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let (port, store, log) = (self.port.to_string(), self.dir.join("store"), self.dir.join("log"));
        let args = ["-p".as_ref(), port.as_ref(), "-js".as_ref(), "-sd".as_ref(), store.as_os_str()];
        self.child = Some(run(&args, &log));
        listens(self.port, &log);
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// A client of it.
    pub async fn context(&self) -> Context {
        jetstream::new(async_nats::connect(self.url()).await.unwrap())
    }

    /// Everything in a stream, by one subject, in its order.
    pub async fn messages(&self, stream: &str, subject: &str) -> Vec<Message> {
        messages(&self.context().await, stream, subject).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts a server with these arguments.
pub fn run(args: &[&OsStr], log: &Path) -> Child {
    let program = ["/usr/sbin/nats-server", "/usr/bin/nats-server", "/usr/local/bin/nats-server"];
    let program = program.into_iter().find(|path| Path::new(path).exists()).unwrap_or("nats-server");
    Command::new(program)
        .args(["-a", "127.0.0.1", "-l"])
        .arg(log)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("nats-server is missing ({error}): apt-get install nats-server"))
}

/// Waits until it listens.
pub fn listens(port: u16, log: &Path) {
    let start = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = || std::fs::read_to_string(log).unwrap_or_default();
        assert!(start.elapsed() < PATIENCE, "the server does not listen: {}", log());
        thread::sleep(Duration::from_millis(5));
    }
}

/// Everything in a stream, by one subject, in its order.
pub async fn messages(context: &Context, stream: &str, subject: &str) -> Result<Vec<Message>, async_nats::Error> {
    let mut stream = context.get_stream(stream).await?;
    let (count, last) = {
        let state = &stream.info().await?.state;
        (state.messages, state.last_sequence)
    };
    let mut messages: Vec<Message> = Vec::new();
    if count == 0 {
        return Ok(messages);
    }
    let config = pull::OrderedConfig { deliver_policy: DeliverPolicy::All, ..Default::default() };
    let mut all = stream.create_consumer(config).await?.messages().await?;
    loop {
        let message = tokio::time::timeout(PATIENCE, all.next()).await?.ok_or("no more")??;
        let sequence = message.info()?.stream_sequence;
        if *message.subject == *subject {
            messages.push(message);
        }
        if sequence == last {
            return Ok(messages);
        }
    }
}
