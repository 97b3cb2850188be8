//! HTTPS: trusted authorities, client certificates, and the send latch below TLS.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pipeline::delivery::{NotSent, Response, ResponseClass};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::server::{OK, read_request};
use super::*;

/// Certificate authority, with the certificates it has issued as files.
struct Issued {
    folder: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Issued {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");
        Self { folder, authority }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn issue(&self, usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).expect("parameters");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.authority).expect("a certificate");
        (certificate, key)
    }

    fn issue_client_files(&self) {
        let (certificate, key) = self.issue(ExtendedKeyUsagePurpose::ClientAuth);
        std::fs::write(self.file("client.pem"), certificate.pem()).expect("written");
        std::fs::write(self.file("client.key"), key.serialize_pem()).expect("written");
    }

    /// Starts a server that also offers HTTP/2; returns its URL and its request count.
    async fn serve(&self, wants_client: bool) -> (String, Arc<AtomicUsize>) {
        let (certificate, key) = self.issue(ExtendedKeyUsagePurpose::ServerAuth);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).expect("a root");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("protocols");
        let builder = match wants_client {
            false => builder.with_no_client_auth(),
            true => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .expect("a verifier"),
            ),
        };
        let mut config = builder
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}/", listener.local_addr().expect("an address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    assert_ne!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                    while read_request(&mut stream).await.is_some() {
                        seen.fetch_add(1, Ordering::SeqCst);
                        let _written = stream.write_all(OK.as_bytes()).await;
                    }
                });
            }
        });
        (url, requests)
    }
}

fn api(url: &str, change: impl FnOnce(&mut ApiSettings)) -> Api {
    let mut settings = settings(url);
    settings.timeout = std::time::Duration::from_secs(10);
    settings.connect_timeout = std::time::Duration::from_secs(10);
    change(&mut settings);
    Api::new(&settings).expect("an API")
}

#[tokio::test]
async fn untrusted_server_gets_no_request() {
    let issued = Issued::new();
    let (url, requests) = issued.serve(false).await;
    let untrusting = api(&url, |_| {});
    let expected = (Response::NotSent(NotSent::NoConnection), ResponseClass::Retryable);
    assert_eq!(call_class(&untrusting).await, expected);
    assert_eq!(requests.load(Ordering::SeqCst), 0);

    let trusting = api(&url, |settings| settings.tls.ca_file = issued.file("ca.pem"));
    assert_eq!(call_class(&trusting).await.1, ResponseClass::Accepted);
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

/// The connection requests the body through TLS as it does without: after the lease nothing is sent.
#[tokio::test]
async fn expired_permit_sends_nothing_through_tls() {
    let issued = Issued::new();
    let (url, requests) = issued.serve(false).await;
    let api = api(&url, |settings| settings.tls.ca_file = issued.file("ca.pem"));
    let response = call(&api, SendPermit::new(Instant::now())).await;
    assert_eq!(response, Response::NotSent(NotSent::Withheld));
    assert_eq!(requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn client_certificate_is_sent_on_request() {
    let issued = Issued::new();
    issued.issue_client_files();
    let (url, requests) = issued.serve(true).await;
    let with_ca = |settings: &mut ApiSettings| settings.tls.ca_file = issued.file("ca.pem");
    // In TLS 1.3 the server verifies the client after the client may have sent, so the class may be either.
    let class = call_class(&api(&url, with_ca)).await.1;
    assert!(
        matches!(class, ResponseClass::Retryable | ResponseClass::Ambiguous),
        "{class:?}"
    );
    assert_eq!(requests.load(Ordering::SeqCst), 0);

    let known = api(&url, |settings| {
        with_ca(settings);
        settings.tls.client_cert_file = issued.file("client.pem");
        settings.tls.client_key_file = issued.file("client.key");
    });
    assert_eq!(call_class(&known).await.1, ResponseClass::Accepted);
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[test]
fn unusable_certificate_is_refused_by_name() {
    let issued = Issued::new();
    issued.issue_client_files();
    let refused = |change: &dyn Fn(&mut ApiSettings), names: &str| {
        let mut settings = settings("https://host/");
        change(&mut settings);
        let error = Api::new(&settings).err().expect(names);
        assert!(format!("{error:#}").contains(names), "{error:#}");
    };
    let client = issued.file("client.pem");
    refused(
        &|api| api.tls.client_cert_file = client.clone(),
        "api.tls.client_key_file",
    );
    refused(&|api| api.tls.ca_file = issued.file("client.key"), "client.key");
    refused(&|api| api.tls.ca_file = "/nonexistent".into(), "/nonexistent");
    refused(
        &|api| {
            api.tls.client_cert_file = client.clone();
            api.tls.client_key_file = issued.file("ca.pem");
        },
        "ca.pem",
    );
}
