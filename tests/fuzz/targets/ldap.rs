//! Options of an LDAP directory, and a user's name: none panics, and no name ends its part of a filter or of an entry's
//! name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::config::ldap::{LdapOptions, LdapWay};

fuzz_target!(|text: &str| {
    let (options, user) = text.split_once('\n').unwrap_or((text, "ann"));
    if let Ok(options) = LdapOptions::parse(options) {
        assert!(!options.servers.is_empty() && options.port > 0);
    }
    let LdapWay::Search(search) = LdapOptions::parse("ldapserver=h ldapbasedn=b").expect("it is in order").way else {
        unreachable!("a base has a search");
    };
    if let Ok(filter) = search.filter_for(user) {
        assert!(!filter[1..filter.len() - 1].contains(['(', ')', '*']));
    }
    let simple = LdapOptions::parse("ldapserver=h ldapprefix=uid= ldapsuffix=\",dc=x\"").expect("it is in order").way;
    let entry = simple.entry_of(user).expect("it is made of the name");
    assert_eq!(entry.replace("\\\\", "").matches(',').count(), 1, "{entry}");
});
