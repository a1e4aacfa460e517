//! What the wrong uses are measured against.

use luksmith_crypto::{
    Arena, Cipher, CipherSpec, IoBuf, IvSector, SectorCipher, SectorSize, VolumeKey,
};

fn write_to_device(buf: &IoBuf<Cipher>) -> &[u8] {
    buf.as_cipher()
}

fn main() {
    let key = VolumeKey::generate(64).expect("a key");
    let cipher = SectorCipher::new(CipherSpec::AesXtsPlain64, &key, SectorSize::S4096)
        .expect("a cipher");
    let arena = Arena::new(1, 4096).expect("locked memory");
    let blank = arena.take().expect("a free slot");
    let Ok(plain) = blank.fill_plain(4096, |_| Ok::<(), ()>(())) else { return };
    let encrypted = cipher.encrypt(IvSector(0), plain);
    assert_eq!(write_to_device(&encrypted).len(), 4096);
    let plain = cipher.decrypt(IvSector(0), encrypted);
    assert!(plain.as_plain().iter().all(|&byte| byte == 0));
}
