//! What there is to start on a disk, by each kind of configuration in turn.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::{self, Write};

use crate::config::loader_entry::{self, LoaderEntry, Rank};
use crate::config::unified::{self, Unified};
use crate::config::{extlinux, grub};
use crate::start::{Piece, Start};
use crate::volumes::{Mounted, Volumes};

/// A boot partition's root, and where it is mounted where `/boot` is a directory of the root.
const BASES: [&str; 2] = ["", "/boot"];
const EXTLINUX: [&str; 6] = [
    "/boot/extlinux/extlinux.conf",
    "/extlinux/extlinux.conf",
    "/extlinux.conf",
    "/boot/syslinux/syslinux.cfg",
    "/syslinux/syslinux.cfg",
    "/syslinux.cfg",
];
const GRUB: [&str; 4] = ["/boot/grub/grub.cfg", "/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub2/grub.cfg"];
/// Links to the newest kernel that Debian keeps in its root.
const KERNEL_LINK: &str = "/vmlinuz";
const INITRD_LINK: &str = "/initrd.img";

/// A kind of configuration.
pub type Source = fn(&Volumes, &mut dyn Write) -> Result<Vec<Start>, fmt::Error>;

/// In the order in which they are asked.
pub const SOURCES: [Source; 4] = [loader_entries, extlinux, grub, links];

/// Boot Loader Specification entries and unified kernel images, of all volumes in one menu.
fn loader_entries(volumes: &Volumes, out: &mut dyn Write) -> Result<Vec<Start>, fmt::Error> {
    let mut found: Vec<(Rank, Start)> = Vec::new();
    let mut pattern = None;
    for (volume, base) in places(volumes) {
        let conf = volumes.config(volume, &format!("{base}/loader/loader.conf"), out)?;
        let wanted = conf.as_deref().and_then(loader_entry::default_pattern).map(ToString::to_string);
        pattern = pattern.or(wanted);
        for (id, path) in files(volumes, volume, &format!("{base}/loader/entries"), ".conf") {
            let text = volumes.config(volume, &path, out)?;
            let entry = text.and_then(|text| loader_entry::parse(&id, &text));
            found.extend(entry.map(|entry| text_entry(volumes, volume, base, entry)));
        }
        for (id, path) in files(volumes, volume, &format!("{base}/EFI/Linux"), ".efi") {
            match unified(volumes, volume, &id, &path) {
                Ok(entry) => found.push(entry),
                Err(error) => writeln!(out, "{}{path}: {error}.", volumes.0[volume].name)?,
            }
        }
    }
    let is_meant =
        |rank: &Rank| pattern.as_ref().is_some_and(|pattern| loader_entry::is_meant(pattern, &rank.id));
    found.sort_by(|(one, _), (other, _)| {
        is_meant(other).cmp(&is_meant(one)).then_with(|| loader_entry::compare(one, other))
    });
    Ok(found.into_iter().map(|(_, start)| start).collect())
}

fn places(volumes: &Volumes) -> impl Iterator<Item = (usize, &'static str)> {
    volumes.iter().flat_map(|(volume, _)| BASES.map(|base| (volume, base)))
}

/// Name and path of what is in a folder with this ending.
fn files(volumes: &Volumes, volume: usize, folder: &str, ending: &str) -> Vec<(String, String)> {
    let names = volumes.0[volume].files.list(folder).unwrap_or_default();
    let ends = |name: &String| name.len() > ending.len() && name.to_ascii_lowercase().ends_with(ending);
    names.into_iter().filter(ends).map(|name| (name.clone(), format!("{folder}/{name}"))).collect()
}

/// Paths in an entry begin at the partition's root, which is the folder `/boot` where that is no partition of its own.
fn text_entry(volumes: &Volumes, volume: usize, base: &str, entry: LoaderEntry) -> (Rank, Start) {
    let piece = |path: &String| {
        let path = if path.starts_with('/') { path.clone() } else { format!("/{path}") };
        let beneath = format!("{base}{path}");
        let path = if base.is_empty() || volumes.has(volume, &beneath) { beneath } else { path };
        Piece::whole(volume, path)
    };
    let start = Start {
        title: if entry.title.is_empty() { entry.rank.id.clone() } else { entry.title },
        kernel: piece(&entry.linux),
        initrds: entry.initrds.iter().map(piece).collect(),
        options: entry.options,
    };
    (entry.rank, start)
}

