//! The versions of Kafka that the documents and the compose file name, compared with those of `scripts/kafka`.

use std::fs;
use std::path::Path;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns a version that the pom names.
fn pinned(property: &str) -> String {
    let pom = read("scripts/kafka.d/pom.xml");
    let (_, rest) = pom.split_once(&format!("<{property}>")).expect("the property");
    let (version, _) = rest.split_once('<').expect("its end");
    version.to_owned()
}

#[test]
fn documents_name_the_versions_of_the_scripts() {
    let (newest, oldest) = (pinned("kafka.version"), pinned("kafka.oldest.version"));
    let (minor, _) = oldest.rsplit_once('.').expect("three numbers");
    let readme = read("README.md");
    for name in [
        format!("Apache Kafka {newest}"),
        format!("is {minor} (`KAFKA_VERSION=oldest` runs {oldest})"),
    ] {
        assert!(readme.contains(&name), "README.md lacks {name:?}");
    }
    let image = format!("image: apache/kafka:{newest}\n");
    assert!(
        read("docker/compose.yaml").contains(&image),
        "compose.yaml has another image"
    );
    for document in ["docker/README.md", "docker/kubernetes/README.md"] {
        let name = format!("Kafka {minor} or later");
        assert!(read(document).contains(&name), "{document} lacks {name:?}");
    }
}
