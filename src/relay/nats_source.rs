//! The way back: a stream of NATS JetStream fills a channel.

use super::AddressError;
use super::address::Address;
use crate::Channel;
use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;
use thiserror::Error;

type Told = Arc<dyn Fn(&Filled) + Send + Sync>;

/// Fills a channel from a stream of NATS JetStream: `nats://HOST:PORT/STREAM/SUBJECT`.
pub struct NatsSource {
    address: Address,
    told: Option<Told>,
}

/// What a source has done since it was run.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Filled {
    /// Messages that were sent into the channel, and synced.
    pub messages: u64,
    /// Messages that came and were in the channel already.
    pub doubles: u64,
    /// The last thing that went wrong, and when.
    pub last_error: Option<(SystemTime, String)>,
}

/// Why a source ended before it was told to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FillError {
    /// It does nothing.
    #[error("not there yet")]
    NotThere,
}

impl NatsSource {
    /// A source at this address.
    ///
    /// # Errors
    ///
    /// [`AddressError`] if it is none.
    pub fn new(address: &str) -> Result<Self, AddressError> {
        let address = Address::parse(address, &["nats", "tls"], "nats://localhost:4222/STREAM/subject")?;
        Ok(Self { address, told: None })
    }

    /// Calls `told` with what was done.
    pub fn on_progress(mut self, told: impl Fn(&Filled) + Send + Sync + 'static) -> Self {
        self.told = Some(Arc::new(told));
        self
    }

    /// Fills the channel until `stop` is ready.
    ///
    /// # Errors
    ///
    /// See [`FillError`].
    pub async fn run(&self, channel: &Channel, stop: impl Future<Output = ()>) -> Result<Filled, FillError> {
        let _ = (&self.told, channel, stop);
        Err(FillError::NotThere)
    }
}

impl std::fmt::Debug for NatsSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsSource").field("address", &self.address).finish_non_exhaustive()
    }
}
