//! All tests of what is seen from outside, in one binary.

mod archive;
mod cli;
mod session;
mod tidy;
