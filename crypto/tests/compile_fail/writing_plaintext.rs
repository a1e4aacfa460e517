//~ E0308
use luksmith_crypto::{Cipher, IoBuf, Plain};

fn write_to_device(_: &IoBuf<Cipher>) {}

fn mistake(buf: IoBuf<Plain>) {
    write_to_device(&buf);
}

fn main() {}
