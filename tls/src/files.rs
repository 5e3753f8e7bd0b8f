//! Certificates and keys in PEM files.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::rustls::RootCertStore;
use crate::rustls::pki_types::pem::PemObject;
use crate::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{}: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: std::io::Error },
    #[error("{} holds no {wanted} in PEM; it begins with -----BEGIN {}", path.display(), begin(wanted))]
    Nothing { path: PathBuf, wanted: &'static str },
    #[error("{}: {problem}", path.display())]
    Broken { path: PathBuf, problem: String },
}

fn begin(wanted: &str) -> &'static str {
    if wanted == KEY { "PRIVATE KEY-----" } else { "CERTIFICATE-----" }
}

const CERTIFICATE: &str = "certificate";
const KEY: &str = "private key";

/// The certificates of a file, in its order: first the holder's, then those of authorities
/// between it and the root.
///
/// # Errors
/// The file cannot be read, or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(FileError::Nothing { path: path.to_owned(), wanted: CERTIFICATE })
        }
        Ok(found) => Ok(found),
        Err(error) => Err(broken(path, &error)),
    }
}

/// The first private key of a file.
///
/// # Errors
/// The file cannot be read, or holds none.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    use crate::rustls::pki_types::pem::Error;
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| match error {
        Error::NoItemsFound => FileError::Nothing { path: path.to_owned(), wanted: KEY },
        error => broken(path, &error),
    })
}

/// The authorities of a file.
///
/// # Errors
/// The file cannot be read, or holds what is no certificate.
pub fn roots(path: &Path) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| broken(path, &error))?;
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    std::fs::read(path).map_err(|cause| FileError::Unreadable { path: path.to_owned(), cause })
}

pub(crate) fn broken(path: &Path, error: &dyn std::fmt::Display) -> FileError {
    FileError::Broken { path: path.to_owned(), problem: error.to_string() }
}

/// What tells a file from the one that was there before, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(Option<[i64; 4]>);

/// That of the file, or of the one that a link leads to. One that is not there has one too.
pub fn stamp(path: &Path) -> Stamp {
    Stamp(
        std::fs::metadata(path).ok().map(|meta| {
            [meta.mtime(), meta.mtime_nsec(), meta.len().cast_signed(), meta.ino().cast_signed()]
        }),
    )
}
