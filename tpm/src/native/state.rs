//! What the TPM is and where it stands: properties, PCRs, wrong tries.

use luksmith_crypto::{CryptoError, SecretBytes};

use super::link::{Answer, Authorization, Command, Subject, Verb};
use super::objects::verb;
use super::session::SessionKind;
use super::{LOCKOUT, MAX_PCR_CHANGES, Native};
use crate::auth::AuthValue;
use crate::error::TpmError;
use crate::hash::HashAlg;
use crate::meaning::lockout_error;
use crate::pcr::{PCRS, PcrSelection, PcrValues, read_selections};
use crate::tpm::{Facts, Lockout, LockoutRules};
use crate::transport::Transport;
use crate::wire::{Reader, Writer};

const DICTIONARY_ATTACK_LOCK_RESET: Verb = verb("TPM2_DictionaryAttackLockReset", 0x139);
const DICTIONARY_ATTACK_PARAMETERS: Verb = verb("TPM2_DictionaryAttackParameters", 0x13A);
const HIERARCHY_CHANGE_AUTH: Verb = verb("TPM2_HierarchyChangeAuth", 0x129);
const GET_CAPABILITY: Verb = verb("TPM2_GetCapability", 0x17A);
const PCR_READ: Verb = verb("TPM2_PCR_Read", 0x17E);
const PCR_EXTEND: Verb = verb("TPM2_PCR_Extend", 0x182);

const POLICY_AUTHORIZE_NV: u32 = 0x192;

/// Kinds of capabilities (`TPM_CAP`, Part 2, 6.12).
mod capability {
    pub(super) const COMMANDS: u32 = 2;
    pub(super) const PCRS: u32 = 5;
    pub(super) const PROPERTIES: u32 = 6;
}

/// Properties (`TPM_PT`, Part 2, 6.13).
mod property {
    pub(super) const MANUFACTURER: u32 = 0x105;
    pub(super) const FIRMWARE_1: u32 = 0x10B;
    pub(super) const FIRMWARE_2: u32 = 0x10C;
    pub(super) const PERMANENT: u32 = 0x200;
    pub(super) const LOCKOUT_COUNTER: u32 = 0x20E;
    pub(super) const MAX_AUTH_FAIL: u32 = 0x20F;
    pub(super) const LOCKOUT_INTERVAL: u32 = 0x210;
    pub(super) const LOCKOUT_RECOVERY: u32 = 0x211;
}

/// Bits of the property "permanent" (`TPMA_PERMANENT`, Part 2, 8.6).
const OWNER_AUTH_SET: u32 = 1 << 0;
const LOCKOUT_AUTH_SET: u32 = 1 << 2;
const IN_LOCKOUT: u32 = 1 << 9;

impl<T: Transport> Native<T> {
    pub(super) fn read_facts(&mut self) -> Result<Facts, TpmError> {
        let letters = self.property(property::MANUFACTURER)?.to_be_bytes();
        let manufacturer = letters
            .iter()
            .filter(|letter| letter.is_ascii_graphic())
            .map(|letter| char::from(*letter))
            .collect();
        let firmware = [
            self.property(property::FIRMWARE_1)?,
            self.property(property::FIRMWARE_2)?,
        ];
        let permanent = self.property(property::PERMANENT)?;
        Ok(Facts {
            manufacturer,
            firmware,
            owner_auth_set: permanent & OWNER_AUTH_SET != 0,
            lockout_auth_set: permanent & LOCKOUT_AUTH_SET != 0,
            has_policy_authorize_nv: self.has_command(POLICY_AUTHORIZE_NV)?,
        })
    }

    pub(super) fn lockout_state(&mut self) -> Result<Lockout, TpmError> {
        Ok(Lockout {
            wrong_tries: self.property(property::LOCKOUT_COUNTER)?,
            rules: LockoutRules {
                max_tries: self.property(property::MAX_AUTH_FAIL)?,
                forget_one_after_s: self.property(property::LOCKOUT_INTERVAL)?,
                recovery_s: self.property(property::LOCKOUT_RECOVERY)?,
            },
            locked: self.property(property::PERMANENT)? & IN_LOCKOUT != 0,
        })
    }

    pub(super) fn live_banks(&mut self) -> Result<Vec<HashAlg>, TpmError> {
        let answer = self.capability(capability::PCRS, 0, 1)?;
        let mut reader = capability_data(&answer, capability::PCRS)?;
        let banks = read_selections(&mut reader)?;
        reader.end()?;
        Ok(banks
            .into_iter()
            .filter(|(_, pcrs)| !pcrs.is_empty())
            .filter_map(|(bank, _)| HashAlg::from_id(bank))
            .collect())
    }

    pub(super) fn pcr_values(&mut self, selection: &PcrSelection) -> Result<PcrValues, TpmError> {
        for _ in 0..MAX_PCR_CHANGES {
            if let Some(values) = self.pcr_values_once(selection)? {
                return Ok(values);
            }
        }
        Err(TpmError::Garbage {
            what: "PCRs that never stand still",
        })
    }

