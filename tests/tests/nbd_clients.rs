//! The NBD programs that people have, against our export: qemu-img, nbdcopy, nbdinfo, fio.
//! And many connections at once.

use std::fs;
use std::process::Command;

use luksmith_tests::cryptsetup::run;
use luksmith_tests::nbd::{NbdClient, NbdKind, NbdServer, NbdVolume, pattern};

const SERVER: &str = env!("CARGO_BIN_EXE_nbd-test-server");

fn serve(volume: &NbdVolume, more: &[&str]) -> NbdServer {
    volume.try_serve(SERVER, more).expect("it serves")
}

/// Runs a client program that must succeed; returns what it wrote.
fn program(name: &str, arguments: &[&str]) -> String {
    let ended = run(Command::new(name).args(arguments), b"").expect(0, name);
    // nbdinfo guesses at the content, and its guess need not be text.
    String::from_utf8_lossy(&ended.out).into_owned()
}

#[test]
fn qemu_img_copies_in_and_out_and_finds_no_difference() {
    for sector in [512, 4096] {
        let volume = NbdVolume::format(24 << 20, sector);
        let server = serve(&volume, &[]);
        let (before, after) = (
            volume.folder().join("before"),
            volume.folder().join("after"),
        );
        let (before, after) = (
            before.to_str().expect("path"),
            after.to_str().expect("path"),
        );
        // with stretches of zeroes, which qemu treats specially
        let mut content = pattern(24 << 20, 1);
        content[4 << 20..9 << 20].fill(0);
        fs::write(before, &content).expect("written");
        let uri = server.uri();
        let info = program("qemu-img", &["info", "--output", "json", uri]);
        let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
        assert_eq!(info["virtual-size"], 24 << 20);
        program(
            "qemu-img",
            &["convert", "-n", "-f", "raw", "-O", "raw", before, uri],
        );
        program(
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", before, uri],
        );
        program(
            "qemu-img",
            &[
                "convert", "-W", "-m", "8", "-f", "raw", "-O", "raw", uri, after,
            ],
        );
        assert!(fs::read(after).expect("read") == content);
        let counters = server.stop();
        assert_eq!(counters["errors"], 0);
        assert_ne!(counters["flushes"], 0, "qemu flushes at the end of a copy");
    }
}

#[test]
fn nbdcopy_copies_over_several_connections_both_ways() {
    let volume = NbdVolume::format(48 << 20, 4096);
    let server = serve(&volume, &[]);
    let (before, after) = (
        volume.folder().join("before"),
        volume.folder().join("after"),
    );
    let (before, after) = (
        before.to_str().expect("path"),
        after.to_str().expect("path"),
    );
    let content = pattern(48 << 20, 2);
    fs::write(before, &content).expect("written");
    let uri = server.uri();
    let info = program("nbdinfo", &["--json", uri]);
    let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
    let export = &info["exports"][0];
    let expected: [(&str, serde_json::Value); 8] = [
        ("export-size", (48 << 20).into()),
        ("can_fua", true.into()),
        ("can_flush", true.into()),
        ("can_multi_conn", true.into()),
        ("can_trim", false.into()),
        ("can_zero", false.into()),
        ("is_read_only", false.into()),
        ("block_size_minimum", 4096.into()),
    ];
    for (what, expected) in expected {
        assert_eq!(export[what], expected, "{what} in {export}");
    }
    program(
        "nbdcopy",
        &["--flush", "--connections=4", "--requests=32", before, uri],
    );
    program("nbdcopy", &["--connections=4", "--threads=4", uri, after]);
    assert!(fs::read(after).expect("read") == content);
    let counters = server.stop();
    assert_eq!(counters["errors"], 0);
    assert_eq!(counters["bytes_written"], 48 << 20);
}

#[test]
fn fio_verifies_what_it_wrote_in_random_order_and_sizes() {
    for (sector, sizes) in [(512, "512-64k"), (4096, "4k-384k")] {
        let volume = NbdVolume::format(32 << 20, sector);
        let server = serve(&volume, &[]);
        let uri = format!("--uri={}", server.uri());
        let sizes = format!("--bsrange={sizes}");
        let align = format!("--blockalign={sector}");
        let mut arguments = vec!["--name=verify", "--ioengine=nbd", &uri, "--rw=randwrite"];
        arguments.extend([
            &sizes[..],
            &align,
            "--size=32M",
            "--io_size=24M",
            "--iodepth=32",
        ]);
        arguments.extend([
            "--fsync=16",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--thread=1",
        ]);
        arguments.extend(["--verify_backlog=64", "--randseed=7", "--norandommap=0"]);
        let folder = volume.folder().to_owned();
        let ended = run(
            Command::new("fio").args(&arguments).current_dir(folder),
            b"",
        );
        ended.expect(0, "fio");
        let counters = server.stop();
        assert_eq!(counters["errors"], 0);
        assert_ne!(counters["flushes"], 0);
        assert!(
            counters["bytes_read"].as_u64() > Some(8 << 20),
            "it reads back: {counters}"
        );
    }
}

