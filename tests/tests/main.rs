//! All tests of what is seen from outside, in one binary.

mod tidy;
