//! LUKS2 tokens of type `clevis` with the pin `tpm2`: read, so that volumes can move; never made.
//!
//! Such a token holds a JWE. Its protected header says what the TPM sealed and to which PCRs; what
//! comes out is the key of the JWE, whose plaintext is the passphrase of the slot.
//!
//! ```text
//! ClevisTpm2::parse     mod.rs    token -> JWE -> what is sealed, under which key, to which PCRs
//! fitting_policy        mod.rs    the PCRs as they are now, compared before anything is unsealed
//! unseal                mod.rs    in an encrypted session, which clevis itself does not use
//! Jwe::open             jwe.rs    the key that came out -> the passphrase
//! ```
//!
//! There is no PIN in this form, and without PCRs ([`ClevisTpm2::pcrs`]) the presence of the TPM is
//! all it takes.

mod jwe;

use luksmith_crypto::Passphrase;
use luksmith_luks2::Token;

use self::jwe::Jwe;
use super::json::{Members, damaged};
use super::signatures::numbers;
use crate::error::TpmError;
use crate::hash::HashAlg;
use crate::pcr::{PCRS, PcrSelection};
use crate::policy::{Assertion, Policy};
use crate::tpm::{PrimaryTemplate, Sealed, StorageKey, Tpm};
use crate::wire::{KeyKind, Public, Reader, WireError};

/// The type of these tokens, whatever their pin.
pub const CLEVIS_KIND: &str = "clevis";

/// The pin that is understood.
const PIN: &str = "tpm2";
/// Longest word of somebody else's that is repeated in an error, in characters.
const MAX_QUOTED: usize = 32;

/// What one token says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClevisTpm2 {
    /// What is sealed: the key of the JWE.
    pub sealed: Sealed,
    /// What it is sealed under: a key that is made anew each time.
    pub under: StorageKey,
    /// The PCRs that it is bound to; `None` where the presence of the TPM is enough.
    pub pcrs: Option<PcrSelection>,
    jwe: Jwe,
}

impl ClevisTpm2 {
    /// Reads a token.
    ///
    /// # Errors
    /// [`TpmError::Damaged`] for one that makes no sense; [`TpmError::Unsupported`] for another
    /// pin (`tang`, `sss`) and for a form that is not understood.
    pub fn parse(token: &Token) -> Result<Self, TpmError> {
        if token.kind != CLEVIS_KIND {
            return Err(TpmError::Unsupported {
                what: format!("token of type {:?}", token.kind),
            });
        }
        let jwe = Jwe::parse(Members(&token.raw).needed("jwe")?)?;
        let header = jwe.header()?;
        let clevis = Members(Members(&header).needed("clevis")?);
        match clevis.text("pin")?.ok_or(damaged("pin"))? {
            PIN => {}
            other => return Err(unsupported("clevis pin", other)),
        }
        jwe::check_algorithms(&Members(&header))?;
        let members = Members(clevis.needed(PIN)?);
        match members.text("hash")?.ok_or(damaged("hash"))? {
            "sha256" => {}
            other => return Err(unsupported("clevis token with names by", other)),
        }
        let under = match members.text("key")?.ok_or(damaged("key"))? {
            "ecc" | "ecc256" => PrimaryTemplate::LegacyEcc,
            "rsa" | "rsa2048" => PrimaryTemplate::LegacyRsa,
            other => return Err(unsupported("clevis token under a key of type", other)),
        };
        let private = jwe::base64url_of(&members, "jwk_priv")?;
        let public = jwe::base64url_of(&members, "jwk_pub")?;
        let sealed = sealed(&private, &public).map_err(|error| damaged(&error.to_string()))?;
        let pcrs = pcrs(&members)?;
        if pcrs.is_some() == sealed.public.policy.is_empty() {
            return Err(damaged("pcr_ids and the policy do not go together"));
        }
        Ok(Self {
            sealed,
            under: StorageKey::Primary(under),
            pcrs,
            jwe,
        })
    }

    /// The policy as the machine fulfils it now; an empty one where there is nothing to fulfil.
    ///
    /// # Errors
    /// [`TpmError::PolicyMismatch`] if it does not: nothing was tried then.
    /// [`TpmError::NoSuchBank`].
    pub fn fitting_policy(&self, tpm: &mut dyn Tpm) -> Result<Policy, TpmError> {
        let Some(selection) = self.pcrs else {
            return Ok(Policy::default());
        };
        let values = Some(tpm.read_pcrs(&selection)?.digest());
        let policy = Policy::new(vec![Assertion::Pcrs { selection, values }]);
        if self.sealed.public.policy == policy.digest()?.0 {
            return Ok(policy);
        }
        let pcrs: Vec<u8> = selection.pcrs().collect();
        Err(TpmError::PolicyMismatch {
            detail: format!("PCR {} have other values", numbers(&pcrs)),
        })
    }

    /// The passphrase that the token leads to.
    ///
    /// # Errors
    /// Those of [`Self::fitting_policy`] and [`Tpm::unseal`]; [`TpmError::Damaged`] if what is
    /// sealed is not the key of the JWE.
    pub fn passphrase(&self, tpm: &mut dyn Tpm) -> Result<Passphrase, TpmError> {
        let policy = self.fitting_policy(tpm)?;
        let key = tpm.unseal(&self.under, &self.sealed, &policy, None)?;
        self.jwe.open(&key)
    }
}

/// Names what is not understood, shortened: it may be anything.
fn unsupported(what: &str, other: &str) -> TpmError {
    let other: String = other.chars().take(MAX_QUOTED).collect();
    TpmError::Unsupported {
        what: format!("{what} {other:?}"),
    }
}

fn sealed(private: &[u8], public: &[u8]) -> Result<Sealed, WireError> {
    let whole = |what, bytes| -> Result<Vec<u8>, WireError> {
        let mut reader = Reader::new(what, bytes);
        let contents = reader.sized()?.to_vec();
        reader.end()?;
        Ok(contents)
    };
    let private = whole("jwk_priv", private)?;
    let public = Public::parse(&whole("jwk_pub", public)?)?;
    if private.is_empty() || public.kind != KeyKind::Sealed {
        return Err(WireError { what: "jwk_pub" });
    }
    Ok(Sealed {
        private,
        public,
        seed: None,
    })
}

/// "0,7" of a bank; clevis writes both members or none.
fn pcrs(members: &Members<'_>) -> Result<Option<PcrSelection>, TpmError> {
    let Some(ids) = members.text("pcr_ids")? else {
        return Ok(None);
    };
    let bank = members.text("pcr_bank")?.ok_or(damaged("pcr_bank"))?;
    let bank = HashAlg::from_name(bank).ok_or_else(|| unsupported("PCR bank", bank))?;
    let pcrs: Option<Vec<u8>> = match ids {
        "all" => Some((0..PCRS).collect()),
        ids => ids.split(',').map(|id| id.trim().parse().ok()).collect(),
    };
    let pcrs = pcrs.ok_or(damaged("pcr_ids"))?;
    PcrSelection::new(bank, &pcrs)
        .map(Some)
        .map_err(|_| damaged("pcr_ids"))
}
