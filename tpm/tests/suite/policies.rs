//! Policies beyond literal PCRs: signed, alternative, kept in an index, ended by a counter.

use luksmith_tpm::policy::{Comparison, NvReader, Signature, SignedPolicy, to_be_signed};
use luksmith_tpm::wire::{EccPoint, NvAttributes, NvPublic, Public, RsaKey};
use luksmith_tpm::{
    Assertion, Digest, HashAlg, Lock, NvAuth, PcrSelection, Policy, Sealed, StorageKey, Tpm,
    TpmError,
};
use openssl::bn::BigNumContext;
use openssl::ec::{EcGroup, EcKey};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;

use crate::BackEnd;
use crate::nv::{INDEX, index};
use crate::support::secret;

const SECRET: &[u8] = b"thirty-two bytes, quite a secret";

fn pcr_16() -> PcrSelection {
    PcrSelection::new(HashAlg::Sha256, &[16]).unwrap()
}

/// PCR 16 as it is now.
fn now(tpm: &mut dyn Tpm) -> Assertion {
    Assertion::Pcrs {
        selection: pcr_16(),
        values: Some(tpm.read_pcrs(&pcr_16()).unwrap().digest()),
    }
}

/// PCR 16, whatever it is.
fn whatever() -> Assertion {
    Assertion::Pcrs {
        selection: pcr_16(),
        values: None,
    }
}

fn digest(assertions: &[Assertion]) -> Digest {
    Policy::new(assertions.to_vec()).digest().unwrap()
}

fn seal(tpm: &mut dyn Tpm, policy: Digest) -> (StorageKey, Sealed) {
    let root = tpm.storage_root().unwrap();
    let lock = Lock {
        policy,
        auth: None,
        counts_tries: false,
    };
    let sealed = tpm.seal(&root, &secret(SECRET), &lock).unwrap();
    (root, sealed)
}

fn opens(
    tpm: &mut dyn Tpm,
    (root, sealed): &(StorageKey, Sealed),
    assertions: Vec<Assertion>,
) -> Result<(), TpmError> {
    let secret = tpm.unseal(root, sealed, &Policy::new(assertions), None)?;
    assert_eq!(secret.expose(), SECRET);
    Ok(())
}

fn move_on(tpm: &mut dyn Tpm) {
    tpm.extend_pcr(HashAlg::Sha256, 16, &[3; 32]).unwrap();
}

/// Keys to sign policies with: RSA-2048 and ECDSA on P-256.
enum SigningKey {
    Rsa(Rsa<Private>),
    Ecc(EcKey<Private>),
}

impl SigningKey {
    fn both() -> [Self; 2] {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        [
            Self::Rsa(Rsa::generate(2048).unwrap()),
            Self::Ecc(EcKey::generate(&group).unwrap()),
        ]
    }

    fn public(&self) -> Public {
        match self {
            Self::Rsa(key) => Public::rsa_verifier(&RsaKey {
                bits: 2048,
                exponent: 65537,
                modulus: key.n().to_vec(),
            })
            .unwrap(),
            Self::Ecc(key) => {
                let mut context = BigNumContext::new().unwrap();
                let [mut x, mut y] = [(); 2].map(|()| openssl::bn::BigNum::new().unwrap());
                key.public_key()
                    .affine_coordinates(key.group(), &mut x, &mut y, &mut context)
                    .unwrap();
                Public::ecc_verifier(&EccPoint {
                    x: x.to_vec_padded(32).unwrap(),
                    y: y.to_vec_padded(32).unwrap(),
                })
                .unwrap()
            }
        }
    }

    fn sign(&self, approved: &Digest, policy_ref: &[u8]) -> Signature {
        match self {
            Self::Rsa(key) => {
                let key = PKey::from_rsa(key.clone()).unwrap();
                let mut signer = Signer::new(MessageDigest::sha256(), &key).unwrap();
                signer.update(&approved.0).unwrap();
                signer.update(policy_ref).unwrap();
                Signature::RsaSsa(signer.sign_to_vec().unwrap())
            }
            Self::Ecc(key) => {
                let hash = to_be_signed(approved, policy_ref);
                let signature = EcdsaSig::sign(&hash.0, key).unwrap();
                Signature::EcDsa {
                    r: signature.r().to_vec(),
                    s: signature.s().to_vec(),
                }
            }
        }
    }
}

