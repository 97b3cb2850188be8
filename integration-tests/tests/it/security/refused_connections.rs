//! Connections that the broker, or the program, refuses at the start.
//!
//! Set-up: a broker with ports for plaintext, mutual TLS, SASL over TLS, and TLS with an expired certificate. Validator,
//! caller and command line connect with a wrong password, an authority that did not issue the broker's certificate, a
//! client certificate that is missing, expired or of another authority, or another protocol than the port's; or with
//! OAUTHBEARER, for which the build has no client, and with tokens without a signature.
//!
//! Must hold: each exits with an error within ten seconds, and says what was attempted, what it means, and which setting
//! to look at; no log has the password or client secret, and none is long. With the connection explanations removed the
//! messages name no setting; with the checks of OAUTHBEARER removed they do not say what the build has, nor that a
//! signature is missing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::cluster::secured::{PLAIN_USER, Validity};
use harness::pipeline::Pipeline;
use harness::process::Process;

use super::fixture::{Access, expect_log, outbox, secured_kafka};
use crate::run;

/// Maximum time of a start that is refused.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);
/// Maximum number of lines that such a start logs: librdkafka logs two for each attempt that a certificate ends, and waits
/// at least 75 ms before the next one (three quarters of `reconnect.backoff.ms`), so that 7 s have at most 187.
const LINES_MAX: usize = 200;
/// Address of an API that is never called.
const NO_API: &str = "http://127.0.0.1:9/payments";
const PASSWORD: &str = "wrong-password-91c2";

/// Words of each message about a connection that was tried.
const ATTEMPTED: [&str; 2] = ["reaching Kafka at", "kafka.bootstrap_servers"];

/// A wrong connection, and words of the message about it.
type Case = (&'static str, Access, &'static [&'static str]);

#[test]
fn refused_connection_is_explained() {
    run(|| {
        let kafka = secured_kafka()?;
        let (authority, stranger) = (&kafka.authority, &kafka.stranger);
        let tls = |port: &str| Access::to(port, "SSL").trusting(authority);
        let sasl = || Access::to(&kafka.sasl, "SASL_SSL").trusting(authority);
        let client = authority.client("client", Validity::Current)?;
        let refused_client: &[&str] = &["refused the client's certificate", "ssl.certificate.location"];
        let cases: Vec<Case> = vec![
            (
                "wrong-scram-password",
                sasl().with_user("SCRAM-SHA-512", "nobody", PASSWORD),
                &["refused the credentials", "sasl.password"],
            ),
            (
                "wrong-plain-password",
                sasl().with_user("PLAIN", PLAIN_USER.0, PASSWORD),
                &["refused the credentials", "sasl.password"],
            ),
            (
                "mechanism-not-offered",
                sasl().with_user("SCRAM-SHA-256", "nobody", PASSWORD),
                &["does not offer this mechanism", "sasl.mechanism"],
            ),
            (
                "wrong-authority",
                Access::to(&kafka.mutual_tls, "SSL")
                    .trusting(stranger)
                    .with_client(&client),
                &["not trusted", "ssl.ca.location"],
            ),
            ("expired-broker", tls(&kafka.expired), &["not trusted", "expired"]),
            (
                "expired-client",
                tls(&kafka.mutual_tls).with_client(&authority.client("late", Validity::Expired)?),
                refused_client,
            ),
            (
                "client-of-a-stranger",
                tls(&kafka.mutual_tls).with_client(&stranger.client("client", Validity::Current)?),
                refused_client,
            ),
            ("no-client-certificate", tls(&kafka.mutual_tls), refused_client),
            (
                "plaintext-to-tls",
                Access::to(&kafka.mutual_tls, "PLAINTEXT"),
                &["expects TLS", "security.protocol"],
            ),
            (
                "tls-to-plaintext",
                tls(&kafka.open),
                &["does not speak TLS", "security.protocol"],
            ),
        ];
        let oauth = || {
            Access::to(&kafka.sasl, "SASL_SSL")
                .trusting(authority)
                .with("sasl.mechanism", "OAUTHBEARER")
        };
        // Refused before a connection is tried.
        let settings: Vec<Case> = vec![
            (
                "oidc",
                oauth()
                    .with("sasl.oauthbearer.method", "oidc")
                    .with("sasl.oauthbearer.token.endpoint.url", "https://127.0.0.1:9/token")
                    .with("sasl.oauthbearer.client.id", "nobody")
                    .with("sasl.oauthbearer.client.secret", PASSWORD),
                &["sasl.mechanism", "has no OIDC client", "SCRAM-SHA-512"],
            ),
            (
                "unsecured-token",
                oauth().with("enable.sasl.oauthbearer.unsecure.jwt", "true"),
                &["enable.sasl.oauthbearer.unsecure.jwt", "without a signature"],
            ),
        ];
        let connections = cases
            .into_iter()
            .map(|(name, access, words)| (name, access, [&ATTEMPTED, words].concat()));
        let settings = settings
            .into_iter()
            .map(|(name, access, words)| (name, access, words.to_vec()));
        let cases: Vec<_> = connections.chain(settings).collect();
        let mut pipeline = Pipeline::on(kafka.open.clone(), "refused", 1)?;
        // Several at a time: each waits for seconds, and needs the processor for a moment.
        for some in cases.chunks(4) {
            let mut started = Vec::new();
            for (name, access, words) in some {
                for process in programs(&pipeline, name, access)? {
                    started.push((process, words.as_slice()));
                }
            }
            for (process, _) in &mut started {
                process.start()?;
            }
            for (process, words) in &mut started {
                expect_refused(process, words)?;
            }
        }
        pipeline.passed();
        Ok(())
    });
}

/// Describes a program of each kind.
fn programs(pipeline: &Pipeline, name: &str, access: &Access) -> Result<[Process; 3]> {
    let validator = pipeline.service_as(
        &format!("{name}-validator"),
        "validator",
        access.apply(
            pipeline
                .validator_settings(1)
                .with("store.dir", pipeline.folder().join(format!("{name}-state"))),
        ),
    )?;
    let caller = pipeline.service_as(
        &format!("{name}-caller"),
        "caller",
        access.apply(pipeline.caller_settings(1, NO_API)),
    )?;
    let outbox = outbox(pipeline, &format!("{name}-outbox"), access, &["topics", "verify"])?;
    Ok([validator.process, caller.process, outbox])
}

fn expect_refused(process: &mut Process, words: &[&str]) -> Result<()> {
    let name = process.name().to_owned();
    let status = process.wait_exit(REFUSED_WITHIN).with_context(|| {
        format!(
            "the log of {name}:\n{}",
            process.log_since_start().unwrap_or_default()
        )
    })?;
    let log = process.log_since_start()?;
    ensure!(!status.success(), "{name} exited with status 0:\n{log}");
    expect_log(&log, &name, words, &[PASSWORD], LINES_MAX)
}
