use proptest::prelude::*;

use super::*;

fn hba(text: &str) -> Hba {
    let read = read_text(text.as_bytes(), &IdentMaps::default());
    assert!(read.skipped.is_empty(), "{:?}", read.skipped);
    read.hba
}

fn skipped(text: &str) -> Vec<(String, bool)> {
    let read = read_text(text.as_bytes(), &IdentMaps::default());
    read.skipped.iter().map(|line| (format!("{}: {}", line.place, line.why), line.fatal)).collect()
}

/// The method for a connection from `from` (an address, or `unix`), with `tls` or `replication` after it.
fn method(hba: &Hba, database: &str, user: &str, from: &str) -> String {
    let mut words = from.split(' ');
    let address = words.next().filter(|word| *word != "unix").map(|word| word.parse().expect("an address"));
    let more = words.next();
    let (tls, physical_replication) = (more == Some("tls"), more == Some("replication"));
    let whence = Whence { address, tls, physical_replication, database, user };
    match hba.search(&whence, &Surroundings::default()) {
        Search::Found(record) => record.method.to_string(),
        Search::Nothing => "none".to_owned(),
        Search::NeedsClientNames => "?".to_owned(),
    }
}

#[test]
fn the_first_record_that_fits_counts() {
    let hba = hba("local all postgres peer\n\
         local db  all      md5\n\
         hostssl all all 10.0.0.0/8 cert\n\
         hostnossl all all 10.1.0.0 255.255.0.0 reject\n\
         host one,two ann , bob 192.168.7.0/24 scram-sha-256 # office\n\
         host sameuser all ::1/128 password\n\
         host all all all trust\n");

    for (database, user, from, expected) in [
        ("db", "postgres", "unix", "peer"),
        ("db", "ann", "unix", "md5"),
        ("other", "ann", "unix", "none"),
        ("db", "ann", "10.1.2.3 tls", "cert"),
        ("db", "ann", "10.1.2.3", "reject"),
        ("db", "ann", "10.2.2.3", "trust"),
        ("one", "bob", "192.168.7.9", "scram-sha-256"),
        ("three", "bob", "192.168.7.9", "trust"),
        ("ann", "ann", "::1", "password"),
        ("bob", "ann", "::1", "trust"),
        ("one", "bob", "::ffff:192.168.7.9", "scram-sha-256"),
    ] {
        assert_eq!(method(&hba, database, user, from), expected, "{database}/{user} from {from}");
    }
}

#[test]
fn quotes_take_keywords_their_meaning() {
    let hba = hba("host \"all\" \"sameuser\" 1.0.0.0/8 trust\nhost \"q1\"\"q2\" \"a , b\" 1.0.0.0/8 md5\n\
         host db \"+team\" all password\n");

    assert_eq!(method(&hba, "all", "sameuser", "1.2.3.4"), "trust");
    assert_eq!(method(&hba, "db", "sameuser", "1.2.3.4"), "none");
    assert_eq!(method(&hba, "q1\"q2", "a , b", "1.2.3.4"), "md5");
    assert_eq!(method(&hba, "db", "+team", "1.2.3.4"), "password");
}

#[test]
fn physical_replication_has_records_of_its_own() {
    let hba = hba("host all all 1.0.0.0/8 trust\nhost db,replication backup all md5\n");

    assert_eq!(method(&hba, "db", "backup", "2.0.0.1 replication"), "md5");
    assert_eq!(method(&hba, "other", "backup", "2.0.0.1 replication"), "md5", "the database does not matter");
    assert_eq!(method(&hba, "db", "ann", "1.0.0.1 replication"), "none", "all is no word for it");
    assert_eq!(method(&hba, "replication", "backup", "2.0.0.1"), "none", "nor is it a database");
}

#[test]
fn masks_end_anywhere() {
    for length in 0..=32 {
        let net = Net::new([200, 100, 50, 25].into(), mask_of_length([0; 4].into(), &length.to_string()).unwrap());
        let holds = |address: u32| net.unwrap().holds(IpAddr::V4(address.into()));
        let base = u32::from_be_bytes([200, 100, 50, 25]);
        assert!(holds(base));
        if length > 0 {
            assert!(!holds(base ^ (1 << (32 - length))), "the last bit of /{length}");
        }
        if length < 32 {
            assert!(holds(base ^ (1 << (31 - length))), "the first bit beyond /{length}");
        }
    }
    for refused in ["33", "-1", "", "+8", "1x"] {
        assert_eq!(mask_of_length([0; 4].into(), refused), None, "{refused}");
    }
    assert_eq!(mask_of_length("::".parse().unwrap(), "128"), Some(IpAddr::V6(u128::MAX.into())));
}

