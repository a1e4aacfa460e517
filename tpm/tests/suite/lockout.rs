//! Wrong tries: rules and forgetting.

use luksmith_tpm::transport::{Frame, Recorder};
use luksmith_tpm::{LockoutRules, Native, NvAuth, Tpm, TpmError};

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

pub(crate) fn a_lockout_authorization_is_set_once_and_taken_away_by_who_knows_it(
    back_end: BackEnd,
) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        assert!(!tpm.facts().unwrap().lockout_auth_set);
        tpm.set_lockout_auth(&auth(b"first"), None).unwrap();
        assert!(tpm.facts().unwrap().lockout_auth_set);
        tpm.set_lockout_auth(&auth(b"second"), Some(&auth(b"first")))
            .unwrap();
        tpm.set_lockout_auth(&auth(b""), Some(&auth(b"second")))
            .unwrap();
        assert!(!tpm.facts().unwrap().lockout_auth_set);
        tpm.set_lockout_auth(&auth(b"third"), None).unwrap();
        let told = tpm.set_lockout_auth(&auth(b"fourth"), Some(&auth(b"wrong")));
        assert!(matches!(told, Err(TpmError::HierarchyAuth { what }) if what.contains("lockout")));
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

/// Another system on this machine, which knows nothing: with an empty authorization it would open a
/// locked TPM again as often as it likes.
pub(crate) fn nobody_forgives_wrong_tries_without_the_lockout_authorization(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let mut tpm = back_end.connect(&swtpm);
    let rules = LockoutRules {
        max_tries: 1,
        forget_one_after_s: 600,
        recovery_s: 0,
    };
    tpm.set_lockout_rules(&rules, None).unwrap();
    let guarded = index(
        NvAttributes::AUTH_READ.with(NvAttributes::AUTH_WRITE),
        8,
        &[],
    );
    tpm.nv_define(&guarded, Some(&auth(b"right"))).unwrap();
    let wrong = |tpm: &mut dyn Tpm| {
        let told = tpm.nv_increment(INDEX, &NvAuth::Index(Some(&auth(b"wrong"))));
        assert!(matches!(told, Err(TpmError::WrongPin { counted: true })));
        assert_eq!(tpm.lockout().unwrap().tries_left(), 0);
    };
    wrong(&mut *tpm);
    tpm.reset_lockout(None).unwrap();
    tpm.set_lockout_auth(&auth(b"known to one system"), None)
        .unwrap();
    wrong(&mut *tpm);
    let told = tpm.reset_lockout(None);
    assert!(
        matches!(told, Err(TpmError::HierarchyAuth { .. })),
        "{told:?}"
    );
    assert_eq!(tpm.lockout().unwrap().tries_left(), 0);
}

pub(crate) fn who_knows_the_lockout_authorization_forgives(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let mut tpm = back_end.connect(&swtpm);
    let known = auth(b"known to one system");
    tpm.set_lockout_auth(&known, None).unwrap();
    let rules = LockoutRules {
        max_tries: 32,
        forget_one_after_s: 600,
        recovery_s: 86400,
    };
    tpm.set_lockout_rules(&rules, Some(&known)).unwrap();
    assert_eq!(tpm.lockout().unwrap().rules, rules);
    tpm.reset_lockout(Some(&known)).unwrap();
}

pub(crate) fn a_new_lockout_authorization_is_not_seen_on_the_bus(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let (recorder, recording) = Recorder::new(swtpm.connect());
    let mut tpm = Native::over(recorder);
    tpm.set_lockout_auth(&auth(b"never to be seen"), None)
        .unwrap();
    for frame in recording.frames() {
        let (Frame::Command(bytes) | Frame::Answer(bytes)) = frame;
        assert!(!bytes.windows(8).any(|part| part == b"never to"));
    }
}
