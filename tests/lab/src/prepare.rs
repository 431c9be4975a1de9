//! Builds what lab hosts start from, where it is not up to date: kernel and initramfs, our programs, OS images.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

use crate::disk::{self, DiskError};
use crate::requirements::{self, Lacking};

/// The repository, as it was when this program was built.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Static programs are built for an explicit target, or the flags would break procedural macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const STATIC: &str = "-C target-feature=+crt-static";

/// Cargo's target directory: the one place in which the lab leaves anything.
pub(crate) fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| Path::new(REPOSITORY).join("target"), PathBuf::from)
}

/// What to build, and from where to take what is built already.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Where everything goes, and the downloaded kernel packages.
    pub directory: PathBuf,
    /// Take the programs from here and do not call cargo.
    pub programs: Option<PathBuf>,
    /// Cargo's profile for them.
    pub profile: String,
    /// Whether the agent is one of them.
    pub agent: bool,
    /// Whether the VMM is one of them.
    pub vmm: bool,
    /// OS images, as `images/build.sh` knows them.
    pub images: Vec<String>,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            directory: target_directory().join("lab-system"),
            programs: None,
            profile: "release".into(),
            agent: true,
            vmm: true,
            images: vec!["debian-micro".into(), "debian-micro-6.1".into()],
        }
    }
}

/// What lab hosts start from. Hosts only read it; it can be rebuilt while they run.
#[derive(Debug, Clone)]
pub struct System {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// Disk with our programs.
    pub programs: PathBuf,
    /// Disk with the OS images.
    pub images: PathBuf,
}

impl System {
    /// Where [`prepare`] with this directory leaves it.
    pub fn at(directory: &Path) -> Self {
        Self {
            kernel: directory.join("host/vmlinux"),
            initrd: directory.join("host/initrd.img"),
            programs: directory.join("programs.ext4"),
            images: directory.join("images.ext4"),
        }
    }
}

