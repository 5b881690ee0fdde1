//! The tags of the installed Varnish: `VSL_tag_e` and the flags of `tbl/vsl_tags.h`, as of the build.

/// The tags' numbers by name.
pub mod number {
    include!(concat!(env!("OUT_DIR"), "/tags.rs"));
}

/// A tag that is in the header but no longer written by varnishd (`SLT_F_UNUSED`).
pub const FLAG_UNUSED: u8 = 1 << 0;
/// A tag whose payload may hold control characters (`SLT_F_UNSAFE`).
pub const FLAG_UNSAFE: u8 = 1 << 1;
/// A tag whose payload is binary, not a NUL-terminated string (`SLT_F_BINARY`).
pub const FLAG_BINARY: u8 = 1 << 2;

/// One row of the header's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagRow {
    /// The tag's number in a record's header.
    pub number: u8,
    /// The name as varnishlog prints it.
    pub name: &'static str,
    /// A combination of the `FLAG_` constants.
    pub flags: u8,
}

/// Every tag of the header, in the order of their numbers, `_Reserved` and `_Batch` last.
pub fn all() -> impl Iterator<Item = TagRow> {
    number::TAGS.iter().map(|&(number, name, flags)| TagRow { number, name, flags })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_headers() {
        assert_eq!(all().find(|tag| tag.name == "Debug").map(|tag| (tag.number, tag.flags)), Some((1, FLAG_UNSAFE)));
        assert_eq!(number::REQ_URL, all().find(|tag| tag.name == "ReqURL").expect("in every Varnish").number);
        assert_eq!(all().last().map(|tag| (tag.number, tag.name)), Some((255, "_Batch")));
        assert!(all().any(|tag| tag.name == "H2RxBody" && tag.flags == FLAG_BINARY));
    }
}
