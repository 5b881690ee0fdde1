//! Where the programs are that are tried.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

/// A directory with `kafkalog`, `kafkalog-sink` and `libvmod_kafkalog.so`.
#[derive(Debug, Clone)]
pub struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// The environment variable that names the directory.
    pub const DIRECTORY: &'static str = "KAFKALOG_BIN_DIR";

    /// The directory in the environment, otherwise the one of the build that this program belongs to.
    ///
    /// # Errors
    ///
    /// When one of the programs is not there.
    pub fn find() -> anyhow::Result<Self> {
        let directory = match env::var_os(Self::DIRECTORY) {
            Some(directory) => PathBuf::from(directory),
            None => own_directory()?,
        };
        let programs = Self { directory };
        for file in [programs.kafkalog(), programs.sink(), programs.module()] {
            if !file.is_file() {
                bail!("{} is not there: run `make build`, or set {}", file.display(), Self::DIRECTORY);
            }
        }
        Ok(programs)
    }

    /// Builds the programs for a test, in the profile that the test was built in; nothing is built if the environment
    /// names a directory.
    ///
    /// A cdylib cannot be a dependency of this package, and a stale one would be tested without a word.
    ///
    /// # Errors
    ///
    /// When cargo fails.
    pub fn build() -> anyhow::Result<Self> {
        if env::var_os(Self::DIRECTORY).is_some() {
            return Self::find();
        }
        let directory = own_directory()?;
        let profile = match directory.file_name().and_then(|name| name.to_str()) {
            Some("debug") => "dev",
            Some(profile) => profile,
            None => bail!("{} has no name", directory.display()),
        };
        let target = directory.parent().context("a profile's directory lies in target")?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package lies in the workspace")?;
        let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--profile", profile])
            .args(["-p", "kafkalog", "-p", "kafkalog-sink", "-p", "vmod_kafkalog"])
            // Without the environment variable KAFKALOG_FAULT it changes nothing.
            .args(["--features", "vmod_kafkalog/fault-injection", "--target-dir"])
            .arg(target)
            .current_dir(root)
            .status()
            .context("running cargo")?;
        if !status.success() {
            bail!("cargo build: {status}");
        }
        Self::find()
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The program `kafkalog`.
    #[must_use]
    pub fn kafkalog(&self) -> PathBuf {
        self.directory.join("kafkalog")
    }

    /// The program `kafkalog-sink`.
    #[must_use]
    pub fn sink(&self) -> PathBuf {
        self.directory.join("kafkalog-sink")
    }

    /// The VMOD.
    #[must_use]
    pub fn module(&self) -> PathBuf {
        self.directory.join("libvmod_kafkalog.so")
    }
}

/// `target/<profile>`: programs lie in it, tests in its `deps`.
fn own_directory() -> anyhow::Result<PathBuf> {
    let own = env::current_exe().context("asking for the program's own path")?;
    let directory = own.parent().context("a program lies in a directory")?;
    Ok(match directory.file_name() {
        Some(name) if name == "deps" => directory.parent().context("deps lies in target/<profile>")?.to_owned(),
        _ => directory.to_owned(),
    })
}
