//! Each kind of value: what it reads, what it refuses, and that it reads what it prints.

use proptest::prelude::*;

use super::*;

#[test]
fn numbers_are_written_as_in_c() {
    for (text, number) in [
        ("0", 0),
        ("25", 25),
        (" 25", 25),
        ("+5", 5),
        ("-5", -5),
        ("0777", 511),
        ("010", 8),
        ("0x1f", 31),
        ("0X1F", 31),
        ("-0x10", -16),
    ] {
        assert_eq!(whole(text), Some(number), "{text}");
    }
    for text in ["", " ", "-", "+", "5 ", "08", "0x", "0x+5", "++5", "+-5", "1.5", "1e3", "1_000", "ten", "٣"] {
        assert_eq!(whole(text), None, "{text}");
    }
    assert_eq!(whole("99999999999999999999"), None);
}

#[test]
fn numbers_out_of_range_are_refused_rather_than_wrapped() {
    assert_eq!(Count::parse("2147483647"), Some(2_147_483_647));
    for text in ["2147483648", "-1", "4294967297"] {
        assert_eq!(Count::parse(text), None, "{text}");
    }
    assert_eq!(PeerId::parse("16383"), Some(16_383));
    assert_eq!(PeerId::parse("16384"), None);
    assert_eq!(Port::parse("65536"), None);
    assert_eq!(WholeSeconds::<1>::parse("0"), None);
    assert_eq!(PeerId::expected(), "a whole number from 0 to 16383");
}

#[test]
fn times_are_decimal_seconds_without_a_suffix() {
    for (text, micros) in [
        ("5", 5_000_000),
        ("0.5", 500_000),
        (".5", 500_000),
        ("5.", 5_000_000),
        ("1e3", 1_000_000_000),
        ("  7", 7_000_000),
    ] {
        assert_eq!(Seconds::parse(text), Some(Duration::from_micros(micros)), "{text}");
    }
    assert_eq!(Seconds::parse("0x10"), Some(Duration::from_secs(16)));
    for text in ["", "5s", "-1", "inf", "nan", "1 min", "5 ", "1e99", "0x", "e", "."] {
        assert_eq!(Seconds::parse(text), None, "{text}");
    }
}

#[test]
fn switches_are_numbers() {
    assert_eq!((Flag::parse("0"), Flag::parse("1"), Flag::parse("3")), (Some(false), Some(true), Some(true)));
    for text in ["", "yes", "true", "on"] {
        assert_eq!(Flag::parse(text), None, "{text}");
    }
}

#[test]
fn lists_are_separated_as_their_kind_says_and_print_as_written() {
    let words = Words::parse("a, b  c,").expect("any text is a list");
    let commas = Commas::parse("127.0.0.1, ::1 ,").expect("any text is a list");

    assert_eq!(&*words, ["a", "b", "c"]);
    assert_eq!(&*commas, ["127.0.0.1", "::1"]);
    assert_eq!(Words::print(&words).as_deref(), Some("a, b  c,"));
}

#[test]
fn an_empty_check_query_is_written_as_a_word_of_its_own() {
    assert_eq!(CheckQuery::parse(""), Some(None));
    assert_eq!(CheckQuery::parse("<empty>"), Some(Some(String::new())));
    assert_eq!(CheckQuery::parse("select 1"), Some(Some("select 1".into())));
}

#[test]
fn the_console_is_no_database_to_look_users_up_in() {
    assert_eq!(DatabaseName::parse("pgbouncer"), None);
    assert_eq!(DatabaseName::parse("auth"), Some(Some("auth".into())));
}

#[test]
fn hidden_text_is_never_printed() {
    let value = Hidden::parse("ldapbindpasswd=x").expect("any text is hidden text");

    assert_eq!(Hidden::print(&value).as_deref(), Some("***"));
    assert_eq!(format!("{value:?}"), "Some(***)");
}

/// Whatever a kind reads, it reads again from what it prints.
fn reads_back<K: Kind>(text: &str) -> Result<(), TestCaseError> {
    if let Some(value) = K::parse(text) {
        let printed = K::print(&value).unwrap_or_default();
        prop_assert_eq!(K::parse(&printed), Some(value), "{} printed as {}", text, printed);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_printed_reads_back(
        text in "[ -~é]{0,20}|[0-9]{1,9}(\\.[0-9]{1,8})?|0[0-7]{1,6}|0x[0-9a-f]{1,6}|<empty>"
    ) {
        reads_back::<Flag>(&text)?;
        reads_back::<Count>(&text)?;
        reads_back::<Bytes>(&text)?;
        reads_back::<FileMode>(&text)?;
        reads_back::<Port>(&text)?;
        reads_back::<Seconds>(&text)?;
        reads_back::<WholeSeconds<0>>(&text)?;
        reads_back::<Milliseconds>(&text)?;
        reads_back::<Text>(&text)?;
        reads_back::<Optional>(&text)?;
        reads_back::<FilePath>(&text)?;
        reads_back::<DatabaseName>(&text)?;
        reads_back::<CheckQuery>(&text)?;
        reads_back::<Words>(&text)?;
        reads_back::<Commas>(&text)?;
    }

    #[test]
    fn every_time_reads_back_to_the_microsecond(micros in 0..=SECONDS_MAX * 1_000_000) {
        let time = Duration::from_micros(micros);
        let printed = Seconds::print(&time).expect("a time always prints");
        prop_assert_eq!(Seconds::parse(&printed), Some(time));
    }
}
