//! Access control lists of a broker, changed by requests of the harness's own: Kafka's tool takes seconds for each.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kafka::topics::acls::{Acl, Operation, ResourceKind};

/// Timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// API key of `CreateAcls`.
const CREATE: i16 = 30;
/// API key of `DeleteAcls`.
const DELETE: i16 = 31;
/// Version of both requests: the last one with fixed sizes of all numbers.
const VERSION: i16 = 1;
/// Type of a permission: allow.
const ALLOW: u8 = 3;

/// Allows principals what they ask for, at the port where the harness may do everything.
pub struct AccessControl {
    address: String,
}

impl AccessControl {
    /// Changes the lists of the broker with this address.
    #[must_use]
    pub fn of(address: &str) -> Self {
        Self {
            address: address.to_owned(),
        }
    }

    /// Allows a principal these operations.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn allow(&self, principal: &str, acls: &[Acl]) -> Result<()> {
        let mut body = Vec::from(u32::try_from(acls.len())?.to_be_bytes());
        for acl in acls {
            put_resource(&mut body, acl)?;
            put_principal(&mut body, principal, acl.operation)?;
        }
        let response = self.request(CREATE, &body).context("allowing operations")?;
        let mut results = Fields::of_results(&response)?;
        for acl in acls {
            let code = results.int16()?;
            ensure!(code == 0, "allowing {acl:?} failed with the code {code}");
            results.text()?;
        }
        Ok(())
    }

    /// Takes one operation from a principal.
    ///
    /// # Errors
    /// The broker refuses, or the principal was not allowed it.
    pub fn remove(&self, principal: &str, acl: &Acl) -> Result<()> {
        let mut body = Vec::from(1_u32.to_be_bytes());
        put_resource(&mut body, acl)?;
        put_principal(&mut body, principal, acl.operation)?;
        let response = self.request(DELETE, &body).context("removing an operation")?;
        let mut results = Fields::of_results(&response)?;
        let code = results.int16()?;
        results.text()?;
        let removed = results.int32()?;
        ensure!(
            code == 0 && removed == 1,
            "removing {acl:?} from {principal}: {removed} removed, code {code}"
        );
        Ok(())
    }

    /// Sends a request and returns the response from the correlation id on.
    fn request(&self, key: i16, body: &[u8]) -> Result<Vec<u8>> {
        let mut request = Vec::new();
        request.extend(key.to_be_bytes());
        request.extend(VERSION.to_be_bytes());
        // Correlation id, and no client id.
        request.extend(1_u32.to_be_bytes());
        request.extend((-1_i16).to_be_bytes());
        request.extend(body);
        let mut stream =
            TcpStream::connect(&self.address).with_context(|| format!("connecting to {}", self.address))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
        stream.write_all(&request)?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut response = vec![0; usize::try_from(u32::from_be_bytes(length))?];
        stream.read_exact(&mut response)?;
        Ok(response)
    }
}

fn put_resource(body: &mut Vec<u8>, acl: &Acl) -> Result<()> {
    body.push(match acl.kind {
        ResourceKind::Topic => 2,
        ResourceKind::Group => 3,
        ResourceKind::Cluster => 4,
        ResourceKind::TransactionalId => 5,
    });
    put_text(body, &acl.name)?;
    // Pattern type: prefixed, or literal.
    body.push(if acl.is_prefix { 4 } else { 3 });
    Ok(())
}

fn put_principal(body: &mut Vec<u8>, principal: &str, operation: Operation) -> Result<()> {
    put_text(body, principal)?;
    // From every host.
    put_text(body, "*")?;
    body.push(match operation {
        Operation::Read => 3,
        Operation::Write => 4,
        Operation::Create => 5,
        Operation::Delete => 6,
        Operation::Describe => 8,
        Operation::DescribeConfigs => 10,
    });
    body.push(ALLOW);
    Ok(())
}

fn put_text(body: &mut Vec<u8>, text: &str) -> Result<()> {
    body.extend(i16::try_from(text.len())?.to_be_bytes());
    body.extend(text.as_bytes());
    Ok(())
}

/// Fields of a response, from first to last.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Passes the correlation id, the throttle time and the number of results.
    fn of_results(response: &'a [u8]) -> Result<Self> {
        Ok(Self(response.get(12..).context("the response is too short")?))
    }

    fn int16(&mut self) -> Result<i16> {
        let (bytes, rest) = self.0.split_first_chunk().context("the response is too short")?;
        self.0 = rest;
        Ok(i16::from_be_bytes(*bytes))
    }

    fn int32(&mut self) -> Result<i32> {
        let (bytes, rest) = self.0.split_first_chunk().context("the response is too short")?;
        self.0 = rest;
        Ok(i32::from_be_bytes(*bytes))
    }

    /// Passes a text that may be absent, which has the length -1.
    fn text(&mut self) -> Result<()> {
        let length = usize::try_from(self.int16()?).unwrap_or(0);
        self.0 = self.0.get(length..).context("the response is too short")?;
        Ok(())
    }
}
