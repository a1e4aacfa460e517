//! The virtual machines themselves: what the other suites build on, and that a failing
//! or hanging check is seen as one.

use luksmith_tests::vm::{Kernel, Vm};
use std::time::Duration;

luksmith_tests::vm_suite! { "lab":
    kernel_has_what_the_tests_need,
    dm_crypt_opens_what_cryptsetup_formats,
}

#[test]
fn status_and_output_of_a_script_come_back() {
    let output = Vm::new(Kernel::Stable).run("echo out; echo err >&2; exit 7");
    assert_eq!(
        (
            output.status,
            output.stdout.as_str(),
            output.stderr.as_str()
        ),
        (7, "out\n", "err\n")
    );
}

#[test]
fn script_that_hangs_ends_with_the_console_shown() {
    let output = Vm::new(Kernel::Stable)
        .timeout(Duration::from_secs(45))
        .run("echo before; echo from the kernel >/dev/kmsg; sleep 1000");
    assert_eq!(output.status, 124);
    assert_eq!(output.stdout, "before\n");
    assert!(output.stderr.contains("console"), "{}", output.stderr);
}
