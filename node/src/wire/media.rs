//! wire/media
