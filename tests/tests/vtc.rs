//! Runs every scenario of `tests/vtc` with varnishtest, against the module and the program of this build, and looks at what
//! the module takes from varnishd.
//!
//! `KAFKALOG_VTC` picks the scenarios whose file names contain it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use kafkalog_tests::programs::Programs;

/// Two scenarios at a time: most of their time is spent waiting.
const AT_A_TIME: usize = 2;

/// varnishtest kills a scenario that takes longer.
const SECONDS: &str = "120";

/// How many lines of a failed scenario's output are shown.
const SHOWN_LINES: usize = 60;

/// What the module may take from varnishd, beside what `vrt.h` and `vsb.h` declare.
const TAKEN: [&str; 2] = ["VSL", "VAS_Fail"];

/// Where the module and the program of this build are.
static BUILT: LazyLock<PathBuf> =
    LazyLock::new(|| Programs::build().expect("the programs can be built").directory().to_owned());

#[test]
fn every_scenario_passes() {
    let (root, built) = (root(), &*BUILT);
    let scenarios = Mutex::new(scenarios(&root.join("tests/vtc")).into_iter());
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some(scenario) = scenarios.lock().expect("no panic").next() else { break };
                    let name = scenario.file_name().expect("it is a file").to_string_lossy().into_owned();
                    let (output, took) = run(&root, built, &scenario);
                    if output.status.success() {
                        println!("{name}: passed in {:.1} s", took.as_secs_f64());
                    } else {
                        println!("{name}: failed\n{}", end_without_log(&String::from_utf8_lossy(&output.stdout)));
                        failed.lock().expect("no panic").push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// varnishd's own names go before those of any library that a module is linked to. It has altered copies of well-known
/// libraries in it: one that the module gets by accident does something else than it says.
#[test]
fn nothing_is_taken_from_varnishd_by_accident() {
    let varnishd =
        Command::new("sh").args(["-c", "PATH=$PATH:/usr/sbin command -v varnishd"]).output().expect("sh runs");
    let varnishd = String::from_utf8(varnishd.stdout).expect("a path");
    let offered = names(&["-D", "--defined-only", varnishd.trim()]);
    let module = BUILT.join("libvmod_kafkalog.so");
    let module = module.to_str().expect("a path in UTF-8");
    let taken: Vec<String> = names(&["-D", "--undefined-only", module])
        .into_iter()
        .filter(|name| offered.contains(name))
        // The C library's, which varnishd has a reference to.
        .filter(|name| !["stdout", "stderr", "stdin", "environ"].contains(&name.as_str()))
        .filter(|name| !name.starts_with("VRT_") && !name.starts_with("VSB_") && !TAKEN.contains(&name.as_str()))
        .collect();
    assert!(taken.is_empty(), "{taken:?}");
    assert_eq!(names(&["-D", "--defined-only", module]), ["Vmod_kafkalog_Data"]);
}

/// The symbols that nm lists, without versions.
fn names(arguments: &[&str]) -> Vec<String> {
    let output = Command::new("nm").args(arguments).output().expect("nm comes with the linker");
    assert!(output.status.success(), "nm {arguments:?} failed");
    let name = |line: &str| Some(line.split_whitespace().last()?.split('@').next()?.to_owned());
    String::from_utf8_lossy(&output.stdout).lines().filter_map(name).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn scenarios(directory: &Path) -> Vec<PathBuf> {
    let wanted = env::var("KAFKALOG_VTC").unwrap_or_default();
    let mut scenarios: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("reading {}: {error}", directory.display()))
        .map(|entry| entry.expect("the directory is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "vtc"))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(&wanted)))
        .collect();
    assert!(!scenarios.is_empty(), "no scenario in {} has `{wanted}` in its name", directory.display());
    scenarios.sort();
    scenarios
}

/// The end of the output, where the reason is, without varnishd's log and the time stamps in between.
fn end_without_log(output: &str) -> String {
    let shown = |line: &&str| !line.contains(" vsl|") && !line.contains(" dT ");
    let lines: Vec<&str> = output.lines().filter(shown).collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

fn run(root: &Path, built: &Path, scenario: &Path) -> (Output, Duration) {
    let module = built.join("libvmod_kafkalog.so");
    let began = Instant::now();
    let output = Command::new("varnishtest")
        .arg(format!("-Dvmod_kafkalog=kafkalog from \"{}\"", module.display()))
        .arg(format!("-Dmodule={}", module.display()))
        .arg(format!("-Dkafkalog={}", built.join("kafkalog").display()))
        .arg(format!("-Dvtc={}", root.join("tests/vtc").display()))
        // What varnishd logs goes into the output, which has no room for that of a load by default.
        .args(["-b", "512M", "-t", SECONDS])
        .arg(scenario)
        .output()
        .unwrap_or_else(|error| panic!("varnishtest is needed (Debian: apt-get install varnish): {error}"));
    (output, began.elapsed())
}
