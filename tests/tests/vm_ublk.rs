//! The ublk device itself: its life, its users, its death and its limits, under real kernels.

luksmith_tests::vm_suite! { "ublk":
    file_systems_live_through_close_and_open,
    a_writer_notices_nothing_of_killed_servers,
    a_volume_in_use_is_not_closed,
    deferred_close_waits_for_the_last_user,
    the_end_asked_for_by_a_signal_waits_for_users_too,
    errors_below_come_out_as_errors,
    a_full_disk_below_is_an_error_and_not_a_loss,
    discards_go_down_only_when_allowed,
    geometry_is_that_of_the_disk_below,
    servers_are_fit_to_serve_their_own_memory,
    a_server_killed_while_it_takes_over_is_replaced,
    a_server_that_cannot_live_is_given_up,
    a_killed_keeper_leaves_a_volume_that_can_be_closed,
    a_volume_is_open_only_once,
    an_open_that_fails_leaves_nothing,
    a_path_is_there_without_udev,
    partitions_are_found_and_counted_as_users,
    other_mounts_are_not_held,
    doctor_knows_this_machine,
}
