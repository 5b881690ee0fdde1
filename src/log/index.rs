//! The index of a VSM directory: which file holds varnishd's log.
//!
//! The first line names the writer, `# <pid> <birth>`; every other one adds or takes away a segment,
//! `+ <file> <offset> <length> <class> <id>` and the same with `-`. Source: varnishd's `common/common_vsmw.c`.

/// Where the log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Who writes it: varnishd's child, by pid and time of birth.
    pub(super) writer: String,
    /// The file in the same directory.
    pub(super) file: String,
    /// Where in the file, in bytes.
    pub(super) offset: usize,
    /// Bytes.
    pub(super) length: usize,
}

/// The segment of class `Log` that the index has at its end. `None` while there is none, or the index is half written. A last
/// line without its end is still being written, and not looked at.
pub(super) fn find_log(index: &str) -> Option<Entry> {
    let mut lines = index.split_inclusive('\n');
    let writer = lines.next()?.strip_prefix("# ")?.strip_suffix('\n')?;
    let mut found = None;
    for line in lines.filter_map(|line| line.strip_suffix('\n')) {
        let mut words = line.split(' ');
        let (Some(action), Some(file), Some(offset), Some(length), Some("Log")) =
            (words.next(), words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (Ok(offset), Ok(length)) = (offset.parse(), length.parse()) else { continue };
        // A file name of its own directory, whatever the index says.
        if file.contains('/') || matches!(file, "" | "." | "..") {
            continue;
        }
        match action {
            "+" => found = Some(Entry { writer: writer.to_owned(), file: file.to_owned(), offset, length }),
            "-" if found.as_ref().is_some_and(|entry| entry.file == file) => found = None,
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const INDEX: &str = "# 123 1700000000\n+ _.Stat.0 16 100 Stat MAIN\n+ _.Log.1f 0 84934656 Log Log\n";

    #[test]
    fn the_log_is_found_and_lost() {
        let entry = find_log(INDEX).unwrap();
        assert_eq!((entry.writer.as_str(), entry.file.as_str()), ("123 1700000000", "_.Log.1f"));
        assert_eq!((entry.offset, entry.length), (0, 84_934_656));
        assert_eq!(find_log(&format!("{INDEX}- _.Log.1f 0 84934656 Log Log\n")), None);
        assert_eq!(find_log(&INDEX[..INDEX.len() - 1]), None, "half a line");
        assert_eq!(find_log("# 1 2\n+ ../../etc/passwd 0 9 Log Log\n"), None);
        assert_eq!(find_log(""), None);
    }

    proptest! {
        #[test]
        fn any_text_is_an_index(text: String) {
            let _ = find_log(&text);
            let _ = find_log(&format!("{INDEX}{text}"));
        }
    }
}
