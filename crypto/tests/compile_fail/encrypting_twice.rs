//~ E0308
use luksmith_crypto::{Cipher, IoBuf, IvSector, SectorCipher};

fn mistake(cipher: &SectorCipher, encrypted: IoBuf<Cipher>) {
    let _twice = cipher.encrypt(IvSector(0), encrypted);
}

fn main() {}
