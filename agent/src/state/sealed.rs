//! Notes with their checksum: one that was damaged is seen, and never believed.
//!
//! ```text
//! rekeeper note 1 <SHA-256 of the file's name, a line feed and the text>
//! <text: JSON>
//! ```

use std::ffi::OsStr;
use std::path::Path;

use rekeeper_shared::domain::document::digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{StateError, read, room};

/// What a note begins with; the number is that of this form.
const HEAD: &str = "rekeeper note 1 ";

/// Reads a note; none when the file does not exist.
///
/// # Errors
/// [`StateError::Note`] when it is not what was written under this name.
pub(crate) fn read_note<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, StateError> {
    let Some(bytes) = read(file)? else {
        return Ok(None);
    };
    let opened = open(file, &bytes).and_then(|text| serde_json::from_str(text).map_err(|e| e.to_string()));
    opened.map(Some).map_err(|why| StateError::Note(file.to_owned(), why))
}

/// Writes a note, which is somewhere in the state folder.
///
/// # Errors
/// When the disk refuses; what was there before is still there then.
pub(crate) fn write_note<T: Serialize>(state_dir: &Path, file: &Path, value: &T) -> Result<(), StateError> {
    let text = serde_json::to_string(value).map_err(|e| StateError::Disk(file.to_owned(), e.into()))?;
    let content = format!("{HEAD}{}\n{text}\n", sum(file, &text));
    room::write(state_dir, file, content.as_bytes())
}

/// The text of a note, if it is what was written under this name.
fn open<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, String> {
    let whole = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
    let Some((said, rest)) = whole.strip_prefix(HEAD).and_then(|after| after.split_once('\n')) else {
        return Err("it does not begin with its checksum; agents before the first release wrote none".to_owned());
    };
    let text = rest.strip_suffix('\n').ok_or("its end is missing")?;
    if sum(file, text) != said {
        return Err("its checksum is that of another text, or of another file".to_owned());
    }
    Ok(text)
}

/// With the name, so that a note of another table is not taken for this one's.
fn sum(file: &Path, text: &str) -> String {
    let name = file.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    digest(format!("{name}\n{text}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_believed_only_as_it_was_written_under_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.restore");
        assert_eq!(read_note::<Vec<u64>>(&file).unwrap(), None);
        write_note(folder.path(), &file, &vec![1, 23]).unwrap();
        assert_eq!(read_note::<Vec<u64>>(&file).unwrap(), Some(vec![1, 23]));
        let written = std::fs::read(&file).unwrap();

        let refused = |name: &str, content: &[u8]| {
            let file = folder.path().join(name);
            std::fs::write(&file, content).unwrap();
            let error = read_note::<Vec<u64>>(&file).unwrap_err();
            assert!(matches!(&error, StateError::Note(of, _) if *of == file), "{error}");
        };
        for length in 0..written.len() {
            refused("a.restore", &written[..length]);
        }
        for (at, bit) in (0..written.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut altered = written.clone();
            altered[at] ^= 1 << bit;
            refused("a.restore", &altered);
        }
        refused("b.restore", &written);
        // As it was written before notes had checksums.
        refused("a.restore", b"[1,23]");
        std::fs::write(&file, &written).unwrap();
        assert_eq!(read_note::<Vec<u64>>(&file).unwrap(), Some(vec![1, 23]));
    }
}