#[test]
fn our_own_addresses_and_hosts_names_are_asked_for() {
    let hba = hba("host all all samehost trust\nhost all all samenet md5\nhost all ann Backup.Example.com password\n\
         host all all all reject\n");
    let own = |address: &str| Net::new(address.parse().unwrap(), "255.255.255.0".parse().unwrap()).unwrap();
    let mut around = Surroundings { own: vec![own("10.0.0.7")], client_names: None };
    let search = |around: &Surroundings, user: &'static str, address: &str| {
        let address = Some(address.parse().unwrap());
        let whence = Whence { address, tls: false, physical_replication: false, database: "db", user };
        match hba.search(&whence, around) {
            Search::Found(record) => record.method.to_string(),
            Search::NeedsClientNames => "?".to_owned(),
            Search::Nothing => String::new(),
        }
    };

    assert!(hba.needs_own_addresses());
    assert_eq!(search(&around, "ann", "10.0.0.7"), "trust");
    assert_eq!(search(&around, "ann", "10.0.0.8"), "md5");
    assert_eq!(search(&around, "bob", "10.0.1.8"), "reject", "the name is not for this user");
    assert_eq!(search(&around, "ann", "10.0.1.8"), "?");
    for (names, expected) in [
        (&[][..], "reject"),
        (&["backup.example.com"], "password"),
        (&["other.example.com", "BACKUP.EXAMPLE.COM"], "password"),
        (&["example.com", "my.backup.example.com"], "reject"),
    ] {
        around.client_names = Some(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(search(&around, "ann", "10.0.1.8"), expected, "{names:?}");
    }
}

#[test]
fn a_dot_in_front_stands_for_every_host_of_a_domain() {
    assert!(is_named("db.example.com", ".Example.com") && is_named("a.db.example.com", ".example.com"));
    for other in ["example.com", "example.org", "myexample.com", "com", ""] {
        assert!(!is_named(other, ".example.com"), "{other}");
    }
    let hba = hba("host all all .example.com md5\n");
    assert_eq!(method(&hba, "db", "ann", "10.0.0.1"), "?");
}

#[test]
fn a_certificate_may_be_wanted_beside_the_method() {
    let full = "hostssl all all all scram-sha-256 clientcert=verify-full clientname=CN";
    for (text, expected) in [
        (full, ClientCert::VerifyFull),
        ("hostssl all all all trust clientcert=verify-ca", ClientCert::VerifyCa),
        ("hostssl all all all ldap ldapserver=x clientcert=verify-ca ldapprefix=y", ClientCert::VerifyCa),
        ("hostssl all all all pam pamservice=x clientcert=verify-ca", ClientCert::VerifyCa),
        ("hostssl all all all cert clientcert=verify-full", ClientCert::Off),
        ("hostssl all all all md5", ClientCert::Off),
    ] {
        let records = hba(text);
        assert_eq!(records.records()[0].clientcert, expected, "{text}");
        if let HbaMethod::Ldap(options) = &records.records()[0].method {
            assert_eq!(options.reveal(), "ldapserver=x ldapprefix=y");
        }
    }
    for (text, why) in [
        ("host all all all md5 clientcert=verify-ca", "clientcert=verify-ca is for hostssl only"),
        ("local all all md5 clientcert=verify-full", "clientcert=verify-full is for hostssl only"),
        ("hostssl all all all cert clientcert=verify-ca", "clientcert=verify-ca: cert itself is verify-full"),
        ("hostssl all all all md5 clientcert=1", "expected clientcert=verify-ca or verify-full, got \"clientcert=1\""),
        ("hostssl all all all cert clientname=DN", "clientname=DN is not supported: common names alone are compared"),
    ] {
        assert_eq!(skipped(text), [(format!("hba.conf:1: {why}"), false)]);
    }
}

#[test]
fn what_a_pooler_cannot_follow_is_passed_over_by_line_and_reason() {
    let text = "host all +team all md5\n\
        host samerole all all md5\n\
        host all \"/^a{1,2}\" all md5\n\
        host samegroup all all md5\n\
        host all all 10.0.0.1/8 md5\n\
        host all all 10.0.0.0/33 md5\n\
        host all all 10.0.0.0 md5\n\
        host all all 10.0.0.300/32 md5\n\
        host all all all gss\n\
        host all all all md5 radiusservers=x\n\
        hostgssenc all all all md5\n\
        nohost all all all md5\n\
        local all all\n\
        local all all peer map=nomap\n\
        local all \"all md5\n\
        local all\n\
        local all all md5 \\\n  x\n\
        local all all trust\n";

    let said = skipped(text);

    let expected = [
        "1: +team is not supported: a pooler does not know who is in which role",
        "2: samerole is not supported: a pooler does not know who is in which role",
        "3: /^a{1,2} is not supported: names cannot be regular expressions",
        "4: samegroup is not supported: a pooler does not know who is in which role",
        "5: address does not match mask: 10.0.0.1 / 255.0.0.0",
        "6: invalid mask /33",
        "7: invalid mask \"md5\"",
        "8: failed to parse address \"10.0.0.300/32\"",
        "9: unsupported method \"gss\"",
        "10: unsupported parameters: \"radiusservers=x\"",
        "11: hostgssenc is for GSSAPI encryption, which a pooler does not speak",
        "12: unknown type \"nohost\"",
        "13: there is no method",
        "14: ident map \"nomap\" is not in auth_ident_file",
        "15: a quote does not end",
        "16: there is no user",
        "17: unsupported parameters: \"x\"",
    ];
    assert_eq!(said, expected.map(|line| (format!("hba.conf:{line}"), false)));
    let rest = read_text(text.as_bytes(), &IdentMaps::default()).hba;
    assert_eq!(method(&rest, "db", "ann", "unix"), "trust", "the good line counts");
}

