//! The process itself: reads what is asked for, and answers it.

use std::ffi::OsStr;
use std::io::{self, BufReader};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;
use understudy_databases::sqlite::{self, ImageError};
use understudy_protocol::{Name, RelPath};
use understudy_tree::{Directory, Mounts};

use super::{Reply, Request};
use crate::alert::wire;
use crate::exit::CommandError;

/// With nothing to do for so long it ends.
const IDLE: Duration = Duration::from_secs(60);

/// Copies what the other end of standard input asks for into `directory`, until that ends or asks for nothing.
pub(crate) fn run(directory: &Path) -> Result<(), CommandError> {
    let stdin = io::stdin();
    let mut input = BufReader::new(stdin.lock());
    while is_asked(&stdin) {
        let request = wire::read::<Request>(&mut input).map_err(|error| {
            CommandError::failed(format!("what is asked for is not done here: {error}"))
        })?;
        let Some(request) = request else {
            break;
        };
        let reply = match take(&request, &directory.join(request.number.to_string())) {
            Ok(image) => Reply::Taken(image),
            Err(error) => Reply::Refused(error),
        };
        if wire::write(&mut io::stdout(), &reply).is_err() {
            break;
        }
    }
    Ok(())
}

/// Whether anything is to be read, be it the end. Whoever asks waits for the answer, so that nothing waits in a buffer.
fn is_asked(stdin: &io::Stdin) -> bool {
    let mut descriptors = [PollFd::new(stdin, PollFlags::IN)];
    let idle = Timespec::try_from(IDLE).ok();
    !matches!(poll(&mut descriptors, idle.as_ref()), Ok(0))
}

fn take(request: &Request, into: &Path) -> Result<sqlite::Image, ImageError> {
    let invalid = |error: &dyn std::fmt::Display| ImageError::Failed(error.to_string());
    let directory = RelPath::new(&request.directory).map_err(|error| invalid(&error))?;
    let name = Name::new(request.name.as_slice()).map_err(|error| invalid(&error))?;
    let root = Path::new(OsStr::from_bytes(&request.root));
    let opened = Directory::open(root, Mounts::Cross)
        .and_then(|root| root.open_beneath(&directory))
        .map_err(|error| match error.is_gone() {
            true => ImageError::Gone,
            false => ImageError::Failed(error.to_string()),
        })?;
    let image = sqlite::take(opened.as_fd(), name.as_os_str(), into, request.max_lock);
    if image.is_err() {
        clear(into);
    }
    image
}

/// Removes what is of no use.
#[expect(
    clippy::disallowed_methods,
    reason = "a scratch file, of which nothing need be durable"
)]
pub(super) fn clear(into: &Path) {
    for end in sqlite::COMPANIONS.into_iter().chain([""]) {
        let mut path = into.as_os_str().to_owned();
        path.push(end);
        let _ = std::fs::remove_file(path);
    }
}
