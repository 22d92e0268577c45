//! Walking a tree and asking for every entry's metadata, without an index.

use understudy_tree::{Directory, Mounts, TreeError, walk};

/// Times the ordered walk of a generated tree.
pub(crate) fn run(files: u64) {
    let scratch = tempfile::tempdir_in(std::env::var_os("BENCH_DIR").unwrap_or_else(|| ".".into()))
        .expect("scratch");
    for file in 0..files {
        let directory = scratch.path().join(format!("d{}", file / 1000));
        if file % 1000 == 0 {
            std::fs::create_dir(&directory).expect("directory");
        }
        std::fs::write(directory.join(format!("f{file}")), b"x").expect("file");
    }
    let root = Directory::open(scratch.path(), Mounts::Stay).expect("open");
    let mut seen = 0;
    let time = crate::median(|| {
        seen = 0;
        walk::walk::<TreeError>(&root, |_, _| {
            seen += 1;
            Ok(true)
        })
        .expect("walk");
    });
    println!(
        "scan: {seen} entries in {:.3} s, {:.0} per second",
        time.as_secs_f64(),
        f64::from(seen) / time.as_secs_f64()
    );
}
