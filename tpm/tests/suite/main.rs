//! What every back end does on a real TPM. Each test has an swtpm of its own.

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod clevis;
mod hostile;
mod kept;
mod lockout;
mod nv;
mod offline;
mod pcrlock;
mod policies;
mod sealing;
#[cfg(feature = "esapi")]
mod second;
mod signed;
mod tokens;
mod ways;

use luksmith_tpm::{Native, Tpm};
use support::Swtpm;

/// A back end, and the kind of TPM that it can reach.
#[derive(Clone, Copy)]
struct BackEnd {
    swtpm: fn() -> Swtpm,
    connect: fn(&Swtpm) -> Box<dyn Tpm>,
}

impl BackEnd {
    /// A new TPM.
    fn swtpm(self) -> Swtpm {
        (self.swtpm)()
    }

    /// Connects; a TPM serves one at a time.
    fn connect(self, swtpm: &Swtpm) -> Box<dyn Tpm> {
        (self.connect)(swtpm)
    }
}

const NATIVE: BackEnd = BackEnd {
    swtpm: Swtpm::new,
    connect: |swtpm| Box::new(Native::over(swtpm.connect())),
};

#[cfg(feature = "esapi")]
const ESAPI: BackEnd = BackEnd {
    swtpm: Swtpm::on_tcp,
    connect: |swtpm| Box::new(luksmith_tpm::Esapi::open(&swtpm.address()).expect("a TPM")),
};

/// One test for each claim and back end.
macro_rules! claims {
    (
        both { $($file:ident: $($claim:ident)*;)* }
        native { $($native_file:ident: $($native_claim:ident)*;)* }
    ) => {
        mod on_native {
            $($(#[test] fn $claim() { super::$file::$claim(super::NATIVE); })*)*
            $($(#[test] fn $native_claim() { super::$native_file::$native_claim(super::NATIVE); })*)*
        }
        #[cfg(feature = "esapi")]
        mod on_esapi {
            $($(#[test] fn $claim() { super::$file::$claim(super::ESAPI); })*)*
        }
    };
}

claims! {
    both {
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
            what_was_sealed_elsewhere_opens_here_and_nowhere_else
            a_token_that_was_made_elsewhere_opens;
        policies:
            digests_are_those_of_the_tpm
            a_signed_policy_opens_and_an_unsigned_one_does_not
            another_alternative_opens_too;
        nv:
            contents_are_read_as_they_were_written
            a_policy_guards_an_index
            what_is_not_there_or_not_allowed_is_told_apart
            long_contents_go_in_parts;
        tokens:
            a_volume_opens_by_the_state_of_the_machine
            a_volume_opens_by_a_pin_in_each_of_its_forms
            a_wrong_state_asks_for_no_pin
            another_machine_does_not_open_it
            a_token_is_read_as_it_was_written
            a_damaged_token_is_told_and_an_unknown_member_is_not_minded
            nothing_is_enrolled_that_protects_nothing_or_does_not_open;
        lockout:
            a_lockout_authorization_is_set_once_and_taken_away_by_who_knows_it;
        attacks:
            a_reset_and_the_same_measurements_open_what_needs_no_pin
            a_reset_gives_no_tries_back;
        clevis:
            what_clevis_made_opens_in_both_forms
            a_changed_pcr_is_told_before_anything_is_unsealed
            what_another_tpm_sealed_does_not_open;
        signed:
            what_is_signed_opens_and_nothing_else
            what_is_wrong_with_signatures_is_told
            a_signature_for_another_purpose_does_not_count
            what_could_not_be_tried_says_so_and_opens_when_signed
            a_token_with_the_other_name_of_the_key_opens
            a_signed_token_is_read_as_it_was_written;
    }
    native {
        policies:
            rewriting_an_index_changes_what_opens
            a_counter_ends_what_was_sealed_before_it_moved
            an_index_of_the_same_number_is_not_the_same_index;
        nv:
            a_counter_only_goes_up_and_no_other_index_is_taken_for_it
            a_read_lock_holds_until_the_next_start
            a_write_lock_holds_until_the_next_start;
        pcrlock:
            digests_by_hand_are_those_of_the_tpm
            what_is_foreseen_opens_and_nothing_else
            literal_pcrs_and_a_pin_count_too
            a_stale_policy_is_told_and_not_enrolled
            what_is_wrong_with_index_or_file_is_told
            the_file_says_the_index_where_the_token_does_not
            with_the_owners_right_the_index_is_made_anew
            with_signed_pcrs_it_takes_both;
        clevis:
            the_key_that_clevis_sends_in_the_clear_is_not_seen_on_the_bus;
        lockout:
            the_rules_can_be_set_and_tries_forgotten
            nobody_forgives_wrong_tries_without_the_lockout_authorization
            who_knows_the_lockout_authorization_forgives
            a_new_lockout_authorization_is_not_seen_on_the_bus;
        kept:
            no_file_is_needed_whatever_comes_after
            what_is_not_yet_in_force_costs_nothing
            without_room_the_file_is_needed
            what_is_revoked_opens_nowhere
            an_index_made_anew_is_written_by_nobody_else
            a_grace_opens_once_and_only_where_it_was_granted;
    }
}
