//! Writing an export: compressed, with a sum at its end, and in its place only when all of it is on the disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rekeeper_shared::domain::step::Exported;
use rekeeper_shared::tools::durable;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use zstd::stream::write::Encoder;

use super::{ExportError, Header, Line, Reader, Sum, as_hex};
use crate::zookeeper::ZNode;

/// zstd's own default: a table's nodes are repetitive, and more effort gains little.
const LEVEL: i32 = 3;

/// An export that is being written, beside the place where it will be. When it is dropped before [`Self::finish`]
/// nothing is left of it, and what was at its place is there still.
pub struct Writer {
    file: PathBuf,
    beside: PathBuf,
    lines: Encoder<'static, Limited>,
    hasher: Sha256,
    nodes: u64,
    data_bytes: u64,
}

impl Writer {
    /// Begins an export that is to be at `file`, and may take up to `limit` bytes there.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn create(file: &Path, header: &Header, limit: u64) -> Result<Self, ExportError> {
        let mut beside = file.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let begin = || -> io::Result<Encoder<'static, Limited>> {
            let inner = durable::create(&beside)?;
            let mut lines = Encoder::new(
                Limited {
                    file: inner,
                    written: 0,
                    limit,
                },
                LEVEL,
            )?;
            lines.include_checksum(true)?;
            Ok(lines)
        };
        let lines = begin().map_err(|source| ExportError::Disk {
            file: file.to_owned(),
            what: "written",
            source,
        })?;
        let mut writer = Self {
            file: file.to_owned(),
            beside,
            lines,
            hasher: Sha256::new(),
            nodes: 0,
            data_bytes: 0,
        };
        writer.line(header)?;
        Ok(writer)
    }

    /// Adds a node. Its parent must be there already.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn add(&mut self, node: ZNode) -> Result<(), ExportError> {
        self.nodes += 1;
        self.data_bytes += node.data.len() as u64;
        self.line(&Line::from(node))
    }

    /// Writes the sum, waits until all of it is on the disk, reads it again, and only then puts it in its place.
    ///
    /// # Errors
    /// [`ExportError::TooLarge`] with the size that it would have, or when the disk refuses.
    pub fn finish(mut self) -> Result<Exported, ExportError> {
        let sha256 = as_hex(&self.hasher.clone().finalize());
        let (nodes, data_bytes) = (self.nodes, self.data_bytes);
        self.line(&Sum {
            nodes,
            data_bytes,
            sha256: sha256.clone(),
        })?;
        self.lines.do_finish().map_err(|e| self.refused(e))?;
        let Limited { file, written, limit } = self.lines.get_ref();
        let (size, limit) = (*written, *limit);
        if size > limit {
            return Err(ExportError::TooLarge { nodes, size, limit });
        }
        file.sync_all().map_err(|e| self.refused(e))?;
        Reader::open(&self.beside)?.verify()?;
        fs::rename(&self.beside, &self.file).map_err(|e| self.refused(e))?;
        // Without this the rename itself may be lost.
        let folder = self.file.parent().unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| self.refused(e))?;
        Ok(Exported {
            file: self.file.display().to_string(),
            nodes,
            bytes: size,
            sha256,
        })
    }

    fn line(&mut self, content: &impl Serialize) -> Result<(), ExportError> {
        let written = serde_json::to_vec(content)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                self.hasher.update(&line);
                self.lines.write_all(&line)
            });
        written.map_err(|e| self.refused(e))
    }

    fn refused(&self, source: io::Error) -> ExportError {
        ExportError::Disk {
            file: self.file.clone(),
            what: "written",
            source,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Nobody takes it for an export under this name, and the next one replaces it.
        drop(fs::remove_file(&self.beside));
    }
}

/// A file up to its limit. What is beyond is only counted, so that people can be told how much it would be.
struct Limited {
    file: File,
    written: u64,
    limit: u64,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let was_over = self.written > self.limit;
        let count = if self.written + bytes.len() as u64 <= self.limit {
            self.file.write(bytes)?
        } else {
            if !was_over {
                self.file.set_len(0)?;
            }
            bytes.len()
        };
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
