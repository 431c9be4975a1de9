//! Writes the seeds of every target: `firmware_seeds FOLDER` makes `FOLDER/TARGET/SEED`.

use std::{env, fs, io, path::PathBuf};

use sublet_firmware_fuzz::TARGETS;

fn main() -> io::Result<()> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("usage: firmware_seeds FOLDER"));
    };
    for target in TARGETS {
        let place = folder.join(target.name);
        fs::create_dir_all(&place)?;
        for (name, input) in (target.seeds)() {
            fs::write(place.join(name), input)?;
        }
    }
    Ok(())
}
