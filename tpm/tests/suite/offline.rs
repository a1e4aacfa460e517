//! Sealing without the TPM.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use luksmith_tpm::token::{Pin, SystemdTpm2};
use luksmith_tpm::{HashAlg, Lock, StorageKey, TpmError, seal_offline};

use crate::BackEnd;
use crate::sealing::{current, open_policy, selection};
use crate::signed::{Files, nobody, open, token};
use crate::support::{auth, secret};

const SECRET: &[u8] = b"thirty-two bytes, quite a secret";

pub(crate) fn what_was_sealed_elsewhere_opens_here_and_nowhere_else(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let (root, sealed, plain) = {
        let mut tpm = back_end.connect(&swtpm);
        let root = tpm.storage_root().unwrap();
        let StorageKey::Persistent {
            public: Some(public),
            ..
        } = &root
        else {
            panic!("the storage root is persistent and was read");
        };
        let pin = auth(b"1234");
        let mut lock = Lock {
            policy: current(&mut *tpm, true).digest().unwrap(),
            auth: Some(&pin),
            counts_tries: true,
        };
        let sealed = seal_offline(public, &secret(SECRET), &lock).unwrap();
        lock = Lock {
            policy: current(&mut *tpm, false).digest().unwrap(),
            auth: None,
            counts_tries: false,
        };
        let plain = seal_offline(public, &secret(&[1]), &lock).unwrap();
        (root, sealed, plain)
    };
    {
        let mut tpm = back_end.connect(&swtpm);
        let back = tpm.unseal(&root, &sealed, &open_policy(true), Some(&auth(b"1234")));
        assert_eq!(back.unwrap().expose(), SECRET);
        let told = tpm.unseal(&root, &sealed, &open_policy(true), Some(&auth(b"4321")));
        assert!(matches!(told, Err(TpmError::WrongPin { counted: true })));
        let back = tpm.unseal(&root, &plain, &open_policy(false), None);
        assert_eq!(back.unwrap().expose(), [1]);
        for at in [5, 33, 34, 60, 100] {
            let mut damaged = sealed.clone();
            damaged.private[at] ^= 1;
            let told = tpm.unseal(&root, &damaged, &open_policy(true), None);
            assert!(matches!(told, Err(TpmError::Damaged { .. })), "byte {at}");
        }
        let mut damaged = sealed.clone();
        damaged.seed.as_mut().unwrap()[40] ^= 1;
        let told = tpm.unseal(&root, &damaged, &open_policy(true), None);
        assert!(matches!(told, Err(TpmError::Damaged { .. })), "seed");
    }
    assert_eq!(swtpm.left_behind().len(), 0);
    let other = back_end.swtpm();
    let mut tpm = back_end.connect(&other);
    let own = tpm.storage_root().unwrap();
    let told = tpm.unseal(&own, &sealed, &open_policy(true), None);
    assert!(matches!(told, Err(TpmError::Damaged { .. })));
}

/// As systemd-cryptenroll with `--tpm2-device-key=` makes it: `tpm2-blob` has a third part.
pub(crate) fn a_token_that_was_made_elsewhere_opens(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let made = {
        let mut tpm = back_end.connect(&swtpm);
        let under = tpm.storage_root().unwrap();
        let StorageKey::Persistent {
            public: Some(key), ..
        } = &under
        else {
            panic!("the storage root is persistent and was read");
        };
        let lock = Lock {
            policy: current(&mut *tpm, false).digest().unwrap(),
            auth: None,
            counts_tries: false,
        };
        let sealed = seal_offline(key, &secret(SECRET), &lock).unwrap();
        SystemdTpm2 {
            sealed: vec![sealed],
            pcrs: selection().pcrs().collect(),
            bank: Some(HashAlg::Sha256),
            policies: vec![lock.policy],
            under,
            pin: Pin::None,
            signed: None,
            pcrlock: None,
            beyond: Vec::new(),
        }
    };
    let written = token(&made);
    assert_eq!(SystemdTpm2::parse(&written).unwrap(), made);
    let opened = open(back_end, &swtpm, &written, &Files::new(), &mut nobody).unwrap();
    assert_eq!(opened.expose(), BASE64.encode(SECRET).as_bytes());
}
