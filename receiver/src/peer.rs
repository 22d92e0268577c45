//! Who is at the other end of a connection, and so what it may ask for.

use understudy_protocol::MainName;

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Peer {
    /// Somebody who may open the store itself, and so may see all of it.
    #[default]
    Operator,
    /// A main that has proved who it is: it may see and change its own datasets.
    Main(MainName),
}
