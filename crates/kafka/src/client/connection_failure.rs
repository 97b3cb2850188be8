//! Meaning of a failed connection, and what to do about it, by librdkafka's text.
//!
//! The text alone says which of several mistakes was made: librdkafka has one code for all failures of TLS, and
//! reports a wrong port as a lost connection.

/// Returns what a reason means and what to do; `None` if it explains itself, as `Connection refused` does.
pub(crate) fn explain(reason: &str) -> Option<&'static str> {
    let has = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    // The first that applies: the later ones are less certain.
    let (_, explanation) = EXPLANATIONS.iter().find(|(words, _)| has(words))?;
    Some(*explanation)
}

/// Parts of librdkafka's and OpenSSL's texts, and their explanation.
const EXPLANATIONS: [(&[&str], &str); 8] = [
    (
        &["mechanism handshake failed", "Unsupported SASL mechanism"],
        "the broker does not offer this mechanism on this port: set sasl.mechanism in [kafka.properties] to one that \
         it offers",
    ),
    (
        &[
            "SASL authentication error",
            "SASL SCRAM authentication failed",
            "SaslAuthenticateRequest failed",
        ],
        "the broker refused the credentials: check sasl.username, sasl.password and sasl.mechanism in \
         [kafka.properties], and that the broker knows the user",
    ),
    (
        &["certificate verify failed", "Failed to verify broker certificate"],
        "the broker's certificate is not trusted: it has expired, is for another host name, or is not issued by an \
         authority in ssl.ca.location of [kafka.properties]; `openssl s_client -connect HOST:PORT` shows it",
    ),
    (
        &[
            "alert certificate",
            "alert bad certificate",
            "alert unknown ca",
            "alert handshake failure",
            "certificate required",
            "client SSL authentication might be",
        ],
        "the broker refused the client's certificate, or requires one: check ssl.certificate.location and \
         ssl.key.location in [kafka.properties], that the certificate has not expired, and that the broker trusts \
         its issuer",
    ),
    (
        // The size is an alert of TLS, read as the length of a response.
        &["connecting to a SSL listener?", "Invalid response size 352518"],
        "the port expects TLS, or the broker closes connections: set security.protocol in [kafka.properties] to SSL \
         or SASL_SSL, or name another port in kafka.bootstrap_servers",
    ),
    (
        &["require SASL authentication"],
        "the port expects SASL: set security.protocol in [kafka.properties] to SASL_SSL",
    ),
    (
        &[
            "connecting to a PLAINTEXT broker listener?",
            "wrong version number",
            "packet length too long",
            "record layer failure",
        ],
        "the port does not speak TLS: name the TLS port in kafka.bootstrap_servers, or set security.protocol in \
         [kafka.properties] to that of the port",
    ),
    (
        &["in state APIVERSION_QUERY"],
        "the broker closed the connection at the first request: the port expects TLS, or another security.protocol in \
         [kafka.properties], or refuses the client's certificate",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn expect(reason: &str, word: &str) {
        let explained = explain(reason).unwrap_or_default();
        assert!(explained.contains(word), "{reason}\nexplained as: {explained}");
    }

    #[test]
    fn mistakes_are_told_apart() {
        // As librdkafka 2.12 with OpenSSL 3 reports them against Kafka 4.1.
        expect(
            "sasl_ssl://127.0.0.1:1/bootstrap: SASL authentication error: Authentication failed during \
             authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512 (after 9ms in state AUTH_REQ)",
            "sasl.password",
        );
        expect(
            "ssl://127.0.0.1:1/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify \
             failed: broker certificate could not be verified",
            "ssl.ca.location",
        );
        expect(
            "ssl://127.0.0.1:1/bootstrap: Disconnected: requesting ApiVersion: might be caused by incorrect \
             security.protocol configuration (connecting to a SSL listener?) or broker version is < 0.10",
            "expects TLS",
        );
        expect(
            "127.0.0.1:1/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 8ms in state \
             APIVERSION_QUERY)",
            "expects TLS",
        );
        expect(
            "ssl://127.0.0.1:1/bootstrap: SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker \
             listener? (after 3ms in state SSL_HANDSHAKE)",
            "does not speak TLS",
        );
    }

    #[test]
    fn reason_that_explains_itself_is_left_alone() {
        let refused = "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused";
        assert_eq!(explain(refused), None);
    }
}
