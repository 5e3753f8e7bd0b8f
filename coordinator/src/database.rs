//! Which Postgres the daemon uses: one of its own, or one that exists.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cakes_postgres::{Cluster, ClusterConfig, DATABASE, Durability};
use url::Url;

use crate::config::Database;

/// Of the private server, below the data directory.
const FOLDER: &str = "postgres";

/// A database that can be connected to, for as long as this value lives.
#[derive(Debug)]
pub struct OpenDatabase {
    /// For connecting; it may hold a password.
    pub url: String,
    /// For people.
    pub description: String,
    cluster: Option<Cluster>,
}

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("start the private Postgres below {}", data_dir.display())]
    Cluster { data_dir: PathBuf, source: cakes_postgres::Error },
    #[error("the data directory {} cannot be used; choose another with --data-dir", data_dir.display())]
    DataDir { data_dir: PathBuf, source: std::io::Error },
    #[error("there is no database in {}; give the --config, --database-url or --data-dir of the coordinator", data_dir.display())]
    Missing { data_dir: PathBuf },
}

impl OpenDatabase {
    /// Starts the private server if there is to be one. Blocks for seconds.
    ///
    /// # Errors
    /// The private server cannot be started.
    pub fn open(database: &Database) -> Result<Self, DatabaseError> {
        match database {
            Database::Url(url) => {
                Ok(OpenDatabase { description: without_secrets(url), url: url.clone(), cluster: None })
            }
            Database::Private(data_dir) => Self::start(data_dir),
        }
    }

    /// As [`OpenDatabase::open`], but the private server is that of a coordinator which runs,
    /// or has run: a new one would hold nothing that a coordinator knows.
    ///
    /// # Errors
    /// There is none, or it cannot be started and none runs.
    pub fn open_or_join(database: &Database) -> Result<Self, DatabaseError> {
        if let Database::Private(data_dir) = database
            // To open what cannot be looked at says what is wrong with it.
            && !cakes_postgres::is_made(&data_dir.join(FOLDER)).unwrap_or(true)
        {
            return Err(DatabaseError::Missing { data_dir: data_dir.clone() });
        }
        match (Self::open(database), database) {
            (
                Err(DatabaseError::Cluster { source: cakes_postgres::Error::InUse { folder }, data_dir }),
                Database::Private(_),
            ) => match cakes_postgres::url_of_running(&folder, DATABASE) {
                Some(url) => Ok(OpenDatabase {
                    description: format!("private Postgres in {}", folder.display()),
                    url,
                    cluster: None,
                }),
                None => {
                    Err(DatabaseError::Cluster { source: cakes_postgres::Error::InUse { folder }, data_dir })
                }
            },
            (opened, _) => opened,
        }
    }

    fn start(data_dir: &Path) -> Result<Self, DatabaseError> {
        make_data_dir(data_dir)
            .map_err(|source| DatabaseError::DataDir { data_dir: data_dir.to_owned(), source })?;
        let folder = data_dir.join(FOLDER);
        let config = ClusterConfig { data_dir: folder.clone(), durability: Durability::Durable };
        let cluster = Cluster::start(&config)
            .map_err(|source| DatabaseError::Cluster { data_dir: data_dir.to_owned(), source })?;
        Ok(OpenDatabase {
            url: cluster.url(DATABASE),
            description: format!("private Postgres in {}", folder.display()),
            cluster: Some(cluster),
        })
    }

    /// Stops the private server. Blocks until it has saved everything.
    pub fn close(self) {
        if let Some(cluster) = self.cluster {
            cluster.stop();
        }
    }
}

/// Makes the directory so that others may pass through it: as root, Postgres
/// runs as another user, and its own folder within is closed to everybody else.
fn make_data_dir(data_dir: &Path) -> std::io::Result<()> {
    if !data_dir.exists() {
        fs::create_dir_all(data_dir)?;
        fs::set_permissions(data_dir, fs::Permissions::from_mode(0o711))?;
    }
    // Found now, it is a clear error; found by initdb, a riddle.
    tempfile::tempfile_in(data_dir).map(drop)
}

/// Host and database of a URL.
fn without_secrets(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut url) => {
            // Both fail only for URLs that cannot hold a password.
            let _ = url.set_password(None);
            url.set_query(None);
            url.to_string()
        }
        Err(_) => "the given URL".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_holds_no_password() {
        let text = without_secrets("postgres://cakes:hunter2@db.internal:5432/cakes?password=hunter2");
        assert_eq!(text, "postgres://cakes@db.internal:5432/cakes");
        assert_eq!(
            without_secrets("postgres://postgres@%2Ftmp%2Fpg/cakes"),
            "postgres://postgres@%2Ftmp%2Fpg/cakes"
        );
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_refused_with_a_remedy() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = OpenDatabase::open(&Database::Private(file.path().to_owned())).unwrap_err();
        assert!(error.to_string().contains("--data-dir"), "{error}");
    }
}
