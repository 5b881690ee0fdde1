//! SASL with GSSAPI, from a real Kerberos realm.

use std::process::{Command, Output};

use kafkalog_tests::servers::{Kerberos, Options};

use super::{KAFKALOG, RECORDING, STOP, World, lines, text};

#[test]
fn tickets_are_taken_from_a_keytab() {
    let directory = tempfile::tempdir().unwrap();
    let realm = Kerberos::start(directory.path(), &STOP).unwrap();
    let (broker, broker_keytab) = realm.principal("kafka/127.0.0.1").unwrap();
    let (edge, edge_keytab) = realm.principal("edge").unwrap();
    let (stranger, _) = realm.principal("stranger").unwrap();
    let login = format!(
        "com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true keyTab=\"{}\" principal=\"{broker}\";",
        broker_keytab.display()
    );
    let properties = [
        ("listeners", "PLAINTEXT://LISTENER,SASL_PLAINTEXT://SECOND"),
        ("inter.broker.listener.name", "PLAINTEXT"),
        ("sasl.enabled.mechanisms", "GSSAPI"),
        ("sasl.kerberos.service.name", "kafka"),
        ("listener.name.sasl_plaintext.gssapi.sasl.jaas.config", &login),
    ];
    let options = Options {
        java: format!("-Djava.security.krb5.conf={}", realm.configuration().display()),
        ..World::options(&properties)
    };
    let Some(world) = World::build_with("3.9", 1, options, "tickets_are_taken_from_a_keytab") else { return };
    let configure = |principal: &str| {
        world.configure(&format!(
            "{}\n[kafka.properties]\n\"security.protocol\" = \"sasl_plaintext\"\n\"sasl.mechanism\" = \"GSSAPI\"\n\
             \"sasl.kerberos.service.name\" = \"kafka\"\n\"sasl.kerberos.principal\" = \"{principal}\"\n\
             \"sasl.kerberos.keytab\" = \"{}\"\n",
            world.by_zookeeper(),
            edge_keytab.display(),
        ))
    };
    let kafkalog = |command: &str, principal: &str, arguments: &[&str]| -> Output {
        let mut program = Command::new(&*KAFKALOG);
        program.env("KRB5_CONFIG", realm.configuration());
        program.env("KRB5CCNAME", directory.path().join(format!("tickets-of-{principal}")));
        program.args([command, "--config"]).arg(configure(principal)).args(arguments).output().unwrap()
    };

    let check = kafkalog("check", &edge, &[]);
    assert!(check.status.success(), "{}{}", text(&check.stdout), text(&check.stderr));
    let replay = kafkalog("replay", &edge, &["-r", &RECORDING.display().to_string()]);
    assert!(replay.status.success(), "{}", text(&replay.stderr));
    assert_eq!(world.messages().len(), lines(&world.configure(&world.by_list())));

    // The key is another's.
    let check = kafkalog("check", &stranger, &[]);
    let said = text(&[check.stdout, check.stderr].concat());
    assert!(!check.status.success() && said.contains("✗ Kafka: "), "{said}");
}
