//! All tests of what is seen from outside, in one binary.

mod access;
mod archive;
mod cli;
mod copies;
mod disk;
mod evidence;
mod fuzz;
mod lab;
mod live;
mod page;
mod people;
mod recover;
mod scrub;
mod secrets;
mod session;
mod sim;
mod tidy;
mod trust;
