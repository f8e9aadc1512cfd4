//! Addresses of engines: `scheme://[user:password@]host[:port][,...]/path`.

use std::fmt;
use thiserror::Error;

/// That an address cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{address:?} is no address such as {example}")]
pub struct AddressError {
    /// What was given, without a password.
    pub address: String,
    /// What it should look like.
    pub example: &'static str,
}

/// An address in its parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Scheme, user, password, host and port, or several of these: for the client of the engine.
    pub server: String,
    /// What is behind the first slash after that.
    pub path: String,
    /// All of it but the password.
    shown: String,
}

impl Address {
    /// Of one of these schemes, with something behind the server.
    pub fn parse(address: &str, schemes: &[&str], example: &'static str) -> Result<Self, AddressError> {
        let wrong = || AddressError { address: without_password(address), example };
        let (scheme, rest) = address.split_once("://").ok_or_else(wrong)?;
        let (server, path) = rest.split_once('/').ok_or_else(wrong)?;
        let host = server.rsplit_once('@').map_or(server, |(_, host)| host);
        if !schemes.contains(&scheme) || host.is_empty() || path.is_empty() {
            return Err(wrong());
        }
        let shown = without_password(address);
        Ok(Self { server: format!("{scheme}://{server}"), path: path.to_owned(), shown })
    }

    /// Each of several servers, with the scheme.
    #[cfg(feature = "relay-nats")]
    pub fn servers(&self) -> impl Iterator<Item = String> + '_ {
        let (scheme, servers) = self.server.split_once("://").unwrap_or_default();
        servers.split(',').map(move |server| format!("{scheme}://{server}"))
    }
}

/// What may be shown of it.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => address.to_owned(),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_server_and_a_path_and_shows_no_password() {
        let parse = |text| Address::parse(text, &["nats", "tls"], "nats://localhost:4222/ORDERS/orders");
        let address = parse("nats://me:s/cret@host:4222/ORDERS/orders.eu");
        assert!(address.is_err(), "a slash ends the server");
        let address = parse("nats://me:se@cret@host:4222/ORDERS/orders.eu").unwrap();
        assert_eq!((&*address.server, &*address.path), ("nats://me:se@cret@host:4222", "ORDERS/orders.eu"));
        assert_eq!(
            format!("{address} {address:?}"),
            "nats://host:4222/ORDERS/orders.eu nats://host:4222/ORDERS/orders.eu"
        );
        #[cfg(feature = "relay-nats")]
        assert!(parse("tls://a:1,b:2/ORDERS/orders").unwrap().servers().eq(["tls://a:1", "tls://b:2"]));
        for wrong in
            ["", "host:4222/A/b", "http://host/A/b", "nats:///A/b", "nats://host", "nats://host/", "nats://a:b@/c"]
        {
            let error = parse(wrong).unwrap_err().to_string();
            assert!(error.contains("nats://localhost:4222") && !error.contains("a:b"), "{error}");
        }
    }
}
