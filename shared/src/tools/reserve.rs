//! Room on a disk that is kept in a file, so that it can be given to what has to be written when the disk is full.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use rustix::fs::FallocateFlags;

/// Whether an error says that there is no room, for anybody or for this user.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Makes a reserve smaller by so much; what it had before, or none when it has nothing.
#[must_use]
pub fn take(reserve: &Path, bytes: u64) -> Option<u64> {
    let had = fs::metadata(reserve).ok()?.len();
    let left = had.saturating_sub(bytes);
    let taken = match left {
        0 => fs::remove_file(reserve),
        left => File::options().write(true).open(reserve).and_then(|f| f.set_len(left)),
    };
    taken.ok().map(|()| had)
}

/// Makes a reserve as large as that, if it is smaller.
///
/// # Errors
/// When the disk refuses; it is as large as it was then.
pub fn allocate(reserve: &Path, bytes: u64) -> io::Result<()> {
    let file = File::options().create(true).append(true).open(reserve)?;
    let had = file.metadata()?.len();
    if had >= bytes {
        return Ok(());
    }
    let allocated = match rustix::fs::fallocate(&file, FallocateFlags::empty(), had, bytes - had) {
        // A file system that cannot allocate takes what is written.
        Err(rustix::io::Errno::OPNOTSUPP) => fill(&file, bytes - had),
        other => other.map_err(io::Error::from),
    };
    if allocated.is_err() {
        file.set_len(had)?;
    }
    allocated
}

/// With what does not get smaller, where the file system packs it.
fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    let (mut left, mut state) = (bytes, 0x9E37_79B9_7F4A_7C15_u64);
    let mut piece = [0_u8; 8192];
    while left > 0 {
        for word in piece.chunks_exact_mut(8) {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(&piece[..count])?;
        left -= count as u64;
    }
    file.sync_all()
}

/// How many bytes this user may still write on the disk of a folder.
///
/// # Errors
/// When the folder cannot be looked at.
pub fn free(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_allocated_taken_in_pieces_and_made_whole_again() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = folder.path().join("reserve");
        let length = || fs::metadata(&reserve).map(|m| m.len()).ok();
        allocate(&reserve, 100_000).unwrap();
        allocate(&reserve, 50_000).unwrap();
        assert_eq!(length(), Some(100_000));
        // Blocks, and not only a size.
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&reserve).unwrap());
        assert!(blocks * 512 >= 100_000, "{blocks}");
        assert_eq!((take(&reserve, 30_000), length()), (Some(100_000), Some(70_000)));
        allocate(&reserve, 100_000).unwrap();
        assert_eq!((take(&reserve, 200_000), length()), (Some(100_000), None));
        assert_eq!(take(&reserve, 1), None);
        let file = File::create(&reserve).unwrap();
        fill(&file, 20_000).unwrap();
        assert_eq!(length(), Some(20_000));
    }
}
