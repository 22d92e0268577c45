//! Reading a catalog on a disk that has no room for what readers share.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rusqlite::OpenFlags;

use super::Catalog;
use crate::error::ReceiverError;

impl Catalog {
    /// As [`Self::open_reading`], where there is no room for what readers share: without a lock, so nobody may be writing.
    pub(crate) fn open_unchanging(path: &Path) -> Result<Self, ReceiverError> {
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
        Ok(catalog)
    }
}
