//! Files that survive a crash: written beside, synced, renamed, and the folder synced.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// Largest file that is read as a whole: a packed record of some million parts.
pub const LARGEST: u64 = 512 << 20;
/// What the daemons write is for their own user: it tells names, hosts and statements.
const MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Replaces the file at `path` by `content`, or leaves it as it was: never a torn file.
///
/// # Errors
/// When the folder does not exist or the disk refuses; the old content is still there then.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path
        .parent()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path without a folder"))?;
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "path without a name"))?;
    let mut beside = name.to_owned();
    beside.push(".new");
    let beside = folder.join(beside);
    let written = create(&beside).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    if let Err(error) = written {
        // Where the disk is full, what there is of it takes the room of others.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    fs::rename(&beside, path)?;
    // Without this the rename itself may be lost.
    File::open(folder)?.sync_all()
}

/// Reads a file; none when it does not exist.
///
/// # Errors
/// Any other failure than that it does not exist.
pub fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut file = match opened(path, OpenOptions::new().read(true)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut content = Vec::new();
    (&mut file).take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        let what = format!("it has more than {LARGEST} bytes, as no file of Rekeeper has");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(Some(content))
}

/// Makes an empty file, or empties one that is there, for the own user alone.
///
/// # Errors
/// When there is something else than a plain file under that name, or the disk refuses.
pub fn create(path: &Path) -> io::Result<File> {
    let file = opened(path, OpenOptions::new().write(true).create(true).truncate(false))?;
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    file.set_len(0)?;
    Ok(file)
}

/// Opens a file that is there to be locked, and makes it if it is missing; what is in it stays.
///
/// # Errors
/// As [`create`].
pub fn open_lock(path: &Path) -> io::Result<File> {
    opened(
        path,
        OpenOptions::new().read(true).write(true).create(true).truncate(false),
    )
}

/// Makes a folder for the own user alone.
///
/// # Errors
/// When it is there, the folder above is not, or the disk refuses.
pub fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(FOLDER_MODE).create(path)
}

/// Opens a plain file and nothing else: a link may lead anywhere, and a pipe keeps whoever opens it waiting.
fn opened(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = options.mode(MODE).custom_flags(flags.bits().cast_signed()).open(path);
    let no_file = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{} is {what}", path.display()));
    let file = file.map_err(|error| match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => no_file("a symbolic link, and is not followed"),
        Ok(found) if !found.is_file() && !found.is_dir() => no_file("no plain file"),
        Ok(_) | Err(_) => error,
    })?;
    if !file.metadata()?.is_file() {
        return Err(no_file("no plain file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_for_the_own_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("note");
        fs::write(folder.path().join("note.new"), "left").unwrap();
        write(&file, b"x").unwrap();
        assert_eq!((mode(&file), read(&file).unwrap()), (0o600, Some(b"x".to_vec())));
        let made = folder.path().join("a");
        create_folder(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
        open_lock(&folder.path().join("lock")).unwrap();
        assert_eq!(mode(&folder.path().join("lock")), 0o600);
    }

    #[test]
    fn a_link_is_not_followed_and_what_it_names_not_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let (other, link) = (folder.path().join("other"), folder.path().join("lock"));
        fs::write(&other, "precious").unwrap();
        symlink(&other, &link).unwrap();
        for refused in [open_lock(&link).err(), create(&link).err(), read(&link).err()] {
            assert!(refused.unwrap().to_string().contains("symbolic link"));
        }
        assert_eq!(fs::read(&other).unwrap(), b"precious");
    }

    #[test]
    fn a_pipe_and_a_huge_file_keep_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert!(read(&pipe).unwrap_err().to_string().contains("no plain file"));
        assert!(open_lock(&pipe).is_err() && create(&pipe).is_err());
        let huge = folder.path().join("huge");
        File::create(&huge).unwrap().set_len(LARGEST + 1).unwrap();
        assert_eq!(read(&huge).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
