//! Stands between a client and a server, and alters what the client publishes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::server::Server;

/// A message on its way to the server.
pub struct Published {
    pub subject: String,
    /// Where the answer is to go.
    pub reply: Option<String>,
    /// The lines of the header block behind its first.
    pub headers: Vec<(String, String)>,
    pub payload: Vec<u8>,
}

impl Published {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }
}

/// What is done with a message: nothing of it comes to the server if it is none.
type Alter = dyn FnMut(Published) -> Option<Published> + Send;

pub struct Between {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Between {
    pub fn new(server: &Server, alter: impl FnMut(Published) -> Option<Published> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), server.url().replace("nats://", ""));
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, alter) = (connections.clone(), Arc::new(Mutex::new(alter)));
        // As long as the test.
        thread::spawn(move || {
            for client in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                let (client, server) = (client.unwrap(), TcpStream::connect(&to).unwrap());
                // It writes in small pieces.
                server.set_nodelay(true).unwrap();
                let (from_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                thread::spawn(move || copy(from_server, to_client));
                let alter = alter.clone();
                thread::spawn(move || {
                    let _ = pass(&client, &server, &*alter);
                    let _ = server.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, connections }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

/// Passes on what a client says, until one of them is gone.
fn pass(client: &TcpStream, mut server: &TcpStream, alter: &Mutex<Alter>) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    let mut line = String::new();
    while client.read_line(&mut line)? > 0 {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(("HPUB", [subject, reply @ .., head, len])) = words.split_first().map(|(verb, rest)| (*verb, rest))
        else {
            server.write_all(line.as_bytes())?;
            // What has a payload and no headers is a question.
            if words.first() == Some(&"PUB") {
                let len = words[words.len() - 1].parse::<usize>().unwrap();
                server.write_all(&read(&mut client, len + 2)?)?;
            }
            line.clear();
            continue;
        };
        let (head, len): (usize, usize) = (head.parse().unwrap(), len.parse().unwrap());
        let block = String::from_utf8(read(&mut client, head)?).unwrap();
        let pairs = block.lines().skip(1).filter_map(|line| line.split_once(':'));
        let published = Published {
            subject: (*subject).into(),
            reply: reply.first().map(|reply| (*reply).into()),
            headers: pairs.map(|(name, value)| (name.into(), value.trim().into())).collect(),
            payload: read(&mut client, len - head)?,
        };
        read(&mut client, 2)?;
        if let Some(Published { subject, reply, headers, payload }) = alter.lock().unwrap()(published) {
            let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let block = format!("NATS/1.0\r\n{lines}\r\n");
            let (reply, len) = (reply.unwrap_or_default(), block.len() + payload.len());
            write!(server, "HPUB {subject} {reply} {} {len}\r\n{block}", block.len())?;
            server.write_all(&payload)?;
            server.write_all(b"\r\n")?;
        }
        line.clear();
    }
    Ok(())
}

fn read(from: &mut impl Read, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
