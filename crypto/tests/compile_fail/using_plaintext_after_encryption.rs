//~ E0382
use luksmith_crypto::{IoBuf, IvSector, Plain, SectorCipher};

fn mistake(cipher: &SectorCipher, plain: IoBuf<Plain>) -> usize {
    let _encrypted = cipher.encrypt(IvSector(0), plain);
    plain.len()
}

fn main() {}
