//! The way back: a stream of NATS JetStream fills a channel.

use super::AddressError;
use super::address::Address;

/// Fills a channel from a stream of NATS JetStream: `nats://HOST:PORT/STREAM/SUBJECT`.
#[derive(Debug)]
pub struct NatsSource {
    address: Address,
}

impl NatsSource {
    /// A source at this address.
    ///
    /// # Errors
    ///
    /// [`AddressError`] if it is none.
    pub fn new(address: &str) -> Result<Self, AddressError> {
        let address = Address::parse(address, &["nats", "tls"], "nats://localhost:4222/STREAM/subject")?;
        Ok(Self { address })
    }
}
