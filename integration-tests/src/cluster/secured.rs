//! A broker with access control, and ports that need TLS, a client certificate, or a password.
//!
//! Its plaintext port is the harness's own: whoever connects there may do everything.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};

use super::ADDRESS_VARIABLE;
use super::broker::Broker;
use crate::process::free_port;

/// A running broker. Dropping it without [`SecuredKafka::passed`] keeps its log.
pub struct SecuredKafka {
    /// Plaintext port of the harness.
    pub open: String,
    /// Port for TLS that requires a client certificate.
    pub mutual_tls: String,
    /// Port for SASL over TLS, with SCRAM-SHA-512 and PLAIN.
    pub sasl: String,
    /// Port for TLS whose certificate has expired.
    pub expired: String,
    /// Issuer of the broker's certificates, which it trusts for those of its clients.
    pub authority: Authority,
    /// An issuer that nobody trusts.
    pub stranger: Authority,
    broker: Broker,
    folder: PathBuf,
}

/// User of the mechanism PLAIN, and password, which are in the broker's settings.
pub const PLAIN_USER: (&str, &str) = ("plain-user", "plain-user-secret-5d1f");

impl SecuredKafka {
    /// Starts the broker.
    ///
    /// # Errors
    /// The broker does not start, or Java is missing.
    pub fn start() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("outbox-secured-broker-")
            .tempdir()
            .context("creating a folder for a broker")?
            .keep();
        let authority = Authority::create(&folder, "authority")?;
        let stranger = Authority::create(&folder, "stranger")?;
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let store = authority
            .issue("broker", server.clone(), Validity::Current)?
            .key_store()?;
        let expired_store = authority
            .issue("expired-broker", server, Validity::Expired)?
            .key_store()?;
        let ports: Vec<u16> = (0..5).map(|_| free_port()).collect::<Result<_>>()?;
        let [open, controller, mutual_tls, sasl, expired] = ports[..] else {
            unreachable!("five ports");
        };
        let clients = format!(
            "PLAINTEXT://127.0.0.1:{open},MUTUAL://127.0.0.1:{mutual_tls},SASL://127.0.0.1:{sasl},EXPIRED://127.0.0.1:{expired}"
        );
        let (plain_user, plain_password) = PLAIN_USER;
        let settings = [
            format!("listeners={clients},CONTROLLER://127.0.0.1:{controller}"),
            format!("advertised.listeners={clients}"),
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,MUTUAL:SSL,SASL:SASL_SSL,\
             EXPIRED:SSL"
                .to_owned(),
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".to_owned(),
            // The harness, and the broker itself.
            "super.users=User:ANONYMOUS".to_owned(),
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={}", store.display()),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={}", authority.certificate().display()),
            "listener.name.mutual.ssl.client.auth=required".to_owned(),
            format!("listener.name.expired.ssl.keystore.location={}", expired_store.display()),
            "listener.name.sasl.sasl.enabled.mechanisms=SCRAM-SHA-512,PLAIN".to_owned(),
            "listener.name.sasl.scram-sha-512.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;"
                .to_owned(),
            // A client whose password was changed is noticed soon.
            "listener.name.sasl.scram-sha-512.connections.max.reauth.ms=4000".to_owned(),
            format!(
                "listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
                 required user_{plain_user}=\"{plain_password}\";"
            ),
        ];
        let mut options: Vec<String> = ["--heap", "384", "--port", &open.to_string()]
            .map(str::to_owned)
            .into();
        // So that the settings can name the controller's port.
        options.extend(["--voters".to_owned(), format!("1@127.0.0.1:{controller}")]);
        options.extend(
            settings
                .into_iter()
                .flat_map(|setting| ["--set".to_owned(), setting]),
        );
        let broker = Broker::new(folder.join("1"), options);
        let address = |port: u16| format!("127.0.0.1:{port}");
        let secured = Self {
            open: broker.start()?,
            mutual_tls: address(mutual_tls),
            sasl: address(sasl),
            expired: address(expired),
            authority,
            stranger,
            broker,
            folder,
        };
        Ok(secured)
    }

    /// Sets the password of a user of the mechanism SCRAM-SHA-512.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn set_password(&self, user: &str, password: &str) -> Result<()> {
        let change = format!("SCRAM-SHA-512=[iterations=4096,password={password}]");
        let entity = ["--entity-type", "users", "--entity-name", user];
        self.tool(
            "configs",
            &[&["--alter", "--add-config", &change], &entity[..]].concat(),
        )
    }

    /// Runs one of Kafka's tools.
    ///
    /// # Errors
    /// It fails; the error has its output.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/kafka");
        let output = Command::new(&script)
            .args(["tool", name])
            .args(arguments)
            .env(ADDRESS_VARIABLE, &self.open)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {}", script.display()))?;
        ensure!(
            output.status.success(),
            "`scripts/kafka tool {name}` ended with {}:\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Deletes everything that the scenarios leave behind; call it only if they have passed.
    pub fn passed(mut self) {
        self.broker.discard();
        let _deleted = std::fs::remove_dir_all(&self.folder);
    }
}

/// Issuer of certificates, with its own as a file.
pub struct Authority {
    folder: PathBuf,
    name: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Time for which a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// It is valid now.
    Current,
    /// It was valid once.
    Expired,
}

/// A certificate and its key, as files in PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// File of the certificate.
    pub certificate: PathBuf,
    /// File of the key.
    pub key: PathBuf,
}

impl Authority {
    fn create(folder: &Path, name: &str) -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let authority = Self {
            folder: folder.to_owned(),
            name: name.to_owned(),
            issuer,
        };
        write(&authority.certificate(), &authority.issuer.pem())?;
        Ok(authority)
    }

    /// File of its certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// Issues a certificate to a client. Its principal is `User:CN=` and the name.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn client(&self, name: &str, validity: Validity) -> Result<Issued> {
        self.issue(name, ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose, validity: Validity) -> Result<Issued> {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()])?;
        // Without the default name that rcgen gives, which would be part of the principal.
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        if validity == Validity::Expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2020, 12, 31);
        }
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let file = |suffix: &str| self.folder.join(format!("{}-{name}.{suffix}", self.name));
        let issued = Issued {
            certificate: file("pem"),
            key: file("key"),
        };
        write(&issued.certificate, &certificate.pem())?;
        write(&issued.key, &key.serialize_pem())?;
        Ok(issued)
    }
}

impl Issued {
    /// Writes key and certificate into one file, as Kafka reads them; returns its path.
    fn key_store(&self) -> Result<PathBuf> {
        let path = self.certificate.with_extension("store.pem");
        let both = std::fs::read_to_string(&self.key)? + &std::fs::read_to_string(&self.certificate)?;
        write(&path, &both)?;
        Ok(path)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
