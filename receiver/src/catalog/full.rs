//! Reading a catalog on a disk that has no room for what readers share.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rusqlite::OpenFlags;

use super::Catalog;
use crate::error::ReceiverError;

impl Catalog {
    /// As [`Self::open_reading`], where there is no room for what readers share: SQLite takes no lock, so nobody may write as
    /// long as it is open. `lock` sees to that, and is held until then.
    pub(crate) fn open_unchanging(path: &Path, lock: Arc<File>) -> Result<Self, ReceiverError> {
        let mut address = b"file:".to_vec();
        for &byte in path.as_os_str().as_bytes() {
            match byte {
                b'?' | b'#' | b'%' => address.extend(format!("%{byte:02x}").as_bytes()),
                _ => address.push(byte),
            }
        }
        address.extend(b"?immutable=1");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
        let mut catalog = Self::connect(Path::new(OsStr::from_bytes(&address)), flags)?;
        catalog.format = catalog.check_format()?;
        path.clone_into(&mut catalog.path);
        catalog._lock = Some(lock);
        Ok(catalog)
    }
}
