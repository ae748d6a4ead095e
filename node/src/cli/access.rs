//! Writing into a stopped node's access log, before a command does what must stand there.

use std::path::Path;

use node::config;
use node::identity::Identity;
use store::access::Access;
use store::archive::Logbook;

/// Writes an entry and gives the log free again. Why it could not is one line.
pub(super) fn write_down(folder: &Path, identity: &Identity, access: Access) -> Result<(), String> {
    let written = Logbook::open(&config::archive(folder)).and_then(|book| {
        book.append(&identity.node, super::output::now_ms(), vec![access])?;
        // It stands on the disk already; this leaves nothing in the database's log.
        if let Err(error) = book.settle() {
            eprintln!("the archive could not be closed in order: {error}");
        }
        Ok(())
    });
    written.map_err(|error| format!("{:#}", anyhow::Error::new(error)))
}