    /// `None` if a PCR moved while they were read.
    fn pcr_values_once(&mut self, selection: &PcrSelection) -> Result<Option<PcrValues>, TpmError> {
        let bank = selection.bank();
        let mut values = PcrValues::new(bank);
        let mut moment = None;
        while let Some(rest) = selection.without(&values) {
            let parameters = Writer::new().bytes(&rest.to_bytes());
            let answer = self
                .link
                .run(Command::new(PCR_READ, Vec::new(), parameters))?;
            let mut reader = answer.reader();
            let counter = reader.u32()?;
            let read = read_selections(&mut reader)?;
            let count = reader.u32()?;
            let numbers = read.get(&bank.id()).map_or(&[][..], Vec::as_slice);
            if numbers.is_empty() {
                return Err(TpmError::NoSuchBank { bank: bank.name() });
            }
            let asked = numbers.iter().all(|pcr| rest.pcrs().any(|one| one == *pcr));
            if !asked || usize::try_from(count) != Ok(numbers.len()) {
                return Err(reader.fail().into());
            }
            for pcr in numbers {
                let value = reader.sized()?;
                if value.len() != bank.len() {
                    return Err(reader.fail().into());
                }
                values.insert(*pcr, value)?;
            }
            reader.end()?;
            if *moment.get_or_insert(counter) != counter {
                return Ok(None);
            }
        }
        Ok(Some(values))
    }

    pub(super) fn extend(&mut self, bank: HashAlg, pcr: u8, digest: &[u8]) -> Result<(), TpmError> {
        if digest.len() != bank.len() || pcr >= PCRS {
            return Err(TpmError::Misuse {
                what: "a digest that the PCR's bank cannot take",
            });
        }
        let parameters = Writer::new().u32(1).u16(bank.id()).bytes(digest);
        let command = Command::new(PCR_EXTEND, vec![Subject::plain(pcr.into())], parameters)
            .by(Authorization::Empty);
        Ok(self.link.run(command)?.reader().end()?)
    }

    pub(super) fn reset_tries(&mut self, auth: Option<&AuthValue>) -> Result<(), TpmError> {
        self.by_lockout(DICTIONARY_ATTACK_LOCK_RESET, Writer::new(), auth)
    }

    pub(super) fn set_rules(
        &mut self,
        rules: &LockoutRules,
        auth: Option<&AuthValue>,
    ) -> Result<(), TpmError> {
        let parameters = Writer::new()
            .u32(rules.max_tries)
            .u32(rules.forget_one_after_s)
            .u32(rules.recovery_s);
        self.by_lockout(DICTIONARY_ATTACK_PARAMETERS, parameters, auth)
    }

    pub(super) fn change_lockout_auth(
        &mut self,
        new: &AuthValue,
        old: Option<&AuthValue>,
    ) -> Result<(), TpmError> {
        let secret = SecretBytes::init_with(new.expose().len(), |bytes| {
            bytes.copy_from_slice(new.expose());
            Ok::<(), CryptoError>(())
        })?;
        let key = self.root_key()?;
        let answer = self.with_session(SessionKind::Hmac, Some(&key), |native, session| {
            let subjects = vec![Subject::plain(LOCKOUT)];
            let command = Command::new(HIERARCHY_CHANGE_AUTH, subjects, Writer::new())
                .hiding(&secret)
                .giving_auth(new)
                .by(Authorization::Session {
                    session,
                    auth: old,
                    answer_secret: false,
                });
            native.link.run(command)
        });
        Ok(answer.map_err(lockout_error)?.reader().end()?)
    }

    fn by_lockout(
        &mut self,
        verb: Verb,
        parameters: Writer,
        auth: Option<&AuthValue>,
    ) -> Result<(), TpmError> {
        let command = Command::new(verb, vec![Subject::plain(LOCKOUT)], parameters);
        let answer = match auth {
            None => self.link.run(command.by(Authorization::Empty)),
            Some(_) => {
                let key = self.root_key()?;
                self.with_session(SessionKind::Hmac, Some(&key), |native, session| {
                    native.link.run(command.by(Authorization::Session {
                        session,
                        auth,
                        answer_secret: false,
                    }))
                })
            }
        };
        Ok(answer.map_err(lockout_error)?.reader().end()?)
    }

    fn property(&mut self, number: u32) -> Result<u32, TpmError> {
        let answer = self.capability(capability::PROPERTIES, number, 1)?;
        let mut reader = capability_data(&answer, capability::PROPERTIES)?;
        let count = reader.u32()?;
        let found = reader.u32()?;
        let value = reader.u32()?;
        // A TPM gives the next one that it has when it does not have this one.
        if count != 1 || found != number {
            return Err(reader.fail().into());
        }
        reader.end()?;
        Ok(value)
    }

    fn has_command(&mut self, code: u32) -> Result<bool, TpmError> {
        let answer = self.capability(capability::COMMANDS, code, 1)?;
        let mut reader = capability_data(&answer, capability::COMMANDS)?;
        let count = reader.u32()?;
        let has = count == 1 && reader.u32()? & 0xFFFF == code;
        reader.rest();
        Ok(has)
    }

    fn capability(&mut self, kind: u32, first: u32, count: u32) -> Result<Answer, TpmError> {
        let parameters = Writer::new().u32(kind).u32(first).u32(count);
        self.link
            .run(Command::new(GET_CAPABILITY, Vec::new(), parameters))
    }
}

fn capability_data(answer: &Answer, kind: u32) -> Result<Reader<'_>, TpmError> {
    let mut reader = answer.reader();
    reader.u8()?; // whether there is more
    if reader.u32()? != kind {
        return Err(reader.fail().into());
    }
    Ok(reader)
}
