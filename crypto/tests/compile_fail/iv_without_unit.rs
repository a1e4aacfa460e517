//~ E0308
use luksmith_crypto::{IoBuf, Plain, SectorCipher};

fn mistake(cipher: &SectorCipher, plain: IoBuf<Plain>) {
    let _encrypted = cipher.encrypt(4096, plain);
}

fn main() {}
