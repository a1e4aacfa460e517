//! The architecture, checked: who may know whom, where unsafe code may stand, who prints,
//! what a secret type may not do, and what may not stand in a file.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use luksmith_tests::project;

/// Edges that must not be, however long the way.
const NEVER: &[(&str, &[&str], &str)] = &[
    (
        "luksmith-crypto",
        &[
            "luksmith-luks2",
            "luksmith-keyslot",
            "luksmith-tpm",
            "luksmith-volume",
            "luksmith-data-path",
            "luksmith-ublk-target",
            "luksmith-nbd-export",
            "serde",
            "serde_json",
        ],
        "crypto is the smallest thing to audit and can print nothing",
    ),
    (
        "luksmith-luks2",
        &[
            "luksmith-crypto",
            "luksmith-volume",
            "luksmith-keyslot",
            "luksmith-tpm",
            "io-uring",
            "nix",
        ],
        "the format never holds a secret and does no I/O, so it may be printed and fuzzed",
    ),
    (
        "luksmith-keyslot",
        &[
            "luksmith-tpm",
            "luksmith-volume",
            "luksmith-data-path",
            "libublk",
            "io-uring",
        ],
        "keyslot plans changes and does no I/O",
    ),
    (
        "luksmith-tpm",
        &["luksmith-volume", "luksmith-data-path", "libublk"],
        "a TPM gives a secret and knows no device",
    ),
    (
        "luksmith-volume",
        &[
            "luksmith-keyslot",
            "luksmith-tpm",
            "luksmith-data-path",
            "libublk",
            "io-uring",
        ],
        "everything crash-critical runs in a simulator",
    ),
    (
        "luksmith-data-path",
        &[
            "luksmith-keyslot",
            "luksmith-tpm",
            "luksmith-ublk-target",
            "luksmith-nbd-export",
            "libublk",
        ],
        "the request path knows no front end",
    ),
    (
        "luksmith-ublk-target",
        &["luksmith-keyslot", "luksmith-tpm", "luksmith-nbd-export"],
        "the server never sees a passphrase",
    ),
    (
        "luksmith-nbd-export",
        &[
            "luksmith-keyslot",
            "luksmith-tpm",
            "luksmith-ublk-target",
            "libublk",
        ],
        "a front end beside the other",
    ),
];

/// Edges that must not be in a crate's own manifest (the way through `volume` is its way).
const NOT_DIRECTLY: &[(&str, &[&str])] = &[
    ("luksmith-data-path", &["luksmith-luks2"]),
    ("luksmith-ublk-target", &["luksmith-luks2"]),
    ("luksmith-nbd-export", &["luksmith-luks2"]),
];

/// The only files with unsafe code, each beginning with its reason.
const UNSAFE_FILES: &[&str] = &[
    "crypto/src/buf.rs",
    "crypto/src/lock.rs",
    "crypto/tests/process.rs",
    "data-path/src/alloc_guard.rs",
    "data-path/src/process.rs",
    "data-path/src/uring.rs",
    "ublk-target/src/control_ring.rs",
    "ublk-target/src/keeper.rs",
    "ublk-target/src/sys.rs",
];

/// Types that hold keys or plaintext.
const SECRET_TYPES: &[&str] = &[
    "SecretBytes",
    "Passphrase",
    "VolumeKey",
    "KeyHandover",
    "SectorCipher",
    "IoBuf",
    "Arena",
    "Unlocked",
    "AuthValue",
    "Enrolled",
    "Proof",
    "MacKey",
    "SharedSecret",
    "ParameterKey",
];

const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

const MAX_LINES: usize = 800;

// --- the graph -----------------------------------------------------------------------

struct Graph {
    /// Name of each package by id.
    names: BTreeMap<String, String>,
    /// Normal and build dependencies, by id.
    edges: BTreeMap<String, Vec<String>>,
    metadata: Value,
}

