//! From disks to a kernel in memory, told line by line.

use core::fmt::{self, Write};

use crate::disk::Volume;
use crate::load::{Loaded, Ram, Room, load};
use crate::machine::Machine;
use crate::menu::SOURCES;
use crate::volumes::Volumes;

/// Entries of one menu that are tried, from its default on.
const TRIES: usize = 4;

/// The first thing on the disk that can be loaded; none where there is none.
pub fn boot(
    out: &mut dyn Write,
    name: &str,
    disk: &Volume,
    machine: &Machine,
    room: &Room,
    ram: &mut dyn Ram,
) -> Result<Option<Loaded>, fmt::Error> {
    let volumes = Volumes::find(disk, name, out)?;
    for source in SOURCES {
        for start in source(&volumes, out)?.iter().take(TRIES) {
            let volume = volumes.0.get(start.kernel.volume).map_or("", |volume| &volume.name);
            writeln!(out, "{volume}{}: {}", start.kernel, start.title.escape_debug())?;
            match load(&volumes, start, machine, room, ram) {
                Ok(loaded) => return Ok(Some(loaded)),
                Err(error) => writeln!(out, "{volume}: {error}.")?,
            }
        }
    }
    writeln!(out, "{name}: nothing to start.")?;
    Ok(None)
}
