//! auth_hba_file: none panics, and a search ends with a record that is there or with the wish to know the client's
//! names, once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::config::hba::{Search, Surroundings, Whence, read_text};
use pgweir::config::ident;

fuzz_target!(|bytes: &[u8]| {
    let maps = ident::read_text(b"map root app\n").maps;
    let read = read_text(bytes, &maps);
    for address in [None, Some([127, 0, 0, 1].into()), Some(std::net::Ipv6Addr::LOCALHOST.into())] {
        for (tls, physical_replication) in [(false, false), (true, false), (false, true)] {
            let whence = Whence { address, tls, physical_replication, database: "app", user: "app" };
            let mut around = Surroundings::default();
            if read.hba.search(&whence, &around) == Search::NeedsClientNames {
                around.client_names = Some(vec!["app.example.com".to_owned()]);
                assert_ne!(read.hba.search(&whence, &around), Search::NeedsClientNames);
            }
        }
    }
});