fn graph() -> Graph {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--all-features",
            "--locked",
        ])
        .current_dir(project())
        .output()
        .expect("cargo metadata starts");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let mut names = BTreeMap::new();
    for package in list(&metadata["packages"]) {
        names.insert(text(&package["id"]), text(&package["name"]));
    }
    let mut edges = BTreeMap::new();
    for node in list(&metadata["resolve"]["nodes"]) {
        let to = list(&node["deps"])
            .iter()
            .filter(|dep| {
                list(&dep["dep_kinds"])
                    .iter()
                    .any(|kind| kind["kind"] != "dev")
            })
            .map(|dep| text(&dep["pkg"]))
            .collect();
        edges.insert(text(&node["id"]), to);
    }
    Graph {
        names,
        edges,
        metadata,
    }
}

impl Graph {
    fn id(&self, name: &str) -> &str {
        self.names
            .iter()
            .find(|(_, known)| *known == name)
            .unwrap_or_else(|| panic!("no package {name}"))
            .0
    }

    /// Everything that `name` is built from.
    fn reach(&self, name: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![self.id(name)];
        while let Some(id) = todo.pop() {
            for next in &self.edges[id] {
                if seen.insert(self.names[next].as_str()) {
                    todo.push(next);
                }
            }
        }
        seen
    }

    fn members(&self) -> Vec<&str> {
        list(&self.metadata["workspace_members"])
            .iter()
            .map(|id| self.names[id.as_str().expect("an id")].as_str())
            .collect()
    }
}

#[test]
fn forbidden_edges_do_not_exist() {
    let graph = graph();
    for (from, never, because) in NEVER {
        let reach = graph.reach(from);
        for to in *never {
            assert!(!reach.contains(to), "{from} reaches {to}, but {because}");
        }
    }
    for (from, never) in NOT_DIRECTLY {
        let direct: Vec<&str> = graph.edges[graph.id(from)]
            .iter()
            .map(|id| graph.names[id].as_str())
            .collect();
        for to in *never {
            assert!(!direct.contains(to), "{from} depends on {to}");
        }
    }
}

#[test]
fn only_the_program_knows_clap_and_only_one_crate_knows_the_driver() {
    let graph = graph();
    for member in graph.members() {
        let reach = graph.reach(member);
        assert!(
            !reach.contains("clap") || member == "luksmith",
            "{member} reaches clap"
        );
        assert!(
            !reach.contains("libublk") || ["luksmith", "luksmith-ublk-target"].contains(&member),
            "{member} reaches libublk"
        );
        for judge in ["openssl", "xts-mode", "proptest"] {
            assert!(
                !reach.contains(judge),
                "{member} is built from {judge}, which is for tests"
            );
        }
    }
}

#[test]
fn every_licence_is_a_permissive_one() {
    let graph = graph();
    for package in list(&graph.metadata["packages"]) {
        let name = text(&package["name"]);
        let licence = package["license"].as_str().unwrap_or("none");
        let permitted = licence.split(" AND ").all(|part| {
            part.trim_matches(['(', ')', ' '])
                .replace('/', " OR ")
                .split(" OR ")
                .any(|one| LICENCES.contains(&one.trim_matches(['(', ')', ' '])))
        });
        // MPL-2.0 binds changes to its own files only, and we change none; libublk needs it.
        let excepted = name == "bitmaps" && licence == "MPL-2.0+";
        assert!(permitted || excepted, "{name}: {licence}");
    }
}

#[test]
fn every_crate_has_the_lints_of_the_workspace() {
    for (path, source) in sources("toml") {
        let text = source.as_str();
        if path.ends_with("Cargo.toml")
            && text.contains("[package]")
            && !path.components().any(|part| part.as_os_str() == "fuzz")
        {
            assert!(
                text.contains("[lints]\nworkspace = true"),
                "{} has lints of its own",
                path.display()
            );
        }
    }
}

