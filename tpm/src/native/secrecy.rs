//! What somebody on the bus sees: no secret, in any command. And the proof that these tests would
//! see one: the same again without parameter encryption, a switch that only tests have.

use super::Native;
use super::support::{Swtpm, auth, secret};
use crate::hash::HashAlg;
use crate::pcr::PcrSelection;
use crate::policy::{Assertion, Policy};
use crate::tpm::{Lock, NvAuth, Tpm};
use crate::transport::{Recorder, Recording, Stream};
use crate::wire::{NvAttributes, NvPublic};

const SECRET: &[u8] = b"a secret that nobody on the bus!";
const PIN: &[u8] = b"the value of the PIN";
const CONTENTS: &[u8] = b"contents of an index";
const INDEX: u32 = 0x0180_0001;

/// A client whose bus is recorded.
fn recorded(swtpm: &Swtpm, in_the_clear: bool) -> (Native<Recorder<Stream>>, Recording) {
    let (recorder, recording) = Recorder::new(swtpm.connect());
    let mut native = Native::over(recorder);
    native.in_the_clear = in_the_clear;
    (native, recording)
}

/// Everything that has a secret in it, once.
fn use_secrets(tpm: &mut dyn Tpm) {
    let root = tpm.storage_root().unwrap();
    let selection = PcrSelection::new(HashAlg::Sha256, &[7]).unwrap();
    let values = Some(tpm.read_pcrs(&selection).unwrap().digest());
    let policy = Policy::new(vec![
        Assertion::Pcrs { selection, values },
        Assertion::AuthValue,
    ]);
    let pin = auth(PIN);
    let lock = Lock {
        policy: policy.digest().unwrap(),
        auth: Some(&pin),
        counts_tries: true,
    };
    let sealed = tpm.seal(&root, &secret(SECRET), &lock).unwrap();
    let back = tpm.unseal(&root, &sealed, &policy, Some(&pin)).unwrap();
    assert_eq!(back.expose(), SECRET);

    let public = NvPublic {
        index: INDEX,
        attributes: NvAttributes::AUTH_READ.with(NvAttributes::AUTH_WRITE),
        policy: Vec::new(),
        size_bytes: u16::try_from(CONTENTS.len()).unwrap(),
    };
    let by = NvAuth::Index(Some(&pin));
    tpm.nv_define(&public, Some(&pin)).unwrap();
    tpm.nv_write(INDEX, &by, &secret(CONTENTS)).unwrap();
    let back = tpm.nv_read(INDEX, &by).unwrap();
    assert_eq!(back.expose(), CONTENTS);
}

#[test]
fn the_bus_shows_no_secret() {
    let swtpm = Swtpm::new();
    let (mut tpm, recording) = recorded(&swtpm, false);
    use_secrets(&mut tpm);
    assert!(recording.frames().len() > 20, "the bus was recorded");
    for (what, bytes) in [("secret", SECRET), ("PIN", PIN), ("contents", CONTENTS)] {
        // Half of it would be half too much.
        for part in bytes.chunks(8) {
            assert!(!recording.shows(part), "{what} on the bus");
        }
    }
}

#[test]
fn without_encryption_the_recording_shows_every_secret() {
    let swtpm = Swtpm::new();
    let (mut tpm, recording) = recorded(&swtpm, true);
    use_secrets(&mut tpm);
    for (what, bytes) in [("secret", SECRET), ("PIN", PIN), ("contents", CONTENTS)] {
        assert!(recording.shows(bytes), "{what} was looked for in vain");
    }
    let times = |bytes: &[u8]| {
        let shows = |frame: &[u8]| frame.windows(bytes.len()).any(|window| window == bytes);
        let frames = recording.frames();
        frames.iter().filter(|one| shows(one.as_bytes())).count()
    };
    assert_eq!(times(SECRET), 2, "when it was sealed and unsealed");
    assert_eq!(times(CONTENTS), 2, "when they were written and read");
    assert_eq!(times(PIN), 2, "when the object and the index were made");
}

#[test]
fn two_unseals_share_nothing_on_the_bus() {
    let swtpm = Swtpm::new();
    let (mut tpm, recording) = recorded(&swtpm, false);
    let root = tpm.storage_root().unwrap();
    let lock = Lock {
        policy: Policy::default().digest().unwrap(),
        auth: None,
        counts_tries: false,
    };
    let sealed = tpm.seal(&root, &secret(SECRET), &lock).unwrap();
    let unseal_code = [0, 0, 0x01, 0x5E];
    let mut answers = Vec::new();
    for _ in 0..2 {
        tpm.unseal(&root, &sealed, &Policy::default(), None)
            .unwrap();
        let frames = recording.frames();
        let at = frames
            .iter()
            .rposition(|frame| frame.as_bytes()[6..10] == unseal_code)
            .expect("the command was recorded");
        answers.push(frames[at + 1].as_bytes()[16..48].to_vec());
    }
    assert_ne!(answers[0], answers[1]);
}
