//! The private authority of a cluster with TLS.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Result, ensure};
use cakes_tls::client::ClientFiles;

use super::{Cluster, Finished};
use crate::{Api, binaries};

/// Under what the coordinator is also reached, for who knows where it is.
pub const HOST: &str = "cakes.test";

/// Who the commands of a cluster are.
const USER: &str = "tester";

impl Cluster {
    /// The folder of the authority.
    pub fn pki(&self) -> PathBuf {
        self.folder().join("pki")
    }

    /// Runs `cakes-coordinator pki …` to its end.
    ///
    /// # Errors
    /// It fails.
    pub fn run_pki(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = binaries::command("cakes-coordinator", &self.mark)?;
        command.arg("--data-dir").arg(self.folder().join("coordinator"));
        command.env("CAKES_PKI_DIR", self.pki()).arg("pki").args(arguments).current_dir(self.folder());
        let ended = Finished::from(command.stdin(Stdio::null()).output()?);
        ensure!(ended.code == Some(0), "pki {arguments:?}: {ended:?}");
        Ok(ended)
    }

    /// Makes the authority, and the certificate of whoever types commands.
    pub(super) fn make_authority(&self) -> Result<()> {
        self.run_pki(&["init", "--host", HOST])?;
        self.run_pki(&["issue", "user", USER, "--role", "operator"]).map(drop)
    }

    /// The certificate of a worker, made if it has none.
    ///
    /// # Errors
    /// None can be made.
    pub fn worker_files(&self, name: &str) -> Result<ClientFiles> {
        if !self.pki().join("workers").join(name).exists() {
            self.run_pki(&["issue", "worker", name])?;
        }
        Ok(files_in(&self.pki().join("workers").join(name)))
    }

    /// With what commands of this cluster connect.
    pub fn user_files(&self) -> ClientFiles {
        match self.options.tls {
            true => files_in(&self.pki().join("users").join(USER)),
            false => ClientFiles::default(),
        }
    }

    /// The API as the holder of other files sees it.
    ///
    /// # Errors
    /// The address is no URL.
    pub fn api_with(&self, files: &ClientFiles) -> Result<Api> {
        Api::new(&self.url(), files)
    }
}

/// What was handed over to somebody.
pub fn files_in(folder: &Path) -> ClientFiles {
    ClientFiles {
        ca: Some(folder.join("ca.pem")),
        certificate: Some(folder.join("cert.pem")),
        key: Some(folder.join("key.pem")),
    }
}

/// As arguments or variables: `--ca-file` or `CAKES_CA_FILE`, with its file.
pub(super) fn named(files: &ClientFiles, prefix: &str, words: [&str; 3]) -> Vec<(String, PathBuf)> {
    let paths = [&files.ca, &files.certificate, &files.key];
    let named = words.iter().zip(paths);
    named.filter_map(|(word, path)| Some((format!("{prefix}{word}"), path.clone()?))).collect()
}
