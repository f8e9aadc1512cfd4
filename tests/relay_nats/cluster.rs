//! Three servers, and a stream that is on all of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, Context};
use disk_chan::relay::{Nats, Relay};
use serde_json::Value;
use tokio::sync::Notify;

use crate::common::{Dir, body, free_port, lag, small, until, within_tokio};
use crate::in_order;
use crate::server::{listens, messages, run};

const SERVERS: usize = 3;

/// They are killed when this is dropped.
struct Cluster {
    dir: Dir,
    /// For each of its servers: for clients, for the others, and for questions.
    ports: Vec<[u16; 3]>,
    children: Vec<Option<Child>>,
}

impl Cluster {
    fn start() -> Self {
        let ports = (0..SERVERS).map(|_| [free_port(), free_port(), free_port()]).collect();
        let mut cluster = Self { dir: Dir::new(), ports, children: Vec::new() };
        cluster.children.resize_with(SERVERS, || None);
        (0..SERVERS).for_each(|n| cluster.restart(n));
        cluster
    }

    fn restart(&mut self, n: usize) {
        let [clients, others, questions] = self.ports[n];
        let routes: Vec<String> = self.ports.iter().map(|ports| format!("nats://127.0.0.1:{}", ports[1])).collect();
        let (config, log) = (self.dir.join(&format!("{n}.conf")), self.dir.join(&format!("{n}.log")));
        let text = format!(
            "server_name: s{n}\nport: {clients}\nhttp: \"127.0.0.1:{questions}\"\njetstream {{ store_dir: {:?} }}\n\
             cluster {{ name: c, listen: \"127.0.0.1:{others}\", routes: {routes:?} }}\n",
            self.dir.join(&format!("store{n}"))
        );
        std::fs::write(&config, text).unwrap();
        self.children[n] = Some(run(&["-c".as_ref(), config.as_os_str()], &log));
        listens(clients, &log);
    }

    fn kill(&mut self, n: usize) {
        if let Some(mut child) = self.children[n].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// All of them, as an address.
    fn url(&self) -> String {
        let each: Vec<String> = self.ports.iter().map(|ports| format!("127.0.0.1:{}", ports[0])).collect();
        format!("nats://{}", each.join(","))
    }

    async fn context(&self) -> Context {
        let each: Vec<String> = self.ports.iter().map(|ports| format!("nats://127.0.0.1:{}", ports[0])).collect();
        jetstream::new(async_nats::connect(each).await.unwrap())
    }

    /// How many messages a server has itself, and the last sequence.
    fn state(&self, n: usize) -> Option<(u64, u64)> {
        let mut server = TcpStream::connect(("127.0.0.1", self.ports[n][2])).ok()?;
        server.write_all(b"GET /jsz?streams=true HTTP/1.0\r\n\r\n").ok()?;
        let mut said = String::new();
        server.read_to_string(&mut said).ok()?;
        let said: Value = serde_json::from_str(said.split_once("\r\n\r\n")?.1).ok()?;
        let state = &said["account_details"][0]["stream_detail"][0]["state"];
        Some((state["messages"].as_u64()?, state["last_seq"].as_u64()?))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..SERVERS).for_each(|n| self.kill(n));
    }
}

/// Each server is killed once, and away for longer than the duplicate window: it does not know then what the last message
/// is called. There is always something in flight. Each has each message once and in order at last, whoever leads.
#[test]
fn replicas_that_were_away_have_the_same_messages() {
    within_tokio(240, || async {
        let mut cluster = Cluster::start();
        let context = cluster.context().await;
        let config = Config {
            name: "ORDERS".into(),
            subjects: vec!["orders".into()],
            num_replicas: SERVERS,
            duplicate_window: Duration::from_secs(1),
            ..Default::default()
        };
        while context.create_stream(config.clone()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await; // they have not found each other
        }
        let dir = Dir::new();
        let channel = small().max_attempts(1000).blocking_open(dir.file()).unwrap();
        channel.blocking_subscribe("g").unwrap();
        let (over, sender) = (Arc::new(AtomicBool::new(false)), channel.sender());
        let (is_over, stop) = (over.clone(), Arc::new(Notify::new()));
        let sender = thread::spawn(move || {
            let mut sent = 0;
            while !is_over.load(Ordering::SeqCst) {
                sender.blocking_send(body(sent, 100)).unwrap();
                sent += 1;
            }
            sent
        });
        let (to, stopped) = (format!("{}/ORDERS/orders", cluster.url()), stop.clone());
        let relay = Relay::new(&channel, "g").backoff(Duration::from_millis(5), Duration::from_millis(100));
        let ran = tokio::spawn(async move { relay.run(Nats::new(&to).unwrap(), stopped.notified()).await });
        let more = async || {
            let upto = channel.end_offset();
            until("more is confirmed", || channel.first_offset() > upto).await;
        };
        for n in 0..SERVERS {
            more().await;
            cluster.kill(n);
            tokio::time::sleep(Duration::from_secs(3)).await;
            more().await;
            cluster.restart(n);
            let has_come_to = |last| cluster.state(n).is_some_and(|state| state.1 >= last);
            let (_, last) = cluster.state((n + 1) % SERVERS).unwrap();
            until("it has caught up", || has_come_to(last)).await;
        }
        over.store(true, Ordering::SeqCst);
        let sent = sender.join().unwrap();
        until("all is confirmed", || lag(&channel) == 0).await;
        stop.notify_one();
        assert_eq!(ran.await.unwrap().unwrap().relayed, sent);
        until("all of them have all", || (0..SERVERS).all(|n| cluster.state(n) == Some((sent, sent)))).await;
        for _ in 0..SERVERS {
            // They may be choosing who leads.
            let held = loop {
                match messages(&context, "ORDERS", "orders").await {
                    Ok(held) => break held,
                    Err(error) => println!("once more: {error}"),
                }
            };
            assert!(in_order(&held, channel.uuid()).into_iter().eq(0..sent));
            while context.request::<_, (), Value>("STREAM.LEADER.STEPDOWN.ORDERS", &()).await.is_err() {}
        }
        println!("{sent} messages");
    });
}
