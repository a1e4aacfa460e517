//! Policies: what must hold before a TPM lets something be used, and their digests, computed here.
//!
//! The digests equal those of a TPM's trial session, so something can be sealed to values that
//! PCRs do not have yet, and a policy that does not fit is told before a PIN is spent on it.
//! TPM 2.0 Library, Part 3, "Enhanced Authorization (EA) Commands".

use crate::error::TpmError;
use crate::hash::Digest;
use crate::pcr::PcrSelection;
use crate::wire::{NvPublic, Public};

/// One thing that must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Assertion {
    /// PCRs have these values (`TPM2_PolicyPCR`).
    Pcrs {
        /// Which.
        selection: PcrSelection,
        /// Digest of their values ([`PcrValues::digest`](crate::PcrValues::digest)). `None`:
        /// whatever they are now; such a policy can be carried out, but has no digest of its own.
        values: Option<Digest>,
    },
    /// Whoever asks knows the authorization value (`TPM2_PolicyAuthValue`).
    AuthValue,
    /// What was asserted so far gives one of these digests (`TPM2_PolicyOR`), 2 to 8 of them.
    Or(Vec<Digest>),
    /// What was asserted so far is signed by this key (`TPM2_PolicyAuthorize`).
    Signed(Box<SignedPolicy>),
    /// What was asserted so far is what the index contains (`TPM2_PolicyAuthorizeNV`).
    AuthorizedByNv {
        /// The index, as it is when it was written.
        index: NvPublic,
        /// Who may read it.
        reader: NvReader,
    },
    /// The contents of an index compare so with an operand (`TPM2_PolicyNV`).
    Nv {
        /// The index, as it is when it was written.
        index: NvPublic,
        /// Who may read it.
        reader: NvReader,
        /// What the contents are compared with.
        operand: Vec<u8>,
        /// How.
        comparison: Comparison,
    },
}

/// A digest of a policy, and the signature that makes it count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignedPolicy {
    /// The key.
    pub key: Public,
    /// What the signature is about besides the digest; often empty.
    pub policy_ref: Vec<u8>,
    /// The signature; `None` where only the digest of the policy is wanted.
    pub signature: Option<Signature>,
}

/// A signature over the SHA-256 of (digest of a policy, then its reference).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Signature {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaSsa(Vec<u8>),
    /// ECDSA with SHA-256 on P-256, both numbers big-endian.
    EcDsa {
        /// First number.
        r: Vec<u8>,
        /// Second number.
        s: Vec<u8>,
    },
}

/// By whose right an index is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NvReader {
    /// The owner's, whose authorization value is the client's.
    Owner,
    /// Its own, with an empty authorization value.
    Index,
}

/// How the contents of an index, left, compare with the operand (`TPM_EO`, Part 2, 6.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// Above, as numbers without a sign.
    Above,
    /// Below, as numbers without a sign.
    Below,
    /// The same or above.
    AtLeast,
    /// The same or below.
    AtMost,
}

impl Comparison {
    /// The TPM's number.
    #[must_use]
    pub(crate) const fn id(self) -> u16 {
        match self {
            Self::Equal => 0x0000,
            Self::NotEqual => 0x0001,
            Self::Above => 0x0003,
            Self::Below => 0x0005,
            Self::AtLeast => 0x0007,
            Self::AtMost => 0x0009,
        }
    }
}

/// Assertions in their order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy(Vec<Assertion>);

/// Most branches of one OR.
pub const MAX_BRANCHES: usize = 8;

impl Policy {
    /// These assertions, in this order.
    #[must_use]
    pub fn new(assertions: Vec<Assertion>) -> Self {
        Self(assertions)
    }

    /// The assertions.
    #[must_use]
    pub fn assertions(&self) -> &[Assertion] {
        &self.0
    }

    /// Whether the authorization value is part of it.
    #[must_use]
    pub fn needs_auth_value(&self) -> bool {
        self.0.contains(&Assertion::AuthValue)
    }

    /// The digest, as a TPM would compute it.
    ///
    /// # Errors
    /// [`TpmError::Misuse`] for a policy with PCRs whose values are not given, or an OR that has
    /// too few or too many branches, or none that fits.
    pub fn digest(&self) -> Result<Digest, TpmError> {
        self.0
            .iter()
            .try_fold(Digest::ZERO, |digest, assertion| assertion.extend(digest))
    }
}

