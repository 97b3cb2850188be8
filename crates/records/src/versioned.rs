//! Values in JSON that begin with a version.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Parses a value of this version. `unknown` makes the error for another one.
///
/// # Errors
/// The bytes are not the JSON of the value, or have another version.
pub(crate) fn parse<T: DeserializeOwned, E: From<serde_json::Error>>(
    value: &[u8],
    version: u8,
    unknown: impl FnOnce(u8) -> E,
) -> Result<T, E> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u8,
    }
    // The version first: a later version may have other fields, and the error should name the version.
    let found: Versioned = serde_json::from_slice(value)?;
    if found.version == version {
        Ok(serde_json::from_slice(value)?)
    } else {
        Err(unknown(found.version))
    }
}
