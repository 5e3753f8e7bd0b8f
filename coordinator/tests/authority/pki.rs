use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use cakes_coordinator::core::access::Role;
use cakes_coordinator::core::spiffe::{Holder, Name};
use cakes_coordinator::pki::{Host, Pki, read};
use cakes_tls::facts::Facts;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn authority() -> (tempfile::TempDir, Pki) {
    let folder = tempfile::tempdir().unwrap();
    let hosts = ["cakes.example.org".parse().unwrap(), "10.0.0.5".parse().unwrap()];
    let pki = Pki::init(&folder.path().join("pki"), name("cakes"), name("a"), &hosts, DAY).unwrap();
    (folder, pki)
}

#[test]
fn nobody_else_reads_what_is_made_and_nothing_is_overwritten() {
    let (folder, pki) = authority();
    pki.issue(&Holder::Worker { name: name("gpu-01") }, &[], DAY).unwrap();
    let mut open = vec![pki.folder().to_owned()];
    let mut files = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            assert_eq!(mode(&path), 0o700, "{}", path.display());
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            files += 1;
        }
    }
    assert_eq!(files, 11);
    let before = std::fs::read(pki.folder().join("users-ca.pem")).unwrap();
    let again = Pki::init(pki.folder(), name("cakes"), name("a"), &[], DAY).unwrap_err().to_string();
    assert!(again.contains("users-ca.pem is there already, and nothing was overwritten"), "{again}");
    assert_eq!(std::fs::read(pki.folder().join("users-ca.pem")).unwrap(), before);
    let again = pki.issue(&Holder::Worker { name: name("gpu-01") }, &[], DAY).unwrap_err().to_string();
    assert!(again.contains("workers/gpu-01 is there already") && again.contains("pki renew"), "{again}");
    let nowhere = Pki::open(folder.path()).unwrap_err().to_string();
    assert!(nowhere.contains("pki init"), "{nowhere}");
}

#[test]
fn a_certificate_says_who_where_and_until_when_and_renewed_says_the_same() {
    let (_folder, pki) = authority();
    let pki = Pki::open(pki.folder()).unwrap();
    let own = read(&pki.folder().join("cert.pem")).unwrap().facts;
    assert_eq!(own.uris, ["spiffe://cakes/coordinator/a"]);
    assert_eq!(own.issuer, "cakes coordinators");
    for host in ["cakes.example.org", "10.0.0.5", "localhost", "127.0.0.1", "::1"] {
        assert!(own.hosts.iter().any(|known| known == host), "{host}: {:?}", own.hosts);
    }
    let anna = Holder::User { role: Role::Operator, name: name("anna") };
    let folder = pki.issue(&anna, &[], DAY).unwrap();
    let issued = read(&folder.join("cert.pem")).unwrap().facts;
    assert_eq!(
        (&issued.uris[..], &issued.issuer[..]),
        (&["spiffe://cakes/user/operator/anna".to_owned()][..], "cakes users")
    );
    assert_eq!(issued.not_after.duration_since(issued.not_before).unwrap(), DAY + Duration::from_secs(300));

    for folder in [folder.as_path(), pki.folder()] {
        let key = std::fs::read(folder.join("key.pem")).unwrap();
        let before = read(&folder.join("cert.pem")).unwrap().facts;
        let renewed = pki.renew(folder).unwrap().facts;
        assert_ne!(std::fs::read(folder.join("key.pem")).unwrap(), key);
        let lasted = |facts: &Facts| facts.not_after.duration_since(facts.not_before).unwrap();
        assert_eq!((&renewed.uris, &renewed.hosts), (&before.uris, &before.hosts));
        assert_eq!(lasted(&renewed), lasted(&before));
        assert_eq!(mode(&folder.join("key.pem")), 0o600);
    }
    assert_eq!(pki.list().unwrap().len(), 5);
}

#[test]
fn what_a_group_may_read_it_may_read_when_it_is_renewed() {
    let (_folder, pki) = authority();
    let (certificate, key) = (pki.folder().join("cert.pem"), pki.folder().join("key.pem"));
    std::fs::set_permissions(&certificate, Permissions::from_mode(0o644)).unwrap();
    std::fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let before = std::fs::read(&key).unwrap();
    pki.renew(pki.folder()).unwrap();
    assert_ne!(std::fs::read(&key).unwrap(), before);
    assert_eq!((mode(&certificate), mode(&key)), (0o644, 0o640));
}

#[test]
fn nothing_is_signed_with_the_key_of_another_authority() {
    let (_folder, pki) = authority();
    let (_elsewhere, other) = authority();
    let anna = Holder::User { role: Role::Viewer, name: name("anna") };
    let copy = |file: &str| std::fs::copy(other.folder().join(file), pki.folder().join(file)).unwrap();
    copy("users-ca.pem");
    let refused = pki.issue(&anna, &[], DAY).unwrap_err().to_string();
    assert!(refused.contains("authority/users.key is not the key of"), "{refused}");
    assert!(refused.contains("users-ca.pem") && !pki.folder().join("users").exists(), "{refused}");
    pki.issue(&Holder::Worker { name: name("gpu-01") }, &[], DAY).unwrap();
    copy("authority/users.key");
    pki.issue(&anna, &[], DAY).unwrap();
}

#[test]
fn a_host_has_neither_scheme_nor_port() {
    for good in ["cakes.example.org", "localhost", "10.0.0.5", "::1"] {
        assert!(good.parse::<Host>().is_ok(), "{good}");
    }
    for bad in ["https://cakes", "cakes:7550", "", "a b", "*", "-"] {
        assert!(bad.parse::<Host>().is_err(), "{bad}");
    }
}
