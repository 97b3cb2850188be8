//! Answers of a registry: what a response says of a schema.

use serde::Deserialize;
use serde_json::Value;

/// What a response says of the schema that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It is this one.
    Schema(Found),
    /// There is none, with this error code of the protocol.
    Unknown(i64),
    /// Nothing. The text says what came instead, and what it means.
    Nothing(String),
}

/// Schema, as the registry has it.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Found {
    pub(crate) schema: String,
    /// Missing: Avro.
    #[serde(rename = "schemaType")]
    pub(crate) schema_type: Option<String>,
    #[serde(default)]
    pub(crate) references: Option<Vec<FoundReference>>,
}

/// Reference of a schema to another one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct FoundReference {
    pub(crate) name: String,
    pub(crate) subject: String,
    pub(crate) version: i64,
}

/// Error codes of the protocol: no such subject, version, schema.
const UNKNOWN: [i64; 3] = [40401, 40402, 40403];

/// Reads a response.
// A 404 alone says nothing of the schema: a wrong path and a proxy respond so, too, and each order would be refused.
pub(crate) fn read(status: u16, body: &[u8]) -> Said {
    match status {
        // As a whole first: what is not JSON to its end was not written by a registry.
        200 => match serde_json::from_slice::<Value>(body).and_then(serde_json::from_value) {
            Ok(found) => Said::Schema(found),
            Err(_) => Said::Nothing(
                "responded 200 without a schema; it may be no schema registry, or the path of schema_registry.urls may \
                 be wrong"
                    .into(),
            ),
        },
        404 => {
            let error: Value = serde_json::from_slice(body).unwrap_or_default();
            match error["error_code"].as_i64().filter(|code| UNKNOWN.contains(code)) {
                Some(code) => Said::Unknown(code),
                None => Said::Nothing(
                    "responded 404 without an error code of a schema registry; the path of schema_registry.urls may be \
                     wrong"
                        .into(),
                ),
            }
        }
        401 | 403 => Said::Nothing(format!(
            "responded {status}: the credentials of schema_registry.auth are missing, wrong, or have no permission to \
             read schemas"
        )),
        _ => Said::Nothing(format!("responded {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_registry_says_that_a_schema_is_unknown() {
        let unknown = br#"{"error_code":40403,"message":"Schema not found"}"#;
        assert_eq!(read(404, unknown), Said::Unknown(40403));
        for (status, body) in [
            (404, &b"<html>not found</html>"[..]),
            (404, b""),
            (404, br#"{"error_code":404,"message":"HTTP 404 Not Found"}"#),
            (401, unknown),
            (403, unknown),
            (429, b""),
            (500, unknown),
            (503, b""),
            (302, b""),
            (200, b"<html>please log in</html>"),
            (200, br#"{"subject":"orders"}"#),
            (200, br#"{"schema":"\"lo"#),
        ] {
            assert!(
                matches!(read(status, body), Said::Nothing(_)),
                "{status} {body:?}"
            );
        }
    }

    #[test]
    fn schema_is_avro_unless_it_says_otherwise() {
        let found = |body: &str| match read(200, body.as_bytes()) {
            Said::Schema(found) => found,
            other => panic!("{other:?}"),
        };
        assert_eq!(found(r#"{"schema":"\"long\""}"#).schema_type, None);
        let other = found(
            r#"{"schema":"x","schemaType":"PROTOBUF","references":[{"name":"a.proto","subject":"a","version":2}],"id":1}"#,
        );
        assert_eq!(other.schema_type.as_deref(), Some("PROTOBUF"));
        assert_eq!(other.references.map(|references| references.len()), Some(1));
        assert_eq!(found(r#"{"schema":"x","references":null}"#).references, None);
    }
}

#[cfg(test)]
mod fuzz {
    use super::*;

    /// A response is a schema, or says that there is none, for one reason only.
    #[test]
    fn registry_answer() {
        const TOKENS: &[&str] = &[
            "\"schema\":",
            "\"schemaType\":",
            "\"references\":",
            "\"error_code\":40403",
        ];
        fuzzing::check!("registry_answer", &[fuzzing::JSON, TOKENS].concat(), |bytes| {
            for status in [200, 404, 401, 500] {
                match read(status, bytes) {
                    Said::Schema(found) => {
                        assert_eq!(status, 200);
                        let json: Value = serde_json::from_slice(bytes).expect("JSON");
                        assert_eq!(json["schema"].as_str(), Some(&*found.schema));
                    }
                    Said::Unknown(code) => assert!(status == 404 && UNKNOWN.contains(&code)),
                    Said::Nothing(why) => assert!(!why.is_empty()),
                }
            }
        });
    }
}
