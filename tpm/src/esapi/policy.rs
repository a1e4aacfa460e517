//! Policies: PCRs, authorization value, alternatives, signatures.

use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{DigestList, Signature as TssSignature, VerifiedTicket};
use tss_esapi::traits::UnMarshall as _;
use tss_esapi::tss2_esys::{TPM2B_DIGEST, TPMT_TK_VERIFIED};

use super::convert::{Asked, buffer, selection_list, to_tss};
use super::{Esapi, cannot};
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::meaning::{mismatch, signature_error};
use crate::policy::{Assertion, Policy, Signature, SignedPolicy, check_branches, to_be_signed};
use crate::wire::Writer;

impl Esapi {
    pub(super) fn carry_out(
        &mut self,
        policy: &Policy,
        session: AuthSession,
    ) -> Result<(), TpmError> {
        let session = policy_session(session)?;
        for assertion in policy.assertions() {
            match assertion {
                Assertion::Pcrs { selection, values } => {
                    let digest = buffer(values.as_ref().map_or(&[][..], |digest| &digest.0))?;
                    let list = selection_list(selection)?;
                    self.context
                        .policy_pcr(session, digest, list)
                        .asked("TPM2_PolicyPCR")
                        .map_err(|error| {
                            mismatch(error, || {
                                let pcrs = selection.pcrs().map(|pcr| pcr.to_string());
                                let pcrs: Vec<String> = pcrs.collect();
                                format!("PCR {} have other values", pcrs.join("+"))
                            })
                        })?;
                }
                Assertion::AuthValue => self
                    .context
                    .policy_auth_value(session)
                    .asked("TPM2_PolicyAuthValue")?,
                Assertion::Or(branches) => {
                    check_branches(branches)?;
                    let mut list = DigestList::new();
                    for branch in branches {
                        list.add(buffer(&branch.0)?).asked("TPM2_PolicyOR")?;
                    }
                    self.context
                        .policy_or(session, list)
                        .asked("TPM2_PolicyOR")
                        .map_err(|error| {
                            mismatch(error, || "none of the alternatives holds".to_owned())
                        })?;
                }
                Assertion::Signed(signed) => self.assert_signed(session, signed)?,
                Assertion::AuthorizedByNv { .. } => {
                    return Err(cannot("TPM2_PolicyAuthorizeNV"));
                }
                Assertion::Nv { .. } => return Err(cannot("TPM2_PolicyNV")),
            }
        }
        Ok(())
    }

    pub(super) fn policy_digest(&mut self, session: AuthSession) -> Result<Digest, TpmError> {
        const WHAT: &str = "TPM2_PolicyGetDigest";
        let session = policy_session(session)?;
        let digest = self.context.policy_get_digest(session).asked(WHAT)?;
        Digest::from_slice(digest.value()).ok_or(TpmError::Garbage { what: WHAT })
    }

    fn assert_signed(
        &mut self,
        session: PolicySession,
        signed: &SignedPolicy,
    ) -> Result<(), TpmError> {
        const WHAT: &str = "TPM2_PolicyAuthorize";
        let approved = self.policy_digest(session.into())?;
        let public = to_tss(signed.key.as_bytes())?;
        let key = self
            .context
            .load_external_public(public, Hierarchy::Owner)
            .asked("TPM2_LoadExternal")?;
        self.flushing(key.into(), |esapi| {
            let name = esapi.context.tr_get_name(key.into()).asked(WHAT)?;
            if name.value() != signed.key.name().as_bytes() {
                return Err(TpmError::Garbage {
                    what: "name of a loaded object",
                });
            }
            let ticket = match &signed.signature {
                Some(signature) => {
                    let digest = to_be_signed(&approved, &signed.policy_ref);
                    let signature = tss_signature(signature)?;
                    esapi
                        .context
                        .verify_signature(key, buffer(&digest.0)?, signature)
                        .asked("TPM2_VerifySignature")
                        .map_err(signature_error)?
                }
                None => no_ticket().asked(WHAT)?,
            };
            let approved = buffer(&approved.0)?;
            let policy_ref = buffer(&signed.policy_ref)?;
            esapi
                .context
                .policy_authorize(session, approved, policy_ref, &name, ticket)
                .asked(WHAT)
                .map_err(|error| {
                    mismatch(error, || "it is not the policy that was signed".to_owned())
                })
        })
    }
}

fn policy_session(session: AuthSession) -> Result<PolicySession, TpmError> {
    PolicySession::try_from(session).map_err(|_| TpmError::Misuse {
        what: "a policy in a session of another kind",
    })
}

/// A ticket that only a trial session takes.
fn no_ticket() -> tss_esapi::Result<VerifiedTicket> {
    VerifiedTicket::try_from(TPMT_TK_VERIFIED {
        tag: 0x8022,
        hierarchy: 0x4000_0007,
        digest: TPM2B_DIGEST::default(),
    })
}

fn tss_signature(signature: &Signature) -> Result<TssSignature, TpmError> {
    let sha256 = HashAlg::Sha256.id();
    let bytes = match signature {
        Signature::RsaSsa(bytes) => Writer::new().u16(0x0014).u16(sha256).sized(bytes),
        Signature::EcDsa { r, s } => Writer::new().u16(0x0018).u16(sha256).sized(r).sized(s),
    };
    TssSignature::unmarshall(&bytes.done()).map_err(|_| TpmError::BadSignature)
}
