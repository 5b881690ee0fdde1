//! Has vmodtool.py write the glue that varnishd wants, compiles it with the shim, and stamps the library with what it was
//! built from.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Whatever this library's code is made of, from the package's directory.
const INPUTS: [&str; 8] =
    ["build.rs", "shim", "src", "vmod_kafkalog.vcc", "../src", "../ffi", "../Cargo.lock", "../Cargo.toml"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let varnish = pkg_config::Config::new().cargo_metadata(false).probe("varnishapi").unwrap_or_else(|error| {
        panic!("the headers of Varnish are needed (Debian: apt-get install libvarnishapi-dev): {error}")
    });
    let build_id = build_id(&varnish.version);
    println!("cargo::rustc-env=KAFKALOG_BUILD_ID={build_id}");

    run_vmodtool(&out);
    stamp(&out.join("vmod_kafkalog.c"), &build_id);
    // The glue includes it, for the sake of modules that use autoconf.
    fs::write(out.join("config.h"), "").expect("OUT_DIR is writable");

    cc::Build::new()
        .files([out.join("vmod_kafkalog.c"), PathBuf::from("shim/shim.c")])
        .includes(&varnish.include_paths)
        .include(&out)
        .define("_GNU_SOURCE", None)
        .warnings_into_errors(true)
        // Every signature in the glue repeats the module's name; not all of them are used.
        .flag_if_supported("-Wno-unused-parameter")
        .cargo_metadata(false)
        .compile("shim");
    link(&out);
}

/// Names the code that this library is made of: `build-` and 16 hexadecimal digits.
///
/// varnishd keeps a copy of every module in its working directory, under its file id: a changed library with the same id
/// would not be looked at again. `KAFKALOG_BUILD` goes into the hash, for builds that differ in nothing that is hashed.
fn build_id(varnish_version: &str) -> String {
    let mut hasher = DefaultHasher::new();
    varnish_version.hash(&mut hasher);
    println!("cargo::rerun-if-env-changed=KAFKALOG_BUILD");
    for variable in ["TARGET", "PROFILE", "OPT_LEVEL", "CARGO_CFG_FEATURE", "KAFKALOG_BUILD"] {
        env::var(variable).ok().hash(&mut hasher);
    }
    for input in INPUTS {
        println!("cargo::rerun-if-changed={input}");
        hash_files(Path::new(input), &mut hasher);
    }
    format!("build-{:016x}", hasher.finish())
}

fn hash_files(path: &Path, hasher: &mut DefaultHasher) {
    if path.is_dir() {
        let mut entries: Vec<PathBuf> = fs::read_dir(path)
            .unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
            .map(|entry| entry.expect("the directory is readable").path())
            .collect();
        entries.sort();
        for entry in entries {
            hash_files(&entry, hasher);
        }
    } else {
        path.hash(hasher);
        fs::read(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display())).hash(hasher);
    }
}

/// Writes `vmod_kafkalog.c`, `.h` and the manual page's source into `out`.
fn run_vmodtool(out: &Path) {
    let tool = pkg_config::get_variable("varnishapi", "vmodtool").expect("varnishapi.pc names vmodtool.py");
    let source = env::current_dir().expect("cargo sets it").join("vmod_kafkalog.vcc");
    let status = Command::new("python3")
        .args([&tool, "--strict", "-o", "vmod_kafkalog"])
        .arg(&source)
        .current_dir(out)
        .status()
        .unwrap_or_else(|error| panic!("python3 is needed, for Varnish's {tool}: {error}"));
    assert!(status.success(), "{tool} {} failed", source.display());
}

/// Puts the build id in the place of the hash that vmodtool.py makes of the interface alone.
fn stamp(glue: &Path, build_id: &str) {
    let text = fs::read_to_string(glue).expect("vmodtool.py wrote it");
    let (before, rest) = text.split_once(".file_id =\t\"").expect("vmodtool.py writes a file id");
    let (_, after) = rest.split_once('"').expect("the file id is a C string");
    fs::write(glue, format!("{before}.file_id =\t\"{build_id}{after}", after = format_args!("\"{after}")))
        .expect("OUT_DIR is writable");
}

/// Links the C side into the library, not into the unit tests, which have no varnishd around them. Exported is
/// `Vmod_kafkalog_Data` alone: nothing of librdkafka's can be taken for varnishd's, or the other way round.
fn link(out: &Path) {
    let script = out.join("exports.map");
    fs::write(&script, "{ global: Vmod_kafkalog_Data; local: *; };\n").expect("OUT_DIR is writable");
    for argument in [
        "-Wl,--whole-archive".to_owned(),
        out.join("libshim.a").display().to_string(),
        "-Wl,--no-whole-archive".to_owned(),
        format!("-Wl,--version-script={}", script.display()),
        // Where the linker's own names for a section begin and end are no matter of the script's.
        "-Wl,-z,start-stop-visibility=hidden".to_owned(),
    ] {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
}
