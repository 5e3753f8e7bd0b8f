//! Writes the file as a stream: nothing is written twice, and little is kept.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use uuid::Uuid;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::{
    Exporter, FORMAT, FORMAT_VERSION, MANIFEST, Manifest, Member, MemberFacts, PLAIN_VERSION, content_sha256,
};

/// What was packed and not yet taken.
#[derive(Clone, Debug, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Pipe {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn length(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes members one behind the other. Equal lines make equal bytes.
pub struct Writer {
    archive: ZipWriter<StreamWriter<Pipe>>,
    pipe: Pipe,
    hash: Sha256,
    members: Vec<MemberFacts>,
    format_version: u32,
}

impl Default for Writer {
    fn default() -> Self {
        let pipe = Pipe::default();
        Writer {
            archive: ZipWriter::new_stream(pipe.clone()),
            pipe,
            hash: Sha256::new(),
            members: Vec::new(),
            format_version: PLAIN_VERSION,
        }
    }
}

impl Writer {
    /// Begins the next member.
    ///
    /// # Errors
    /// It cannot be packed.
    pub fn begin(&mut self, member: Member) -> io::Result<()> {
        self.end_member();
        self.start(member.name(), member == Member::Metrics)?;
        let name = member.name().to_owned();
        self.members.push(MemberFacts { name, sha256: String::new(), bytes: 0, lines: 0 });
        Ok(())
    }

    /// Adds a line to the member that was begun last.
    ///
    /// # Errors
    /// It cannot be packed.
    pub fn line(&mut self, json: &str) -> io::Result<()> {
        for part in [json.as_bytes(), b"\n"] {
            self.archive.write_all(part)?;
            self.hash.update(part);
        }
        if let Some(member) = self.members.last_mut() {
            member.bytes += json.len() as u64 + 1;
            member.lines += 1;
        }
        Ok(())
    }

    /// Says that a line has labels or notes, which older readers do not know.
    pub fn has_remarks(&mut self) {
        self.format_version = FORMAT_VERSION;
    }

    /// Packed bytes that wait.
    pub fn waiting(&self) -> usize {
        self.pipe.length()
    }

    /// The packed bytes since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        self.pipe.take()
    }

    /// Writes the manifest and the end; the packed bytes that are left, and the digest of
    /// what the file holds.
    ///
    /// # Errors
    /// It cannot be packed.
    pub fn finish(
        mut self,
        search_id: Uuid,
        is_snapshot: bool,
        exporter: Exporter,
    ) -> io::Result<(Vec<u8>, String)> {
        self.end_member();
        self.start(MANIFEST, false)?;
        let Exporter { cakes_version, source, export_time } = exporter;
        let manifest = Manifest {
            format: FORMAT.to_owned(),
            format_version: self.format_version,
            search_id,
            is_snapshot,
            content_sha256: content_sha256(&self.members),
            cakes_version,
            source,
            export_time,
            members: self.members,
        };
        self.archive.write_all(&serde_json::to_vec_pretty(&manifest)?)?;
        self.archive.finish()?;
        Ok((self.pipe.take(), manifest.content_sha256))
    }

    fn end_member(&mut self) {
        let hash = std::mem::take(&mut self.hash);
        if let Some(member) = self.members.last_mut() {
            member.sha256 = hex::encode(hash.finalize());
        }
    }

    fn start(&mut self, name: &str, may_be_large: bool) -> io::Result<()> {
        // One time for all: the same content is the same bytes.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(6))
            .last_modified_time(DateTime::default())
            .large_file(may_be_large);
        self.archive.start_file(name, options).map_err(io::Error::other)
    }
}
