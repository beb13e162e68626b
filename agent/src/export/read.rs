//! Reading an export, and finding out whether it is whole.

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use zstd::stream::read::Decoder;

use super::{ExportError, Header, Line, Sum, VERSION, as_hex};
use crate::zookeeper::ZNode;

/// A longer line is no line of an export: a node has 1 MiB at most, of which JSON makes up to six times as much.
const LINE: u64 = 16 * 1024 * 1024;

/// An export that is being read. Only when [`Self::node`] has answered none is it known to be whole.
pub struct Reader {
    header: Header,
    lines: Lines,
    /// Of the lines that came, but for the sum.
    hasher: Sha256,
    nodes: u64,
    data_bytes: u64,
    sum: Option<Sum>,
    /// Hashes of the paths that came: one below a path that did not come is out of place, and so is one that comes
    /// twice. Eight bytes for each node.
    seen: HashSet<u64>,
    hashes: RandomState,
}

impl Reader {
    /// Opens an export and reads its header.
    ///
    /// # Errors
    /// When it cannot be read, is no export, or is one of another version.
    pub fn open(file: &Path) -> Result<Self, ExportError> {
        let opened = File::open(file)
            .and_then(Decoder::new)
            .map_err(|source| ExportError::Disk {
                file: file.to_owned(),
                what: "read",
                source,
            })?;
        let mut lines = Lines {
            file: file.to_owned(),
            text: BufReader::new(opened),
        };
        let first = lines.next()?.ok_or_else(|| lines.damaged("it is empty"))?;
        #[derive(serde::Deserialize)]
        struct Version {
            rekeeper_znodes: u32,
        }
        let Version {
            rekeeper_znodes: version,
        } = lines.parse(&first, "its first line is no header of an export")?;
        if version != VERSION {
            return Err(lines.damaged(format!(
                "it has version {version} of the format, and this release reads {VERSION}"
            )));
        }
        Ok(Self {
            header: lines.parse(&first, "its first line is no header of an export")?,
            lines,
            hasher: Sha256::new_with_prefix(&first),
            nodes: 0,
            data_bytes: 0,
            sum: None,
            seen: HashSet::new(),
            hashes: RandomState::new(),
        })
    }

    /// Of what it is.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What its last line says; none before that is read.
    #[must_use]
    pub fn sum(&self) -> Option<&Sum> {
        self.sum.as_ref()
    }

    /// The next node; none after the last one, when everything has turned out to be as it was written.
    ///
    /// # Errors
    /// When it is not.
    pub fn node(&mut self) -> Result<Option<ZNode>, ExportError> {
        if self.sum.is_some() {
            return Ok(None);
        }
        let line = self.lines.next()?;
        let line = line.ok_or_else(|| {
            self.lines
                .damaged(format!("it ends after {} znodes, without a sum", self.nodes))
        })?;
        if line.starts_with(b"{\"nodes\":") {
            self.end(&line)?;
            return Ok(None);
        }
        self.hasher.update(&line);
        let what = format!("what follows after {} znodes is no znode", self.nodes);
        let node = self.lines.parse::<Line>(&line, &what)?.node();
        let node = node.ok_or_else(|| self.lines.damaged(what))?;
        self.check_place(&node.path)?;
        self.nodes += 1;
        self.data_bytes += node.data.len() as u64;
        Ok(Some(node))
    }

    /// Reads what is left, and gives the sum.
    ///
    /// # Errors
    /// When it is not what was written.
    pub fn verify(mut self) -> Result<(Header, Sum), ExportError> {
        while self.node()?.is_some() {}
        let sum = self.sum.ok_or_else(|| self.lines.damaged("it has no sum"))?;
        Ok((self.header, sum))
    }

    fn end(&mut self, line: &[u8]) -> Result<(), ExportError> {
        let sum: Sum = self.lines.parse(line, "its last line is no sum")?;
        let digest = as_hex(&self.hasher.clone().finalize());
        if sum.sha256 != digest {
            return Err(self
                .lines
                .damaged(format!("its sum is {}, and its lines have {digest}", sum.sha256)));
        }
        if (sum.nodes, sum.data_bytes) != (self.nodes, self.data_bytes) {
            return Err(self.lines.damaged(format!(
                "it has {} znodes with {} bytes, and {} with {} were written",
                self.nodes, self.data_bytes, sum.nodes, sum.data_bytes
            )));
        }
        if self.nodes == 0 {
            return Err(self.lines.damaged("it has no znode"));
        }
        if self.lines.next()?.is_some() {
            return Err(self.lines.damaged("something follows its sum"));
        }
        self.sum = Some(sum);
        Ok(())
    }

    /// The first node is the header's, every other has its parent before it, and none comes twice.
    fn check_place(&mut self, path: &str) -> Result<(), ExportError> {
        let is_first = self.seen.is_empty();
        let is_in_place = match path.rsplit_once('/') {
            _ if is_first => path == self.header.path.as_str(),
            Some((parent, name)) => !name.is_empty() && self.seen.contains(&self.hashes.hash_one(parent)),
            None => false,
        };
        if is_in_place && self.seen.insert(self.hashes.hash_one(path)) {
            return Ok(());
        }
        Err(self.lines.damaged(format!("the znode {path} is out of place")))
    }
}

struct Lines {
    file: PathBuf,
    text: BufReader<Decoder<'static, BufReader<File>>>,
}

impl Lines {
    /// The next line with its end; none at the end of the file.
    fn next(&mut self) -> Result<Option<Vec<u8>>, ExportError> {
        let mut line = Vec::new();
        let read = (&mut self.text).take(LINE).read_until(b'\n', &mut line);
        let read = read.map_err(|error| match error.kind() {
            // What the decoder says of what is no zstd, or is cut.
            io::ErrorKind::Other | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                self.damaged(error.to_string())
            }
            _ => ExportError::Disk {
                file: self.file.clone(),
                what: "read",
                source: error,
            },
        })?;
        if read == 0 {
            return Ok(None);
        }
        if line.ends_with(b"\n") {
            Ok(Some(line))
        } else {
            Err(self.damaged("it ends in the middle of a line"))
        }
    }

    fn parse<T: DeserializeOwned>(&self, line: &[u8], problem: &str) -> Result<T, ExportError> {
        serde_json::from_slice(line).map_err(|e| self.damaged(format!("{problem} ({e})")))
    }

    fn damaged(&self, problem: impl Into<String>) -> ExportError {
        ExportError::Damaged {
            file: self.file.clone(),
            problem: problem.into(),
        }
    }
}
