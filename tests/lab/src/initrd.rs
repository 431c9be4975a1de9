//! Adds files to an initrd: Linux takes several archives one after another (Documentation/driver-api/early-userspace).

use std::{fs, io, path::Path};

/// A file of the newc format that can be run.
const MODE: u32 = 0o100_755;
const TRAILER: &str = "TRAILER!!!";
/// Names and contents start at multiples of it.
const ALIGNMENT: usize = 4;

/// Writes an initrd that holds what `initrd` does and these programs: path below the root, and contents. Folders have
/// to be there already.
pub fn add_programs(initrd: &Path, programs: &[(&str, &[u8])], output: &Path) -> io::Result<()> {
    let mut whole = fs::read(initrd)?;
    align(&mut whole);
    for (number, (name, content)) in (1..).zip(programs) {
        put_entry(&mut whole, number, MODE, name, content);
    }
    put_entry(&mut whole, 0, 0, TRAILER, &[]);
    fs::write(output, whole)
}

fn put_entry(archive: &mut Vec<u8>, inode: u32, mode: u32, name: &str, content: &[u8]) {
    let (length, name_length) = (content.len() as u32, name.len() as u32 + 1);
    // Inode, mode, user, group, links, time, length, four numbers of devices, length of the name, checksum.
    let fields = [inode, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
    archive.extend(b"070701");
    fields.iter().for_each(|field| archive.extend(format!("{field:08x}").bytes()));
    archive.extend(name.bytes().chain([0]));
    align(archive);
    archive.extend(content);
    align(archive);
}

fn align(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(ALIGNMENT), 0);
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_added_is_unpacked_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("first"), b"odd").unwrap();
        let programs: [(&str, &[u8]); 2] = [("program", b"12345"), ("other", b"")];
        add_programs(&path("first"), &programs, &path("whole")).unwrap();
        let whole = fs::read(path("whole")).unwrap();
        assert!(whole.starts_with(b"odd\x00070701"));

        fs::write(path("archive"), &whole[4..]).unwrap();
        let archive = fs::File::open(path("archive")).unwrap();
        let unpacked = Command::new("cpio")
            .args(["--extract", "--quiet"])
            .current_dir(directory.path())
            .stdin(Stdio::from(archive))
            .status()
            .unwrap();
        assert!(unpacked.success());
        assert_eq!(fs::read(path("program")).unwrap(), b"12345");
        assert_eq!(fs::read(path("other")).unwrap(), b"");
    }
}
