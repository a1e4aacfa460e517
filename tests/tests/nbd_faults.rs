//! What the export does when something is wrong: below it, beside it, or with the client.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use luksmith_tests::nbd::{NbdClient, NbdKind, NbdServer, NbdVolume, pattern};

const SERVER: &str = env!("CARGO_BIN_EXE_nbd-test-server");
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;

fn serve(volume: &NbdVolume, more: &[&str]) -> NbdServer {
    volume.try_serve(SERVER, more).expect("it serves")
}

#[test]
fn a_backing_that_was_cut_off_gives_errors_there_and_data_before() {
    for buffered in [&[][..], &["--buffered"][..]] {
        let volume = NbdVolume::format(8 << 20, 4096);
        let server = serve(&volume, buffered);
        for structured in [true, false] {
            let mut client = NbdClient::new(server.connect(), structured);
            let content = pattern(8 << 20, 5);
            client
                .write(0, &content[..2 << 20], false)
                .expect("written");
            client.flush().expect("flushed");
            let file = fs::File::options()
                .write(true)
                .open(volume.data())
                .expect("the file");
            file.set_len(NbdVolume::HEADER_BYTES + (1 << 20))
                .expect("cut off");
            // all behind the cut
            assert_eq!(client.read(1 << 20, 4096), Err(EIO));
            assert_eq!(client.read(4 << 20, 1 << 20), Err(EIO));
            // across it: part of the bytes came, none of them may be passed off as all
            assert_eq!(client.read((1 << 20) - 8192, 16384), Err(EIO));
            let before = client.read(0, 1 << 20).expect("what is there");
            assert!(before == content[..1 << 20]);
            // the file is as long again as it was; holes are not our plaintext, but are readable
            file.set_len(NbdVolume::HEADER_BYTES + (8 << 20))
                .expect("grown");
            assert_eq!(client.read(4 << 20, 4096).expect("readable").len(), 4096);
        }
        let counters = server.stop();
        // per client one, four pieces of the long one, one
        assert_eq!(counters["errors"], 12);
    }
}

#[test]
fn no_room_below_is_told_as_no_room() {
    let volume = NbdVolume::format(8 << 20, 512);
    // the kernel refuses writes past this length of a file, as a full disk would
    let limit = format!("--fsize={}", NbdVolume::HEADER_BYTES + (1 << 20));
    let data = volume.data();
    let mut command = Command::new("prlimit");
    command
        .args([&limit[..], SERVER])
        .arg("--data")
        .arg(&data)
        .arg("--header")
        .arg(&data);
    command
        .args(["--passphrase", NbdVolume::SECRET, "--socket"])
        .arg(volume.socket());
    let server = NbdServer::from_command(command, &volume.socket()).expect("it serves");
    let mut client = NbdClient::new(server.connect(), true);
    let block = pattern(64 << 10, 3);
    client.write(0, &block, false).expect("there is room");
    assert_eq!(client.write(4 << 20, &block, false), Err(ENOSPC));
    assert_eq!(client.write(4 << 20, &block, true), Err(ENOSPC));
    // half of it fits: written, and still an error
    let across = (1 << 20) - (32 << 10);
    assert_eq!(client.write(across, &block, false), Err(ENOSPC));
    assert!(client.read(0, 64 << 10).expect("read") == block);
    client.flush().expect("flushed");
    server.stop();
}

#[test]
fn after_kill_9_a_new_server_has_what_was_flushed() {
    let volume = NbdVolume::format(8 << 20, 4096);
    let mut flushed = Vec::new();
    for round in 0..4u64 {
        let server = serve(&volume, &[]);
        let mut client = NbdClient::new(server.connect(), true);
        for (at, data) in &flushed {
            let got = client.read(*at, 8192).expect("read");
            assert!(got == *data, "round {round} at {at}");
        }
        for n in 0..8u64 {
            let at = (round * 8 + n) * 16384;
            let data = pattern(8192, at + 1);
            // by flush or by itself
            client.write(at, &data, round % 2 == 1).expect("written");
            flushed.push((at, data));
        }
        if round % 2 == 0 {
            client.flush().expect("flushed");
        }
        // and something is under way when it dies
        for n in 0..16u64 {
            let at = (4 << 20) + n * 65536;
            client
                .send(NbdKind::Write, false, at, 65536, &pattern(65536, n))
                .expect("sent");
        }
        server.signal("KILL");
        let (status, served, _) = server.wait();
        assert!(!status.success() && served.is_none());
        let mut rest = Vec::new();
        // the end of the stream, or a reset
        let _ = client.stream().read_to_end(&mut rest);
    }
}

