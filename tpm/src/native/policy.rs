//! Policies carried out in a session: one command per assertion.

use super::link::{Authorization, Command, Subject, Verb};
use super::objects::{named, ticket, verb};
use super::session::Session;
use super::{NONE, Native, OWNER};
use crate::error::TpmError;
use crate::hash::{Digest, HashAlg};
use crate::meaning::{mismatch, signature_error};
use crate::pcr::PcrSelection;
use crate::policy::{
    Assertion, NvReader, Policy, Signature, SignedPolicy, check_branches, to_be_signed,
};
use crate::transport::Transport;
use crate::wire::{NvPublic, Public, Writer};
use crate::writer::WriterKey;

const POLICY_NV: Verb = verb("TPM2_PolicyNV", 0x149);
const POLICY_SIGNED: Verb = verb("TPM2_PolicySigned", 0x160);
const LOAD_EXTERNAL: Verb = verb("TPM2_LoadExternal", 0x167);
const POLICY_AUTHORIZE: Verb = verb("TPM2_PolicyAuthorize", 0x16A);
const POLICY_AUTH_VALUE: Verb = verb("TPM2_PolicyAuthValue", 0x16B);
const POLICY_OR: Verb = verb("TPM2_PolicyOR", 0x171);
const VERIFY_SIGNATURE: Verb = verb("TPM2_VerifySignature", 0x177);
const POLICY_PCR: Verb = verb("TPM2_PolicyPCR", 0x17F);
const POLICY_GET_DIGEST: Verb = verb("TPM2_PolicyGetDigest", 0x189);
const POLICY_AUTHORIZE_NV: Verb = verb("TPM2_PolicyAuthorizeNV", 0x192);

/// Tag of a ticket that says "this signature was verified" (`TPM_ST_VERIFIED`).
const VERIFIED: u16 = 0x8022;

impl<T: Transport> Native<T> {
    /// Carries out a policy from its first assertion to its last.
    pub(super) fn carry_out(
        &mut self,
        policy: &Policy,
        session: &mut Session,
    ) -> Result<(), TpmError> {
        for assertion in policy.assertions() {
            match assertion {
                Assertion::Pcrs { selection, values } => {
                    self.assert_pcrs(session, selection, values.as_ref())?;
                }
                Assertion::AuthValue => {
                    self.assert(session, POLICY_AUTH_VALUE, Writer::new())?;
                    session.proves_auth_value = true;
                }
                Assertion::Or(branches) => self.assert_or(session, branches)?,
                Assertion::Signed(signed) => self.assert_signed(session, signed)?,
                Assertion::AuthorizedByNv { index, reader } => {
                    let nothing = Writer::new();
                    self.assert_nv(session, POLICY_AUTHORIZE_NV, index, *reader, nothing)?;
                }
                Assertion::Nv {
                    index,
                    reader,
                    operand,
                    comparison,
                } => {
                    if operand.len() > usize::from(index.size_bytes) {
                        return Err(TpmError::Misuse {
                            what: "an operand longer than its NV index",
                        });
                    }
                    let parameters = Writer::new().sized(operand).u16(0).u16(comparison.id());
                    self.assert_nv(session, POLICY_NV, index, *reader, parameters)?;
                }
            }
        }
        Ok(())
    }

    /// The digest of what was asserted so far.
    pub(super) fn policy_digest(&mut self, session: &Session) -> Result<Digest, TpmError> {
        let subjects = vec![Subject::plain(session.handle)];
        let command = Command::new(POLICY_GET_DIGEST, subjects, Writer::new());
        let answer = self.link.run(command)?;
        let mut reader = answer.reader();
        let digest = Digest::from_slice(reader.sized()?).ok_or(reader.fail())?;
        reader.end()?;
        Ok(digest)
    }

    fn assert(
        &mut self,
        session: &Session,
        verb: Verb,
        parameters: Writer,
    ) -> Result<(), TpmError> {
        let command = Command::new(verb, vec![Subject::plain(session.handle)], parameters);
        Ok(self.link.run(command)?.reader().end()?)
    }

    fn assert_pcrs(
        &mut self,
        session: &Session,
        selection: &PcrSelection,
        values: Option<&Digest>,
    ) -> Result<(), TpmError> {
        let parameters = Writer::new()
            .sized(values.map_or(&[][..], |digest| &digest.0))
            .bytes(&selection.to_bytes());
        self.assert(session, POLICY_PCR, parameters)
            .map_err(|error| {
                let pcrs: Vec<String> = selection.pcrs().map(|pcr| pcr.to_string()).collect();
                mismatch(error, || {
                    format!("PCR {} have other values", pcrs.join("+"))
                })
            })
    }

    fn assert_or(&mut self, session: &Session, branches: &[Digest]) -> Result<(), TpmError> {
        check_branches(branches)?;
        let count = u32::try_from(branches.len()).expect("at most 8");
        let parameters = branches
            .iter()
            .fold(Writer::new().u32(count), |list, branch| {
                list.sized(&branch.0)
            });
        self.assert(session, POLICY_OR, parameters)
            .map_err(|error| mismatch(error, || "none of the alternatives holds".to_owned()))
    }

