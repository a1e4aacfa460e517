//! What lies on the disk is cryptsetup's format: it encrypts and we read through NBD, we
//! write through NBD and it decrypts. Regular files only; no kernel support is needed.

use std::fs;
use std::path::{Path, PathBuf};

use luksmith_tests::cryptsetup::{CHEAP, cryptsetup};
use luksmith_tests::nbd::{NbdClient, NbdServer, pattern};

const SERVER: &str = env!("CARGO_BIN_EXE_nbd-test-server");
const SECRET: &str = "pass";

/// Where the header lies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Header {
    Detached,
    /// In front of the data, which cryptsetup moves to make room.
    Attached,
}

struct Volume {
    folder: tempfile::TempDir,
    header: Header,
}

impl Volume {
    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn header(&self) -> PathBuf {
        match self.header {
            Header::Detached => self.folder.path().join("header"),
            Header::Attached => self.data(),
        }
    }

    /// A file with this plaintext, encrypted in place by cryptsetup.
    fn encrypted_by_cryptsetup(plain: &[u8], header: Header, sector: u32, bits: u32) -> Self {
        let volume = Self {
            folder: tempfile::tempdir().expect("a folder"),
            header,
        };
        let mut content = plain.to_vec();
        if header == Header::Attached {
            // the room that is shifted away
            content.resize(plain.len() + ATTACHED_SHRINK, 0);
        }
        fs::write(volume.data(), content).expect("written");
        let (data, header_path) = (volume.data(), volume.header());
        let (data, header_path) = (text(&data), text(&header_path));
        let (sector, bits) = (sector.to_string(), bits.to_string());
        let mut arguments = vec!["reencrypt", "--encrypt", "--type", "luks2"];
        arguments.extend(["--force-offline-reencrypt", "--sector-size", &sector]);
        arguments.extend(["--key-size", &bits, "--cipher", "aes-xts-plain64"]);
        arguments.extend(CHEAP);
        match header {
            Header::Detached => arguments.extend(["--header", header_path]),
            Header::Attached => arguments.extend(["--reduce-device-size", "32M"]),
        }
        arguments.push(data);
        cryptsetup(&arguments, SECRET.as_bytes()).expect(0, "encrypt");
        volume
    }

    /// The plaintext as cryptsetup decrypts it, in place.
    fn decrypted_by_cryptsetup(&self) -> Vec<u8> {
        assert_eq!(
            self.header,
            Header::Detached,
            "decryption in place needs it here"
        );
        let (data, header) = (self.data(), self.header());
        cryptsetup(
            &[
                "reencrypt",
                "--decrypt",
                "--force-offline-reencrypt",
                "--header",
                text(&header),
                text(&data),
            ],
            SECRET.as_bytes(),
        )
        .expect(0, "decrypt");
        fs::read(&data).expect("plaintext")
    }

    fn serve(&self, more: &[&str]) -> NbdServer {
        let socket = self.folder.path().join("socket");
        NbdServer::try_start(SERVER, &self.data(), &self.header(), SECRET, &socket, more)
            .expect("it serves")
    }
}

const ATTACHED_SHRINK: usize = 32 << 20;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the test's own")
}

#[test]
fn what_cryptsetup_encrypted_is_read_bit_for_bit() {
    for (header, sector, bits) in [
        (Header::Detached, 512, 512),
        (Header::Detached, 4096, 512),
        (Header::Detached, 4096, 256),
        (Header::Detached, 2048, 256),
        (Header::Attached, 512, 256),
        (Header::Attached, 4096, 512),
    ] {
        let plain = pattern(4 << 20, u64::from(sector));
        let volume = Volume::encrypted_by_cryptsetup(&plain, header, sector, bits);
        let server = volume.serve(&["--read-only"]);
        for structured in [true, false] {
            let mut client = NbdClient::new(server.connect(), structured);
            let said = format!("{header:?} sector {sector} key {bits} structured {structured}");
            if header == Header::Detached {
                assert_eq!(client.size, plain.len() as u64, "{said}");
            }
            // in one go, sector by sector near both ends, and pieces of odd numbers of sectors
            let whole = client
                .read(0, plain.len().min(2 << 20) as u32)
                .expect("read");
            assert!(whole == plain[..whole.len()], "{said}");
            for at in (0..16).chain(plain.len() as u64 / u64::from(sector) - 16..) {
                let at = at * u64::from(sector);
                if at >= plain.len() as u64 {
                    break;
                }
                let got = client.read(at, sector).expect("read");
                assert!(
                    got == plain[at as usize..][..sector as usize],
                    "{said} at {at}"
                );
            }
            let odd = sector * 37;
            let mut at = 0;
            while at + u64::from(odd) <= plain.len() as u64 {
                let got = client.read(at, odd).expect("read");
                assert!(
                    got == plain[at as usize..][..odd as usize],
                    "{said} at {at}"
                );
                at += u64::from(odd);
            }
        }
        let counters = server.stop();
        assert_eq!(counters["errors"], 0);
        assert_eq!(counters["writes"], 0);
    }
}

#[test]
fn what_is_written_through_nbd_is_decrypted_by_cryptsetup() {
    for (sector, bits) in [(512, 256), (4096, 512)] {
        let old = pattern(4 << 20, 7);
        let volume = Volume::encrypted_by_cryptsetup(&old, Header::Detached, sector, bits);
        let mut expected = old;
        let server = volume.serve(&[]);
        let mut client = NbdClient::new(server.connect(), true);
        let mut write = |at: u64, len: usize, fua: bool| {
            let data = pattern(len, at + 1);
            client.write(at, &data, fua).expect("written");
            expected[at as usize..][..len].copy_from_slice(&data);
        };
        let sector_bytes = sector as usize;
        write(0, sector_bytes, false);
        write(u64::from(sector), sector_bytes, true);
        write(u64::from(sector) * 5, sector_bytes * 3, false);
        // longer than one piece, and not a multiple of one
        write(1 << 20, (1 << 20) + sector_bytes, false);
        write((4 << 20) - u64::from(sector), sector_bytes, true);
        client.flush().expect("flushed");
        let counters = server.stop();
        assert_eq!(counters["errors"], 0);
        assert!(
            volume.decrypted_by_cryptsetup() == expected,
            "sector {sector}"
        );
    }
}

#[test]
fn the_ciphertext_on_the_disk_is_the_one_that_cryptsetup_makes() {
    let plain = pattern(2 << 20, 3);
    let volume = Volume::encrypted_by_cryptsetup(&plain, Header::Detached, 4096, 512);
    let by_cryptsetup = fs::read(volume.data()).expect("ciphertext");
    let server = volume.serve(&[]);
    let mut client = NbdClient::new(server.connect(), true);
    // overwritten with something else first, so that nothing can be left by chance
    client
        .write(0, &vec![0xaa; plain.len()], false)
        .expect("written");
    assert!(fs::read(volume.data()).expect("ciphertext") != by_cryptsetup);
    client.write(0, &plain, false).expect("written");
    client.flush().expect("flushed");
    server.stop();
    assert!(fs::read(volume.data()).expect("ciphertext") == by_cryptsetup);
}
