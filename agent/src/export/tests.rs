//! Exports on a real disk: written, read again, cut, changed and refused.

use std::fs;
use std::path::{Path, PathBuf};

use rekeeper_shared::domain::place::Place;
use rekeeper_shared::domain::step::Exported;
use tempfile::TempDir;

use super::*;

fn header() -> Header {
    Header {
        rekeeper_znodes: VERSION,
        path: ZkPath::parse("/t/x").unwrap(),
        place: Place {
            ensemble: "default".into(),
            nodes: vec!["zk:2181".into()],
            secure: false,
            chroot: "/root".into(),
        },
        migration: "m".parse().unwrap(),
        attempt: 4,
        held: 17,
        host: "ch-1".parse().unwrap(),
        time: "2026-01-01T00:00:00Z".into(),
    }
}

fn node(path: &str, data: &[u8]) -> ZNode {
    ZNode {
        path: path.into(),
        data: data.to_vec(),
        acl: vec!["world:anyone:cdrwa".into(), "digest:clickhouse:x=:r".into()],
        czxid: 1,
        mzxid: 2,
        ctime: 3,
        mtime: 4,
        version: 5,
        ephemeral_owner: 6,
    }
}

fn nodes() -> Vec<ZNode> {
    let mut nodes = vec![
        node("/t/x", b""),
        node("/t/x/binary", b"\x00\xff\n\x80"),
        node("/t/x/text", "quote \" and\nline ü\u{0}".as_bytes()),
    ];
    let part = |n: u64| {
        node(
            &format!("/t/x/text/all_{n}_{n}_0"),
            n.wrapping_mul(1 << 59).to_string().as_bytes(),
        )
    };
    nodes.extend((0..30).map(part));
    nodes
}

fn write(file: &Path, nodes: Vec<ZNode>, limit: u64) -> Result<Exported, ExportError> {
    let mut writer = Writer::create(file, &header(), limit)?;
    for node in nodes {
        writer.add(node)?;
    }
    writer.finish()
}

fn written() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.znodes");
    write(&file, nodes(), 1 << 20).unwrap();
    (folder, file)
}

fn problem(file: &Path) -> String {
    let read = Reader::open(file).and_then(Reader::verify);
    read.unwrap_err().to_string()
}

/// Its lines, changed, as a whole zstd stream again.
fn rewrite(file: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let text = String::from_utf8(zstd::decode_all(&fs::read(file).unwrap()[..]).unwrap()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    change(&mut lines);
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(file, zstd::encode_all(text.as_bytes(), 3).unwrap()).unwrap();
}

#[test]
fn what_is_written_is_read_again() {
    let (_folder, file) = written();
    let mut reader = Reader::open(&file).unwrap();
    assert_eq!(*reader.header(), header());
    let mut read = Vec::new();
    while let Some(node) = reader.node().unwrap() {
        read.push(node);
    }
    assert_eq!(read, nodes());
    let (_, sum) = Reader::open(&file).unwrap().verify().unwrap();
    assert_eq!(sum.nodes, 33);
    // As the module's text says how it is read without Rekeeper.
    let text = zstd::decode_all(&fs::read(&file).unwrap()[..]).unwrap();
    let end = text[..text.len() - 1].iter().rposition(|&b| b == b'\n').unwrap() + 1;
    use sha2::Digest as _;
    assert_eq!(sum.sha256, as_hex(&sha2::Sha256::digest(&text[..end])));
}

#[test]
fn a_byte_that_is_changed_or_missing_is_noticed() {
    let (folder, file) = written();
    let whole = fs::read(&file).unwrap();
    let other = folder.path().join("other");
    for n in (0..whole.len()).step_by(3) {
        let mut changed = whole.clone();
        changed[n] ^= 0x10;
        fs::write(&other, &changed).unwrap();
        let read = Reader::open(&other).and_then(Reader::verify);
        // What reads as it was written is whole.
        if let Ok(found) = read {
            assert_eq!(found, Reader::open(&file).unwrap().verify().unwrap(), "byte {n}");
        }
        fs::write(&other, &whole[..n]).unwrap();
        assert!(Reader::open(&other).and_then(Reader::verify).is_err(), "cut at {n}");
    }
    fs::write(&other, [&whole[..], b"x"].concat()).unwrap();
    assert!(problem(&other).contains("is no whole export"));
    fs::write(&other, [&whole[..], &whole[..]].concat()).unwrap();
    assert!(problem(&other).contains("something follows its sum"));
}

#[test]
fn lines_that_are_changed_dropped_or_moved_are_noticed() {
    type Change = fn(&mut Vec<String>);
    let changes: [(Change, &str); 7] = [
        (|lines| lines[3] = lines[3].replace("quote", "quite"), "its sum is"),
        (|lines| drop(lines.remove(20)), "its sum is"),
        (|lines| drop(lines.pop()), "without a sum"),
        (|lines| drop(lines.remove(3)), "out of place"),
        (|lines| lines.insert(4, lines[3].clone()), "out of place"),
        (
            |lines| lines[0] = lines[0].replacen(":1,", ":2,", 1),
            "version 2 of the format",
        ),
        (|lines| lines[0] = "{}".into(), "no header"),
    ];
    for (change, says) in changes {
        let (_folder, file) = written();
        rewrite(&file, change);
        assert!(problem(&file).contains(says), "{says}: {}", problem(&file));
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f");
    fs::write(&file, "some text\n").unwrap();
    assert!(problem(&file).contains("is no whole export"), "{}", problem(&file));
    fs::write(&file, "").unwrap();
    assert!(problem(&file).contains("is no whole export"), "{}", problem(&file));
}

#[test]
fn what_is_too_large_leaves_nothing_and_tells_its_size() {
    let (folder, file) = written();
    let size = fs::metadata(&file).unwrap().len();
    let before = fs::read(&file).unwrap();
    let error = write(&file, nodes(), size - 1).unwrap_err();
    assert!(matches!(error, ExportError::TooLarge { nodes: 33, size: s, limit } if s == size && limit == size - 1));
    assert!(error.to_string().contains("znodes_export_limit_bytes"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    write(&file, nodes(), size).unwrap();
}

#[test]
fn one_that_is_given_up_leaves_what_was_there() {
    let (folder, file) = written();
    let before = fs::read(&file).unwrap();
    let mut writer = Writer::create(&file, &header(), 1 << 20).unwrap();
    writer.add(node("/t/x", b"")).unwrap();
    drop(writer);
    // Read again before it takes the place, and found not whole.
    let error = write(&file, vec![node("/t/x", b""), node("/t/x/a/b", b"")], 1 << 20).unwrap_err();
    assert!(matches!(error, ExportError::Damaged { .. }), "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
