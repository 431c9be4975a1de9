//! `build` and `import`.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::Images;
use crate::{
    cli::{
        CliError,
        args::{AboutArguments, BuildArguments, DiskFormat, ImportArguments, KernelArguments},
        progress::Progress,
    },
    domain::image::reference::Reference,
    image::{
        build::{About, Source, build},
        convert, from_directory,
    },
};

impl Images<'_> {
    pub(super) fn build(&self, arguments: BuildArguments) -> Result<(), CliError> {
        let BuildArguments { image, kernel, disk, from, mut about } = arguments;
        let source = match (disk, from) {
            (Some(disk), _) => Source::Disk(disk),
            (None, Some(directory)) => described(&directory, &mut about)?,
            (None, None) => of_kernel(kernel)?,
        };
        self.make(&image, about, &source)
    }

    pub(super) async fn import(&self, arguments: ImportArguments) -> Result<(), CliError> {
        let ImportArguments { image, kernel, disk, format, max_size, about } = arguments;
        match (disk, format) {
            (Some(disk), Some(DiskFormat::Qcow2)) => {
                let layout = self.layout(&image)?;
                let mut raw = layout.incoming()?;
                let progress = Progress::new(format!("converting {}", disk.display()));
                convert::qcow2_to_raw(&disk, &mut raw, max_size.mib << 20).await?;
                progress.done();
                self.make(&image, about, &Source::Disk(raw.path().to_owned()))
            }
            (Some(disk), _) => self.make(&image, about, &Source::Disk(disk)),
            (None, _) => self.make(&image, about, &of_kernel(kernel)?),
        }
    }

    fn make(&self, image: &Reference, about: AboutArguments, source: &Source) -> Result<(), CliError> {
        let layout = self.layout(image)?;
        let progress = Progress::new("packing");
        let tag = image.version.tag();
        let built = build(&layout, tag, said(about)?, source, &mut |read, whole| progress.at(read, whole))?;
        progress.done();
        self.print_stored(image, built)
    }
}

/// A folder's own word counts where nothing else is stated.
fn described(directory: &Path, about: &mut AboutArguments) -> Result<Source, CliError> {
    let described = from_directory::read(directory)?;
    about.os.get_or_insert(described.os);
    about.kernel_release.get_or_insert(described.kernel_release);
    about.title.get_or_insert(described.name);
    Ok(described.source)
}

fn of_kernel(arguments: KernelArguments) -> Result<Source, CliError> {
    let KernelArguments { kernel, initrd, command_line } = arguments;
    let kernel: PathBuf = kernel.ok_or(missing("a kernel or a disk", "--kernel"))?;
    Ok(Source::Kernel { kernel, initrd, command_line })
}

fn said(about: AboutArguments) -> Result<About, CliError> {
    let AboutArguments { os, architecture, kernel_release, title, created } = about;
    let os = os.ok_or(missing("the guest's OS", "--os"))?;
    let created = created.map_or_else(|| Ok(Timestamp::now()), Timestamp::from_second);
    let created = created.map_err(CliError::Created)?;
    Ok(About { os, architecture, kernel_release, title, created })
}

fn missing(what: &'static str, option: &'static str) -> CliError {
    CliError::MissingOption { what, option }
}
