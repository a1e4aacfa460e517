//~ E0308
use luksmith_crypto::{Blank, Cipher, IoBuf};

fn write_to_device(_: &IoBuf<Cipher>) {}

fn mistake(buf: IoBuf<Blank>) {
    write_to_device(&buf);
}

fn main() {}
