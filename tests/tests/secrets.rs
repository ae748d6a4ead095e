//! What is secret stays with its owner: on the disk, in memory, and in whatever the program says.

mod keys;
mod private;
mod search;