    fn assert_signed(&mut self, session: &Session, signed: &SignedPolicy) -> Result<(), TpmError> {
        let approved = self.policy_digest(session)?;
        let ticket = match &signed.signature {
            Some(signature) => self.verify(signed, signature, &approved)?,
            // Only a trial session takes this; any other says that the ticket is none.
            None => Writer::new().u16(VERIFIED).u32(NONE).sized(&[]).done(),
        };
        let parameters = Writer::new()
            .sized(&approved.0)
            .sized(&signed.policy_ref)
            .sized(signed.key.name().as_bytes())
            .bytes(&ticket);
        self.assert(session, POLICY_AUTHORIZE, parameters)
            .map_err(|error| mismatch(error, || "it is not the policy that was signed".to_owned()))
    }

    /// Lets the TPM verify a signature, and gives its ticket.
    fn verify(
        &mut self,
        signed: &SignedPolicy,
        signature: &Signature,
        approved: &Digest,
    ) -> Result<Vec<u8>, TpmError> {
        self.with_verifier(&signed.key, |native, key| {
            let digest = to_be_signed(approved, &signed.policy_ref);
            let parameters = Writer::new().sized(&digest.0).bytes(&marshalled(signature));
            let subjects = vec![key];
            let command = Command::new(VERIFY_SIGNATURE, subjects, parameters);
            let answer = native.link.run(command).map_err(signature_error)?;
            let mut reader = answer.reader();
            let whole = reader.clone().rest().to_vec();
            ticket(&mut reader)?;
            reader.end()?;
            Ok(whole)
        })
    }

    /// Runs `work` with a key that the TPM only verifies with.
    fn with_verifier<R>(
        &mut self,
        key: &Public,
        work: impl FnOnce(&mut Self, Subject) -> Result<R, TpmError>,
    ) -> Result<R, TpmError> {
        let parameters = Writer::new()
            .sized(&[])
            .sized(key.as_bytes())
            // A ticket for a key of no hierarchy would be worth nothing.
            .u32(OWNER);
        let load = Command::new(LOAD_EXTERNAL, Vec::new(), parameters).giving_handle();
        let loaded = self.link.run(load)?;
        let handle = loaded.handle()?;
        self.flushing(handle, |native| {
            let name = key.name();
            named(loaded.reader(), &name)?;
            work(native, Subject::named(handle, name))
        })
    }

    /// Shows the right to write an index, in a session that was used for nothing yet.
    pub(super) fn assert_writer(
        &mut self,
        session: &Session,
        writer: &WriterKey,
    ) -> Result<(), TpmError> {
        let signature = writer.sign(session.nonce_tpm())?;
        self.with_verifier(writer.public(), |native, key| {
            let parameters = Writer::new()
                .sized(session.nonce_tpm())
                // For whatever command, without a reference, until the session ends.
                .sized(&[])
                .sized(&[])
                .u32(0)
                .bytes(&marshalled(&signature));
            let subjects = vec![key, Subject::plain(session.handle)];
            let command = Command::new(POLICY_SIGNED, subjects, parameters);
            let answer = native.link.run(command).map_err(signature_error)?;
            let mut reader = answer.reader();
            reader.sized()?;
            ticket(&mut reader)?;
            Ok(reader.end()?)
        })
    }

    fn assert_nv(
        &mut self,
        session: &Session,
        verb: Verb,
        index: &NvPublic,
        reader: NvReader,
        parameters: Writer,
    ) -> Result<(), TpmError> {
        let there = self.read_nv_public(index.index)?;
        if there.name() != index.name() {
            return Err(TpmError::PolicyMismatch {
                detail: format!("NV index {:#010x} is another one", index.index),
            });
        }
        let nv = Subject::named(index.index, index.name());
        let policy = Subject::plain(session.handle);
        let detail = || format!("the contents of NV index {:#010x}", index.index);
        match reader {
            NvReader::Owner => self.by_owner(None, |native, authorization| {
                let subjects = vec![Subject::plain(OWNER), nv, policy];
                let command = Command::new(verb, subjects, parameters).by(authorization);
                let answer = native.link.run(command);
                Ok(answer
                    .map_err(|error| mismatch(error, detail))?
                    .reader()
                    .end()?)
            }),
            NvReader::Index => {
                let command = Command::new(verb, vec![nv.clone(), nv, policy], parameters)
                    .by(Authorization::Empty);
                let answer = self.link.run(command);
                Ok(answer
                    .map_err(|error| mismatch(error, detail))?
                    .reader()
                    .end()?)
            }
        }
    }
}

/// As a `TPMT_SIGNATURE`.
fn marshalled(signature: &Signature) -> Vec<u8> {
    let sha256 = HashAlg::Sha256.id();
    match signature {
        Signature::RsaSsa(bytes) => Writer::new().u16(0x0014).u16(sha256).sized(bytes).done(),
        Signature::EcDsa { r, s } => Writer::new()
            .u16(0x0018)
            .u16(sha256)
            .sized(r)
            .sized(s)
            .done(),
    }
}
