//! The second back end: what it cannot do, and that both mean the same thing.

use luksmith_tpm::policy::{Comparison, NvReader};
use luksmith_tpm::wire::NvAttributes;
use luksmith_tpm::{Assertion, Esapi, LockoutRules, NvAuth, NvLock, Policy, StorageKey, TpmError};

use crate::nv::{INDEX, index};
use crate::sealing::{current, open_policy};
use crate::support::{Swtpm, auth, secret};
use crate::{ESAPI, NATIVE};

#[test]
fn what_it_cannot_do_it_refuses_by_name() {
    let swtpm = Swtpm::on_tcp();
    {
        let mut tpm = ESAPI.connect(&swtpm);
        let index = index(NvAttributes::OWNER_READ.with(NvAttributes::WRITTEN), 8, &[]);
        let authorized = Assertion::AuthorizedByNv {
            index: index.clone(),
            reader: NvReader::Owner,
        };
        let compared = Assertion::Nv {
            index,
            reader: NvReader::Owner,
            operand: vec![0; 8],
            comparison: Comparison::Equal,
        };
        let by = NvAuth::Owner;
        let rules = LockoutRules {
            max_tries: 5,
            forget_one_after_s: 600,
            recovery_s: 86400,
        };
        let mut trial = |one| tpm.trial(&Policy::new(vec![one])).map(drop);
        for (done, name) in [
            (trial(authorized), "TPM2_PolicyAuthorizeNV"),
            (trial(compared), "TPM2_PolicyNV"),
            (tpm.nv_lock(INDEX, &by, NvLock::Read), "TPM2_NV_ReadLock"),
            (tpm.nv_lock(INDEX, &by, NvLock::Write), "TPM2_NV_WriteLock"),
            (tpm.reset_lockout(None), "TPM2_DictionaryAttackLockReset"),
            (
                tpm.set_lockout_rules(&rules, None),
                "TPM2_DictionaryAttackParameters",
            ),
        ] {
            let told = done.unwrap_err();
            assert!(
                matches!(told, TpmError::BackEnd { back_end: "esapi", what } if what == name),
                "{told}"
            );
        }
    }
    assert_eq!(swtpm.left_behind().len(), 0);
    let nothing = Esapi::open("libtpms:");
    assert!(matches!(nothing, Err(TpmError::Unsupported { .. })));
    let nobody = Esapi::open("swtpm:host=127.0.0.1,port=9");
    assert!(matches!(nobody, Err(TpmError::NotPresent { .. })));
}

#[test]
fn each_opens_what_the_other_sealed() {
    let swtpm = Swtpm::on_tcp();
    for (ours, theirs) in [(NATIVE, ESAPI), (ESAPI, NATIVE)] {
        let pin = auth(b"1234");
        let (root, sealed): (StorageKey, _) = {
            let mut tpm = ours.connect(&swtpm);
            let root = tpm.storage_root().unwrap();
            let lock = luksmith_tpm::Lock {
                policy: current(&mut *tpm, true).digest().unwrap(),
                auth: Some(&pin),
                counts_tries: true,
            };
            let sealed = tpm.seal(&root, &secret(b"secret"), &lock).unwrap();
            (root, sealed)
        };
        let mut tpm = theirs.connect(&swtpm);
        assert_eq!(tpm.storage_root().unwrap(), root);
        let back = tpm.unseal(&root, &sealed, &open_policy(true), Some(&pin));
        assert_eq!(back.unwrap().expose(), b"secret");
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}