fn unified(volumes: &Volumes, volume: usize, id: &str, path: &str) -> Result<(Rank, Start), String> {
    let mut file = volumes.0[volume].files.open(path).map_err(|error| error.to_string())?;
    let mut start = vec![0; unified::START_BYTES.min(usize::try_from(file.bytes()).unwrap_or(usize::MAX))];
    file.read(0, &mut start).map_err(|error| error.to_string())?;
    let image: Unified = unified::parse(&start, file.bytes()).map_err(|error| error.to_string())?;
    let mut section = |range: Option<core::ops::Range<u64>>| {
        let Some(range) = range else { return Ok(Vec::new()) };
        let bytes = (range.end - range.start).min(unified::TEXT_LIMIT);
        let mut text = vec![0; usize::try_from(bytes).unwrap_or(0)];
        file.read(range.start, &mut text).map(|()| text).map_err(|error| error.to_string())
    };
    let description = String::from_utf8_lossy(&section(image.description.clone())?).to_string();
    let options = unified::command_line(&section(image.command_line.clone())?);
    let word = |key| unified::os_release(&description, key).unwrap_or_default().to_string();
    let title = Some(word("PRETTY_NAME")).filter(|title| !title.is_empty());
    let rank =
        Rank { id: id.to_string(), sort_key: word("ID"), version: word("VERSION_ID"), ..Rank::default() };
    let piece = |range| Piece { volume, path: path.to_string(), range: Some(range) };
    let start = Start {
        title: title.unwrap_or_else(|| id.to_string()),
        kernel: piece(image.linux),
        initrds: image.initrds.into_iter().map(piece).collect(),
        options,
    };
    Ok((rank, start))
}

fn extlinux(volumes: &Volumes, out: &mut dyn Write) -> Result<Vec<Start>, fmt::Error> {
    let mut starts = Vec::new();
    for (volume, _) in volumes.iter() {
        for file in EXTLINUX {
            let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
            let absolute = |path: &str| {
                if path.starts_with('/') { path.to_string() } else { format!("{folder}/{path}") }
            };
            let piece = |path: &String| Piece::whole(volume, absolute(path));
            let Some(text) = volumes.config(volume, file, out)? else { continue };
            let labels = extlinux::parse(&text, &mut |path| volumes.text(volume, &absolute(path)));
            starts.extend(labels.iter().map(|label| Start {
                title: label.title.clone(),
                kernel: piece(&label.linux),
                initrds: label.initrds.iter().map(piece).collect(),
                options: label.append.clone(),
            }));
        }
    }
    Ok(starts)
}

fn grub(volumes: &Volumes, out: &mut dyn Write) -> Result<Vec<Start>, fmt::Error> {
    let mut starts = Vec::new();
    for (volume, mounted) in volumes.iter() {
        let vendors = mounted.files.list("/EFI").unwrap_or_default();
        let stubs = vendors
            .into_iter()
            .filter(|name| !name.starts_with('.'))
            .map(|name| format!("/EFI/{name}/grub.cfg"));
        for file in GRUB.into_iter().map(ToString::to_string).chain(stubs) {
            let Some(text) = volumes.config(volume, &file, out)? else { continue };
            let (found, notes) = grub::starts(volumes, volume, &file, &text);
            for note in notes {
                writeln!(out, "{}{file}: {note}.", mounted.name)?;
            }
            starts.extend(found.into_iter().map(|found| Start {
                title: found.title,
                kernel: Piece::whole(found.linux.0, found.linux.1),
                initrds: found.initrds.into_iter().map(|(volume, path)| Piece::whole(volume, path)).collect(),
                options: found.options,
            }));
        }
    }
    Ok(starts)
}

/// Where no boot loader was ever installed: the newest kernel, with the file system that links to it as its root.
fn links(volumes: &Volumes, _out: &mut dyn Write) -> Result<Vec<Start>, fmt::Error> {
    let linked = volumes.iter().filter(|(volume, _)| volumes.has(*volume, KERNEL_LINK));
    let start = |(volume, mounted): (usize, &Mounted)| {
        let initrd = Some(INITRD_LINK).filter(|path| volumes.has(volume, path));
        Start {
            title: KERNEL_LINK.to_string(),
            kernel: Piece::whole(volume, KERNEL_LINK.to_string()),
            initrds: initrd.map(|path| Piece::whole(volume, path.to_string())).into_iter().collect(),
            options: format!("root=UUID={} ro console=ttyS0", mounted.files.uuid()),
        }
    };
    Ok(linked.map(start).collect())
}
