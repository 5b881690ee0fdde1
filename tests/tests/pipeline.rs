//! From requests to files, with everything real but Kafka, which is librdkafka's mock.

#![allow(clippy::unwrap_used, reason = "a helper of a test may panic as the test may")]

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use kafkalog_tests::addresses;
use kafkalog_tests::backend::Backend;
use kafkalog_tests::load::Load;
use kafkalog_tests::pipeline::Pipeline;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::varnishd::Varnishd;
use kafkalog_tests::wait;

const CONFIGURATION: &str = "[kafka]\nbootstrap = [\"127.0.0.1:1\"]\n[[stream]]\nname = \"webrequest\"\n\
                             topic = \"webrequest_text\"\nformat = \"webrequest\"\n";

#[test]
fn every_request_is_in_a_file_once_and_no_address_is() {
    let directory = tempfile::tempdir().unwrap();
    let pipeline = Pipeline {
        programs: &Programs::build().unwrap(),
        directory: directory.path(),
        requests: 2_000,
        seed: 7,
        stop: &AtomicBool::new(false),
    };
    let report = pipeline.run(&mut |_| ()).unwrap();
    assert!(report.is_good(), "{}\n{:?}", report.table(), report.leaks);
    assert_eq!([report.sent, report.lines, report.acknowledged, report.records], [2_000; 4], "{}", report.table());
    let most = report.lines + report.resumed;
    assert!((report.lines..=most).contains(&report.counted), "{} counted, at most {most}", report.counted);

    let sample = report.sample.expect("half of the requests are hits");
    let hash = sample["ip"].as_str().expect("there is an address");
    assert!(hash.len() == 32 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{hash}");
    assert!(sample["salt_id"].as_str().is_some_and(|salt| salt.contains(".L-")), "{sample}");

    an_address_would_have_been_found(directory.path());
}

/// The same search, once one address has been planted among a file's records, and one in a program's output.
fn an_address_would_have_been_found(directory: &Path) {
    let (store, output) = (directory.join("store"), directory.join("output"));
    let data =
        addresses::files(&store).unwrap().into_iter().find(|file| file.extension().is_some_and(|end| end == "gz"));
    let data = data.expect("the sink has written");
    let mut text = Vec::new();
    MultiGzDecoder::new(File::open(&data).unwrap()).read_to_end(&mut text).unwrap();
    let middle = text.len() / 2;
    text.splice(middle..middle, *b"2001:db8::17");
    let mut file = GzEncoder::new(File::create(&data).unwrap(), Compression::fast());
    file.write_all(&text).unwrap();
    file.finish().unwrap();
    let log = output.join("kafkalog-sink.log");
    fs::OpenOptions::new().append(true).open(&log).unwrap().write_all(b"198.51.100.20 did this\n").unwrap();

    // The sink's log may name the broker, which is not told here: only what was planted counts.
    let found = addresses::search(&[&store, &output], &[]).unwrap();
    let planted = |leak: &&addresses::Leak| !leak.excerpt.starts_with("127.0.0.1:");
    let leaks: Vec<_> = found.leaks.iter().filter(planted).collect();
    assert_eq!(leaks.len(), 2, "{leaks:?}");
    assert_eq!((&leaks[0].file, leaks[0].offset), (&data, middle));
    assert_eq!((&leaks[1].file, leaks[1].offset), (&log, fs::metadata(&log).unwrap().len() as usize - 23));
}

#[test]
fn an_unknown_key_is_shown_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kafkalog.toml");
    fs::write(&file, format!("{CONFIGURATION}topik = \"x\"\n")).unwrap();
    let output = kafkalog(&Programs::build().unwrap(), &["run", "--config", file.to_str().unwrap()]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&format!("{}:7:1: unknown field `topik`", file.display())), "{told}");
    assert!(told.contains("7 | topik = \"x\"\n") && told.contains("| ^^^^^"), "{told}");
}

#[test]
fn a_recording_that_was_cut_off_is_refused_at_its_byte() {
    let programs = Programs::build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let whole = directory.path().join("whole.vsl");
    record(&programs, directory.path(), &whole, 200);
    let configuration = directory.path().join("kafkalog.toml");
    fs::write(&configuration, CONFIGURATION).unwrap();
    let replay = |recording: &Path| {
        let arguments = ["replay", "-r", recording.to_str().unwrap(), "--stdout", "webrequest", "--config"];
        kafkalog(&programs, &[&arguments[..], &[configuration.to_str().unwrap()]].concat())
    };

    let output = replay(&whole);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), 200);

    // Two bytes short: the last record, which began some bytes before, has no end.
    let bytes = fs::read(&whole).unwrap();
    let cut = directory.path().join("cut.vsl");
    fs::write(&cut, &bytes[..bytes.len() - 2]).unwrap();
    let output = replay(&cut);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    let place = told.split("cut.vsl is damaged at byte ").nth(1).expect(&told);
    let byte: usize = place.split(':').next().unwrap().parse().expect(&told);
    assert!((bytes.len() - 64..bytes.len()).contains(&byte), "{byte} of {}: {told}", bytes.len());
}

/// Runs `kafkalog` with these arguments to its end.
fn kafkalog(programs: &Programs, arguments: &[&str]) -> Output {
    // It must end by itself; `timeout` sees to it that the test ends if it does not.
    Command::new("timeout").arg("60").arg(programs.kafkalog()).args(arguments).output().unwrap()
}

/// Records `requests` requests with varnishlog.
fn record(programs: &Programs, directory: &Path, recording: &Path, requests: u64) {
    let stop = AtomicBool::new(false);
    let backend = Backend::start().unwrap();
    let vcl = format!(
        "vcl 4.1;\nbackend origin {{ .host = \"127.0.0.1\"; .port = \"{}\"; }}\n\
         sub vcl_recv {{ if (req.url ~ \"^/hello\") {{ return (synth(200)); }} }}\n\
         sub vcl_backend_response {{ set beresp.do_esi = beresp.http.Surrogate-Control ~ \"ESI\"; }}\n\
         sub vcl_deliver {{ if (resp.status == 404 && req.url ~ \"^/old/\") {{\n\
         set req.url = regsub(req.url, \"^/old/\", \"/page/\"); return (restart); }} }}\n",
        backend.address().port()
    );
    let mut varnishd = Varnishd::start(programs, &vcl, directory, directory, &stop).unwrap();
    Load { address: varnishd.address(), first: 0, requests, seed: 3 }.run(&AtomicU64::new(0), &stop).unwrap();
    wait::until("varnishd to count the requests", Duration::from_secs(20), &stop, || {
        Ok(varnishd.counters()?.get("MAIN.client_req").is_some_and(|count| *count >= requests).then_some(()))
    })
    .unwrap();
    // All that is in the log, which has room for more.
    let output = Command::new("varnishlog")
        .arg("-n")
        .arg(varnishd.directory())
        .args(["-d", "-g", "raw", "-t", "10", "-w"])
        .arg(recording)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    varnishd.stop(Duration::from_secs(30)).unwrap();
}
