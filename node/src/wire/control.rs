//! wire/control
