//! Everything that can go wrong says what it means, and what to do.
