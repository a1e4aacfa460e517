//! What the program prints and writes, command by command: `tests/transcripts/*.txt`.
//!
//! `UPDATE_TRANSCRIPTS=1 cargo test -p luksmith-tests --test cli_transcripts` writes them anew; the
//! difference is then for a reviewer to read. In a transcript:
//!
//! | line | meaning |
//! |---|---|
//! | `# text` | a remark |
//! | `% words` | prepares files, see [`prepare`] |
//! | `$ luksmith …` | a command |
//! | `< text` | a line of its standard input |
//! | `text`, `2> text` | what it printed on standard output and standard error |
//! | `~ file`, `+ file`, `- file` | what it changed, made, removed in its folder |
//! | `? n` | its exit status |
//!
//! A command that fails and has no `~` line wrote nothing: files are compared as bytes.

use std::fs;
use std::path::Path;

use luksmith_tests::cli;

#[test]
fn every_transcript_is_what_the_program_does() {
    let folder = luksmith_tests::project().join("tests/transcripts");
    let update = std::env::var_os("UPDATE_TRANSCRIPTS").is_some();
    let mut wrong = Vec::new();
    let mut names: Vec<_> = fs::read_dir(&folder)
        .expect("the transcripts are there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    names.sort();
    assert!(names.len() >= 5, "transcripts are missing");
    for path in names {
        let expected = fs::read_to_string(&path).expect("a transcript");
        let actual = play(&expected);
        if actual == expected {
            continue;
        }
        if update {
            fs::write(&path, actual).expect("the transcript is written");
        } else {
            wrong.push(format!(
                "{}\n{}",
                path.display(),
                difference(&expected, &actual)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs all commands of a transcript and gives the transcript as it should be.
fn play(transcript: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let mut out = String::new();
    let mut lines = transcript.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            out.push_str(line);
            out.push('\n');
        } else if let Some(words) = line.strip_prefix("% ") {
            prepare(folder.path(), words);
            out.push_str(line);
            out.push('\n');
        } else if let Some(words) = line.strip_prefix("$ luksmith") {
            let mut input = String::new();
            out.push_str(line);
            out.push('\n');
            while let Some(text) = lines.next_if(|l| l.starts_with("< ")) {
                out.push_str(text);
                out.push('\n');
                input.push_str(&text[2..]);
                input.push('\n');
            }
            out.push_str(&step(folder.path(), &split(words), input.as_bytes()));
        }
        // All other lines are results of the last time.
    }
    out
}

fn step(folder: &Path, args: &[String], input: &[u8]) -> String {
    let before = cli::snapshot(folder);
    let ended = cli::luksmith(folder, args, input);
    let after = cli::snapshot(folder);
    let mut out = String::new();
    let name = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    for line in String::from_utf8_lossy(&ended.out).lines() {
        out.push_str(&scrub(line, folder));
        out.push('\n');
    }
    for line in ended.err.lines() {
        out.push_str(format!("2> {}", scrub(line, folder)).trim_end());
        out.push('\n');
    }
    for (path, content) in &after {
        match before.get(path) {
            None => out.push_str(&format!("+ {}\n", name(path))),
            Some(old) if old != content => out.push_str(&format!("~ {}\n", name(path))),
            Some(_) => {}
        }
    }
    for path in before.keys().filter(|path| !after.contains_key(*path)) {
        out.push_str(&format!("- {}\n", name(path)));
    }
    out.push_str(&format!("? {}\n", ended.code));
    out
}

/// Takes out what differs from run to run: salts and digests, the folder, and empty lines, which
/// would end a result.
fn scrub(line: &str, folder: &Path) -> String {
    let line = line.replace(&*folder.to_string_lossy(), "DIR");
    let words: Vec<&str> = line.split(' ').collect();
    let hex = |w: &&str| w.len() == 2 && w.bytes().all(|b| b.is_ascii_hexdigit());
    let line = if words.iter().filter(|w| hex(w)).count() >= 8 {
        let head: Vec<&str> = words.iter().copied().filter(|w| !hex(w)).collect();
        format!(
            "{}(random)",
            head.join(" ").trim_end_matches(' ').to_string() + " "
        )
    } else {
        line
    };
    if line.is_empty() {
        ".".to_string()
    } else {
        line
    }
}

/// `zeros NAME SIZE`, `text NAME WORDS…`, `volume NAME PASSPHRASE`, `copy FROM TO`,
/// `damage NAME OFFSET LEN`, `mark NAME OFFSET TEXT`, `cut NAME SIZE`, `mode NAME OCTAL`, `dir NAME`.
fn prepare(folder: &Path, words: &str) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let words = split(words);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let open = |name: &str| {
        fs::OpenOptions::new()
            .write(true)
            .open(folder.join(name))
            .expect("the file is there")
    };
    match words.as_slice() {
        ["zeros", name, size] => fs::File::create(folder.join(name))
            .and_then(|f| f.set_len(number(size)))
            .expect("a file"),
        ["text", name, rest @ ..] => {
            fs::write(folder.join(name), rest.join(" ")).expect("a file");
        }
        ["volume", name, passphrase] => cli::format_small(folder, name, passphrase),
        ["copy", from, to] => {
            fs::copy(folder.join(from), folder.join(to)).expect("a copy");
        }
        ["damage", name, offset, len] => {
            let bytes = vec![0x5a; number(len) as usize];
            open(name)
                .write_all_at(&bytes, number(offset))
                .expect("written");
        }
        ["mark", name, offset, text] => {
            let bytes = text.replace("\\xba\\xbe", "\u{1}");
            let bytes: Vec<u8> = bytes
                .bytes()
                .flat_map(|b| {
                    if b == 1 {
                        vec![0xba, 0xbe, 0, 1]
                    } else {
                        vec![b]
                    }
                })
                .collect();
            open(name)
                .write_all_at(&bytes, number(offset))
                .expect("written");
        }
        ["cut", name, size] => open(name).set_len(number(size)).expect("cut"),
        ["mode", name, octal] => {
            let mode = u32::from_str_radix(octal, 8).expect("a mode");
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).expect("mode");
        }
        ["dir", name] => fs::create_dir(folder.join(name)).expect("a folder"),
        other => panic!("no such preparation: {other:?}"),
    }
}

/// Splits at spaces, except inside single quotes.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The first lines that differ.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<_>, Vec<_>) =
        (expected.lines().collect(), actual.lines().collect());
    let at = expected
        .iter()
        .zip(&actual)
        .take_while(|(a, b)| a == b)
        .count();
    let show = |lines: &[&str]| {
        lines
            .iter()
            .skip(at.saturating_sub(3))
            .take(12)
            .copied()
            .collect::<Vec<_>>()
            .join("\n    ")
    };
    format!(
        "line {}\n  expected\n    {}\n  actual\n    {}",
        at + 1,
        show(&expected),
        show(&actual)
    )
}
