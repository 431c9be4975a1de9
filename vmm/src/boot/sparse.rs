//! Reading a file whose holes are left as they are: the memory of a machine that has not run yet is zero there already.
//! An uncompressed kernel is a quarter zeroes (the room of its `.bss` among them), which image builds leave out.

use std::{
    fs::File,
    io::{self, Read, Seek},
};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice, bitmap::BitmapSlice};

use super::files::size_of;

/// A file at some place; its holes count as read, and nothing is written for them.
#[derive(Debug)]
pub(super) struct Sparse<'a>(pub(super) &'a mut File);

/// What comes next in a file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stretch {
    Hole(u64),
    Data(u64),
}

impl Sparse<'_> {
    /// What begins at `at`; nothing where the file ends there.
    fn stretch(&self, at: u64) -> io::Result<Option<Stretch>> {
        let data = match seek(&*self.0, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data comes after it (lseek(2)).
            Err(Errno::NXIO) => {
                let left = size_of(&*self.0)?.saturating_sub(at);
                return Ok((left > 0).then_some(Stretch::Hole(left)));
            }
            // A file system that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(Stretch::Data(u64::MAX))),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(match data.saturating_sub(at) {
            0 => Stretch::Data(seek(&*self.0, SeekFrom::Hole(at))?.saturating_sub(at)),
            bytes => Stretch::Hole(bytes),
        }))
    }

    /// Reads or passes over the stretch that comes next, or what of it fits. Bytes; zero at the file's end.
    fn advance<B: BitmapSlice>(&mut self, into: &VolatileSlice<'_, B>) -> Result<usize, VolatileMemoryError> {
        let at = self.0.stream_position().map_err(VolatileMemoryError::IOError)?;
        let fits = |bytes: u64| bytes.min(into.len() as u64);
        let (next, read) = match self.stretch(at).map_err(VolatileMemoryError::IOError)? {
            None => return Ok(0),
            Some(Stretch::Hole(bytes)) => (at + fits(bytes), fits(bytes) as usize),
            Some(Stretch::Data(bytes)) => {
                self.0.seek(io::SeekFrom::Start(at)).map_err(VolatileMemoryError::IOError)?;
                let read = self.0.read_volatile(&mut into.subslice(0, fits(bytes) as usize)?)?;
                (at + read as u64, read)
            }
        };
        self.0.seek(io::SeekFrom::Start(next)).map_err(VolatileMemoryError::IOError)?;
        Ok(read)
    }
}

impl ReadVolatile for Sparse<'_> {
    /// Reads as much as the file has.
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        into: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        let mut done = 0;
        while done < into.len() {
            match self.advance(&into.offset(done)?)? {
                0 => break,
                read => done += read,
            }
        }
        Ok(done)
    }
}

impl Read for Sparse<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Seek for Sparse<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Pieces of data at these pages, and the file's end.
    fn file(pages: &[u8], length: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(length).unwrap();
        for page in pages {
            let bytes = vec![page | 1; 4096];
            let left = length.saturating_sub(u64::from(*page) * 4096).min(4096) as usize;
            file.write_all_at(&bytes[..left], u64::from(*page) * 4096).unwrap();
        }
        file
    }

    fn read(reader: &mut impl ReadVolatile, memory: &mut [u8]) -> usize {
        reader.read_volatile(&mut VolatileSlice::from(memory)).unwrap()
    }

    #[test]
    fn a_hole_is_passed_over_and_nothing_written() {
        let mut file = file(&[2], 3 * 4096);
        let mut memory = vec![7; 3 * 4096];
        assert_eq!(read(&mut Sparse(&mut file), &mut memory), memory.len());
        assert!(memory[..2 * 4096].iter().all(|byte| *byte == 7));
        assert!(memory[2 * 4096..].iter().all(|byte| *byte == 3));
    }

    proptest! {
        #[test]
        fn into_zeroed_memory_it_reads_what_a_plain_file_reads(
            pages in vec(0u8..24, 0..8),
            length in 0u64..24 * 4096,
            from in 0u64..24 * 4096,
            wanted in 0usize..24 * 4096,
        ) {
            let mut file = file(&pages, length);
            let [mut plain, mut sparse] = [vec![0; wanted], vec![0; wanted]];
            file.seek(io::SeekFrom::Start(from)).unwrap();
            let expected = read(&mut file, &mut plain);
            file.seek(io::SeekFrom::Start(from)).unwrap();
            let mut reader = Sparse(&mut file);
            prop_assert_eq!(read(&mut reader, &mut sparse), expected);
            prop_assert_eq!(reader.stream_position().unwrap(), from + expected as u64);
            prop_assert!(plain == sparse);
        }
    }
}