#[test]
fn every_dependency_has_its_reason_in_contributing() {
    let manifest = fs::read_to_string(project().join("Cargo.toml")).expect("the manifest");
    let notes = fs::read_to_string(project().join("CONTRIBUTING.md")).expect("CONTRIBUTING.md");
    let reasons: BTreeSet<&str> = notes
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
            let name = cells.next()?.trim_matches('`');
            (cells.next()?.len() > 10).then_some(name)
        })
        .collect();
    let section = manifest
        .split_once("[workspace.dependencies]")
        .expect("the dependencies")
        .1;
    let section = section.split("\n[").next().expect("a section");
    let mut named = BTreeSet::new();
    for line in section.lines() {
        let Some((name, _)) = line.split_once('=') else {
            continue;
        };
        let name = name.trim();
        if name.starts_with('#') || name.starts_with("luksmith-") {
            continue;
        }
        named.insert(name);
    }
    let without: Vec<_> = named.difference(&reasons).collect();
    assert!(
        without.is_empty(),
        "no row `| crate | reason |` for {without:?}"
    );
}

// --- the sources ---------------------------------------------------------------------

#[test]
fn unsafe_code_stands_only_in_the_listed_files_with_its_reasons() {
    for (path, source) in sources("rs") {
        let name = path.to_str().expect("a UTF-8 path");
        let lines: Vec<&str> = source.lines().collect();
        let mut any = false;
        for (at, line) in lines.iter().enumerate() {
            let code = code_of(line);
            if !has_word(code, "unsafe") || code.contains("unsafe_code") {
                continue;
            }
            any = true;
            // A declaration states its contract as `# Safety`, a use as `// SAFETY:`.
            let word = if code.contains("unsafe fn") || code.contains("unsafe trait") {
                "# Safety"
            } else {
                "SAFETY:"
            };
            let mut above = lines[..at].iter().rev().take(15);
            let reasoned = line.contains(word)
                || above.any(|line| line.contains(word))
                || code.contains("unsafe extern");
            assert!(reasoned, "{name}:{}: no `{word}` above", at + 1);
        }
        if any {
            assert!(
                UNSAFE_FILES.contains(&name) || name.ends_with("/tests/alloc.rs"),
                "{name} has unsafe code and is not on the list"
            );
            assert!(
                lines
                    .iter()
                    .take(40)
                    .any(|line| line.starts_with("// UNSAFETY:")),
                "{name} does not say at its top why it needs unsafe code"
            );
        }
    }
}

#[test]
fn libraries_do_not_print() {
    for (path, source) in sources("rs") {
        let top = path.iter().next().expect("a folder");
        if top == "cli" || top == "tests" || !path.iter().any(|part| part == "src") {
            continue;
        }
        for (at, line) in product(&source).lines().enumerate() {
            let code = code_of(line);
            for printer in ["println!", "eprintln!", "print!(", "eprint!("] {
                assert!(
                    !code.contains(printer),
                    "{}:{}: {printer}",
                    path.display(),
                    at + 1
                );
            }
        }
    }
}

#[test]
fn commit_paths_write_no_file_without_a_flush() {
    for (path, source) in sources("rs") {
        if path.starts_with("volume/src") {
            let found = product(&source).contains("fs::write(");
            assert!(!found, "{}: fs::write does not flush", path.display());
        }
    }
}

