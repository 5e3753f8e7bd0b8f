//! Opens the store that a URL names.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, RetryConfig};
use url::Url;

use crate::ArtifactError;

/// Of one request, which may carry a gigabyte.
const BUCKET_TIMEOUT: &str = "30 minutes";

/// The variables of this process.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The store at `url`. A bucket's credentials, region and endpoint are in `variables`, and what
/// it does not answer is asked again as `retry` says.
pub(crate) fn open(
    url: &str,
    variables: impl Iterator<Item = (String, String)>,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, ArtifactError> {
    let wrong = |problem: String| ArtifactError::Url { url: url.to_owned(), problem };
    let parsed = Url::parse(url).map_err(|error| wrong(error.to_string()))?;
    match parsed.scheme() {
        "file" => {
            let folder = parsed.to_file_path();
            folder_store(folder.map_err(|()| wrong("is no path of a folder".to_owned()))?, wrong)
        }
        "s3" => bucket_store(&parsed, variables, retry),
        other => {
            Err(wrong(format!("artifacts are in stores of the kinds file:// and s3://, not {other}://")))
        }
    }
}

/// The folder that the store at `url` is; none of a bucket.
pub(crate) fn root(url: &str) -> Option<PathBuf> {
    Url::parse(url).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
}

fn folder_store(
    folder: PathBuf,
    wrong: impl Fn(String) -> ArtifactError,
) -> Result<Arc<dyn ObjectStore>, ArtifactError> {
    if !folder.is_dir() {
        return Err(wrong(format!(
            "{} is no folder on this machine; mount the coordinator's artifact folder there",
            folder.display()
        )));
    }
    // Folders that a deletion leaves empty go too.
    let store = LocalFileSystem::new_with_prefix(folder)?.with_fsync(true).with_automatic_cleanup(true);
    Ok(Arc::new(store))
}

/// A bucket, below the path of `url`.
fn bucket_store(
    url: &Url,
    variables: impl Iterator<Item = (String, String)>,
    retry: RetryConfig,
) -> Result<Arc<dyn ObjectStore>, ArtifactError> {
    let prefix = Path::from_url_path(url.path()).map_err(object_store::Error::from)?;
    let for_buckets = variables.filter(|(name, _)| name.starts_with("AWS_"));
    let patient = [("timeout".to_owned(), BUCKET_TIMEOUT.to_owned())];
    let unknown = AmazonS3Builder::new().with_url(url.as_str()).with_retry(retry);
    let known = patient.into_iter().chain(for_buckets).fold(unknown, |builder, (name, value)| {
        match name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() {
            Ok(key) => builder.with_config(key, value),
            // Of other programs.
            Err(_) => builder,
        }
    });
    Ok(Arc::new(PrefixStore::new(known.build()?, prefix)))
}
