//! Wrong tries: rules and forgetting.

use luksmith_tpm::{LockoutRules, NvAuth, TpmError};

use crate::BackEnd;
use crate::nv::{INDEX, index};
use crate::support::auth;
use luksmith_tpm::wire::NvAttributes;

pub(crate) fn the_rules_can_be_set_and_tries_forgotten(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let rules = LockoutRules {
            max_tries: 5,
            forget_one_after_s: 600,
            recovery_s: 86400,
        };
        tpm.set_lockout_rules(&rules, None).unwrap();
        assert_eq!(tpm.lockout().unwrap().rules, rules);
        let guarded = index(
            NvAttributes::AUTH_READ.with(NvAttributes::AUTH_WRITE),
            8,
            &[],
        );
        tpm.nv_define(&guarded, Some(&auth(b"right"))).unwrap();
        for left in [4, 3, 2, 1, 0] {
            let told = tpm.nv_increment(INDEX, &NvAuth::Index(Some(&auth(b"wrong"))));
            assert!(matches!(told, Err(TpmError::WrongPin { counted: true })));
            assert_eq!(tpm.lockout().unwrap().tries_left(), left);
        }
        let told = tpm.nv_increment(INDEX, &NvAuth::Index(Some(&auth(b"right"))));
        let Err(TpmError::LockedOut { remaining }) = told else {
            panic!("{told:?}");
        };
        assert_eq!(remaining.unwrap().as_secs(), 600);
        tpm.reset_lockout(None).unwrap();
        assert_eq!(tpm.lockout().unwrap().tries_left(), 5);
        let told = tpm.reset_lockout(Some(&auth(b"wrong")));
        assert!(matches!(told, Err(TpmError::HierarchyAuth { what }) if what.contains("lockout")));
        let told = tpm.reset_lockout(None);
        assert!(
            matches!(told, Err(TpmError::LockedOut { .. })),
            "a wrong lockout authorization closes the command itself: {told:?}"
        );
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}
