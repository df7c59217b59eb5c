use proptest::prelude::*;

use super::*;

fn packet(version: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    with_length(&mut out, |out| {
        out.extend_from_slice(&version.to_be_bytes());
        out.extend_from_slice(body);
    });
    out
}

fn startup(body: &[u8]) -> Result<StartupMessage, StartupError> {
    match First::read(&packet(PROTOCOL_3_0, body))? {
        Some((First::Startup(message), _)) => Ok(message),
        other => panic!("no startup message: {other:?}"),
    }
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_startup_message_is_read() {
    let message = startup(b"user\0ann\0database\0shop\0application_name\0psql\0options\0-c a=b\0\0").unwrap();

    assert_eq!(message.user, "ann");
    assert_eq!(message.database, "shop");
    assert_eq!(message.options.as_deref(), Some("-c a=b"));
    assert_eq!(message.parameters, pairs(&[("application_name", "psql")]));
    assert!(!message.needs_negotiation());
}

#[test]
fn without_a_database_the_user_names_it() {
    assert_eq!(startup(b"user\0ann\0\0").unwrap().database, "ann");
    assert_eq!(startup(b"database\0\0user\0ann\0\0").unwrap().database, "ann");
}

#[test]
fn without_a_user_nobody_comes_in() {
    assert_eq!(startup(b"database\0shop\0\0"), Err(StartupError::NoUser));
    assert_eq!(startup(b"user\0\0\0"), Err(StartupError::NoUser));
    assert_eq!(startup(b"\0"), Err(StartupError::NoUser));
}

#[test]
fn a_packet_that_ends_early_or_late_is_refused() {
    for body in [&b""[..], b"user\0ann\0", b"user\0ann", b"user", b"user\0ann\0\0x", b"user\0ann\0\0\0"] {
        assert_eq!(startup(body), Err(StartupError::BadLayout), "{body:?}");
    }
}

#[test]
fn replication_takes_every_spelling_of_postgres() {
    let asked = |value: &str| startup(format!("user\0a\0replication\0{value}\0\0").as_bytes()).map(|m| m.replication);

    for yes in ["true", "TRUE", "t", "on", "yes", "y", "1"] {
        assert_eq!(asked(yes), Ok(Replication::Physical), "{yes}");
    }
    for no in ["false", "f", "off", "of", "no", "n", "0"] {
        assert_eq!(asked(no), Ok(Replication::Off), "{no}");
    }
    assert_eq!(asked("database"), Ok(Replication::Logical));
    for wrong in ["", "o", "maybe", "trueish"] {
        let message = startup(format!("user\0a\0replication\0{wrong}\0\0").as_bytes()).unwrap();
        let refused = message.check().map_err(|error| error.to_string());
        assert_eq!(refused, Err(format!("invalid value for parameter \"replication\": \"{wrong}\"")));
        assert_eq!(message.replication, Replication::Off);
    }
}

#[test]
fn newer_minor_versions_and_protocol_options_are_negotiated_down() {
    let newer = First::parse(&packet(0x0003_0002, b"user\0ann\0\0")[4..]).unwrap();
    let greased = startup(b"user\0ann\0_pq_.test\0on\0_pq_.other\0\0\0").unwrap();

    assert!(matches!(newer, First::Startup(message) if message.minor == 2 && message.needs_negotiation()));
    assert!(greased.needs_negotiation());
    assert_eq!(greased.protocol_options, ["_pq_.test", "_pq_.other"]);
    assert_eq!(greased.parameters, []);

    let mut out = Vec::new();
    negotiate_protocol_version(&mut out, &greased.protocol_options);
    assert_eq!(out, b"v\0\0\0\x21\0\x03\0\0\0\0\0\x02_pq_.test\0_pq_.other\0");
}

#[test]
fn other_protocols_are_refused() {
    let refused = |version| First::parse(&packet(version, b"user\0ann\0\0")[4..]).unwrap_err().to_string();

    assert_eq!(refused(0x0002_0000), "old V2 protocol not supported");
    assert_eq!(refused(0x0004_0001), "unsupported frontend protocol 4.1");
    assert_eq!(refused(0), "unsupported frontend protocol 0.0");
}

#[test]
fn the_requests_are_told_apart() {
    let (mut ssl, mut cancel) = (Vec::new(), Vec::new());
    ssl_request(&mut ssl);
    cancel_request(&mut cancel, 7, &[1, 2, 3, 4]);

    assert_eq!(First::read(&ssl), Ok(Some((First::Ssl, 8))));
    assert_eq!(First::read(&packet(GSSENC_REQUEST, b"")), Ok(Some((First::Gss, 8))));
    assert_eq!(First::read(&cancel), Ok(Some((First::Cancel { pid: 7, secret: vec![1, 2, 3, 4] }, 16))));
    assert!(First::read(&packet(SSL_REQUEST, b"x")).is_err());
}

#[test]
fn a_cancel_secret_has_4_to_256_bytes() {
    for (len, fits) in [(0, false), (3, false), (4, true), (32, true), (256, true), (257, false)] {
        let mut out = Vec::new();
        cancel_request(&mut out, 1, &vec![9; len]);

        assert_eq!(First::read(&out).is_ok(), fits, "{len}");
    }
    assert_eq!(First::read(&packet(CANCEL_REQUEST, b"xx")), Err(StartupError::BadCancel));
}

#[test]
fn tls_without_asking_is_seen_by_its_first_byte() {
    assert_eq!(First::read(&[0x16]), Ok(Some((First::DirectTls, 0))));
}

#[test]
fn a_length_nobody_means_is_refused_before_the_rest_arrives() {
    assert_eq!(First::read(b"GET / HTTP/1.1").unwrap_err().to_string(), "bad packet header: '47455420'");
    for (len, fits) in [(0u32, false), (7, false), (8, true), (10_004, true), (10_005, false), (u32::MAX, false)] {
        assert_eq!(first_packet_len(&len.to_be_bytes()).is_ok(), fits, "{len}");
    }
    assert_eq!(First::read(b""), Ok(None));
    assert_eq!(First::read(&[0, 0, 0, 8, 4, 210]), Ok(None));
}

#[test]
fn stray_bytes_are_refused_in_names_and_shown_as_question_marks_in_values() {
    assert_eq!(startup(b"user\0\xff\0\0"), Err(StartupError::NotUtf8 { what: "user" }));
    assert_eq!(startup(b"user\0a\0\xff\0\0\0"), Err(StartupError::NotUtf8 { what: "parameter name" }));
    assert_eq!(
        startup(b"user\0a\0application_name\0caf\xe9 \xc3\xa9\0\0").unwrap().parameters,
        pairs(&[("application_name", "caf? é")])
    );
}

#[test]
fn options_are_a_small_command_line() {
    let read = |options| parse_options(options).unwrap();

    assert_eq!(read(""), []);
    assert_eq!(read(" -c a=b "), pairs(&[("a", "b")]));
    assert_eq!(read("-ca=b --c=d -c\te="), pairs(&[("a", "b"), ("c", "d"), ("e", "")]));
    assert_eq!(read(r"-c x=one\ two\\three -c y=\z"), pairs(&[("x", r"one two\three"), ("y", "z")]));
    assert_eq!(read("--search-path=a,b=c"), pairs(&[("search_path", "a,b=c")]));
    assert_eq!(read("-c a=b\\"), pairs(&[("a", "b")]));
}

#[test]
fn options_of_other_kinds_are_refused() {
    for options in ["-d 5", "a=b", "-c", "--", "-c a", "-c a=b -e"] {
        assert_eq!(parse_options(options), Err(StartupError::BadOptions), "{options}");
    }
}

proptest! {
    #[test]
    fn what_we_write_we_read(
        user in "[^\0]{1,20}",
        database in "[^\0]{1,20}",
        parameters in prop::collection::vec(("x[^\0]{0,8}", "[^\0]{0,20}"), 0..5),
        split in 0usize..400,
    ) {
        let mut list = vec![("user", user.as_str()), ("database", database.as_str())];
        list.extend(parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let mut out = Vec::new();
        startup_message(&mut out, &list);

        let read = First::read(&out).unwrap();

        let Some((First::Startup(message), len)) = read else { panic!("{read:?}") };
        prop_assert_eq!(len, out.len());
        prop_assert_eq!(message.user, user);
        prop_assert_eq!(message.database, database);
        prop_assert_eq!(message.parameters, parameters);
        let part = &out[..split.min(out.len() - 1)];
        prop_assert_eq!(First::read(part), Ok(None), "any split waits for the rest");
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = First::read(&bytes);
        let _ = First::parse(&bytes);
        let _ = First::parse(&[&PROTOCOL_3_0.to_be_bytes(), &bytes[..]].concat());
    }

    #[test]
    fn any_options_are_read_without_panic(options in "[-c= \\\\a]{0,30}") {
        let _ = parse_options(&options);
    }
}
