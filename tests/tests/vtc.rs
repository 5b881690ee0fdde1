//! Runs every scenario of `tests/vtc` with varnishtest, against the module and the program of this build.
//!
//! `KAFKALOG_VTC` picks the scenarios whose file names contain it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use kafkalog_tests::programs::Programs;

/// Two scenarios at a time: most of their time is spent waiting.
const AT_A_TIME: usize = 2;

/// varnishtest kills a scenario that takes longer.
const SECONDS: &str = "60";

#[test]
fn every_scenario_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace");
    let built = Programs::build().expect("the programs can be built");
    let scenarios = Mutex::new(scenarios(&root.join("tests/vtc")).into_iter());
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let Some(scenario) = scenarios.lock().expect("no panic").next() else { break };
                    let name = scenario.file_name().expect("it is a file").to_string_lossy().into_owned();
                    let (output, took) = run(root, built.directory(), &scenario);
                    if output.status.success() {
                        println!("{name}: passed in {:.1} s", took.as_secs_f64());
                    } else {
                        println!("{name}: failed\n{}", without_log(&String::from_utf8_lossy(&output.stdout)));
                        failed.lock().expect("no panic").push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic");
    assert!(failed.is_empty(), "failed: {failed:?}");
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

/// The output without varnishd's log and the time stamps in between.
fn without_log(output: &str) -> String {
    let shown = |line: &&str| !line.contains(" vsl|") && !line.contains(" dT ");
    output.lines().filter(shown).collect::<Vec<_>>().join("\n")
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
