//! resolv.conf and hosts: none panics, and there is always somebody to ask.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::net::dns::files::{ResolvConf, in_hosts_file, of_localhost};

fuzz_target!(|text: (&str, &str)| {
    let (file, name) = text;
    let conf = ResolvConf::parse(file);
    assert!(!conf.servers.is_empty() && conf.servers.iter().all(|server| server.port() != 0));
    assert!(conf.attempts > 0 && !conf.timeout.is_zero());
    assert!(conf.candidates(name).iter().all(|candidate| candidate.ends_with('.')));
    in_hosts_file(file, name);
    of_localhost(name);
});