#[test]
fn a_stop_under_load_answers_what_is_under_way_and_flushes() {
    let volume = NbdVolume::format(16 << 20, 512);
    let server = serve(&volume, &[]);
    let mut answered = Vec::new();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u64)
            .map(|n| {
                let stream = server.connect();
                scope.spawn(move || {
                    let mut client = NbdClient::new(stream, true);
                    let mut answered = Vec::new();
                    for block in 0..100_000u64 {
                        let at = ((n * 5) << 20) + block % 512 * 8192;
                        let data = pattern(8192, n << 32 | block);
                        if client.send(NbdKind::Write, false, at, 8192, &data).is_err() {
                            break;
                        }
                        match client.receive(|_| 0) {
                            Ok(reply) => {
                                assert_eq!(reply.error, 0, "no request fails for the stop");
                                answered.push((at, data));
                            }
                            Err(_) => break,
                        }
                    }
                    answered
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        server.signal("TERM");
        for writer in writers {
            answered.push(writer.join().expect("the writer ends"));
        }
    });
    let (status, served, err) = server.wait();
    assert!(status.success(), "{err}");
    let served = served.expect("counters");
    let count: usize = answered.iter().map(Vec::len).sum();
    assert!(count > 0 && served["writes"].as_u64() >= Some(count as u64));
    assert!(!volume.socket().exists(), "the socket is gone");
    let server = serve(&volume, &["--read-only"]);
    let mut client = NbdClient::new(server.connect(), true);
    for writer in answered {
        let last: std::collections::HashMap<_, _> = writer.into_iter().collect();
        for (at, data) in last {
            assert!(client.read(at, 8192).expect("read") == data, "{at}");
        }
    }
}

#[test]
fn requests_that_break_a_bound_get_their_error_and_the_connection_goes_on() {
    for (sector, less) in [(512u32, 256), (4096, 512)] {
        let volume = NbdVolume::format(4 << 20, sector);
        let server = serve(&volume, &[]);
        for structured in [true, false] {
            let mut client = NbdClient::new(server.connect(), structured);
            let end = 4 << 20;
            let block = vec![7; sector as usize];
            assert_eq!(client.read(0, less), Err(EINVAL));
            assert_eq!(client.read(u64::from(less), sector), Err(EINVAL));
            assert_eq!(client.read(end, sector), Err(EINVAL));
            assert_eq!(client.read(u64::MAX - 511, sector), Err(EINVAL));
            assert_eq!(client.write(end, &block, false), Err(ENOSPC));
            assert_eq!(client.write(0, &block[..less as usize], false), Err(EINVAL));
            assert_eq!(
                client.ask(NbdKind::Trim, false, 0, sector, &[]),
                Err(ENOTSUP)
            );
            assert_eq!(
                client.ask(NbdKind::WriteZeroes, false, 0, sector, &[]),
                Err(ENOTSUP)
            );
            assert_eq!(client.ask(NbdKind::Flush, false, 0, 1, &[]), Err(EINVAL));
            assert_eq!(client.read(0, 0), Ok(vec![]));
            client
                .write(end - u64::from(sector), &block, true)
                .expect("the last block");
            assert_eq!(client.read(end - u64::from(sector), sector), Ok(block));
        }
        server.stop();
    }
}

#[test]
fn data_that_looks_like_requests_is_never_taken_for_one() {
    let volume = NbdVolume::format(4 << 20, 512);
    let server = serve(&volume, &[]);
    let mut client = NbdClient::new(server.connect(), false);
    let len = 20 << 10;
    let (target, victim) = (1 << 20, 2 << 20);
    // a write of 512 bytes to the victim, 28 bytes of header and its data, again and again
    let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
    request.extend([0, 0, 0, NbdKind::Write as u8]);
    request.extend(u64::MAX.to_be_bytes());
    request.extend(u64::to_be_bytes(victim));
    request.extend(512u32.to_be_bytes());
    request.resize(28 + 512, 0xEE);
    let before = client.read(victim, 512).expect("read");
    let data: Vec<u8> = request.into_iter().cycle().take(len).collect();
    // The reads take every large buffer there is, so that the write's data must wait where
    // the next request is expected.
    let reads = 24;
    for _ in 0..50 {
        let mut cookies = Vec::new();
        for n in 0..reads {
            let at = n * len as u64;
            let sent = client.send(NbdKind::Read, false, at, len as u32, &[]);
            cookies.push(sent.expect("sent"));
        }
        let write = client
            .send(NbdKind::Write, false, target, len as u32, &data)
            .expect("sent");
        cookies.push(write);
        while !cookies.is_empty() {
            let reply = client
                .receive(|cookie| if cookie == write { 0 } else { len })
                .expect("a reply");
            assert_eq!(reply.error, 0);
            let place = cookies.iter().position(|cookie| *cookie == reply.cookie);
            cookies.swap_remove(place.expect("an answer to what was asked"));
        }
    }
    assert!(client.read(target, len as u32) == Ok(data));
    assert!(client.read(victim, 512) == Ok(before), "the victim");
    let counters = server.stop();
    assert_ne!(counters["slot_waits"], 0, "buffers were scarce");
}

#[test]
fn a_read_only_export_takes_no_writes_and_shares_its_file_with_readers_only() {
    let volume = NbdVolume::format(1 << 20, 512);
    let server = serve(&volume, &["--read-only"]);
    let mut client = NbdClient::new(server.connect(), true);
    assert_ne!(client.flags & 2, 0, "it says that it is read-only");
    assert_eq!(client.write(0, &[0; 512], false), Err(EPERM));
    client.flush().expect("harmless");
    let data = volume.data();
    let other = volume.folder().join("other");
    let second =
        |more: &[&str]| NbdServer::try_start(SERVER, &data, &data, NbdVolume::SECRET, &other, more);
    let reader = second(&["--read-only"]).expect("a second reader");
    reader.stop();
    let refused = second(&[]).map(drop).expect_err("a writer beside a reader");
    let holder = format!("process {}", server.pid());
    assert!(
        refused.contains("is in use") && refused.contains(&holder),
        "{refused}"
    );
    server.stop();
    let writer = serve(&volume, &[]);
    let refused = second(&["--read-only"])
        .map(drop)
        .expect_err("a reader beside a writer");
    assert!(refused.contains("is in use"), "{refused}");
    // and the socket of a server that lives is not taken away from it
    let copy = volume.folder().join("copy");
    fs::copy(&data, &copy).expect("copied");
    let refused = NbdServer::try_start(
        SERVER,
        &copy,
        &copy,
        NbdVolume::SECRET,
        &volume.socket(),
        &[],
    )
    .map(drop)
    .expect_err("two servers on one socket");
    assert!(refused.contains("another server listens"), "{refused}");
    NbdClient::new(writer.connect(), true)
        .flush()
        .expect("still served");
}

#[test]
fn trim_is_carried_out_when_it_is_allowed() {
    let volume = NbdVolume::format(8 << 20, 4096);
    let server = serve(&volume, &["--discard"]);
    let mut client = NbdClient::new(server.connect(), true);
    assert_ne!(client.flags & (1 << 5), 0, "trim is offered");
    client
        .write(0, &pattern(8 << 20, 1)[..8 << 20], false)
        .expect("written");
    client.flush().expect("flushed");
    let blocks = || {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(volume.data()).expect("the file").blocks()
    };
    let before = blocks();
    client
        .ask(NbdKind::Trim, false, 1 << 20, 4 << 20, &[])
        .expect("trimmed");
    let after = blocks();
    assert!(before - after >= (3 << 20) / 512, "{before} to {after}");
    client
        .ask(NbdKind::Trim, true, 6 << 20, 1 << 20, &[])
        .expect("trimmed and flushed");
    // what was not trimmed is untouched, what was is readable
    assert!(client.read(0, 1 << 20).expect("read") == pattern(8 << 20, 1)[..1 << 20]);
    assert_eq!(client.read(2 << 20, 4096).expect("readable").len(), 4096);
    let counters = server.stop();
    assert_eq!(
        (&counters["discards"], &counters["errors"]),
        (&2.into(), &0.into())
    );
    assert!(
        counters["syncs_sent"].as_u64() >= Some(2),
        "the second trim asked for one"
    );
}

#[test]
fn flushes_reach_the_backing_and_not_more_often_than_asked() {
    let volume = NbdVolume::format(1 << 20, 512);
    let server = serve(&volume, &[]);
    let mut client = NbdClient::new(server.connect(), true);
    for n in 0..10u64 {
        client
            .write(n * 512, &[n as u8; 512], false)
            .expect("written");
        client.flush().expect("flushed");
    }
    // with nothing to write as well: another connection may have written
    client.flush().expect("flushed");
    let counters = server.stop();
    assert_eq!(counters["flushes"], 11);
    assert_eq!(counters["syncs_sent"], 11);
}

#[test]
fn clients_that_talk_nonsense_are_cut_off_alone() {
    let volume = NbdVolume::format(4 << 20, 512);
    let server = serve(&volume, &[]);
    let mut good = NbdClient::new(server.connect(), true);
    let mut seed = 11;
    for round in 0..60 {
        let mut stream = server.connect();
        seed += 1;
        let mut noise = pattern(4096, seed);
        match round % 4 {
            0 => {}
            // a good start, then noise
            1 => noise[..4].copy_from_slice(&3u32.to_be_bytes()),
            2 => {
                let mut client = NbdClient::new(stream, true);
                let _ = client.stream().write_all(&noise);
                let mut rest = Vec::new();
                let _ = client.stream().read_to_end(&mut rest);
                continue;
            }
            // gone in the middle of a write
            _ => {
                let mut client = NbdClient::new(stream, true);
                client
                    .send(NbdKind::Write, false, 0, 1 << 20, &noise)
                    .expect("sent");
                continue;
            }
        }
        let _ = stream.write_all(&noise);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        let data = pattern(512, round);
        good.write(round * 512, &data, false).expect("written");
        assert!(good.read(round * 512, 512).expect("read") == data);
    }
    server.stop();
}

#[test]
fn a_client_that_takes_no_replies_holds_up_nobody_and_no_stop() {
    let volume = NbdVolume::format(16 << 20, 4096);
    let server = serve(&volume, &[]);
    let mut deaf = NbdClient::new(server.connect(), true);
    deaf.stream()
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("a timeout");
    // until neither side can take more
    for n in 0..10_000u64 {
        if deaf
            .send(NbdKind::Read, false, n % 8 * (1 << 20), 1 << 20, &[])
            .is_err()
        {
            break;
        }
    }
    let mut other = NbdClient::new(server.connect(), true);
    for n in 0..50u64 {
        other
            .write(n * 4096, &pattern(4096, n), false)
            .expect("written");
    }
    let began = Instant::now();
    server.stop();
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn without_root_and_within_eight_mebibytes_of_locked_memory() {
    // as an ordinary user sees it: no capability, the usual memlock limit
    let volume = NbdVolume::format(8 << 20, 4096);
    let data = volume.data();
    for path in [volume.folder(), &data] {
        let owned = Command::new("chown")
            .arg("65534")
            .arg(path)
            .status()
            .expect("chown runs");
        assert!(owned.success());
    }
    // a copy that this user may run, wherever the build lies
    let program = volume.folder().join("server");
    fs::copy(SERVER, &program).expect("copied");
    let mut command = Command::new("prlimit");
    command.args([
        "--memlock=8388608",
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
    ]);
    command
        .args(["--inh-caps=-all", "--bounding-set=-all"])
        .arg(&program);
    command.arg("--data").arg(&data).arg("--header").arg(&data);
    command
        .args(["--passphrase", NbdVolume::SECRET, "--socket"])
        .arg(volume.socket());
    let server = NbdServer::from_command(command, &volume.socket()).expect("it serves");
    assert!(
        server
            .warnings()
            .iter()
            .any(|warning| warning.contains("locked into memory")),
        "{:?}",
        server.warnings()
    );
    let mut clients: Vec<_> = (0..16)
        .map(|n| NbdClient::new(server.connect(), n % 2 == 0))
        .collect();
    for (n, client) in (0u64..).zip(&mut clients) {
        // longer than one piece of this lean server
        let data = pattern(384 << 10, n);
        client
            .write(n * (512 << 10), &data, n % 3 == 0)
            .expect("written");
    }
    for (n, client) in (0u64..).zip(&mut clients) {
        // 64 KiB at a time: an old client's reply must fit into its share
        for part in 0..6u64 {
            let at = n * (512 << 10) + part * (64 << 10);
            let got = client.read(at, 64 << 10).expect("read");
            assert!(got == pattern(384 << 10, n)[(part as usize) << 16..][..64 << 10]);
        }
    }
    drop(clients);
    let counters = server.stop();
    assert_eq!(counters["errors"], 0);
}