#[test]
fn types_with_secrets_can_neither_be_printed_nor_copied_nor_stored() {
    for (path, source) in sources("rs") {
        let lines: Vec<&str> = source.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            for secret in SECRET_TYPES {
                let place = || format!("{}:{}", path.display(), at + 1);
                if code_of(line).contains("struct ") && has_word(code_of(line), secret) {
                    let derives: String = lines[..at]
                        .iter()
                        .rev()
                        .take_while(|line| {
                            line.starts_with("#[") || line.trim_start().starts_with("//")
                        })
                        .filter(|line| line.starts_with("#[derive"))
                        .copied()
                        .collect();
                    assert!(derives.is_empty(), "{}: {secret} has {derives}", place());
                }
                for ability in ["Debug", "Display", "Clone", "Serialize", "Deserialize"] {
                    let code = code_of(line);
                    if let Some((before, after)) = code.split_once(" for ") {
                        assert!(
                            !(before.starts_with("impl")
                                && has_word(before, ability)
                                && has_word(after, secret)),
                            "{}: {ability} for {secret}",
                            place()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    for (path, source) in sources("rs") {
        let count = source.lines().count();
        assert!(count <= MAX_LINES, "{}: {count} lines", path.display());
    }
}

#[test]
fn no_file_names_a_package_mirror_or_a_place_of_one_machine() {
    // In two parts each, so that this file does not name them.
    let never = [
        concat!("deb.", "debian.org"),
        concat!("archive.", "ubuntu.com"),
        concat!("snapshot.", "debian.org"),
        concat!("index.", "crates.io"),
        concat!("static.", "crates.io"),
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/tmp/", "wt-"),
    ];
    for (path, source) in sources("") {
        // The lock file names the registry by its public index; .git is a file in a worktree.
        if path.ends_with("Cargo.lock") || path.ends_with(".git") {
            continue;
        }
        for (at, line) in source.lines().enumerate() {
            for word in never {
                assert!(
                    !line.contains(word),
                    "{}:{}: {word}",
                    path.display(),
                    at + 1
                );
            }
        }
    }
}

// --- helpers -------------------------------------------------------------------------

/// Text files of the tree with this ending ("" for all), by path from its top.
fn sources(ending: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    walk(&project(), &mut |path| {
        if (ending.is_empty() || path.extension().is_some_and(|end| end == ending))
            && let Ok(text) = fs::read_to_string(path)
        {
            let path = path.strip_prefix(project()).expect("below the project");
            found.push((path.to_path_buf(), text));
        }
    });
    assert!(!found.is_empty());
    found.sort_unstable();
    found
}

fn walk(folder: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(folder).expect("a folder of the project") {
        let entry = entry.expect("an entry");
        let path = entry.path();
        let name = entry.file_name();
        let kind = entry.file_type().expect("a file type");
        let generated = ["target", ".git", "cache", "corpus", "artifacts"];
        if kind.is_dir() && !generated.iter().any(|skip| name == *skip) {
            walk(&path, visit);
        } else if kind.is_file() {
            visit(&path);
        }
    }
}

/// The line without its comment and without what stands in quotes.
fn code_of(line: &str) -> &str {
    let line = line.trim();
    let end = line.find("//").unwrap_or(line.len());
    let end = end.min(line.find('"').unwrap_or(line.len()));
    &line[..end]
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
        .any(|part| part == word)
}

/// What is in the product, each line at its place: without items that are marked `#[cfg(test)]`, and
/// without a whole file that is marked `#![cfg(test)]`.
///
/// The sources are formatted, so an item ends with the first line that is indented like its mark and
/// ends with `}`, `;` or `,`. A line of a text that looks like one shows too much, never too little.
fn product(source: &str) -> String {
    let mut product = String::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        let indent = indent_of(line);
        match line.trim() {
            "#![cfg(test)]" => break,
            "#[cfg(test)]" => {
                product.push('\n');
                for line in lines.by_ref() {
                    product.push('\n');
                    let code = line.split("//").next().expect("a first part").trim_end();
                    if indent_of(line) == indent && code.ends_with(['}', ';', ',']) {
                        break;
                    }
                }
            }
            _ => {
                product.push_str(line);
                product.push('\n');
            }
        }
    }
    product
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

#[test]
fn code_around_tests_is_looked_at_and_tests_are_not() {
    let source = "\
use std::fs;
#[cfg(test)]
use std::io::{
    a_test_uses_it,
};
#[cfg(test)]
#[path = \"elsewhere.rs\"]
mod tests_elsewhere; // a remark
fn one() {}
#[cfg(test)]
mod tests {
    fn inside() {
        inside();
    }
}
fn two() {
    #[cfg(test)]
    inside();
    three();
}
#[cfg(test)]
pub(super) fn inside(
    of: u8,
) -> bool {
    true
}
fn four() {}
";
    let product = product(source);
    assert_eq!(product.lines().count(), source.lines().count());
    for seen in [
        "use std::fs",
        "fn one()",
        "fn two()",
        "three();",
        "fn four()",
    ] {
        assert!(product.contains(seen), "{seen} is hidden:\n{product}");
    }
    for hidden in ["inside", "elsewhere", "a_test_uses_it", "true"] {
        assert!(!product.contains(hidden), "{hidden} is shown:\n{product}");
    }
    assert_eq!(
        self::product("//! x\n#![cfg(test)]\nfn a() {}\n"),
        "//! x\n"
    );
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}
