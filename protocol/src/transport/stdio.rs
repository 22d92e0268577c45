//! Frames over the standard input and output of this process, to whoever has started it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::runtime::Handle;

use super::Channel;
use super::stream::{self, AGENT_STALL, Written};
use crate::error::ProtocolError;

/// A channel to an agent at the other end. Nothing else may read or write there from now on. Each must be a pipe or a stream socket.
pub fn open(runtime: &Handle) -> Result<(Channel, Written), ProtocolError> {
    let _within = runtime.enter();
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let (reading, writing) = (reading(input)?, writing(output)?);
    let farewell = std::future::ready(None);
    Ok(stream::channel_to_program(
        reading,
        writing,
        AGENT_STALL,
        farewell,
    ))
}

fn reading(input: OwnedFd) -> io::Result<Box<dyn AsyncRead + Unpin + Send>> {
    let input = File::from(input);
    let kind = input.metadata()?.file_type();
    Ok(if kind.is_fifo() {
        Box::new(pipe::Receiver::from_file(input)?)
    } else if kind.is_socket() {
        Box::new(socket(input)?)
    } else {
        return Err(unfit("stdin"));
    })
}

fn writing(output: OwnedFd) -> io::Result<Box<dyn AsyncWrite + Unpin + Send>> {
    let output = File::from(output);
    let kind = output.metadata()?.file_type();
    Ok(if kind.is_fifo() {
        Box::new(pipe::Sender::from_file(output)?)
    } else if kind.is_socket() {
        Box::new(socket(output)?)
    } else {
        return Err(unfit("stdout"));
    })
}

/// A stream socket of any family: only what all of them have is used.
fn socket(file: File) -> io::Result<UnixStream> {
    let socket = net::UnixStream::from(OwnedFd::from(file));
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

fn unfit(what: &str) -> io::Error {
    io::Error::other(format!("{what} is neither a pipe nor a socket"))
}
