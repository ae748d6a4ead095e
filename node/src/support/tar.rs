//! A tar archive (POSIX ustar) of a few small texts: enough for every program that opens such files, and no more.

/// Bytes of a block.
const BLOCK: usize = 512;

/// The archive of these files, in this order, all of one time (unix seconds). Names are plain and shorter than 100 bytes.
pub fn archive<'a>(files: impl Iterator<Item = (&'a str, &'a [u8])>, time: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, content) in files {
        bytes.extend_from_slice(&header(name, content.len(), time));
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    }
    // Two empty blocks are the end.
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}

fn header(name: &str, len: usize, time: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    let name = name.get(..99).unwrap_or(name);
    put(0, name);
    put(100, "0000600\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{len:011o}\0"));
    put(136, &format!("{:011o}\0", time & 0o77_777_777_777));
    // While its sum is taken, the field of the sum is spaces.
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_systems_tar_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.tar");
        let long = "đ".repeat(1000);
        let files = [("bundle/empty.txt", &b""[..]), ("bundle/long.txt", long.as_bytes()), ("bundle/x", &[b'x'; 512])];
        std::fs::write(&file, archive(files.into_iter(), 1_795_327_511)).unwrap();
        let done = Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(dir.path()).output().unwrap();
        assert!(done.status.success() && done.stderr.is_empty(), "{done:?}");
        for (name, content) in files {
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), content, "{name}");
        }
        assert_eq!(std::fs::metadata(&file).unwrap().len() % BLOCK as u64, 0);
    }
}