#[test]
fn sixteen_connections_work_at_once_and_see_each_others_writes() {
    let volume = NbdVolume::format(32 << 20, 4096);
    let server = serve(&volume, &[]);
    let share = (32 << 20) / 16;
    std::thread::scope(|scope| {
        for n in 0..16u64 {
            let stream = server.connect();
            scope.spawn(move || {
                let mut client = NbdClient::new(stream, n % 2 == 0);
                let base = n * share;
                // all requests first, then all replies: many in flight, in any order
                let blocks = 32u64;
                let len = 16 << 10;
                for block in 0..blocks {
                    let data = pattern(len, base + block);
                    let at = base + block * len as u64;
                    client
                        .send(NbdKind::Write, block % 5 == 0, at, len as u32, &data)
                        .expect("sent");
                }
                let mut seen: Vec<u64> = (0..blocks)
                    .map(|_| client.receive(|_| 0).expect("a reply"))
                    .map(|reply| {
                        assert_eq!(reply.error, 0);
                        reply.cookie
                    })
                    .collect();
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len() as u64, blocks, "each request is answered once");
                client.flush().expect("flushed");
            });
        }
    });
    // from one more connection, after all answers
    let mut client = NbdClient::new(server.connect(), true);
    for n in 0..16u64 {
        for block in 0..32u64 {
            let at = n * share + block * (16 << 10);
            let expected = pattern(16 << 10, n * share + block);
            assert!(
                client.read(at, 16 << 10).expect("read") == expected,
                "{n} {block}"
            );
        }
    }
    let counters = server.stop();
    assert_eq!(counters["errors"], 0);
    assert_eq!(counters["writes"], 16 * 32);
    assert_eq!(counters["fua_writes"], 16 * 7);
}

#[test]
fn the_seventeenth_client_waits_until_a_place_is_free() {
    let volume = NbdVolume::format(1 << 20, 512);
    let server = serve(&volume, &["--connections", "2"]);
    let one = NbdClient::new(server.connect(), true);
    let _two = NbdClient::new(server.connect(), true);
    let third = server.connect();
    third.set_nonblocking(true).expect("nonblocking");
    std::thread::sleep(std::time::Duration::from_millis(200));
    let mut byte = [0; 1];
    let nothing = std::io::Read::read(&mut &third, &mut byte).expect_err("no greeting yet");
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    drop(one);
    third.set_nonblocking(false).expect("blocking");
    let mut third = NbdClient::new(third, true);
    assert_eq!(third.read(0, 512).expect("read").len(), 512);
}

#[test]
fn old_clients_without_structured_replies_read_long_ranges_too() {
    let volume = NbdVolume::format(8 << 20, 512);
    let server = serve(&volume, &[]);
    let mut client = NbdClient::new(server.connect(), false);
    assert!(!client.structured);
    let content = pattern(8 << 20, 9);
    for at in (0..8 << 20).step_by(2 << 20) {
        client
            .write(at as u64, &content[at..][..2 << 20], false)
            .expect("written");
    }
    // 1.5 MiB in one reply, several at once: their pieces come mixed, the replies must not
    let len = 3 << 19;
    let cookies: Vec<_> = (0..5u64)
        .map(|n| {
            let cookie = client
                .send(NbdKind::Read, false, n << 20, len, &[])
                .expect("sent");
            (cookie, n << 20)
        })
        .collect();
    for _ in &cookies {
        let reply = client.receive(|_| len as usize).expect("a reply");
        let (_, at) = cookies
            .iter()
            .find(|(cookie, _)| *cookie == reply.cookie)
            .expect("ours");
        assert_eq!(reply.error, 0);
        assert!(reply.data[0].1 == content[*at as usize..][..len as usize]);
    }
    // longer than any reply can be made: an error, and the connection goes on
    assert_eq!(client.read(0, 8 << 20), Err(22));
    assert!(client.read(512, 512).expect("read") == content[512..1024]);
}
