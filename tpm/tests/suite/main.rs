//! What every back end does on a real TPM. Each test has an swtpm of its own.

#[path = "../support/mod.rs"]
mod support;

mod hostile;
mod lockout;
mod nv;
mod offline;
mod policies;
mod sealing;
mod ways;

use luksmith_tpm::{Native, Tpm};
use support::Swtpm;

/// A back end, connected to a TPM.
type Opener = fn(&Swtpm) -> Box<dyn Tpm>;

fn native(tpm: &Swtpm) -> Box<dyn Tpm> {
    Box::new(Native::over(tpm.connect()))
}

/// One test for each claim and back end.
macro_rules! claims {
    ($($file:ident: $($claim:ident)*;)*) => {
        mod on_native {
            $($(
                #[test]
                fn $claim() {
                    super::$file::$claim(super::native);
                }
            )*)*
        }
    };
}

claims! {
    sealing:
        what_is_sealed_comes_back
        the_storage_root_is_made_once_and_stays
        a_changed_pcr_closes_it_and_tells_why
        a_pin_opens_and_wrong_ones_count
        a_lockout_tells_its_time_and_leaves_slots_without_pin_open
        a_wrong_machine_state_costs_no_try
        a_policy_that_is_not_that_of_the_secret_is_refused_before_the_pin_is_used
        another_tpm_is_told_from_a_damaged_secret
        legacy_primaries_are_made_anew_each_time
        nonsense_is_refused;
    offline:
        what_was_sealed_elsewhere_opens_here_and_nowhere_else;
    policies:
        digests_are_those_of_the_tpm
        a_signed_policy_opens_and_an_unsigned_one_does_not
        another_alternative_opens_too
        rewriting_an_index_changes_what_opens
        a_counter_ends_what_was_sealed_before_it_moved
        an_index_of_the_same_number_is_not_the_same_index;
    nv:
        contents_are_read_as_they_were_written
        a_policy_guards_an_index
        a_read_lock_holds_until_the_next_start
        a_write_lock_holds_until_the_next_start
        what_is_not_there_or_not_allowed_is_told_apart
        long_contents_go_in_parts;
    lockout:
        the_rules_can_be_set_and_tries_forgotten;
}
