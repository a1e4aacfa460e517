//! Response codes: which of them mean what (TPM 2.0 Library, Part 2, 6.6).

use std::fmt;

/// A response code other than success, without the numbers of parameter, handle or session that
/// a TPM mixes in, and without the layer that a resource manager writes above it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    /// As it came.
    raw: u32,
}

impl Code {
    /// `TPM_RC_INITIALIZE`: a second start, or none at all.
    pub const INITIALIZE: u32 = 0x100;
    /// `TPM_RC_FAILURE`: the TPM failed a test of itself.
    pub const FAILURE: u32 = 0x101;
    /// `TPM_RC_POLICY`: an assertion of a policy does not hold.
    pub const POLICY: u32 = 0x126;
    /// `TPM_RC_PCR_CHANGED`: a PCR moved between assertion and use.
    pub const PCR_CHANGED: u32 = 0x128;
    /// `TPM_RC_AUTH_UNAVAILABLE`: the entity cannot be used that way.
    pub const AUTH_UNAVAILABLE: u32 = 0x12F;
    /// `TPM_RC_COMMAND_CODE`: the TPM does not know the command.
    pub const COMMAND_CODE: u32 = 0x143;
    /// `TPM_RC_NV_LOCKED`.
    pub const NV_LOCKED: u32 = 0x148;
    /// `TPM_RC_NV_AUTHORIZATION`: this kind of authorization may not do that.
    pub const NV_AUTHORIZATION: u32 = 0x149;
    /// `TPM_RC_NV_UNINITIALIZED`: read before it was written.
    pub const NV_UNINITIALIZED: u32 = 0x14A;
    /// `TPM_RC_NV_SPACE`: no room.
    pub const NV_SPACE: u32 = 0x14B;
    /// `TPM_RC_NV_DEFINED`: the handle is taken.
    pub const NV_DEFINED: u32 = 0x14C;
    /// `TPM_RC_ATTRIBUTES`.
    pub const ATTRIBUTES: u32 = 0x082;
    /// `TPM_RC_VALUE`.
    pub const VALUE: u32 = 0x084;
    /// `TPM_RC_HANDLE`: nothing is there.
    pub const HANDLE: u32 = 0x08B;
    /// `TPM_RC_AUTH_FAIL`: wrong authorization value, and the try counts.
    pub const AUTH_FAIL: u32 = 0x08E;
    /// `TPM_RC_SIGNATURE`.
    pub const SIGNATURE: u32 = 0x09B;
    /// `TPM_RC_SIZE`.
    pub const SIZE: u32 = 0x095;
    /// `TPM_RC_POLICY_FAIL`: the policy that was carried out is not that of the object.
    pub const POLICY_FAIL: u32 = 0x09D;
    /// `TPM_RC_INTEGRITY`: an object of another TPM, or a damaged one.
    pub const INTEGRITY: u32 = 0x09F;
    /// `TPM_RC_BAD_AUTH`: wrong authorization value, and the try does not count.
    pub const BAD_AUTH: u32 = 0x0A2;
    /// `TPM_RC_LOCKOUT`.
    pub const LOCKOUT: u32 = 0x921;
    /// `TPM_RC_REFERENCE_H0`: a handle of this use is not loaded.
    pub const REFERENCE_H0: u32 = 0x910;

    const FORMAT_ONE: u32 = 0x080;
    const YIELDED: u32 = 0x908;
    const CANCELED: u32 = 0x909;
    const TESTING: u32 = 0x90A;
    const NV_RATE: u32 = 0x920;
    const RETRY: u32 = 0x922;
    const NV_UNAVAILABLE: u32 = 0x923;
    const MEMORY: std::ops::RangeInclusive<u32> = 0x902..=0x906;

    pub(crate) const fn new(raw: u32) -> Self {
        Self { raw }
    }

    /// The meaning alone.
    #[must_use]
    pub const fn base(self) -> u32 {
        let code = self.raw & 0xFFF;
        if code & Self::FORMAT_ONE == 0 {
            code
        } else {
            // Bit 6 says parameter; bits 8 to 11 are the number of parameter, handle or session.
            code & 0x0BF
        }
    }

    /// As the TPM said it, for a report.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.raw
    }

    /// Whether the same frame is to be sent again, because the TPM has done nothing yet.
    #[must_use]
    pub const fn is_retry(self) -> bool {
        matches!(
            self.base(),
            Self::YIELDED
                | Self::CANCELED
                | Self::TESTING
                | Self::NV_RATE
                | Self::RETRY
                | Self::NV_UNAVAILABLE
        )
    }

    /// Whether the TPM has no room for one more object or session.
    #[must_use]
    pub fn is_out_of_room(self) -> bool {
        Self::MEMORY.contains(&self.base())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.base() {
            Self::INITIALIZE => "not started",
            Self::FAILURE => "failure mode",
            Self::POLICY => "assertion of a policy",
            Self::PCR_CHANGED => "PCR changed",
            Self::AUTH_UNAVAILABLE => "no such way to authorize",
            Self::COMMAND_CODE => "command not known",
            Self::NV_LOCKED => "NV index is locked",
            Self::NV_AUTHORIZATION => "NV authorization",
            Self::NV_UNINITIALIZED => "NV index was never written",
            Self::NV_SPACE => "no NV room",
            Self::NV_DEFINED => "NV index exists",
            Self::ATTRIBUTES => "attributes",
            Self::VALUE => "value",
            Self::HANDLE => "no such handle",
            Self::AUTH_FAIL | Self::BAD_AUTH => "wrong authorization",
            Self::SIGNATURE => "signature",
            Self::POLICY_FAIL => "policy does not match",
            Self::INTEGRITY => "integrity",
            Self::LOCKOUT => "locked out",
            _ => return write!(f, "code {:#05x}", self.raw),
        };
        write!(f, "{text} (code {:#05x})", self.raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_sessions_parameters_and_layers_do_not_change_the_meaning() {
        for (raw, meaning) in [
            (0x99D, Code::POLICY_FAIL),
            (0x98E, Code::AUTH_FAIL),
            (0x9A2, Code::BAD_AUTH),
            (0x1C4, Code::VALUE),
            (0x18B, Code::HANDLE),
            (0x128, Code::PCR_CHANGED),
            (0x921, Code::LOCKOUT),
            (0x000B_0143, Code::COMMAND_CODE),
        ] {
            assert_eq!(Code::new(raw).base(), meaning, "{raw:#x}");
        }
    }

    #[test]
    fn only_what_was_not_begun_is_sent_again() {
        for raw in [0x908, 0x909, 0x90A, 0x920, 0x922, 0x923] {
            assert!(Code::new(raw).is_retry(), "{raw:#x}");
        }
        for raw in [0x921, 0x902, 0x98E, 0x9A2, 0x128, 0x922 & 0xFF] {
            assert!(!Code::new(raw).is_retry(), "{raw:#x}");
        }
        assert!(Code::new(0x902).is_out_of_room() && Code::new(0x903).is_out_of_room());
    }
}
