//! luksmith as a part of a system: power cuts, names in /dev, many volumes.

luksmith_tests::vm_suite! { "system" with (env!("CARGO_BIN_EXE_replay-log")):
    what_fsync_promised_survives_a_power_cut,
    every_flush_leaves_a_mountable_file_system,
    thirty_two_volumes_are_open_at_once,
    names_in_dev_come_and_go_with_the_volume,
    volume_groups_come_and_go_with_the_volume,
}
