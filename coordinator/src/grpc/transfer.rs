//! Files of searches, in pieces: out to whoever asks, in from whoever has one.

use std::fs::File;
use std::io::{Seek, Write};
use std::sync::Arc;
use std::time::Duration;

use cakes_proto::ids::SearchId;
use cakes_proto::v1;
use futures::StreamExt;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::stream::Messages;
use super::{Api, search_service, status};
use crate::exchange::FILE_BYTES_MAX;
use crate::store::exchange::{Imported, Sound, export, import};

/// Files that are read or written at a time: each holds a connection to the database.
const TRANSFERS_MAX: usize = 3;
/// Pieces that wait for whoever takes them.
const PIECES_AHEAD: usize = 2;
/// How long nobody may take or send a piece.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pieces of a message are at most so long, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// Places for files that are on their way.
#[derive(Clone, Debug)]
pub(super) struct Transfers(Arc<Semaphore>);

impl Default for Transfers {
    fn default() -> Self {
        Transfers(Arc::new(Semaphore::new(TRANSFERS_MAX)))
    }
}

impl Transfers {
    fn begin(&self) -> Result<OwnedSemaphorePermit, Status> {
        let busy = || {
            format!("{TRANSFERS_MAX} files of searches are on their way, which is the limit; try again later")
        };
        self.0.clone().try_acquire_owned().map_err(|_| status::busy(&busy()))
    }
}

/// The name of this machine.
fn source() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().take(255).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

impl Api {
    /// The file of a search, as it is packed.
    pub(super) fn export_file(&self, id: SearchId) -> Result<Messages<v1::ExportSearchResponse>, Status> {
        let permit = self.transfers.begin()?;
        let (answers, stream) = channel(1);
        let (pieces, packed) = channel(PIECES_AHEAD);
        let (pool, stop) = (self.reader().clone(), self.streams.stop());
        self.writes.spawn(async move {
            let _permit = permit;
            let pack = async move {
                // The sender ends with it, and so does the passing on.
                let pieces = pieces;
                Box::pin(export(&pool, id, &source(), &pieces)).await
            };
            let work = async { tokio::join!(pack, pass_on(packed, &answers)).0 };
            let ended = tokio::select! {
                ended = work => ended.map(drop).map_err(Status::from),
                () = stop.cancelled() => Err(status::shutting_down()),
            };
            let Err(status) = ended else { return };
            let _ = answers.send_timeout(Err(status), PATIENCE).await;
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }

    /// Takes a file in; says how far it is and, last, what came of it.
    pub(super) fn import_file(
        &self,
        pieces: Streaming<v1::ImportSearchRequest>,
    ) -> Result<Messages<v1::ImportSearchResponse>, Status> {
        let permit = self.transfers.begin()?;
        let (answers, stream) = channel(4);
        let (api, stop) = (self.clone(), self.streams.stop());
        self.writes.spawn(async move {
            let _permit = permit;
            let ended = tokio::select! {
                ended = api.take_in(pieces, &answers) => ended,
                () = stop.cancelled() => Err(status::shutting_down()),
            };
            let _ = answers.send_timeout(ended, PATIENCE).await;
        });
        Ok(Box::pin(ReceiverStream::new(stream)))
    }

    async fn take_in(
        &self,
        pieces: Streaming<v1::ImportSearchRequest>,
        answers: &Sender<Result<v1::ImportSearchResponse, Status>>,
    ) -> Result<v1::ImportSearchResponse, Status> {
        let tell = async |stage: v1::ImportStage| {
            let answer = v1::ImportSearchResponse { stage: stage.into(), ..Default::default() };
            answers.send_timeout(Ok(answer), PATIENCE).await.map_err(|_| Status::cancelled("nobody listens"))
        };
        tell(v1::ImportStage::Receiving).await?;
        let file = spool(pieces).await?;
        tell(v1::ImportStage::Checking).await?;
        let checking = tokio::task::spawn_blocking(move || Sound::of(file));
        let sound = checking.await.map_err(|error| status::internal(&error))??;
        tell(v1::ImportStage::Writing).await?;
        let Imported { id, is_new } = Box::pin(import(self.reader(), sound)).await?;
        let search = search_service::load(self.reader(), id).await?;
        Ok(v1::ImportSearchResponse { stage: v1::ImportStage::Done.into(), search: Some(search), is_new })
    }
}

/// Pieces as messages, until there are no more or nobody takes them.
async fn pass_on(mut packed: Receiver<Vec<u8>>, answers: &Sender<Result<v1::ExportSearchResponse, Status>>) {
    while let Some(piece) = packed.recv().await {
        for chunk in piece.chunks(PIECE_BYTES) {
            let answer = v1::ExportSearchResponse { chunk: chunk.to_vec() };
            if answers.send_timeout(Ok(answer), PATIENCE).await.is_err() {
                return;
            }
        }
    }
}

/// Keeps a file on disk while it comes: it is read more than once.
async fn spool(mut pieces: Streaming<v1::ImportSearchRequest>) -> Result<File, Status> {
    let failed = |error: std::io::Error| status::internal(&format!("cannot keep an imported file: {error}"));
    let mut file = tempfile::tempfile().map_err(failed)?;
    let mut bytes = 0_u64;
    loop {
        let late =
            |_| Status::deadline_exceeded(format!("no piece of the file came for {} s", PATIENCE.as_secs()));
        let Some(piece) = tokio::time::timeout(PATIENCE, pieces.next()).await.map_err(late)? else { break };
        let chunk = piece?.chunk;
        bytes += chunk.len() as u64;
        if bytes > FILE_BYTES_MAX {
            return Err(status::invalid_field("file", format!("is larger than {FILE_BYTES_MAX} bytes")));
        }
        let written = move || file.write_all(&chunk).map(|()| file);
        let written = tokio::task::spawn_blocking(written).await.map_err(|error| status::internal(&error))?;
        file = written.map_err(failed)?;
    }
    file.rewind().map_err(failed)?;
    Ok(file)
}