pub(crate) fn digests_are_those_of_the_tpm(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let pcrs = now(&mut *tpm);
        let signed = |policy_ref: &[u8]| {
            Assertion::Signed(Box::new(SignedPolicy {
                key: SigningKey::both()[0].public(),
                policy_ref: policy_ref.to_vec(),
                signature: None,
            }))
        };
        let alternatives = vec![digest(std::slice::from_ref(&pcrs)), Digest([9; 32])];
        for policy in [
            vec![],
            vec![pcrs.clone()],
            vec![Assertion::AuthValue],
            vec![pcrs.clone(), Assertion::AuthValue],
            vec![signed(b""), pcrs.clone()],
            vec![signed(b"initrd"), Assertion::AuthValue],
            vec![pcrs, Assertion::Or(alternatives), Assertion::AuthValue],
        ] {
            let policy = Policy::new(policy);
            assert_eq!(
                tpm.trial(&policy).unwrap(),
                policy.digest().unwrap(),
                "{policy:?}"
            );
        }
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn a_signed_policy_opens_and_an_unsigned_one_does_not(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        for key in SigningKey::both() {
            for policy_ref in [&b""[..], b"initrd"] {
                let approval = |signature| {
                    Assertion::Signed(Box::new(SignedPolicy {
                        key: key.public(),
                        policy_ref: policy_ref.to_vec(),
                        signature,
                    }))
                };
                let sealed = seal(&mut *tpm, digest(&[approval(None)]));
                for _ in 0..2 {
                    let state = digest(&[now(&mut *tpm)]);
                    let signature = key.sign(&state, policy_ref);
                    let good = approval(Some(signature.clone()));
                    opens(&mut *tpm, &sealed, vec![whatever(), good.clone()]).unwrap();
                    move_on(&mut *tpm);
                    let told = opens(&mut *tpm, &sealed, vec![whatever(), good]);
                    assert!(matches!(told, Err(TpmError::BadSignature)), "{told:?}");
                }
                let other = key.sign(&Digest([1; 32]), policy_ref);
                let told = opens(&mut *tpm, &sealed, vec![whatever(), approval(Some(other))]);
                assert!(matches!(told, Err(TpmError::BadSignature)));
                let told = opens(&mut *tpm, &sealed, vec![whatever(), approval(None)]);
                assert!(told.is_err(), "no signature at all");
            }
        }
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn another_alternative_opens_too(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    let mut tpm = back_end.connect(&swtpm);
    let before = digest(&[now(&mut *tpm)]);
    move_on(&mut *tpm);
    let after = digest(&[now(&mut *tpm)]);
    let either = Assertion::Or(vec![before, after]);
    let policy = digest(&[now(&mut *tpm), either.clone()]);
    let sealed = seal(&mut *tpm, policy);
    opens(&mut *tpm, &sealed, vec![whatever(), either.clone()]).unwrap();
    move_on(&mut *tpm);
    let told = opens(&mut *tpm, &sealed, vec![whatever(), either]);
    assert!(
        matches!(told, Err(TpmError::PolicyMismatch { .. })),
        "{told:?}"
    );
}

/// Contents of an index that authorizes a policy: the algorithm, then the digest.
fn entry(digest: &Digest) -> Vec<u8> {
    [&HashAlg::Sha256.id().to_be_bytes()[..], &digest.0].concat()
}

pub(crate) fn rewriting_an_index_changes_what_opens(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let attributes = NvAttributes::AUTH_WRITE
            .with(NvAttributes::AUTH_READ)
            .with(NvAttributes::OWNER_READ)
            .with(NvAttributes::WRITE_ALL);
        let by = NvAuth::Index(None);
        tpm.nv_define(&index(attributes, 34, &[]), None).unwrap();
        let first = digest(&[now(&mut *tpm)]);
        tpm.nv_write(INDEX, &by, &secret(&entry(&first))).unwrap();
        let public = tpm.nv_public(INDEX).unwrap();
        for reader in [NvReader::Owner, NvReader::Index] {
            let authorized = Assertion::AuthorizedByNv {
                index: public.clone(),
                reader,
            };
            let policy = vec![whatever(), authorized.clone()];
            let trial = Policy::new(vec![now(&mut *tpm), authorized.clone()]);
            assert_eq!(tpm.trial(&trial).unwrap(), trial.digest().unwrap());
            let sealed = seal(&mut *tpm, digest(&[authorized]));
            opens(&mut *tpm, &sealed, policy.clone()).unwrap();
            move_on(&mut *tpm);
            let told = opens(&mut *tpm, &sealed, policy.clone());
            assert!(
                matches!(told, Err(TpmError::PolicyMismatch { .. })),
                "{told:?}"
            );
            let next = digest(&[now(&mut *tpm)]);
            tpm.nv_write(INDEX, &by, &secret(&entry(&next))).unwrap();
            opens(&mut *tpm, &sealed, policy).unwrap();
        }
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn a_counter_ends_what_was_sealed_before_it_moved(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let attributes = NvAttributes::COUNTER
            .with(NvAttributes::OWNER_WRITE)
            .with(NvAttributes::OWNER_READ)
            .with(NvAttributes::AUTH_READ);
        tpm.nv_define(&index(attributes, 8, &[]), None).unwrap();
        tpm.nv_increment(INDEX, &NvAuth::Owner).unwrap();
        let public = tpm.nv_public(INDEX).unwrap();
        let at_most = |value: &[u8], reader| Assertion::Nv {
            index: public.clone(),
            reader,
            operand: value.to_vec(),
            comparison: Comparison::AtMost,
        };
        let read = |tpm: &mut dyn Tpm| {
            let bytes = tpm.nv_read(INDEX, &NvAuth::Owner).unwrap();
            u64::from_be_bytes(bytes.expose().try_into().unwrap())
        };
        let epoch = read(&mut *tpm);
        let policy = vec![at_most(&epoch.to_be_bytes(), NvReader::Owner)];
        let trial = Policy::new(policy.clone());
        assert_eq!(tpm.trial(&trial).unwrap(), trial.digest().unwrap());
        let sealed = seal(&mut *tpm, digest(&policy));
        opens(&mut *tpm, &sealed, policy.clone()).unwrap();
        let by_index = vec![at_most(&epoch.to_be_bytes(), NvReader::Index)];
        opens(&mut *tpm, &sealed, by_index).unwrap();
        tpm.nv_increment(INDEX, &NvAuth::Owner).unwrap();
        assert_eq!(read(&mut *tpm), epoch + 1);
        let told = opens(&mut *tpm, &sealed, policy);
        assert!(
            matches!(told, Err(TpmError::PolicyMismatch { .. })),
            "{told:?}"
        );
        let raised = vec![at_most(&(epoch + 1).to_be_bytes(), NvReader::Owner)];
        let told = opens(&mut *tpm, &sealed, raised);
        assert!(
            matches!(told, Err(TpmError::PolicyMismatch { .. })),
            "another operand is another policy"
        );
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}

pub(crate) fn an_index_of_the_same_number_is_not_the_same_index(back_end: BackEnd) {
    let swtpm = back_end.swtpm();
    {
        let mut tpm = back_end.connect(&swtpm);
        let attributes = NvAttributes::AUTH_WRITE
            .with(NvAttributes::AUTH_READ)
            .with(NvAttributes::OWNER_READ);
        let by = NvAuth::Index(None);
        let define = |tpm: &mut dyn Tpm, public: &NvPublic| {
            tpm.nv_define(public, None).unwrap();
            let state = digest(&[now(tpm)]);
            tpm.nv_write(INDEX, &by, &secret(&entry(&state))).unwrap();
        };
        define(&mut *tpm, &index(attributes, 34, &[]));
        let authorized = Assertion::AuthorizedByNv {
            index: tpm.nv_public(INDEX).unwrap(),
            reader: NvReader::Owner,
        };
        let sealed = seal(&mut *tpm, digest(std::slice::from_ref(&authorized)));
        let policy = vec![whatever(), authorized];
        tpm.nv_undefine(INDEX).unwrap();
        let told = opens(&mut *tpm, &sealed, policy.clone());
        assert!(matches!(told, Err(TpmError::NoSuchIndex { index: INDEX })));
        define(
            &mut *tpm,
            &index(attributes.with(NvAttributes::OWNER_WRITE), 34, &[]),
        );
        let told = opens(&mut *tpm, &sealed, policy);
        assert!(
            matches!(told, Err(TpmError::PolicyMismatch { .. })),
            "{told:?}"
        );
    }
    assert_eq!(swtpm.left_behind().len(), 0);
}
