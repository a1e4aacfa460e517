//! The same volume under luksmith and under cryptsetup with dm-crypt, on real kernels.

luksmith_tests::vm_suite! { "interop":
    ours_and_dm_crypt_agree_on_sectors_of_512,
    ours_and_dm_crypt_agree_on_sectors_of_4096,
    cryptsetups_volumes_are_served_512,
    cryptsetups_volumes_are_served_4096,
    detached_header_leaves_the_whole_disk_to_the_data,
    data_offset_is_where_dm_crypt_sees_it,
    wrong_passphrase_opens_nothing_and_says_2,
    kernel_nbd_client_mounts_what_we_serve,
    systemd_opens_our_tpm_slot,
}