#[derive(Debug, Error)]
pub enum PrepareError {
    #[error(transparent)]
    Lacking(Lacking),
    #[error("cannot run {0}")]
    Run(String, #[source] io::Error),
    #[error("{0} failed; what it said is above")]
    Failed(String),
    #[error("cannot use {0}")]
    File(PathBuf, #[source] io::Error),
    #[error("cannot make a disk for lab hosts")]
    Disk(#[source] DiskError),
}

/// Makes sure that everything is there and up to date; `say` hears what takes long.
pub fn prepare(recipe: &Recipe, say: &dyn Fn(&str)) -> Result<System, PrepareError> {
    requirements::check().map_err(PrepareError::Lacking)?;
    let directory = &recipe.directory;
    fs::create_dir_all(directory).map_err(|error| PrepareError::File(directory.clone(), error))?;
    let _lock = lock(&directory.join("lock"))?;

    say("kernel and initramfs of the lab host");
    run(script("tests/lab/host/build.sh").arg(cache(directory)).arg(directory.join("host")))?;
    let programs = match &recipe.programs {
        Some(programs) => programs.clone(),
        None => build_programs(recipe, say)?,
    };
    programs_disk(recipe, &programs)?;
    images_disk(recipe, &programs, say)?;
    Ok(System::at(directory))
}

fn cache(directory: &Path) -> PathBuf {
    directory.join("cache")
}

fn lock(path: &Path) -> Result<File, PrepareError> {
    let cannot = |error| PrepareError::File(path.into(), error);
    let file = File::create(path).map_err(cannot)?;
    file.lock().map_err(cannot)?;
    Ok(file)
}

fn script(path: &str) -> Command {
    Command::new(Path::new(REPOSITORY).join(path))
}

/// What it prints goes to standard error: standard output belongs to the lab's own answer.
fn run(command: &mut Command) -> Result<(), PrepareError> {
    let name = || command_name(command);
    let name = name();
    let status = command
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()
        .map_err(|error| PrepareError::Run(name.clone(), error))?;
    if status.success() { Ok(()) } else { Err(PrepareError::Failed(name)) }
}

fn command_name(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn build_programs(recipe: &Recipe, say: &dyn Fn(&str)) -> Result<PathBuf, PrepareError> {
    say("static programs (cargo build)");
    let target = target_directory();
    let mut cargo = Command::new("cargo");
    cargo.current_dir(REPOSITORY).env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", STATIC);
    cargo.args(["build", "--quiet", "--target", TARGET, "--profile", &recipe.profile]);
    for (package, program) in programs(recipe) {
        cargo.args(["-p", package, "--bin", program]);
    }
    run(&mut cargo)?;
    let profile = if recipe.profile == "dev" { "debug" } else { &recipe.profile };
    Ok(target.join(TARGET).join(profile))
}

/// Packages, and the program of each that goes onto the disk.
fn programs(recipe: &Recipe) -> impl Iterator<Item = (&'static str, &'static str)> {
    let guest = (!recipe.images.is_empty()).then_some(("sublet-guest", "sublet-guest"));
    let vmm = recipe.vmm.then_some(("sublet-vmm", "sublet-vmm"));
    let agent = recipe.agent.then_some(("sublet", "sublet-agent"));
    [("sublet-lab", "sublet-lab-host")].into_iter().chain(vmm).chain(guest).chain(agent)
}

fn programs_disk(recipe: &Recipe, from: &Path) -> Result<(), PrepareError> {
    let files: Vec<PathBuf> = programs(recipe).map(|(_, program)| from.join(program)).collect();
    let disk = System::at(&recipe.directory).programs;
    if is_made_of(&disk, &files)? {
        return Ok(());
    }
    let stage = recipe.directory.join("programs");
    let cannot = |error| PrepareError::File(stage.clone(), error);
    match fs::remove_dir_all(&stage) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(error)),
        _ => fs::create_dir(&stage).map_err(cannot)?,
    }
    for file in &files {
        let name = file.file_name().unwrap_or_default();
        fs::copy(file, stage.join(name)).map_err(|error| PrepareError::File(file.clone(), error))?;
    }
    disk::make_from(&stage, &disk).map_err(PrepareError::Disk)?;
    note_made_of(&disk, &files)
}

fn images_disk(recipe: &Recipe, programs: &Path, say: &dyn Fn(&str)) -> Result<(), PrepareError> {
    let directory = recipe.directory.join("images");
    fs::create_dir_all(&directory).map_err(|error| PrepareError::File(directory.clone(), error))?;
    let mut manifests = Vec::new();
    for image in &recipe.images {
        say(&format!("OS image {image}"));
        let output = directory.join(image);
        let mut build = script("images/build.sh");
        build.arg(image).arg(&output).arg("--guest").arg(programs.join("sublet-guest"));
        run(build.arg("--cache").arg(cache(&recipe.directory)))?;
        manifests.push(output.join("image.json"));
    }
    let disk = System::at(&recipe.directory).images;
    if is_made_of(&disk, &manifests)? {
        return Ok(());
    }
    disk::make_from(&directory, &disk).map_err(PrepareError::Disk)?;
    note_made_of(&disk, &manifests)
}

/// Whether a disk exists and was made of just these files as they are now.
fn is_made_of(disk: &Path, files: &[PathBuf]) -> Result<bool, PrepareError> {
    let noted = fs::read_to_string(noted(disk)).unwrap_or_default();
    Ok(disk.exists() && noted == describe(files)?)
}

fn note_made_of(disk: &Path, files: &[PathBuf]) -> Result<(), PrepareError> {
    let path = noted(disk);
    fs::write(&path, describe(files)?).map_err(|error| PrepareError::File(path, error))
}

fn noted(disk: &Path) -> PathBuf {
    disk.with_extension("made-of")
}

/// Name, size and time of change of each.
fn describe(files: &[PathBuf]) -> Result<String, PrepareError> {
    let mut all = String::new();
    for file in files {
        let metadata = file.metadata().map_err(|error| PrepareError::File(file.clone(), error))?;
        all.push_str(&format!("{} {} {:?}\n", file.display(), metadata.len(), metadata.modified().ok()));
    }
    Ok(all)
}
