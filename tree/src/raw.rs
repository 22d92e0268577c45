//! The system calls that neither std nor rustix offers: fanotify, file handles, leases and I/O classes. The only file with `unsafe`;
//! everything it gives out is safe to use in any way.
#![allow(
    unsafe_code,
    reason = "no safe crate calls fanotify with directory handles; each block says why it is sound"
)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

/// The longest handle that the kernel makes (`MAX_HANDLE_SZ`).
const HANDLE_BYTES: usize = 128;
/// Length and type, which stand before the bytes of a handle.
pub(crate) const HANDLE_HEADER_BYTES: usize = 8;

/// A handle with room for the longest, laid out as the kernel wants it.
#[repr(C)]
struct HandleRoom {
    header: libc::file_handle,
    bytes: [u8; HANDLE_BYTES],
}

impl HandleRoom {
    fn new(length: usize, kind: i32) -> Self {
        Self {
            header: libc::file_handle {
                // At most HANDLE_BYTES, so no bit is lost.
                handle_bytes: length as libc::c_uint,
                handle_type: kind,
                f_handle: [],
            },
            bytes: [0; HANDLE_BYTES],
        }
    }
}

/// A new group that tells of directories by handle, of entries by name and of files by handle too, never blocks, and
/// takes the system's limit of queued events.
///
/// Since Linux 5.17 the handle of a file is told of its creation as well, and so that and the first write are one event.
pub(crate) fn fanotify_init() -> Result<OwnedFd, Errno> {
    match fanotify_init_with(libc::FAN_REPORT_TARGET_FID) {
        Err(Errno::INVAL) => fanotify_init_with(0),
        result => result,
    }
}

fn fanotify_init_with(more: libc::c_uint) -> Result<OwnedFd, Errno> {
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_REPORT_DFID_NAME
        | libc::FAN_REPORT_FID
        | libc::FAN_NONBLOCK
        | libc::FAN_CLOEXEC
        | more;
    let event_flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: takes two integers and touches no memory of this process.
    let descriptor = unsafe { libc::fanotify_init(flags, event_flags as libc::c_uint) };
    owned(descriptor)
}

/// Whether events are added to a mark or taken away from it; one without events is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    Set,
    Remove,
}

