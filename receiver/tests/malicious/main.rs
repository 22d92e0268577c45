//! A main that speaks the protocol and means harm. Whatever it sends is refused or harmless: nothing outside of its dataset changes,
//! no thread of the receiver dies, and the memory of the process stays small.

#![allow(
    clippy::disallowed_methods,
    reason = "looks at what the victim has noted"
)]
#![allow(clippy::panic, reason = "a test that meets something else ends there")]

mod contents;
mod frames;
mod memory;
mod returned;
mod sessions;
mod stalls;
mod trees;
mod victim;