impl Assertion {
    /// The digest after this assertion.
    fn extend(&self, before: Digest) -> Result<Digest, TpmError> {
        Ok(match self {
            Self::Pcrs { selection, values } => {
                let values = values.as_ref().ok_or(TpmError::Misuse {
                    what: "the digest of a policy with PCRs of unknown values",
                })?;
                Digest::of(&[
                    &before.0,
                    &code(POLICY_PCR),
                    &selection.to_bytes(),
                    &values.0,
                ])
            }
            Self::AuthValue => Digest::of(&[&before.0, &code(POLICY_AUTH_VALUE)]),
            Self::Or(branches) => {
                check_branches(branches)?;
                if !branches.contains(&before) {
                    return Err(TpmError::Misuse {
                        what: "an OR of which no branch fits",
                    });
                }
                any_of(branches)
            }
            Self::Signed(signed) => signed_by(&signed.key, &signed.policy_ref),
            Self::AuthorizedByNv { index, .. } => Digest::of(&[
                &Digest::ZERO.0,
                &code(POLICY_AUTHORIZE_NV),
                index.name().as_bytes(),
            ]),
            Self::Nv {
                index,
                operand,
                comparison,
                ..
            } => {
                let offset = 0_u16.to_be_bytes();
                let arguments = Digest::of(&[operand, &offset, &comparison.id().to_be_bytes()]);
                Digest::of(&[
                    &before.0,
                    &code(POLICY_NV),
                    &arguments.0,
                    index.name().as_bytes(),
                ])
            }
        })
    }
}

/// Refuses a number of branches that a TPM cannot take.
pub(crate) fn check_branches(branches: &[Digest]) -> Result<(), TpmError> {
    if (2..=MAX_BRANCHES).contains(&branches.len()) {
        Ok(())
    } else {
        Err(TpmError::Misuse {
            what: "an OR of fewer than 2 or more than 8 branches",
        })
    }
}

/// The digest of an OR over these branches.
fn any_of(branches: &[Digest]) -> Digest {
    let code = code(POLICY_OR);
    let mut parts: Vec<&[u8]> = vec![&Digest::ZERO.0, &code];
    parts.extend(branches.iter().map(|branch| &branch.0[..]));
    Digest::of(&parts)
}

/// The digest of "signed by this key".
fn signed_by(key: &Public, policy_ref: &[u8]) -> Digest {
    let named = Digest::of(&[
        &Digest::ZERO.0,
        &code(POLICY_AUTHORIZE),
        key.name().as_bytes(),
    ]);
    Digest::of(&[&named.0, policy_ref])
}

/// What is signed: SHA-256 of the policy's digest and its reference.
#[must_use]
pub fn to_be_signed(approved: &Digest, policy_ref: &[u8]) -> Digest {
    Digest::of(&[&approved.0, policy_ref])
}

const POLICY_NV: u32 = 0x149;
const POLICY_AUTHORIZE: u32 = 0x16A;
const POLICY_AUTH_VALUE: u32 = 0x16B;
const POLICY_OR: u32 = 0x171;
const POLICY_PCR: u32 = 0x17F;
const POLICY_AUTHORIZE_NV: u32 = 0x192;

fn code(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::HashAlg;
    use crate::pcr::PcrValues;

    /// The digests that systemd 257 wrote for this value of PCR 7, without and with a PIN.
    #[test]
    fn digests_are_those_of_systemd() {
        let value = "57fea962fd3b558c507214f3b54503db13923d29902ce7aae369ea52f1645f0f";
        let mut values = PcrValues::new(HashAlg::Sha256);
        values.insert(7, &hex::decode(value).unwrap()).unwrap();
        let pcrs = Assertion::Pcrs {
            selection: values.selection().unwrap(),
            values: Some(values.digest()),
        };
        let auto = Policy::new(vec![pcrs.clone()]);
        assert_eq!(
            hex::encode(auto.digest().unwrap().0),
            "19492f85bfcfc125ce1e74e9b8b149937b597418c3c933825a9c3f77310e2615"
        );
        let pin = Policy::new(vec![pcrs, Assertion::AuthValue]);
        assert_eq!(
            hex::encode(pin.digest().unwrap().0),
            "6792fbc4b3e0b5e437d07ac867ea0ad65f05e088d8788de05633b3676b4d8ce5"
        );
    }

    #[test]
    fn what_has_no_digest_says_so() {
        let selection = PcrSelection::new(HashAlg::Sha256, &[7]).unwrap();
        let open = Assertion::Pcrs {
            selection,
            values: None,
        };
        for policy in [
            vec![open],
            vec![Assertion::Or(vec![Digest::ZERO])],
            vec![Assertion::Or(vec![Digest([1; 32]); 2])],
        ] {
            let digest = Policy::new(policy).digest();
            assert!(matches!(digest, Err(TpmError::Misuse { .. })));
        }
    }
}
