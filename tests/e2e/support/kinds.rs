//! A tree with every kind of entry.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, lsetxattr, makedev,
    mkdirat, mknodat, open, openat, utimensat,
};

use super::command::tool;
use super::needs::{is_root, program};
use super::random::Random;

/// What the socket in the tree is called: it is not copied, and rsync must not look for it.
pub(crate) const SOCKET: &str = "/sockets/socket";

/// How large the sparse file is.
pub(crate) fn sparse_bytes() -> u64 {
    if super::full() { 10 << 30 } else { 2 << 30 }
}

/// Makes the tree below `root`; what needs root or a program that is missing is left out.
pub(crate) fn make(root: &Path) {
    names(root);
    links(root);
    times(root);
    modes(root);
    attributes(root);
    sparse(&root.join("sparse"));
    specials(root);
    super::trees::mixed(&mut Random::new(1), &directory(root, "mixed"), 60);
}

fn directory(root: &Path, name: &str) -> std::path::PathBuf {
    let path = root.join(name);
    std::fs::create_dir(&path).unwrap();
    path
}

fn names(root: &Path) {
    let root = directory(root, "names");
    let long = "n".repeat(255);
    let names: [&[u8]; 12] = [
        b"not utf-8 \xff\xfe",
        b"\x80",
        b"new\nline",
        b"\n",
        b" ",
        b"-rf",
        b"...",
        b"back\\slash",
        b"quote\"s'",
        b"tab\tbell\x07escape\x1b[31m",
        "h\u{e9}, he\u{301}".as_bytes(),
        long.as_bytes(),
    ];
    for name in names {
        std::fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    for name in [&b"directory \xff\n"[..], "d".repeat(255).as_bytes()] {
        let path = root.join(OsStr::from_bytes(name));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inner"), "inner").unwrap();
    }
    directory(&root, "empty");
    directory(&directory(&directory(&root, "a"), "b"), "empty too");
    std::fs::write(root.join("empty file"), "").unwrap();
}

fn links(root: &Path) {
    let root = directory(root, "links");
    let (left, right) = (directory(&root, "left"), directory(&root, "right"));
    std::fs::write(left.join("one"), "linked three times").unwrap();
    std::fs::hard_link(left.join("one"), right.join("two")).unwrap();
    std::fs::hard_link(left.join("one"), root.join("three")).unwrap();
    std::fs::write(right.join("same content, no link"), "linked three times").unwrap();
    std::fs::write(right.join("empty"), "").unwrap();
    std::fs::hard_link(right.join("empty"), left.join("empty")).unwrap();
    symlink("no/where", root.join("dangling")).unwrap();
    symlink("left/one", root.join("good")).unwrap();
    symlink("right", root.join("to a directory")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    symlink("../../..", root.join("upwards")).unwrap();
    symlink("x/".repeat(2000), root.join("long")).unwrap();
    symlink(OsStr::from_bytes(b"not \xff utf-8\n"), root.join("bytes")).unwrap();
    std::fs::hard_link(root.join("dangling"), left.join("dangling too")).unwrap();
}

fn times(root: &Path) {
    let root = directory(root, "times");
    let times = [
        ("1970", 0, 1),
        ("1970 midnight", 0, 0),
        ("1969", -1, 999_999_999),
        ("2038", 1 << 31, 500),
        ("2262", 9_223_372_036, 854_775_807),
        ("nanoseconds", 1_700_000_000, 123_456_789),
    ];
    for (name, seconds, nanoseconds) in times {
        let (file, below) = (root.join(name), root.join(format!("{name} directory")));
        let link = root.join(format!("{name} link"));
        std::fs::write(&file, name).unwrap();
        std::fs::create_dir(&below).unwrap();
        symlink(name, &link).unwrap();
        for path in [file, below, link] {
            set_time(&path, seconds, nanoseconds);
        }
    }
}

/// Sets the modification time of anything, a symbolic link itself included.
pub(crate) fn set_time(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn modes(root: &Path) {
    let root = directory(root, "modes");
    let mut modes = vec![
        0o400, 0o444, 0o600, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o1644, 0o6711,
    ];
    if is_root() {
        modes.extend([0o000, 0o200]);
    }
    for mode in modes {
        let path = root.join(format!("file {mode:04o}"));
        std::fs::write(&path, "mode").unwrap();
        if is_root() {
            std::os::unix::fs::chown(&path, Some(1234), Some(4321)).unwrap();
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    for mode in [0o500, 0o555, 0o700, 0o755, 0o1777, 0o2775, 0o3770] {
        let path = directory(&root, &format!("directory {mode:04o}"));
        std::fs::write(path.join("inner"), "inner").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    if is_root() {
        let path = directory(&root, "directory 0000");
        std::fs::write(path.join("inner"), "inner").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    }
}

fn attributes(root: &Path) {
    let root = directory(root, "attributes");
    let set = |path: &Path, name: &str, value: &[u8]| {
        lsetxattr(path, name, value, XattrFlags::CREATE).unwrap();
    };
    let file = root.join("file");
    std::fs::write(&file, "attributes").unwrap();
    set(&file, "user.text", b"value");
    set(&file, "user.empty", b"");
    set(&file, "user.bytes", &[0, 255, 10, 0]);
    set(&file, "user.long", &[b'x'; 2500]);
    let below = directory(&root, "directory");
    set(&below, "user.on a directory", b"value");
    if program("setfacl").is_some() {
        let named = root.join("access list");
        std::fs::write(&named, "access list").unwrap();
        tool(
            "setfacl",
            [
                OsStr::new("-m"),
                OsStr::new("u:65534:rw,g:1234:r,m::rw"),
                named.as_os_str(),
            ],
        );
        let inherited = directory(&root, "default access list");
        tool(
            "setfacl",
            [
                OsStr::new("-m"),
                OsStr::new("u:1234:rwx"),
                inherited.as_os_str(),
            ],
        );
        tool(
            "setfacl",
            [
                OsStr::new("-d"),
                OsStr::new("-m"),
                OsStr::new("g:1234:rx,u:4321:-"),
                inherited.as_os_str(),
            ],
        );
        std::fs::write(inherited.join("inherits"), "inherits").unwrap();
        directory(&inherited, "inherits too");
    }
    if is_root() {
        set(&file, "trusted.text", b"value");
        symlink("file", root.join("link")).unwrap();
        set(&root.join("link"), "trusted.on a link", b"value");
        if program("setcap").is_some() {
            let capable = root.join("capable");
            std::fs::copy(program("true").unwrap(), &capable).unwrap();
            tool(
                "setcap",
                [OsStr::new("cap_net_bind_service=+ep"), capable.as_os_str()],
            );
        }
    }
}

/// A file of `sparse_bytes` with 1 MB of data in it, at both ends and in between.
fn sparse(path: &Path) {
    let file = std::fs::File::create(path).unwrap();
    let length = sparse_bytes();
    file.set_len(length).unwrap();
    let data = Random::new(9).content(100_000);
    for piece in 0..10 {
        let offset = (length - 100_000) / 9 * piece;
        file.write_all_at(&data, offset).unwrap();
    }
    let holes = std::fs::File::create(path.with_extension("nothing but a hole")).unwrap();
    holes.set_len(123_456_789).unwrap();
}

fn specials(root: &Path) {
    let sockets = directory(root, "sockets");
    drop(UnixListener::bind(sockets.join("socket")).unwrap());
    let root = directory(root, "specials");
    mknodat(
        CWD,
        root.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    if is_root() {
        let (null, loop_7) = (makedev(1, 3), makedev(7, 7));
        let mode = Mode::from_raw_mode(0o620);
        mknodat(
            CWD,
            root.join("null"),
            FileType::CharacterDevice,
            mode,
            null,
        )
        .unwrap();
        mknodat(CWD, root.join("loop"), FileType::BlockDevice, mode, loop_7).unwrap();
        mknodat(
            CWD,
            root.join("minor"),
            FileType::BlockDevice,
            mode,
            makedev(259, 0x54321),
        )
        .unwrap();
    }
}

/// Makes a path of 6,000 bytes below `root`, a file at its end, longer than the system takes
/// in one call.
pub(crate) fn make_deep(root: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut directory = open(root, flags, Mode::empty()).unwrap();
    for level in 0..24 {
        let name = format!("{level:02}-{}", "deep".repeat(62));
        mkdirat(&directory, &name, Mode::from_raw_mode(0o755)).unwrap();
        directory = openat(&directory, &name, flags, Mode::empty()).unwrap();
        write_at(&directory, "beside", format!("level {level}").as_bytes());
    }
    write_at(&directory, "file", b"as deep as it gets");
}

/// Writes a file in a directory that may be beyond the reach of paths.
pub(crate) fn write_at(directory: &impl std::os::fd::AsFd, name: &str, content: &[u8]) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = openat(directory, name, flags, Mode::from_raw_mode(0o644)).unwrap();
    std::fs::File::from(file).write_all_at(content, 0).unwrap();
}
