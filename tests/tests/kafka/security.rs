//! TLS with certificates of both sides, and SASL.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use kafkalog_tests::certificates;
use kafkalog_tests::programs::Programs;
use kafkalog_tests::varnishd::Varnishd;

use super::{RECORDING, STOP, World, kafkalog, lines, text};

const USER: &str = "edge";
const PASSWORD: &str = "not-to-be-shown-7391";

#[test]
fn tls_and_sasl_are_spoken_and_insisted_on() {
    let directory = tempfile::tempdir().unwrap();
    certificates::make(directory.path()).unwrap();
    fs::write(directory.path().join("password"), format!("{PASSWORD}\n")).unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let (keys, authority) = (at("server.pem"), at("authority.pem"));
    let plain = format!("org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";");
    let properties = [
        ("listeners", "PLAINTEXT://LISTENER,SASL_SSL://SECOND"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        ("sasl.enabled.mechanisms", "SCRAM-SHA-512,PLAIN"),
        ("ssl.keystore.type", "PEM"),
        ("ssl.keystore.location", &keys),
        ("ssl.truststore.type", "PEM"),
        ("ssl.truststore.location", &authority),
        ("ssl.client.auth", "required"),
        (
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        ),
        ("listener.name.sasl_ssl.plain.sasl.jaas.config", &plain),
    ];
    let Some(world) = World::build("3.9", 1, &properties, "tls_and_sasl_are_spoken_and_insisted_on") else { return };
    let credentials = format!("SCRAM-SHA-512=[password={PASSWORD}]");
    let user = ["--alter", "--add-config", &credentials, "--entity-type", "users", "--entity-name", USER];
    world.cluster.run("kafka.admin.ConfigCommand", &user).unwrap();

    let configure = |mechanism: &str, authority: &str, password: &str| {
        world.configure(&format!(
            "{}\n[kafka.properties]\n\"security.protocol\" = \"sasl_ssl\"\n\"sasl.mechanism\" = \"{mechanism}\"\n\
             \"sasl.username\" = \"{USER}\"\n\"sasl.password\" = {password}\n\"ssl.ca.location\" = \"{authority}\"\n\
             \"ssl.certificate.location\" = \"{}\"\n\"ssl.key.location\" = \"{}\"\n",
            world.by_zookeeper(),
            at("client.crt"),
            at("client.key"),
        ))
    };
    let from_file = format!("{{ file = \"{}\" }}", at("password"));
    for mechanism in ["SCRAM-SHA-512", "PLAIN"] {
        let configuration = configure(mechanism, &authority, &from_file);
        let check = kafkalog("check", &configuration, &[]);
        assert!(check.status.success(), "{mechanism}: {}{}", text(&check.stdout), text(&check.stderr));
        assert!(!text(&check.stdout).contains(&world.cluster.bootstrap()), "it is the other listener that is taken");
        let replay = kafkalog("replay", &configuration, &["-r", &RECORDING.display().to_string()]);
        assert!(replay.status.success(), "{mechanism}: {}", text(&replay.stderr));
        assert!(!text(&[replay.stdout, replay.stderr].concat()).contains(PASSWORD));
    }
    let before = world.messages().len();
    assert_eq!(before, 2 * lines(&world.configure(&world.by_list())));

    let programs = Programs::build().unwrap();
    let configuration = configure("SCRAM-SHA-512", &authority, &from_file);
    let vcl = format!(
        "vcl 4.1; import kafkalog; backend none none;\nsub vcl_init {{ kafkalog.start(\"{}\"); }}\n\
         sub vcl_recv {{ return (synth(200)); }}\n",
        configuration.display()
    );
    let work = world.work.path();
    let mut varnishd = Varnishd::start(&programs, &vcl, work, work, &STOP).unwrap();
    let requests = "GET / HTTP/1.1\r\nHost: h\r\n\r\n".repeat(500);
    let mut stream = TcpStream::connect(varnishd.address()).unwrap();
    stream.write_all(requests.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    // The last lines are sent while the child is about to end.
    varnishd.stop(Duration::from_secs(30)).unwrap();
    assert_eq!(world.messages().len(), before + 500);
    let said = fs::read_to_string(work.join("varnishd.log")).unwrap();
    assert!(!said.contains("died") && !said.contains("Panic") && !said.contains(PASSWORD), "{said}");

    for (mechanism, authority, password, why) in [
        ("SCRAM-SHA-512", authority.as_str(), "\"wrong-4711\"", "uthentication"),
        ("PLAIN", authority.as_str(), "\"wrong-4711\"", "uthentication"),
        ("PLAIN", "/etc/ssl/certs/ca-certificates.crt", from_file.as_str(), "certificate"),
    ] {
        let check = kafkalog("check", &configure(mechanism, authority, password), &[]);
        let said = text(&[check.stdout, check.stderr].concat());
        assert!(!check.status.success() && said.contains("✗ Kafka: ") && said.contains(why), "{mechanism}: {said}");
        assert!(!said.contains(PASSWORD) && !said.contains("wrong-4711"), "{said}");
    }
}