/// Marks the whole file system that `directory` is in, for the events of `mask`.
pub(crate) fn fanotify_mark_file_system(
    group: BorrowedFd<'_>,
    mark: Mark,
    mask: u64,
    directory: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let action = match mark {
        Mark::Set => libc::FAN_MARK_ADD,
        Mark::Remove => libc::FAN_MARK_REMOVE,
    };
    // SAFETY: both descriptors are open as long as they are borrowed, and a null path, which the kernel takes
    // as "the descriptor itself", is never read.
    let result = unsafe {
        libc::fanotify_mark(
            group.as_raw_fd(),
            action | libc::FAN_MARK_FILESYSTEM,
            mask,
            directory.as_raw_fd(),
            ptr::null(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(last_error())
    }
}

/// Opens (`O_PATH`) the inode of a handle as the kernel writes it: length, type, bytes. `mount` is anything
/// open for reading in a mount of its file system. A handle of another shape is `EINVAL`.
pub(crate) fn open_by_handle(mount: BorrowedFd<'_>, handle: &[u8]) -> Result<OwnedFd, Errno> {
    let (Some(length), Some(kind), Some(bytes)) = (
        read_u32(handle, 0),
        read_u32(handle, 4),
        handle.get(HANDLE_HEADER_BYTES..),
    ) else {
        return Err(Errno::INVAL);
    };
    if bytes.len() > HANDLE_BYTES || bytes.len() != length as usize {
        return Err(Errno::INVAL);
    }
    let mut room = HandleRoom::new(bytes.len(), kind.cast_signed());
    room.bytes[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: `room` is aligned for its header, and the header is followed without padding by more bytes than
    // `handle_bytes` announces, which is all the kernel reads. The pointer is made from the whole of `room`.
    let descriptor = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            ptr::from_mut(&mut room).cast::<libc::file_handle>(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    owned(descriptor)
}

/// The handle of an open directory, in the same shape.
pub(crate) fn handle_of(directory: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let mut room = HandleRoom::new(HANDLE_BYTES, 0);
    let mut mount_id: libc::c_int = 0;
    // SAFETY: the path is a constant that ends in NUL; `room` has the room that `handle_bytes` announces, and
    // the kernel writes at most that much after the header; `mount_id` is one int that lives through the call.
    let result = unsafe {
        libc::name_to_handle_at(
            directory.as_raw_fd(),
            c"".as_ptr(),
            ptr::from_mut(&mut room).cast::<libc::file_handle>(),
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if result != 0 {
        return Err(last_error());
    }
    let length = room.header.handle_bytes as usize;
    let mut handle = Vec::with_capacity(HANDLE_HEADER_BYTES + length);
    handle.extend_from_slice(&room.header.handle_bytes.to_ne_bytes());
    handle.extend_from_slice(&room.header.handle_type.to_ne_bytes());
    handle.extend_from_slice(room.bytes.get(..length).ok_or(Errno::OVERFLOW)?);
    Ok(handle)
}

/// Takes a write lease on a file that this descriptor, open for writing, is the only one of. It goes with the descriptor.
pub(crate) fn take_write_lease(file: BorrowedFd<'_>) -> bool {
    /// `asm-generic/fcntl.h` of Linux; the same on all architectures.
    const F_SETSIG: libc::c_int = 10;
    // SAFETY: fcntl with these commands takes integers only and touches no memory of this process. Somebody who waits for
    // the lease is told by SIGURG, which does nothing unless somebody asks for it.
    unsafe {
        libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) == 0
    }
}

/// Sets the I/O class and level of the calling thread.
pub(crate) fn set_io_priority_of_thread(class_and_level: libc::c_int) -> Result<(), Errno> {
    const WHO_PROCESS: libc::c_int = 1;
    const CALLING_THREAD: libc::c_int = 0;
    // SAFETY: ioprio_set takes three integers and no pointer, so no memory of this process is touched; an argument
    // that the kernel does not know is refused with an error.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            WHO_PROCESS,
            CALLING_THREAD,
            class_and_level,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(last_error())
    }
}

/// The number in native order at `offset`.
pub(crate) fn read_u32(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

fn owned(descriptor: libc::c_int) -> Result<OwnedFd, Errno> {
    if descriptor < 0 {
        return Err(last_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Makes a call with arguments that are all wrong: it fails, and how tells whether it was refused before anybody looked at them.
#[cfg(test)]
pub(crate) fn hollow(number: libc::c_long) -> Result<(), Errno> {
    let wrong: libc::c_long = -1;
    // SAFETY: no argument is an address of this process, so that the kernel can neither read nor write there. Called for calls that
    // check their arguments.
    let result = unsafe { libc::syscall(number, wrong, wrong, wrong, wrong, wrong, wrong) };
    if result < 0 {
        return Err(last_error());
    }
    Ok(())
}

/// A socket of any family, kind and protocol, closed at once.
#[cfg(test)]
pub(crate) fn socket(
    family: libc::c_int,
    kind: libc::c_int,
    protocol: libc::c_int,
) -> Result<(), Errno> {
    // SAFETY: takes three integers and touches no memory of this process.
    owned(unsafe { libc::socket(family, kind, protocol) }).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn handles_of_a_wrong_shape_are_refused_before_the_kernel_sees_them() {
        let here = std::fs::File::open(".").expect("open");
        let mut long = 200_u32.to_ne_bytes().to_vec();
        long.resize(HANDLE_HEADER_BYTES + 200, 0);
        let mut short = 8_u32.to_ne_bytes().to_vec();
        short.resize(HANDLE_HEADER_BYTES + 4, 0);
        for bad in [&b""[..], b"1234567", &long, &short] {
            assert_eq!(
                open_by_handle(here.as_fd(), bad).map(|_| ()),
                Err(Errno::INVAL)
            );
        }
    }
}
