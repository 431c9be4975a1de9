//! Windows onto physical addresses, device registers and memory alike: each access is one instruction of its own size,
//! aligned or not.

use std::{arch::asm, fs::File, io, mem::size_of, ptr::null_mut};

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// What is read and written at once.
pub(crate) trait Word: Copy {
    /// Reads it.
    ///
    /// # Safety
    /// All its bytes lie within one mapping, into which no reference points.
    unsafe fn load(place: *const u8) -> Self;
    /// Writes it.
    ///
    /// # Safety
    /// As of [`Word::load`]; and the mapping can be written.
    unsafe fn store(self, place: *mut u8);
}

macro_rules! word {
    ($type:ty, $class:ident, $operand:literal) => {
        impl Word for $type {
            unsafe fn load(place: *const u8) -> Self {
                let value: Self;
                // SAFETY: reads what the caller says can be read, and changes nothing else.
                unsafe {
                    asm!(concat!("mov ", $operand, ", [{place}]"), place = in(reg) place,
                         value = out($class) value, options(nostack, preserves_flags));
                }
                value
            }

            unsafe fn store(self, place: *mut u8) {
                // SAFETY: writes where the caller says can be written.
                unsafe {
                    asm!(concat!("mov [{place}], ", $operand), place = in(reg) place,
                         value = in($class) self, options(nostack, preserves_flags));
                }
            }
        }
    };
}

word!(u8, reg_byte, "{value}");
word!(u16, reg, "{value:x}");
word!(u32, reg, "{value:e}");
word!(u64, reg, "{value:r}");

/// A mapping that is never undone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the mapping is there for as long as the process, no reference points into it, and its accesses are single
// instructions; that others write at the same time is what it is for.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps that much of a file of which mappings are physical addresses.
    pub(crate) fn map(file: &File, offset: u64, bytes: usize) -> io::Result<Self> {
        let both = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a place where nothing is, and nothing else in this process knows of it.
        let base = unsafe { mmap(null_mut(), bytes, both, MapFlags::SHARED, file, offset) }?;
        Ok(Self { base: base.cast(), bytes })
    }

    pub(crate) fn bytes(self) -> usize {
        self.bytes
    }

    pub(crate) fn get<W: Word>(self, offset: usize) -> W {
        // SAFETY: `place` has checked that all of it lies in the mapping.
        unsafe { W::load(self.place::<W>(offset)) }
    }

    pub(crate) fn put<W: Word>(self, offset: usize, value: W) {
        // SAFETY: `place` has checked that all of it lies in the mapping, which can be written.
        unsafe { value.store(self.place::<W>(offset)) }
    }

    /// Reads that many bytes, 1, 2, 4 or 8.
    pub(crate) fn get_sized(self, offset: usize, bytes: usize) -> u64 {
        match bytes {
            1 => self.get::<u8>(offset).into(),
            2 => self.get::<u16>(offset).into(),
            4 => self.get::<u32>(offset).into(),
            _ => self.get(offset),
        }
    }

    /// Writes the lowest of a value's bytes, 1, 2, 4 or 8 of them.
    pub(crate) fn put_sized(self, offset: usize, bytes: usize, value: u64) {
        match bytes {
            1 => self.put(offset, value as u8),
            2 => self.put(offset, value as u16),
            4 => self.put(offset, value as u32),
            _ => self.put(offset, value),
        }
    }

    fn place<W: Word>(self, offset: usize) -> *mut u8 {
        let end = offset.checked_add(size_of::<W>());
        assert!(end.is_some_and(|end| end <= self.bytes), "{offset:#x} is outside of {:#x}", self.bytes);
        self.base.wrapping_add(offset)
    }
}
