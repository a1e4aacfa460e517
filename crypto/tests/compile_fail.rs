//! Wrong use of secrets and buffers does not compile.
//!
//! Each file of `tests/compile_fail` makes one mistake and names the compiler's error code in
//! its first line. Codes are compared, not messages, which change with every compiler; the
//! cases are compiled straight against the library that this test was built with, which takes
//! a second for all, where a build of their own would take minutes.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use luksmith_crypto::{
    Arena, Cipher, IoBuf, KeyHandover, Passphrase, Plain, SecretBytes, SectorCipher, VolumeKey,
};

/// The codes of the errors that the compiler reports for a file.
fn errors_of(case: &Path) -> Vec<String> {
    let deps = env::current_exe().expect("a path");
    let deps = deps.parent().expect("a folder");
    let out = tempfile::tempdir().expect("a folder");
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let run = Command::new(compiler)
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "--emit=metadata",
            "--error-format=short",
        ])
        .arg("--out-dir")
        .arg(out.path())
        .arg("-L")
        .arg(format!("dependency={}", deps.display()))
        .arg("--extern")
        .arg(format!(
            "luksmith_crypto={}",
            newest_library(deps).display()
        ))
        .arg(case)
        .output()
        .expect("the compiler runs");
    let report = String::from_utf8_lossy(&run.stderr);
    let codes: Vec<String> = report
        .lines()
        .filter_map(|line| Some(line.split_once("error[")?.1.split_once(']')?.0.to_owned()))
        .collect();
    assert!(
        run.status.success() == codes.is_empty(),
        "{}: the compiler failed otherwise:\n{report}",
        case.display()
    );
    codes
}

/// The library that was built last, which is the one that this test was built with.
fn newest_library(deps: &Path) -> PathBuf {
    let built = |path: &PathBuf| {
        fs::metadata(path)
            .and_then(|data| data.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    fs::read_dir(deps)
        .expect("the folder of the test")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            name.starts_with("libluksmith_crypto-") && name.ends_with(".rlib")
        })
        .max_by_key(built)
        .expect("the library was built for this test")
}

fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    fs::read_dir(folder)
        .expect("the folder of the cases")
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

#[test]
fn right_use_of_keys_and_buffers_compiles() {
    // Without this, the others could fail for a reason of their own.
    for case in cases("compile_pass") {
        assert_eq!(errors_of(&case), [""; 0], "{}", case.display());
    }
}

#[test]
fn each_wrong_use_of_keys_and_buffers_is_the_error_it_names() {
    let cases = cases("compile_fail");
    assert!(cases.len() >= 12, "only {} cases were found", cases.len());
    for case in cases {
        let source = fs::read_to_string(&case).expect("a case");
        let expected = source
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("//~ "))
            .expect("the first line names the error");
        assert_eq!(errors_of(&case), [expected], "{}", case.display());
    }
}

/// Does not compile if the type has one of the traits: the call is ambiguous then.
macro_rules! lacks {
    ($type:ty: $($trait:path),+) => {{
        trait Ambiguous<Marker> {
            fn call() {}
        }
        impl<T: ?Sized> Ambiguous<()> for T {}
        $({
            struct HasTheTrait;
            impl<T: ?Sized + $trait> Ambiguous<HasTheTrait> for T {}
        })+
        <$type as Ambiguous<_>>::call();
    }};
}

#[test]
fn no_secret_can_be_printed_copied_compared_stored_or_made_from_nothing() {
    macro_rules! each_lacks_all {
        ($($type:ty),+) => {$(
            lacks!($type: std::fmt::Debug, std::fmt::Display, Clone, PartialEq, PartialOrd,
                std::hash::Hash, Default, AsRef<[u8]>, std::ops::Deref, serde::Serialize);
        )+};
    }
    each_lacks_all!(
        SecretBytes,
        Passphrase,
        VolumeKey,
        KeyHandover,
        SectorCipher,
        Arena,
        IoBuf<Plain>,
        IoBuf<Cipher>
    );
}
