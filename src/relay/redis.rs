//! Redis Streams.

use super::{AddressError, Origin, Sink, SinkError};
use crate::relay::address::Address;
use crate::{Lease, Offset};

/// Puts messages into a stream of Redis: `redis://HOST:PORT/KEY`.
#[derive(Debug)]
pub struct Redis {
    address: Address,
}

impl Redis {
    /// A sink for this address.
    ///
    /// # Errors
    ///
    /// [`AddressError`] if it is none.
    pub fn new(address: &str) -> Result<Self, AddressError> {
        let address = Address::parse(address, &["redis"], "redis://localhost:6379/orders")?;
        Ok(Self { address })
    }
}

impl Sink for Redis {
    fn to(&self) -> String {
        self.address.to_string()
    }

    async fn connect(&mut self, _: &Origin) -> Result<Option<Offset>, SinkError> {
        Err(SinkError::fatal("not there yet"))
    }

    async fn publish(&mut self, _: &[Lease]) -> Result<(), SinkError> {
        Err(SinkError::fatal("not there yet"))
    }

    async fn confirmed(&mut self) -> Result<Offset, SinkError> {
        Err(SinkError::fatal("not there yet"))
    }
}
