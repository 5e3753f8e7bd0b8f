//! Reads the file without trusting it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Seek};

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::{
    ExchangeError, FORMAT, FORMAT_VERSION, LINE_BYTES_MAX, MANIFEST, MANIFEST_BYTES_MAX, MEMBER_BYTES_MAX,
    Manifest, Member, PLAIN_VERSION, RATIO_MAX, content_sha256,
};

/// A file whose members are those of its manifest, byte for byte.
#[derive(Debug)]
pub struct Archive<R> {
    zip: ZipArchive<R>,
    pub manifest: Manifest,
}

impl<R: Read + Seek> Archive<R> {
    /// Opens the file and reads all of it once.
    ///
    /// # Errors
    /// It is no such file or not whole, of a version that is not known here, holds more or
    /// less than its manifest says, or unpacks to more than it may.
    pub fn open(reader: R) -> Result<Self, ExchangeError> {
        let mut zip = ZipArchive::new(reader).map_err(|error| {
            ExchangeError::file(format!(
                "is no whole zip archive ({error}); it may be cut off: copy it again"
            ))
        })?;
        let manifest = read_manifest(&mut zip)?;
        check_names(&zip, &manifest)?;
        let mut archive = Archive { zip, manifest };
        for member in Member::ALL {
            archive.check_member(member)?;
        }
        let digest = content_sha256(&archive.manifest.members);
        if digest != archive.manifest.content_sha256 {
            let problem = format!("content_sha256 is not {digest}, that of the members");
            return Err(ExchangeError::member(MANIFEST, problem));
        }
        Ok(archive)
    }

    /// Tells every line of a member to `each`, with its number from 1.
    ///
    /// # Errors
    /// The member cannot be read, or what `each` says.
    pub fn lines<E: From<ExchangeError>>(
        &mut self,
        member: Member,
        mut each: impl FnMut(u64, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        let file = self.zip.by_name(member.name()).map_err(|error| unreadable(member, &error))?;
        let mut reader = BufReader::new(file);
        let (mut line, mut number) = (Vec::new(), 0);
        loop {
            line.clear();
            let limit = LINE_BYTES_MAX as u64 + 1;
            let read = reader.by_ref().take(limit).read_until(b'\n', &mut line);
            if read.map_err(|error| unreadable(member, &error))? == 0 {
                return Ok(());
            }
            number += 1;
            let Some((b'\n', text)) = line.split_last() else {
                let problem = format!("is not ended, or longer than {LINE_BYTES_MAX} bytes");
                return Err(ExchangeError::line(member, number, problem).into());
            };
            let text = std::str::from_utf8(text)
                .map_err(|error| ExchangeError::line(member, number, format!("is no text: {error}")))?;
            each(number, text)?;
        }
    }

    fn check_member(&mut self, member: Member) -> Result<(), ExchangeError> {
        let name = member.name();
        let facts = self.manifest.members.iter().find(|facts| facts.name == name).cloned();
        let facts = facts.ok_or_else(|| ExchangeError::member(MANIFEST, format!("does not name {name}")))?;
        let problem = |problem: String| Err(ExchangeError::member(name, problem));
        if facts.bytes > MEMBER_BYTES_MAX || facts.lines > member.lines_max() {
            let most = member.lines_max();
            return problem(format!("is larger than {MEMBER_BYTES_MAX} bytes or {most} lines"));
        }
        let mut file = self.zip.by_name(name).map_err(|error| unreadable(member, &error))?;
        let packed = file.compressed_size();
        if facts.bytes > packed.saturating_mul(RATIO_MAX).saturating_add(1 << 20) {
            return problem(format!("{packed} bytes would unpack to {}, which is not believed", facts.bytes));
        }
        let (mut hash, mut bytes, mut lines) = (Sha256::new(), 0_u64, 0_u64);
        let mut chunk = vec![0; 64 << 10];
        loop {
            let count = file.read(&mut chunk).map_err(|error| unreadable(member, &error))?;
            if count == 0 {
                break;
            }
            bytes += count as u64;
            if bytes > facts.bytes {
                return problem(format!("unpacks to more than the {} bytes of the manifest", facts.bytes));
            }
            hash.update(&chunk[..count]);
            lines += chunk[..count].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        let sha256 = hex::encode(hash.finalize());
        if sha256 != facts.sha256 {
            return problem(format!("its SHA-256 is {sha256}, the manifest says {}", facts.sha256));
        }
        if (bytes, lines) != (facts.bytes, facts.lines) {
            return problem(format!("holds {bytes} bytes in {lines} lines, the manifest says otherwise"));
        }
        Ok(())
    }
}

fn unreadable(member: Member, error: &dyn std::fmt::Display) -> ExchangeError {
    ExchangeError::member(member.name(), format!("cannot be unpacked: {error}"))
}

fn read_manifest<R: Read + Seek>(zip: &mut ZipArchive<R>) -> Result<Manifest, ExchangeError> {
    let problem = |problem: String| ExchangeError::member(MANIFEST, problem);
    let file = zip.by_name(MANIFEST).map_err(|_| {
        problem("is not there; give a file that `cakes search export` has written".to_owned())
    })?;
    let mut text = Vec::new();
    let read = file.take(MANIFEST_BYTES_MAX + 1).read_to_end(&mut text);
    if read.map_err(|error| problem(error.to_string()))? as u64 > MANIFEST_BYTES_MAX {
        return Err(problem(format!("is larger than {MANIFEST_BYTES_MAX} bytes")));
    }
    // The version first: another version may have other fields.
    let loose: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| problem(format!("is no JSON: {error}")))?;
    if loose["format"] != FORMAT {
        return Err(problem(format!("format is {}, not \"{FORMAT}\"", loose["format"])));
    }
    let is_known = |version| (u64::from(PLAIN_VERSION)..=FORMAT_VERSION.into()).contains(&version);
    if !loose["format_version"].as_u64().is_some_and(is_known) {
        return Err(problem(format!(
            "format_version is {}, this version of cakes reads {PLAIN_VERSION} to {FORMAT_VERSION}; import it with the version that \
             wrote it, or a newer one",
            loose["format_version"]
        )));
    }
    serde_json::from_value(loose).map_err(|error| problem(error.to_string()))
}

fn check_names<R: Read + Seek>(zip: &ZipArchive<R>, manifest: &Manifest) -> Result<(), ExchangeError> {
    let known: Vec<&str> = Member::ALL.iter().map(|member| member.name()).collect();
    let named: Vec<&str> = manifest.members.iter().map(|facts| facts.name.as_str()).collect();
    if named != known {
        let problem = format!("names the members {}; expected {}", named.join(", "), known.join(", "));
        return Err(ExchangeError::member(MANIFEST, problem));
    }
    let held = zip.file_names().collect::<Result<BTreeSet<_>, _>>();
    let held = held.map_err(|error| ExchangeError::file(format!("holds a name that is no text: {error}")))?;
    match held.into_iter().find(|name| name != MANIFEST && !known.contains(&name.as_ref())) {
        Some(strange) => Err(ExchangeError::member(&strange, "is no member that the manifest names")),
        None => Ok(()),
    }
}