#[test]
fn a_reject_that_cannot_be_followed_is_no_line_to_pass_over() {
    for text in ["host all +banned all reject", "host all \"x all reject", "include nothere.conf"] {
        let said = skipped(text);
        assert!(matches!(said.as_slice(), [(_, true)]), "{text}: {said:?}");
    }
}

#[test]
fn maps_are_for_peer_and_cert_and_ldap_keeps_its_options() {
    let maps = crate::config::ident::read_text(b"m root app\n").maps;
    let text =
        "local all all peer map=m\nlocal all all ident\nhost all all all ldap ldapprefix=\"uid=\" \"a\"=b , c=\"d e\"";

    let read = read_text(text.as_bytes(), &maps);

    assert!(read.skipped.is_empty(), "{:?}", read.skipped);
    let [peer, ident, ldap] = read.hba.records() else { panic!("three records") };
    assert_eq!(peer.map.as_ref().map(|map| map.name.as_str()), Some("m"));
    assert_eq!((&ident.method, &ident.map), (&HbaMethod::Peer, &None));
    assert_eq!(ldap.method, HbaMethod::Ldap(Secret::new("ldapprefix=uid= \"a\"=b , c=\"d e\"")));
    assert_eq!(peer.place.to_string(), "hba.conf:1");
    assert_eq!(read_text(b"local all all md5 map=m", &maps).skipped.len(), 1);
}

#[test]
fn files_include_each_other_and_hold_lists_of_names() {
    let table = [
        (
            "/c/hba.conf",
            "include more/one.conf\ninclude_if_exists none.conf\ninclude_dir d\nlocal @dbs @/c/users md5\n",
        ),
        ("/c/more/one.conf", "local one all trust\ninclude two.conf\n"),
        ("/c/more/two.conf", "local two all password\n"),
        ("/c/d/b.conf", "local b all peer\n"),
        ("/c/d/a.conf", "local b all reject\n"),
        ("/c/dbs", "x, y # both\n\n@more/dbs\n"),
        ("/c/more/dbs", "z\n"),
        ("/c/users", "ann\n\"all\"\n"),
        ("/c/loop.conf", "include loop.conf\n"),
    ];
    let read_file = |path: &Path| {
        let found = table.iter().find(|(name, _)| Path::new(name) == path);
        found.map(|(_, text)| text.as_bytes().to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    let list = |_: &Path| Ok(["/c/d/b.conf", "/c/d/a.conf", "/c/d/.x.conf", "/c/d/c.txt"].map(PathBuf::from).to_vec());
    let files = Files { read: &read_file, list: &list };

    let hba_read = read(Path::new("/c/hba.conf"), &files, &IdentMaps::default()).unwrap();
    assert!(hba_read.skipped.is_empty(), "{:?}", hba_read.skipped);
    for (database, user, expected) in [
        ("one", "x", "trust"),
        ("two", "x", "password"),
        ("b", "x", "reject"),
        ("z", "ann", "md5"),
        ("y", "all", "md5"),
        ("y", "bob", "none"),
    ] {
        assert_eq!(method(&hba_read.hba, database, user, "unix"), expected, "{database}/{user}");
    }
    let looped = read(Path::new("/c/loop.conf"), &files, &IdentMaps::default()).unwrap();
    assert_eq!(looped.skipped[0].why.to_string(), "more than 10 files include each other");
    assert!(read(Path::new("/c/none.conf"), &files, &IdentMaps::default()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_text(&bytes, &IdentMaps::default());
    }

    #[test]
    fn whatever_the_records_the_first_that_fits_counts(
        records in proptest::collection::vec(("[ab]|all|sameuser", "[ab]|all", 0..4u32, "trust|md5|reject"), 0..8),
        (database, user, from) in ("[abc]", "[abc]", 0..256u32),
    ) {
        let net = |size: u32| format!("0.0.0.0/{}", 32 - size * 2);
        let text: String =
            records.iter().map(|(db, us, size, how)| format!("host {db} {us} {} {how}\n", net(*size))).collect();
        let first = records.iter().find(|(db, us, size, _)| {
            let database_fits = db == "all" || *db == database || db == "sameuser" && database == user;
            database_fits && (us == "all" || *us == user) && from >> (size * 2) == 0
        });
        let from = IpAddr::V4(from.into()).to_string();
        let expected = first.map_or("none", |(.., how)| how);
        prop_assert_eq!(method(&hba(&text), &database, &user, &from), expected);
    }
}
