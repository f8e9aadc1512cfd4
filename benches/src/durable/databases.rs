//! SQLite and fjall.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use rusqlite::{Connection, ErrorCode};

use crate::contestants::Contestant;
use crate::run::Caller;

/// SQLite with a write-ahead log that is synced at each commit. A message is a row, and a transaction.
pub struct Sqlite {
    path: PathBuf,
    /// A connection for each caller, or one for all.
    each: bool,
    connections: Vec<Arc<Mutex<Connection>>>,
}

impl Sqlite {
    pub fn new(dir: &Path, each: bool) -> Self {
        let path = dir.join("durable.db");
        let connection = Self::connect(&path);
        connection.execute_batch("CREATE TABLE messages (id INTEGER PRIMARY KEY, body BLOB NOT NULL)").unwrap();
        Sqlite { path, each, connections: vec![Arc::new(Mutex::new(connection))] }
    }

    fn connect(path: &Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        // Those who wait too long say so, and try again while the run goes on.
        connection.busy_timeout(Duration::from_secs(1)).unwrap();
        let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).unwrap();
        assert_eq!(mode, "wal");
        connection.execute_batch("PRAGMA synchronous = FULL").unwrap();
        connection
    }

    fn insert(connection: &Connection, message: &[u8]) -> bool {
        let mut insert = connection.prepare_cached("INSERT INTO messages (body) VALUES (?1)").unwrap();
        match insert.execute([message]) {
            Ok(rows) => rows == 1,
            Err(rusqlite::Error::SqliteFailure(error, _)) if error.code == ErrorCode::DatabaseBusy => false,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Contestant for Sqlite {
    fn callers(&mut self, callers: usize) -> Vec<Caller> {
        while self.each && self.connections.len() < callers {
            self.connections.push(Arc::new(Mutex::new(Self::connect(&self.path))));
        }
        let connections = self.connections.iter().cycle().take(callers).cloned();
        let caller = |connection: Arc<Mutex<Connection>>| -> Caller {
            Box::new(move |message| Self::insert(&connection.lock().unwrap(), message))
        };
        connections.map(caller).collect()
    }

    fn count(self: Box<Self>) -> u64 {
        let Sqlite { path, connections, .. } = *self;
        drop(connections);
        let count = "SELECT count(*) FROM messages WHERE length(body) = 100";
        Self::connect(&path).query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() as u64
    }
}

/// fjall: a message is an insert under its number, and then its journal is synced.
pub struct Fjall {
    dir: PathBuf,
    database: Database,
    messages: Keyspace,
    next: Arc<AtomicU64>,
}

impl Fjall {
    pub fn new(dir: &Path) -> Self {
        let database = Database::builder(dir).open().unwrap();
        let messages = database.keyspace("messages", KeyspaceCreateOptions::default).unwrap();
        Fjall { dir: dir.to_owned(), database, messages, next: Arc::default() }
    }
}

impl Contestant for Fjall {
    fn callers(&mut self, callers: usize) -> Vec<Caller> {
        let caller = |_| -> Caller {
            let (database, messages, next) = (self.database.clone(), self.messages.clone(), self.next.clone());
            Box::new(move |message| {
                messages.insert(next.fetch_add(1, Relaxed).to_be_bytes(), message).unwrap();
                database.persist(PersistMode::SyncData).unwrap();
                true
            })
        };
        (0..callers).map(caller).collect()
    }

    fn count(self: Box<Self>) -> u64 {
        let dir = self.dir.clone();
        drop(self);
        Fjall::new(&dir).messages.len().unwrap() as u64
    }
}
