//! The ways to a TPM.

use luksmith_tpm::{Native, Tpm};

use crate::support::Swtpm;

#[test]
fn a_unix_socket_and_a_tcp_port_lead_to_a_tpm() {
    for swtpm in [Swtpm::new(), Swtpm::on_tcp()] {
        drop(swtpm.connect());
        let address = swtpm.address().parse().unwrap();
        let mut tpm = Native::open(&address).unwrap();
        assert_eq!(tpm.facts().unwrap().manufacturer, "IBM", "{address}");
    }
}
