//! `cakes search export` and `import`: a search travels as one file.

use std::io::Write;
use std::path::{Path, PathBuf};

use cakes_proto::v1;
use chrono::Utc;
use clap::Args;
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::args::GlobalArguments;
use crate::client::{Client, rpc};
use crate::error::{CommandError, Outcome};
use crate::{output, tables};

/// Sent at once, in bytes.
const CHUNK_BYTES: usize = 256 << 10;

#[derive(Debug, Args)]
pub struct ExportArguments {
    /// Id of the search, or a prefix that only one has.
    id: String,
    /// The file to write; - writes to the standard output.
    #[arg(long, value_name = "FILE", default_value = "search.zip")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub struct ImportArguments {
    /// A file that `cakes search export` has written.
    file: PathBuf,
}

/// What was written, for programs.
#[derive(Serialize)]
struct Written {
    file: String,
    bytes: u64,
}

fn server(status: Status) -> CommandError {
    CommandError::Server(Box::new(status))
}

/// # Errors
/// There is no such search, the coordinator is away, or the file cannot be written.
pub async fn export(
    global: &GlobalArguments,
    client: &Client,
    arguments: &ExportArguments,
) -> Result<Outcome, CommandError> {
    let request = v1::ExportSearchRequest { id: arguments.id.clone() };
    let mut pieces = rpc!(client, searches.export_search, "SearchService/ExportSearch", request)?;
    let out = &arguments.out;
    let failed = |error| CommandError::file(out, error);
    if out.as_os_str() == "-" {
        let mut stdout = std::io::stdout().lock();
        while let Some(piece) = pieces.message().await.map_err(server)? {
            stdout.write_all(&piece.chunk).map_err(failed)?;
        }
        stdout.flush().map_err(failed)?;
        return Ok(Outcome::Done);
    }
    // Under its name stands a whole file, or none.
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    let mut bytes = 0;
    while let Some(piece) = pieces.message().await.map_err(server)? {
        bytes += piece.chunk.len() as u64;
        file.write_all(&piece.chunk).map_err(failed)?;
    }
    file.persist(out).map_err(|error| CommandError::file(out, error.error))?;
    let written = Written { file: out.display().to_string(), bytes };
    output::print(global.output, &written, |written| {
        format!(
            "wrote {} ({} bytes); take it elsewhere with\n  cakes search import {0}",
            written.file, written.bytes
        )
    })?;
    Ok(Outcome::Done)
}

/// # Errors
/// The file cannot be read, the coordinator is away, or refuses it.
pub async fn import(
    global: &GlobalArguments,
    client: &Client,
    arguments: &ImportArguments,
) -> Result<Outcome, CommandError> {
    let path = &arguments.file;
    let failed = |error| CommandError::file(path, error);
    let mut file = tokio::fs::File::open(path).await.map_err(failed)?;
    let (sender, pieces) = tokio::sync::mpsc::channel(2);
    let reading = tokio::spawn(async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            let count = file.read(&mut chunk).await?;
            chunk.truncate(count);
            // Whoever takes them has said why it does not any more.
            if count == 0 || sender.send(v1::ImportSearchRequest { chunk }).await.is_err() {
                return Ok::<(), std::io::Error>(());
            }
        }
    });
    let answers = client.searches().import_search(ReceiverStream::new(pieces)).await;
    let mut answers = answers.map_err(server)?.into_inner();
    let mut last = None;
    while let Some(answer) = answers.message().await.map_err(server)? {
        last = Some(answer);
    }
    reading.await.map_err(|error| CommandError::Failed(error.to_string()))?.map_err(failed)?;
    let answer = last.filter(|answer| answer.search.is_some());
    let answer =
        answer.ok_or_else(|| CommandError::Failed("the coordinator did not say what came of it".into()))?;
    output::print(global.output, &answer, |answer| {
        let what = if answer.is_new { "imported" } else { "was imported before; nothing has changed" };
        let details = answer.search.as_ref().map(|search| tables::search_details(search, Utc::now()));
        format!("{what}\n\n{}", details.unwrap_or_default())
    })?;
    Ok(Outcome::Done)
}
