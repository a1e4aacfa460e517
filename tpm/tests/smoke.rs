//! The fuzzing entry functions on seeded input, so that every test run exercises them.
//!
//! `LUKSMITH_FUZZ_SEED` and `LUKSMITH_FUZZ_ROUNDS` choose other input; both are printed when
//! something breaks.

mod entries;
#[expect(dead_code, reason = "other tests use the rest")]
mod support;

use luksmith_tpm::token::{
    Enrolment, NewPin, PcrSignatures, Pcrlock, PcrlockPolicy, PolicyFiles, PolicyKey, SignedPcrs,
    SystemdTpm2, enrol,
};
use luksmith_tpm::transport::{Frame, Recorder};
use luksmith_tpm::wire::{NvAttributes, NvPublic};
use luksmith_tpm::{
    Assertion, HashAlg, Lock, Native, NvAuth, PcrSelection, Policy, PrimaryTemplate, StorageKey,
    Tpm,
};
use support::{Swtpm, auth, secret};

/// Numbers that depend on the seed alone (splitmix64).
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % (limit.max(1) as u64)).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(default, |text| text.parse().expect("a number"))
}

/// Runs `entry` on inputs that `make` yields, and says which one broke it.
fn run(entry: fn(&[u8]), mut make: impl FnMut(&mut Seeded) -> Vec<u8>) {
    let seed = number("LUKSMITH_FUZZ_SEED", 20_261_122);
    for round in 0..number("LUKSMITH_FUZZ_ROUNDS", 3000) {
        let mut random = Seeded(seed ^ round.wrapping_mul(0xd134_2543_de82_ef95));
        let input = make(&mut random);
        let outcome = std::panic::catch_unwind(|| entry(&input));
        assert!(
            outcome.is_ok(),
            "seed {seed}, round {round}, input {}",
            hex::encode(&input)
        );
    }
}

/// Changes some bytes, and sometimes the length.
fn damage(random: &mut Seeded, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.byte(),
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes[at] = [0, 0xFF, 0x7F, 0x80, 1][random.below(5)],
            3 => bytes.truncate(at),
            4 => bytes.insert(at, random.byte()),
            _ => {
                bytes.remove(at);
            }
        }
    }
}

/// What a real TPM answers to each of the choices of [`entries::answers`].
fn real_answers() -> Vec<Vec<Vec<u8>>> {
    let swtpm = Swtpm::new();
    (0_u8..8)
        .map(|choice| {
            let (recorder, recording) = Recorder::new(swtpm.connect());
            let mut tpm = Native::over(recorder);
            same_commands(&mut tpm, choice);
            recording
                .frames()
                .into_iter()
                .filter_map(|frame| match frame {
                    Frame::Answer(bytes) => Some(bytes),
                    Frame::Command(_) => None,
                })
                .collect()
        })
        .collect()
}

fn same_commands(tpm: &mut dyn Tpm, choice: u8) {
    let pcrs = PcrSelection::new(HashAlg::Sha256, &[0, 7, 23]).unwrap();
    let key = StorageKey::Primary(PrimaryTemplate::LegacyEcc);
    let policy = Policy::new(vec![
        Assertion::Pcrs {
            selection: pcrs,
            values: None,
        },
        Assertion::AuthValue,
    ]);
    match choice {
        0 => drop(tpm.facts().unwrap()),
        1 => {
            tpm.lockout().unwrap();
            tpm.banks().unwrap();
        }
        2 => drop(tpm.read_pcrs(&pcrs).unwrap()),
        3 => drop(tpm.storage_root().unwrap()),
        4 | 5 => {
            let values = tpm.read_pcrs(&pcrs).unwrap().digest();
            let exact = Policy::new(vec![
                Assertion::Pcrs {
                    selection: pcrs,
                    values: Some(values),
                },
                Assertion::AuthValue,
            ]);
            let pin = auth(b"1234");
            let lock = Lock {
                policy: exact.digest().unwrap(),
                auth: Some(&pin),
                counts_tries: true,
            };
            let sealed = tpm.seal(&key, &secret(b"secret"), &lock).unwrap();
            if choice == 5 {
                tpm.unseal(&key, &sealed, &policy, Some(&pin)).unwrap();
            }
        }
        _ => {
            let _ = tpm.nv_read(0x0180_0001, &NvAuth::Index(None));
            tpm.trial(&Policy::new(vec![Assertion::AuthValue])).unwrap();
        }
    }
}

#[test]
fn any_answers_are_refused_or_read_and_never_believed() {
    let real = real_answers();
    run(entries::answers, |random| {
        let choice = random.byte() % 8;
        let mut input = vec![choice];
        let script = &real[usize::from(choice)];
        // Begin anywhere: what is asked first here may come later there.
        for answer in script.iter().skip(random.below(script.len())) {
            let mut body = answer.clone();
            let framed = random.below(3) > 0 && body.len() >= 10;
            let mut head = 0_u16;
            if framed {
                head = 0x8000 | if body[1] == 2 { 0x4000 } else { 0 };
                body.drain(..10);
            }
            damage(random, &mut body);
            head |= u16::try_from(body.len()).unwrap() & 0x0FFF;
            input.extend(head.to_be_bytes());
            input.extend(body);
        }
        input
    });
}

