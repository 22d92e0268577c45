//! Every length that a peer may choose, with its bound and the reason for it.
//!
//! A bound is checked before anything is allocated. None is set by the peer, none has a value that means
//! "unlimited".

/// Largest frame on the wire, header excluded: one data block and its envelope fit, and a connection's
/// buffers stay small.
pub const FRAME_BYTES: usize = 1024 * 1024 + 64 * 1024;

/// Largest body after decompression: the same, so a bomb can claim no more than an honest frame.
pub const BODY_BYTES: usize = FRAME_BYTES;

/// Lanes of one direction of a connection: one for each worker of an agent, as many as a receiver has.
pub const LANES: usize = 8;

/// Base 2 logarithm of the largest window of a lane: 4 MiB, which is the last size that still gained much on source code
/// and documentation. The receiver of a lane needs about 4.5 MiB for it, so 36 MiB for a connection.
pub const LANE_WINDOW_LOG: u32 = 22;

/// Largest block of file content in one message.
pub const BLOCK_BYTES: usize = 512 * 1024;

/// Content up to this size travels inside the message that names the file; many share a frame.
pub const INLINE_BYTES: usize = 64 * 1024;

/// A batch is closed once its contents pass this size.
pub const BATCH_BYTES: usize = 256 * 1024;

/// A batch is closed once it has this many records; a receiver refuses more than [`RECORDS`].
pub const BATCH_RECORDS: usize = 1000;

/// Most records in one message.
pub const RECORDS: usize = 4096;

/// Most leftover contents that a receiver tells: both sides keep about 40 bytes of each.
pub const LEFTOVERS: usize = 1_000_000;

/// Most beginnings of contents that a receiver tells: an agent compares files with each.
pub const PARTIALS: usize = 1024;

/// NAME_MAX of every Linux file system.
pub const NAME_BYTES: usize = 255;

/// PATH_MAX less its terminator: the kernel allows no longer link target.
pub const LINK_TARGET_BYTES: usize = 4095;

/// XATTR_LIST_MAX and XATTR_SIZE_MAX of Linux are 64 KiB each; all attributes of one entry must fit one
/// message beside a name, so their sum is bounded as well.
pub const XATTRS_BYTES: usize = 256 * 1024;

/// Most extended attributes of one entry.
pub const XATTRS: usize = 2048;

/// XATTR_NAME_MAX of Linux.
pub const XATTR_NAME_BYTES: usize = 255;

/// Longest dataset name: it is a directory name with room for suffixes.
pub const DATASET_NAME_BYTES: usize = 100;

/// Deepest directory: bounds the work of checking one moved directory.
pub const DEPTH: usize = 4096;

/// Largest file: the largest offset Linux knows.
pub const FILE_BYTES: u64 = i64::MAX as u64;

/// Longest text of a failure, a trouble or a greeting.
pub const TEXT_BYTES: usize = 4096;

/// Most lost contents that a receiver asks an agent for in one upload: the agent reads a file for each, before anything else.
pub const WANTED: usize = 256;
/// Sums of a signature that is sent: 1 MiB of them, which fit a frame.
pub const SIGNATURE_SUMS: u64 = 131_072;
/// Bytes of a signature that is sent: its sums of 8 bytes each, and what it says of itself.
pub const SIGNATURE_BYTES: usize = SIGNATURE_SUMS as usize * 8 + 11;
/// Longest name of a user or a group; Linux has 32, directories of users more.
pub const OWNER_BYTES: usize = 256;
/// `Owners` messages in one upload: an agent sends one.
pub const OWNERS_OF_UPLOAD: u32 = 4;
/// Restores told of at once: with the longest text each they fit a frame.
pub const RESTORES: usize = 100;
/// Most datasets of one main: whoever looks at all of them opens a database for each.
pub const DATASETS: usize = 1000;
/// The highest epoch: none is reached by promotions, and none that is claimed may leave no room for the next one.
pub const EPOCH: u64 = 1 << 40;
/// Sessions of one main at once: a quarter of what a receiver takes in all.
pub const SESSIONS_OF_MAIN: usize = 16;
/// Uploads of one main at once: each has a thread for every core and some tens of megabytes.
pub const UPLOADS_OF_MAIN: usize = 8;
/// Verifications of one main at once: each reads everything that it is asked to.
pub const VERIFICATIONS_OF_MAIN: usize = 1;
/// Questions of one session before it uploads or restores: people ask for far less.
pub const QUESTIONS: usize = 10_000;
/// Manifests that are read within one upload: an agent takes one over.
pub const ADOPTIONS: usize = 4;
/// Largest major number of a device of Linux: 12 bits.
pub const DEVICE_MAJOR: u32 = (1 << 12) - 1;
/// Largest minor number of a device of Linux: 20 bits.
pub const DEVICE_MINOR: u32 = (1 << 20) - 1;
/// Most entries of a snapshot: ten times what was ever tried, and few enough that a catalog stays readable.
pub const ENTRIES: u64 = 200_000_000;
/// Most directories of a snapshot: whoever builds a tree holds about 110 bytes of each.
pub const DIRECTORIES: u64 = 2_000_000;
/// Most snapshots of a dataset: one each second for a day. Whoever lists them holds them all.
pub const SNAPSHOTS: u64 = 100_000;
/// Snapshots in one answer to `List`, and the text of all troubles in it: they fit a frame beside the names.
pub const LISTED_SNAPSHOTS: usize = 12_000;
/// How many of them each of so many datasets has in an answer to `List`; whoever meets as many asks for those before.
pub const fn listed_snapshots(datasets: usize) -> usize {
    let datasets = if datasets == 0 { 1 } else { datasets };
    let share = LISTED_SNAPSHOTS / datasets;
    if share == 0 { 1 } else { share }
}
/// See [`LISTED_SNAPSHOTS`].
pub const LISTED_TEXT_BYTES: usize = 128 * 1024;
/// Most bytes of holes in all files of an upload: the largest file of ext4, which takes an hour or two to hash.
pub const HOLES_BYTES: u64 = 1 << 44;
/// Longest [statement](crate::SignedStatement): twice what one with the longest name takes.
pub const STATEMENT_BYTES: usize = 1024;
