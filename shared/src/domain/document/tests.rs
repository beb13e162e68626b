use super::*;

#[test]
fn a_changed_document_is_noticed() {
    let packed = pack(&vec!["a", "b"]).unwrap();
    assert_eq!(
        unpack::<Vec<String>>(&packed.bytes, Some(&packed.digest)).unwrap(),
        ["a", "b"]
    );
    let other = pack(&vec!["a", "c"]).unwrap();
    assert!(matches!(
        unpack::<Vec<String>>(&other.bytes, Some(&packed.digest)),
        Err(BadDocument::Digest { .. })
    ));
    assert!(unpack::<Vec<String>>(b"torn", None).is_err());
}

#[test]
fn a_bomb_is_unpacked_no_further_than_documents_go() {
    // Blanks, with which JSON may begin.
    let frame = zstd::encode_all(vec![b' '; 16 << 20].as_slice(), 3).unwrap();
    let bomb = frame.repeat(64);
    let allowed = allowed_unpacked(bomb.len());
    assert!(allowed < 64 << 20, "{allowed}");
    let packed = bomb.len();
    match unpack::<IgnoredAny>(&bomb, None).unwrap_err() {
        BadDocument::TooLarge { packed: p, allowed: a } => assert_eq!((p, a), (packed, allowed)),
        other => panic!("{other:?}"),
    }
    let refused = unpack::<IgnoredAny>(&bomb, Some("of no use"));
    assert!(matches!(refused, Err(BadDocument::TooLarge { .. })), "{refused:?}");
    // What any may have is taken, however well it packs; with a lower limit not.
    let blanks = zstd::encode_all([vec![b' '; 4 << 20], b"7".to_vec()].concat().as_slice(), 3).unwrap();
    assert!(blanks.len() < 1 << 10);
    assert_eq!(unpack::<u32>(&blanks, None).unwrap(), 7);
    let refused = unpack_at_most::<u32>(&blanks, None, 1 << 20);
    assert!(matches!(refused, Err(BadDocument::TooLarge { .. })), "{refused:?}");
}

#[test]
fn what_follows_a_document_is_no_part_of_it() {
    let twice = zstd::encode_all(br#"["a"] ["a"]"#.as_slice(), 3).unwrap();
    let refused = unpack::<Vec<String>>(&twice, None);
    assert!(matches!(refused, Err(BadDocument::Form(_))), "{refused:?}");
    let with_blanks = zstd::encode_all(br#"["a"]  "#.as_slice(), 3).unwrap();
    assert_eq!(
        unpack::<Vec<String>>(&with_blanks, Some(&digest(br#"["a"]  "#))).unwrap(),
        ["a"]
    );
}

#[test]
fn a_large_window_is_refused() {
    let mut packer = zstd::Encoder::new(Vec::new(), 3).unwrap();
    packer.window_log(27).unwrap();
    std::io::Write::write_all(&mut packer, b"[1]").unwrap();
    let packed = packer.finish().unwrap();
    assert!(matches!(unpack::<Vec<u8>>(&packed, None), Err(BadDocument::Unpack(_))));
}
