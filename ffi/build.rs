//! Reads the installed Varnish headers: the tag table with its flags, the record layout, and the types of libvarnishapi's
//! cursor interface. Nothing is linked: libvarnishapi is opened at run time, and only where it is asked for.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::{env, fs};

use bindgen::callbacks::{EnumVariantValue, ParseCallbacks};

/// What the headers say, by enumeration and variant.
#[derive(Debug, Default, Clone)]
struct Variants(Arc<Mutex<BTreeMap<String, i64>>>);

impl ParseCallbacks for Variants {
    fn enum_variant_name(&self, _enumeration: Option<&str>, variant: &str, value: EnumVariantValue) -> Option<String> {
        let value = match value {
            EnumVariantValue::Signed(value) => value,
            EnumVariantValue::Unsigned(value) => value as i64,
            EnumVariantValue::Boolean(value) => i64::from(value),
        };
        self.0.lock().expect("bindgen runs on one thread").insert(variant.to_owned(), value);
        None
    }
}

fn main() {
    println!("cargo::rerun-if-changed=wrapper.h");
    let varnish = pkg_config::Config::new().cargo_metadata(false).probe("varnishapi").unwrap_or_else(|error| {
        panic!("the headers of Varnish are needed (Debian: apt-get install libvarnishapi-dev): {error}")
    });
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));

    let variants = Variants::default();
    bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(varnish.include_paths.iter().map(|path| format!("-I{}", path.display())))
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .parse_callbacks(Box::new(variants.clone()))
        .allowlist_function("VSL_(New|Delete|Error|CursorVSM|CursorFile|DeleteCursor|Next|Check)")
        .allowlist_function("VSM_(New|Arg|Attach|Destroy|Error|Status)")
        .allowlist_type("kafkalog_.*|VSL_tag_e|vsl_status|vsl_check")
        .allowlist_var("VSL_COPT_.*|VSL_tags|VSM_WRK_.*")
        .dynamic_library_name("VarnishApi")
        .dynamic_link_require_all(true)
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate()
        .expect("bindgen understands Varnish's headers")
        .write_to_file(out.join("bindings.rs"))
        .expect("OUT_DIR is writable");

    let variants = variants.0.lock().expect("bindgen is done");
    fs::write(out.join("tags.rs"), tag_table(&variants)).expect("OUT_DIR is writable");
    println!("cargo::metadata=version={}", varnish.version);
    println!("cargo::rustc-env=KAFKALOG_VARNISH_VERSION={}", varnish.version);
}

/// Rust source of the tag constants and of the table `TAGS` (number, name, flags), in the order of their numbers.
fn tag_table(variants: &BTreeMap<String, i64>) -> String {
    let mut tags: Vec<(i64, &str, i64)> = variants
        .iter()
        .filter_map(|(variant, number)| Some((*number, variant.strip_prefix("SLT_")?)))
        .filter(|(number, name)| (1..=255).contains(number) && !name.starts_with("F_") && *name != "_MAX")
        .map(|(number, name)| {
            let flags = variants.get(&format!("KAFKALOG_FLAGS_{name}")).copied().unwrap_or(0);
            (number, name, flags)
        })
        .collect();
    tags.sort_unstable();

    let mut source = String::new();
    for (number, name, _) in &tags {
        let name = name.trim_start_matches('_');
        writeln!(source, "/// The tag `{name}` of the installed Varnish.").expect("a string takes it");
        writeln!(source, "pub const {}: u8 = {number};", screaming(name)).expect("a string takes it");
    }
    writeln!(source, "pub(crate) static TAGS: &[(u8, &str, u8)] = &{tags:?};").expect("a string takes it");
    writeln!(source, "pub(crate) const HEADER_WORDS: usize = {};", variants["KAFKALOG_HEADER_WORDS"])
        .expect("a string takes it");
    writeln!(source, "pub(crate) const SEGMENTS: usize = {};", variants["KAFKALOG_SEGMENTS"])
        .expect("a string takes it");
    source
}

/// `ReqURL` → `REQ_URL`, `VCL_Log` → `VCL_LOG`, `ESI_xmlerror` → `ESI_XMLERROR`, `H2RxHdr` → `H2_RX_HDR`.
fn screaming(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut out = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| bytes[before]);
        let after = bytes.get(index + 1);
        let starts_word = byte.is_ascii_uppercase()
            && before.is_some_and(|before| {
                before.is_ascii_lowercase()
                    || before.is_ascii_digit()
                    || (before.is_ascii_uppercase() && after.is_some_and(u8::is_ascii_lowercase))
            });
        if starts_word {
            out.push('_');
        }
        out.push(byte.to_ascii_uppercase() as char);
    }
    out
}
