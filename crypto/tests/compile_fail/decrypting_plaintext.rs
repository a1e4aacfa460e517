//~ E0308
use luksmith_crypto::{IoBuf, IvSector, Plain, SectorCipher};

fn mistake(cipher: &SectorCipher, plain: IoBuf<Plain>) {
    let _odd = cipher.decrypt(IvSector(0), plain);
}

fn main() {}
