use proptest::prelude::*;

use super::*;
use crate::wire::startup::First;

fn set(pairs: &[(&str, &str)]) -> ParameterSet {
    pairs.iter().copied().collect()
}

fn reported() -> ParameterSet {
    set(&[
        ("server_version", "17.2"),
        ("TimeZone", "Europe/Berlin"),
        ("DateStyle", "ISO, MDY"),
        ("client_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
        ("application_name", ""),
        ("IntervalStyle", "postgres"),
        ("in_hot_standby", "off"),
    ])
}

fn tracked(extra: &[&str]) -> Tracked {
    Tracked::new(&extra.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

fn wishes(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn sql(want: &ParameterSet, have: &ParameterSet, tracked: &Tracked) -> Option<String> {
    let message = difference(&mut want.clone(), have, tracked)?;
    assert_eq!(message[0], b'Q');
    assert_eq!(message[1..5], u32::try_from(message.len() - 1).unwrap().to_be_bytes());
    Some(String::from_utf8(message[5..].to_vec()).unwrap().strip_suffix('\0').unwrap().to_owned())
}

#[test]
fn the_order_of_reports_makes_no_difference() {
    assert_eq!(set(&[("b", "1"), ("A", "2"), ("c", "3")]), set(&[("c", "3"), ("A", "2"), ("b", "1")]));
    assert_eq!(set(&[("b", "1"), ("A", "2")]).iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>(), ["A", "b"]);
}

#[test]
fn a_name_is_found_and_replaced_in_any_case_and_keeps_its_spelling() {
    let set = reported().with("TIMEZONE", "UTC");

    assert_eq!(set.get("timezone"), Some("UTC"));
    assert_eq!(set.iter().count(), reported().iter().count());
    assert!(set.iter().any(|(name, _)| name == "TimeZone"));
}

#[test]
fn the_same_value_again_costs_no_allocation() {
    let set = reported();

    assert!(set.with("timezone", "Europe/Berlin").is(&set));
}

#[test]
fn a_nul_ends_a_text() {
    assert_eq!(set(&[("a\0b", "c\0d")]), set(&[("a", "c")]));
}

#[test]
fn a_client_without_wishes_needs_nothing() {
    let have = reported();

    assert_eq!(difference(&mut have.clone(), &have, &tracked(&[])), None);
}

#[test]
fn what_the_client_wants_otherwise_is_set_in_one_message() {
    let want = reported().with_wishes(&wishes(&[("application_name", "it's me"), ("timezone", "UTC")]));

    assert_eq!(
        sql(&want, &reported(), &tracked(&[])).as_deref(),
        Some("SET application_name='it''s me';SET TimeZone='UTC';")
    );
}

#[test]
fn only_followed_parameters_are_set() {
    let want = reported().with("in_hot_standby", "on").with("IntervalStyle", "iso_8601");

    assert_eq!(sql(&want, &reported(), &tracked(&[])), None);
    assert_eq!(sql(&want, &reported(), &tracked(&["IntervalStyle"])).as_deref(), Some("SET IntervalStyle='iso_8601';"));
}

#[test]
fn what_a_server_does_not_report_is_left_alone() {
    let have = set(&[("DateStyle", "ISO, MDY")]);

    assert_eq!(sql(&reported(), &have, &tracked(&[])), None);
    assert_eq!(sql(&have, &reported().with("TimeZone", "UTC"), &tracked(&[])), None);
    assert_eq!(have.with_wishes(&wishes(&[("TimeZone", "UTC")])), have);
}

#[test]
fn the_case_of_words_does_not_matter_but_that_of_texts_does() {
    let words = reported().with("client_encoding", "utf8").with("TimeZone", "europe/berlin");
    let text = reported().with("application_name", "Shop");
    let have = reported().with("application_name", "shop");

    assert_eq!(sql(&words, &reported(), &tracked(&[])), None);
    assert_eq!(sql(&text, &have, &tracked(&[])).as_deref(), Some("SET application_name='Shop';"));
}

#[test]
fn sets_that_differ_in_nothing_followed_become_one() {
    let have = reported().with("in_hot_standby", "on");
    let mut want = reported().with("TimeZone", "EUROPE/berlin");

    assert_eq!(difference(&mut want, &have, &tracked(&[])), None);

    assert!(want.is(&have));
}

#[test]
fn another_spelling_by_the_server_costs_one_set_and_no_more() {
    let tracked = tracked(&[]);
    let mut have = reported();
    let mut want = have.with_wishes(&wishes(&[("DateStyle", "ISO")]));
    assert_eq!(sql(&want, &have, &tracked).as_deref(), Some("SET DateStyle='ISO';"));

    // The server was at `ISO, MDY` all along and reports nothing; it only answers.
    adopt(&mut want, &mut have, &tracked);

    assert!(want.is(&have));
    assert_eq!(want.get("DateStyle"), Some("ISO, MDY"));

    // Where it does report, that goes into both sets.
    want = want.with("TimeZone", "utc+0");
    assert!(sql(&want, &have, &tracked).is_some());
    report("TimeZone", "Etc/UTC", &mut have, Some(&mut want), &tracked).unwrap();
    adopt(&mut want, &mut have, &tracked);

    assert_eq!(want.get("TimeZone"), Some("Etc/UTC"));
    assert_eq!(difference(&mut want, &have, &tracked), None);
}

#[test]
fn what_this_server_does_not_report_is_still_wanted_from_the_next() {
    let mut old_server = set(&[("DateStyle", "ISO, MDY"), ("client_encoding", "UTF8")]);
    let mut want = reported().with("DateStyle", "SQL");

    adopt(&mut want, &mut old_server, &tracked(&["search_path"]));

    assert_eq!(want.get("DateStyle"), Some("ISO, MDY"));
    assert_eq!(want.get("TimeZone"), Some("Europe/Berlin"));
    assert_eq!(want.get("in_hot_standby"), None);
    assert_eq!(difference(&mut want, &old_server, &tracked(&[])), None);
    assert_eq!(want.get("TimeZone"), Some("Europe/Berlin"));
}

#[test]
fn a_report_reaches_server_and_client() {
    let tracked = tracked(&[]);
    let (mut server, mut client) = (reported(), reported().with("application_name", "psql"));

    report("timezone", "UTC", &mut server, Some(&mut client), &tracked).unwrap();
    report("in_hot_standby", "on", &mut server, Some(&mut client), &tracked).unwrap();

    assert_eq!(server.get("TimeZone"), Some("UTC"));
    assert_eq!(client.get("TimeZone"), Some("UTC"));
    assert_eq!(client.get("application_name"), Some("psql"));
    assert_eq!((server.get("in_hot_standby"), client.get("in_hot_standby")), (Some("on"), Some("off")));
}

#[test]
fn sets_that_were_one_stay_one_after_a_report() {
    let mut server = reported();
    let mut client = server.clone();

    report("is_superuser", "on", &mut server, Some(&mut client), &tracked(&[])).unwrap();

    assert!(client.is(&server));
    assert_eq!(client.get("is_superuser"), Some("on"));
}

#[test]
fn a_report_without_client_is_the_servers_alone() {
    let mut server = reported();

    report("TimeZone", "UTC", &mut server, None, &tracked(&[])).unwrap();

    assert_eq!(server, reported().with("TimeZone", "UTC"));
}

#[test]
fn a_value_too_long_to_follow_is_refused() {
    let mut server = reported();

    let answer = report("search_path", &"x".repeat(VALUE_LEN_MAX), &mut server, None, &tracked(&["search_path"]));

    assert_eq!(answer, Err(ValueTooLong));
    assert_eq!(server, reported());
}

#[test]
fn a_search_path_is_set_identifier_by_identifier() {
    let tracked = tracked(&["search_path"]);
    let have = set(&[("search_path", "public")]);
    let set_to = |value: &str| sql(&have.with("search_path", value), &have, &tracked).unwrap();

    assert_eq!(set_to(r#""$user", Public"#), "SET search_path='$user','public';");
    assert_eq!(set_to(r#""""#), "SET search_path='';");
    assert_eq!(set_to(""), "SET search_path='';");
    assert_eq!(set_to("a; DROP TABLE x"), "SET search_path='a; DROP TABLE x';");
}

/// What a server has with these encodings, its own and the one that a client before has left.
fn left_in(client_encoding: &str, server_encoding: &str) -> ParameterSet {
    reported().with("client_encoding", client_encoding).with("server_encoding", server_encoding)
}

#[test]
fn after_a_client_with_another_encoding_the_sets_are_in_ascii() {
    let want = |have: &ParameterSet| have.with("client_encoding", "UTF8").with("application_name", "café");
    let set_from = |have: ParameterSet| sql(&want(&have), &have, &tracked(&[])).unwrap();

    for left in ["SJIS", "EUC_JP", "LATIN1", "GB18030", "SQL_ASCII"] {
        for database in ["UTF8", "SQL_ASCII"] {
            assert_eq!(
                set_from(left_in(left, database)),
                r"SET application_name=E'caf\xc3\xa9';SET client_encoding='UTF8';",
                "{left} in {database}"
            );
        }
    }
    assert_eq!(set_from(left_in("UTF8", "UTF8")), "SET application_name='café';");
}

#[test]
fn a_name_that_the_database_may_not_have_characters_for_is_in_ascii() {
    for left in ["UTF8", "LATIN1", "SJIS"] {
        let have = left_in(left, "LATIN1");

        assert_eq!(
            sql(&have.with("application_name", "日é\\"), &have, &tracked(&[])).as_deref(),
            Some(r"SET application_name=E'?????\\';"),
            "{left}"
        );
    }
}

#[test]
fn other_texts_are_converted_for_the_database_by_postgresql() {
    let tracked = tracked(&["search_path"]);
    let have = left_in("EUC_JP", "EUC_JP").with("search_path", "public");

    assert_eq!(
        sql(&have.with("search_path", "日, 😀"), &have, &tracked).as_deref(),
        Some(r"SET search_path=E'\u65e5',E'\U0001f600';")
    );
}

#[test]
fn what_could_not_be_read_on_a_server_is_set_for_whoever_comes_next() {
    let tracked = tracked(&["search_path"]);
    let mut server = reported().with("search_path", "public");
    let next = server.clone();

    report("search_path", UNREADABLE, &mut server, None, &tracked).unwrap();

    assert_eq!(sql(&next, &server, &tracked).as_deref(), Some("SET search_path='public';"));
}

#[test]
fn a_client_greeted_with_what_cannot_be_read_gets_what_a_new_session_has() {
    let tracked = tracked(&["search_path"]);
    let want = reported().with("search_path", UNREADABLE);

    assert_eq!(sql(&want, &want, &tracked), None);
    assert_eq!(sql(&want, &want.with("search_path", "a"), &tracked).as_deref(), Some("RESET search_path;"));
}

#[test]
fn what_was_set_is_known_where_the_answer_cannot_be_read() {
    let tracked = tracked(&["search_path"]);
    let mut have = left_in("SJIS", "UTF8").with("search_path", "public");
    let mut want = have.with("search_path", "é");
    assert!(sql(&want, &have, &tracked).is_some());

    report("search_path", UNREADABLE, &mut have, None, &tracked).unwrap();
    adopt(&mut want, &mut have, &tracked);

    assert_eq!((want.get("search_path"), have.get("search_path")), (Some("é"), Some("é")));
    assert_eq!(difference(&mut want, &have, &tracked), None);
}

#[test]
fn names_that_could_be_sql_are_not_followed() {
    assert_eq!(Tracked::new(&["a=1;b".to_owned()]), Err(BadName("a=1;b".to_owned())));
    assert!(Tracked::new(&[String::new()]).is_err());
    assert!(tracked(&["citus.nodes_1", "timezone"]).contains("Citus.Nodes_1"));
    assert_eq!(tracked(&["timezone"]), tracked(&[]));
}

fn startup(parameters: &[(&str, &str)]) -> StartupMessage {
    let mut out = Vec::new();
    crate::wire::startup::startup_message(&mut out, &[&[("user", "ann")], parameters].concat());
    match First::read(&out) {
        Ok(Some((First::Startup(message), _))) => message,
        other => panic!("{other:?}"),
    }
}

fn classify(parameters: &[(&str, &str)], ignore: &[&str]) -> Result<Vec<(String, String)>, String> {
    let ignore: Vec<String> = ignore.iter().map(|name| (*name).to_owned()).collect();
    classify_startup(&startup(parameters), &tracked(&["IntervalStyle"]), &ignore).map_err(|error| error.to_string())
}

#[test]
fn followed_parameters_become_wishes() {
    let asked = [("application_name", "a"), ("timezone", "UTC"), ("options", "-c intervalstyle=iso_8601")];

    assert_eq!(
        classify(&asked, &[]),
        Ok(wishes(&[("IntervalStyle", "iso_8601"), ("application_name", "a"), ("TimeZone", "UTC")]))
    );
}

#[test]
fn of_two_wishes_for_one_parameter_the_last_stands_and_options_come_first() {
    let asked = [("TimeZone", "A"), ("timezone", "B"), ("options", "-c TimeZone=C -c datestyle=SQL -c DateStyle=ISO")];

    assert_eq!(classify(&asked, &[]), Ok(wishes(&[("TimeZone", "B"), ("DateStyle", "ISO")])));
}

#[test]
fn unknown_parameters_are_refused_unless_ignored() {
    let digits = [("extra_float_digits", "2")];
    let options = [("options", "-c geqo=off")];

    assert_eq!(classify(&digits, &[]).unwrap_err(), "unsupported startup parameter: extra_float_digits");
    assert_eq!(classify(&digits, &["extra_float_digits"]), Ok(vec![]));
    assert_eq!(classify(&options, &[]).unwrap_err(), "unsupported startup parameter in options: geqo");
    assert_eq!(classify(&options, &["geqo"]), Ok(vec![]));
    assert_eq!(classify(&options, &["options"]), Ok(vec![]));
    assert!(classify(&digits, &["options"]).is_err());
    assert!(classify(&[("options", "-d 5")], &["options"]).is_err());
}

#[test]
fn the_options_of_a_replication_connection_are_its_servers_affair() {
    assert_eq!(classify(&[("replication", "database"), ("options", "-d 5 --geqo=off")], &[]), Ok(vec![]));
}

proptest! {
    #[test]
    fn after_the_set_was_answered_nothing_differs(
        wanted in prop::collection::vec(("[abcd]|TimeZone|application_name", "[aB'\\\\]{0,3}"), 0..6),
        had in prop::collection::vec(("[abcd]|TimeZone|application_name", "[aB'\\\\]{0,3}"), 0..6),
    ) {
        let collect = |pairs: &[(String, String)]| pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let (mut want, mut have): (ParameterSet, ParameterSet) = (collect(&wanted), collect(&had));
        let tracked = tracked(&["a", "C"]);

        let differ = want.iter().any(|(name, value)| {
            let theirs = have.get(name);
            let words = name == "TimeZone";
            let equal = |theirs: &str| theirs == value || words && theirs.eq_ignore_ascii_case(value);
            tracked.contains(name) && theirs.is_some_and(|theirs| !equal(theirs))
        });
        prop_assert_eq!(difference(&mut want, &have, &tracked).is_some(), differ);
        adopt(&mut want, &mut have, &tracked);

        prop_assert_eq!(difference(&mut want, &have, &tracked), None);
    }

    #[test]
    fn a_set_is_read_alike_whatever_encoding_was_left_behind(
        values in prop::collection::vec("[a-z]{0,2}[éß日本\u{ff71}😀]{0,3}['\\\\\"]{0,2}", 2),
        left in prop::sample::select(vec!["UTF8", "SJIS", "EUC_JP", "LATIN1", "GB18030", "SQL_ASCII"]),
        database in prop::sample::select(vec!["UTF8", "SQL_ASCII", "EUC_JP", "LATIN1"]),
    ) {
        let tracked = tracked(&["x.text"]);
        let have = left_in(left, database).with("x.text", "");
        let want = have.with("application_name", &values[0]).with("x.text", &values[1]).with("client_encoding", "UTF8");

        if let Some(text) = sql(&want, &have, &tracked) {
            prop_assert!(left == "UTF8" || text.is_ascii(), "{}", text);
        }
    }

    #[test]
    fn a_set_is_its_pairs(pairs in prop::collection::vec(("[a-c]{1,2}", "[a-z]{0,3}"), 0..8)) {
        let set: ParameterSet = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();

        for (name, _) in &pairs {
            let last = pairs.iter().rev().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
            prop_assert_eq!(set.get(name), last);
        }
        let names: Vec<&str> = set.iter().map(|(name, _)| name).collect();
        prop_assert!(names.is_sorted_by(|a, b| a < b));
    }
}