#[test]
fn any_structure_is_refused_or_comes_back_the_same() {
    let nv = "01800001000b2004000400000022".to_owned();
    let sealed = format!(
        "0008000b000000120020{}00100020{}",
        "01".repeat(32),
        "02".repeat(32)
    );
    let key = format!(
        "0023000b00030472000000060080004300100003001000 20{}0020{}",
        "03".repeat(32),
        "04".repeat(32)
    )
    .replace(' ', "");
    let seeds: Vec<Vec<u8>> = [nv, sealed, key]
        .iter()
        .map(|text| hex::decode(text).unwrap())
        .chain([
            b"swtpm:host=::1,port=1".to_vec(),
            b"device:/dev/tpmrm0".to_vec(),
        ])
        .collect();
    for seed in &seeds {
        entries::structures(seed);
    }
    run(entries::structures, |random| {
        let mut input = seeds[random.below(seeds.len())].clone();
        damage(random, &mut input);
        input
    });
}

/// A token with a PIN, and one with everything that a policy can hold.
fn real_tokens() -> [SystemdTpm2; 2] {
    let swtpm = Swtpm::new();
    let mut tpm = Native::over(swtpm.connect());
    let given = luksmith_crypto::Passphrase::new(secret(b"1234"));
    let how = NewPin::Argon2id {
        memory_kib: 32,
        iterations: 1,
        lanes: 1,
    };
    let with_pin = Enrolment {
        pcrs: &[0, 7],
        pin: Some((&given, how)),
        ..Enrolment::default()
    };
    let with_pin = enrol(&mut tpm, &with_pin).unwrap();
    let nowhere = PolicyFiles::default().with_signatures("/nonexistent");
    let signed = Enrolment {
        signed: Some(SignedPcrs {
            key: PolicyKey::from_pem(&pem()).unwrap(),
            pcrs: vec![11],
            purpose: Some("initrd".to_owned()),
        }),
        files: nowhere,
        ..Enrolment::default()
    };
    let mut both = enrol(&mut tpm, &signed).unwrap().token().clone();
    both.sealed.push(both.sealed[0].clone());
    both.policies.push(both.policies[0]);
    both.pcrlock = Some(Pcrlock {
        index: Some(NvPublic {
            index: 0x0180_0042,
            attributes: NvAttributes::OWNER_READ.with(NvAttributes::WRITTEN),
            policy: Vec::new(),
            size_bytes: 34,
        }),
    });
    [with_pin.token().clone(), both]
}

fn pem() -> Vec<u8> {
    let key = openssl::rsa::Rsa::generate(2048).unwrap();
    key.public_key_to_pem().unwrap()
}

#[test]
fn any_token_is_refused_or_comes_back_the_same() {
    let texts = real_tokens().map(|token| token.to_json(1).unwrap().to_string());
    for text in &texts {
        entries::token(text.as_bytes());
    }
    run(entries::token, |random| {
        let mut input = texts[random.below(texts.len())].clone().into_bytes();
        damage(random, &mut input);
        input
    });
}

#[test]
fn any_token_of_clevis_is_refused_or_read() {
    let made: serde_json::Value =
        serde_json::from_str(include_str!("clevis/jwes.json")).expect("JSON");
    let compact = ["by_presence_ecc", "by_pcr_sha256"].map(|name| made[name].as_str().unwrap());
    let mut seeds = Vec::new();
    for compact in compact {
        let parts: Vec<&str> = compact.split('.').collect();
        let flattened = serde_json::json!({ "protected": parts[0], "encrypted_key": parts[1],
            "iv": parts[2], "ciphertext": parts[3], "tag": parts[4] });
        let header =
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, parts[0]);
        seeds.push([&[0, 0], compact.as_bytes()].concat());
        seeds.push([&[0, 1], &*header.unwrap()].concat());
        seeds.push([&[1, 0], flattened.to_string().as_bytes()].concat());
    }
    for seed in &seeds {
        entries::clevis(seed);
    }
    run(entries::clevis, |random| {
        let mut input = seeds[random.below(seeds.len())].clone();
        damage(random, &mut input);
        input
    });
}

#[test]
fn any_policy_file_is_refused_or_read() {
    let hash = "11".repeat(32);
    let entry = serde_json::json!({ "pcrs": [11], "pkfp": hash, "ref": "initrd", "pol": hash, "sig": "AAAAAAAAAAAA" });
    let signatures = serde_json::json!({ "sha256": [entry, entry], "sha1": [entry] });
    let token = real_tokens()[1].to_json(1).unwrap();
    let pcrlock = serde_json::json!({
        "pcrBank": "sha256",
        "pcrValues": [{ "pcr": 7, "values": [hash, "22".repeat(32)] }],
        "nvHandle": token["tpm2_pcrlock_nv"],
    });
    PcrSignatures::parse(signatures.to_string().as_bytes()).unwrap();
    PcrlockPolicy::parse(pcrlock.to_string().as_bytes()).unwrap();
    let seeds = [
        signatures.to_string().into_bytes(),
        pcrlock.to_string().into_bytes(),
        pem(),
    ];
    for seed in &seeds {
        entries::policy_files(seed);
    }
    run(entries::policy_files, |random| {
        let mut input = seeds[random.below(seeds.len())].clone();
        damage(random, &mut input);
        input
    });
}
