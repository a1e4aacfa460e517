//! The MAC over the header and its epoch, by the program itself: on plain files, with cryptsetup beside it and, for the
//! epoch, with an emulated TPM.

mod bench;
mod changes;
mod epoch;
#[path = "../../../tpm/tests/support/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod support;
