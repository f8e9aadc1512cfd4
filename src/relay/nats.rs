//! NATS JetStream.

use super::{AddressError, Origin, Sink, SinkError};
use crate::relay::address::Address;
use crate::{Lease, Offset};

/// Puts messages into a stream of NATS JetStream: `nats://HOST:PORT/STREAM/SUBJECT`.
#[derive(Debug)]
pub struct Nats {
    address: Address,
}

impl Nats {
    /// A sink for this address.
    ///
    /// # Errors
    ///
    /// [`AddressError`] if it is none.
    pub fn new(address: &str) -> Result<Self, AddressError> {
        let address = Address::parse(address, &["nats", "tls"], "nats://localhost:4222/STREAM/subject")?;
        Ok(Self { address })
    }
}

impl Sink for Nats {
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
