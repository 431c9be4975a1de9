//! Builds what lab hosts start from, where it is not up to date: kernel and initramfs, our programs, OS images.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::disk::{self, DiskError};
use crate::requirements::{self, Lacking};

/// The repository, as it was when this program was built.
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Static programs are built for an explicit target, or the flags would break procedural macros.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Packages of programs. All are named for any program, as `examples/build.sh` names them: what they ask of libraries together
/// decides how these are built.
const PACKAGES: [&str; 4] = ["sublet", "sublet-vmm", "sublet-guest", "sublet-lab"];
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
    /// Whether hosts can start with systemd.
    pub systemd: bool,
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
            systemd: false,
            vmm: true,
            images: vec!["debian-micro".into(), "debian-micro-6.1".into()],
        }
    }
}

/// What lab hosts start from. Hosts only read it; it can be rebuilt while they run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
    /// Disk that hosts with systemd go on with; none: there are to be none.
    #[serde(default)]
    pub root: Option<PathBuf>,
    /// Disk with our programs.
    pub programs: PathBuf,
    /// Disk with the OS images.
    pub images: PathBuf,
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
    let host = directory.join("host");
    run(script("tests/lab/host/build.sh").arg(cache(directory)).arg(&host))?;
    let programs = match &recipe.programs {
        Some(programs) => programs.clone(),
        None => build_programs(recipe, say)?,
    };
    Ok(System {
        kernel: host.join("vmlinux"),
        initrd: host.join("initrd.img"),
        root: recipe.systemd.then(|| root_disk(directory, say)).transpose()?,
        programs: programs_disk(recipe, &programs)?,
        images: images_disk(recipe, &programs, say)?,
    })
}

/// Debian with systemd.
fn root_disk(directory: &Path, say: &dyn Fn(&str)) -> Result<PathBuf, PrepareError> {
    say("Debian with systemd (mmdebstrap)");
    let output = directory.join("systemd");
    run(script("tests/lab/host/systemd/build.sh").arg(&output))?;
    Ok(output.join("root.ext4"))
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
    let name = command_name(command);
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

/// One of our programs, up to date.
#[cfg(feature = "registry")]
pub(crate) fn program(
    recipe: &Recipe,
    program: &'static str,
    say: &dyn Fn(&str),
) -> Result<PathBuf, PrepareError> {
    let programs = match &recipe.programs {
        Some(programs) => programs.clone(),
        None => build(recipe, [program], say)?,
    };
    Ok(programs.join(program))
}

fn build_programs(recipe: &Recipe, say: &dyn Fn(&str)) -> Result<PathBuf, PrepareError> {
    build(recipe, programs(recipe), say)
}

fn build(
    recipe: &Recipe,
    programs: impl IntoIterator<Item = &'static str>,
    say: &dyn Fn(&str),
) -> Result<PathBuf, PrepareError> {
    say("static programs (cargo build)");
    let target = target_directory();
    let mut cargo = Command::new("cargo");
    cargo.current_dir(REPOSITORY).env("CARGO_TARGET_DIR", &target).env("RUSTFLAGS", STATIC);
    cargo.args(["build", "--quiet", "--target", TARGET, "--profile", &recipe.profile]);
    cargo.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    cargo.args(programs.into_iter().flat_map(|program| ["--bin", program]));
    run(&mut cargo)?;
    let profile = if recipe.profile == "dev" { "debug" } else { &recipe.profile };
    Ok(target.join(TARGET).join(profile))
}

/// Programs that go onto the disk.
fn programs(recipe: &Recipe) -> impl Iterator<Item = &'static str> {
    let guest = (!recipe.images.is_empty()).then_some("sublet-guest");
    let vmm = recipe.vmm.then_some("sublet-vmm");
    let agent = recipe.agent.then_some("sublet-agent");
    ["sublet-lab-host"].into_iter().chain(vmm).chain(guest).chain(agent)
}

fn programs_disk(recipe: &Recipe, from: &Path) -> Result<PathBuf, PrepareError> {
    let files: Vec<PathBuf> = programs(recipe).map(|program| from.join(program)).collect();
    up_to_date_disk(&recipe.directory, "programs", &files)
}

fn images_disk(recipe: &Recipe, programs: &Path, say: &dyn Fn(&str)) -> Result<PathBuf, PrepareError> {
    let mut directories = Vec::new();
    for image in &recipe.images {
        say(&format!("OS image {image}"));
        let output = recipe.directory.join("images").join(image);
        let mut build = script("images/build.sh");
        build.arg(image).arg(&output).arg("--guest").arg(programs.join("sublet-guest"));
        run(build.arg("--cache").arg(cache(&recipe.directory)))?;
        directories.push(output);
    }
    up_to_date_disk(&recipe.directory, "images", &directories)
}

/// A disk with these files and directories. Labs that want others of the same kind have another disk.
fn up_to_date_disk(directory: &Path, kind: &str, content: &[PathBuf]) -> Result<PathBuf, PrepareError> {
    let names: Vec<_> = content.iter().map(|path| path.to_string_lossy()).collect();
    let which = hex::encode(Sha256::digest(names.join("\n")).get(..4).unwrap_or_default());
    let disk = directory.join(format!("{kind}-{which}.ext4"));
    let made_of = disk.with_extension("made-of");
    let wanted = describe(content)?;
    if !disk.exists() || fs::read_to_string(&made_of).ok().as_ref() != Some(&wanted) {
        disk::make_from(content, &disk).map_err(PrepareError::Disk)?;
        fs::write(&made_of, wanted).map_err(|error| PrepareError::File(made_of, error))?;
    }
    Ok(disk)
}

/// Name, size and time of change of each file in and below these.
fn describe(content: &[PathBuf]) -> Result<String, PrepareError> {
    let mut all = String::new();
    for path in content {
        let cannot = |error| PrepareError::File(path.clone(), error);
        let metadata = path.metadata().map_err(cannot)?;
        if metadata.is_dir() {
            all.push_str(&describe(&entries(path).map_err(cannot)?)?);
        } else {
            all.push_str(&format!("{} {} {:?}\n", path.display(), metadata.len(), metadata.modified().ok()));
        }
    }
    Ok(all)
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory)?.map(|entry| Ok(entry?.path()));
    let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}
