use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use proptest::prelude::*;

use super::messages::{Binding, ClientFinal, ClientFirst, Fault, ServerFirst, server_final};
use super::prove::{Channel, Opening};
use super::verify::Exchange;
use super::*;
use crate::auth::keys::{DerivedKeys, KeyCache, Lookup};
use crate::auth::secret::ScramSecret;

// The example of RFC 7677, section 3.
const CLIENT_FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
const SERVER_FIRST: &[u8] = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &[u8] = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                              p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn derive(password: &str, salt: &[u8], iterations: u32) -> DerivedKeys {
    match KeyCache::new([0; 32], 1).keys_of_claimed(password.as_bytes(), salt, iterations) {
        Lookup::Ready(keys) => keys,
        Lookup::Derive(derivation) => derivation.run(),
    }
}

fn exchange() -> Exchange {
    Exchange::open(CLIENT_FIRST, None, false, SERVER_NONCE, &BASE64.decode(SALT).unwrap(), 4096).unwrap()
}

#[test]
fn the_rfc_example_is_verified_and_answered() {
    let keys = derive("pencil", &BASE64.decode(SALT).unwrap(), 4096);
    let exchange = exchange();
    assert_eq!(exchange.server_first(), SERVER_FIRST);

    let claim = exchange.read_final(CLIENT_FINAL).unwrap();
    let verified = exchange.verify(&claim, keys.stored_key(), keys.server_key()).expect("the proof holds");

    assert_eq!(verified.server_final, SERVER_FINAL);
    assert!(verified.keys == keys, "the proof reveals the client key");
}

#[test]
fn the_rfc_example_is_proved() {
    let keys = derive("pencil", &BASE64.decode(SALT).unwrap(), 4096);
    let transcript = Transcript {
        client_first_bare: &CLIENT_FIRST[3..],
        server_first: SERVER_FIRST,
        client_final_without_proof: CLIENT_FINAL.split_at(CLIENT_FINAL.len() - 47).0,
    };

    let proof = transcript.proof(keys.client_key(), keys.stored_key());

    assert!(CLIENT_FINAL.ends_with(format!(",p={}", BASE64.encode(proof)).as_bytes()));
    assert_eq!(transcript.signature(keys.server_key()), server_final(SERVER_FINAL).unwrap());
}

#[test]
fn secrets_made_by_postgres_fit_their_passwords() {
    // `create role … password …` on PostgreSQL 15; the second password needs every step of SASLprep.
    let made = [
        (
            "pencil",
            "SCRAM-SHA-256$4096:puuboZYz+5I6awkCVd1F5g==$A5jrIxzX93NHd1jWSOz+9FOj51mkwbPmNtBAL8cBy9g=:\
             GmLce7bvNNV4MXc40Oid6N3WQ44tpjqGnSqECQbSPrQ=",
        ),
        (
            "\u{aa}\u{fb01}\u{ad}п\u{2168}",
            "SCRAM-SHA-256$4096:woou2WVJZcMESIjvr+k9Jw==$+X0FtU0EJqQtHOXUJHVoOmGufNgHVEOLCIT+k6Nhm4w=:\
             si+BjRsvj0GkekBzXSyDqA23dU1Y55k95iPHJlrj6bs=",
        ),
    ];

    for (password, secret) in made {
        let secret = ScramSecret::parse(secret).unwrap();
        let keys = derive(password, &secret.salt, secret.iterations);
        assert_eq!(*keys.stored_key(), secret.stored_key);
        assert_eq!(*keys.server_key(), secret.server_key);
    }
}

#[test]
fn another_implementation_of_the_client_gets_in() {
    let keys = derive("pencil", b"salty", 10);
    let binding = || postgres_protocol::authentication::sasl::ChannelBinding::unrequested();
    let mut client = postgres_protocol::authentication::sasl::ScramSha256::new(b"pencil", binding());

    let exchange = Exchange::open(client.message(), None, false, "nonce", b"salty", 10).unwrap();
    client.update(exchange.server_first()).unwrap();
    let claim = exchange.read_final(client.message()).unwrap();
    let verified = exchange.verify(&claim, keys.stored_key(), keys.server_key()).unwrap();

    client.finish(&verified.server_final).expect("our signature convinces it");
}

#[test]
fn an_exchange_is_bound_to_its_channel() {
    let keys = derive("pencil", b"salty", 10);
    for (ours, fits) in [(&b"hash of our certificate"[..], true), (b"hash of another", false)] {
        // Another implementation's client, and ours.
        let binding = postgres_protocol::authentication::sasl::ChannelBinding::tls_server_end_point(ours.to_vec());
        let mut client = postgres_protocol::authentication::sasl::ScramSha256::new(b"pencil", binding);
        let end_point = Some(&b"hash of our certificate"[..]);
        let exchange = Exchange::open(client.message(), end_point, true, "nonce", b"salty", 10).unwrap();
        client.update(exchange.server_first()).unwrap();
        assert_eq!(exchange.read_final(client.message()).is_ok(), fits);

        let opening = Opening::new("mine".to_owned(), Channel::EndPoint(ours));
        let exchange = Exchange::open(&opening.client_first(), end_point, true, "yours", b"salty", 10).unwrap();
        let (client_final, _) = opening.read(exchange.server_first()).unwrap().respond(&keys);
        assert_eq!(exchange.read_final(&client_final).is_ok(), fits);
    }
}

#[test]
fn a_binding_that_was_talked_out_of_is_noticed() {
    let end_point = Some(&b"hash"[..]);
    let open = |first: &[u8], end_point, plus| Exchange::open(first, end_point, plus, "yours", b"salt", 1).is_ok();
    let first = |channel| Opening::new("mine".to_owned(), channel).client_first();

    assert!(!open(&first(Channel::NotOffered), end_point, false), "it was offered");
    assert!(open(&first(Channel::NotOffered), None, false));
    assert!(open(&first(Channel::None), end_point, false), "a client need not know of it");
    assert!(!open(&first(Channel::None), end_point, true), "the mechanism says one thing, the message another");
    assert!(!open(&first(Channel::EndPoint(b"hash")), end_point, false));
    assert!(!open(&first(Channel::EndPoint(b"hash")), None, false));
}

#[test]
fn a_wrong_password_proves_nothing() {
    let right = derive("pencil", b"salt", 10);
    let wrong = derive("pencils", b"salt", 10);
    let opening = Opening::new("mine".to_owned(), Channel::None);
    let exchange = Exchange::open(&opening.client_first(), None, false, "yours", b"salt", 10).unwrap();

    let (client_final, _) = opening.read(exchange.server_first()).unwrap().respond(&wrong);
    let claim = exchange.read_final(&client_final).unwrap();

    assert!(exchange.verify(&claim, right.stored_key(), right.server_key()).is_none());
}

#[test]
fn a_server_that_does_not_know_the_secret_is_found_out() {
    let keys = derive("pencil", b"salt", 10);
    let opening = Opening::new("mine".to_owned(), Channel::None);
    let exchange = Exchange::open(&opening.client_first(), None, false, "yours", b"salt", 10).unwrap();

    let (client_final, expected) = opening.read(exchange.server_first()).unwrap().respond(&keys);
    let claim = exchange.read_final(&client_final).unwrap();
    let forged = exchange.verify(&claim, keys.stored_key(), &[9; 32]).unwrap();

    assert_eq!(expected.read(&forged.server_final), Ok(false));
}

#[test]
fn first_messages_out_of_order_are_refused() {
    let long_nonce = format!("n,,n=,r={}", "x".repeat(messages::NONCE_BYTES_MAX + 1));
    let long = format!("n,,n=,r=x,a={}", "x".repeat(messages::CLIENT_MESSAGE_BYTES_MAX));
    let refused: [&[u8]; 17] = [
        b"",
        b"n",
        b"n,,",
        b"x,,n=,r=abc",
        b"p=tls-unique,,n=,r=abc",
        b"p=tls-server-end-point,a=admin,n=,r=abc",
        b"n,a=admin,n=,r=abc",
        b"n,,m=ext,n=,r=abc",
        b"n,,n=,r=",
        b"n,,r=abc",
        b"n,,n=,s=abc",
        b"n,,n=,r=a b",
        b"n,,n=,r=abc,",
        b"n,,n=,r=abc,1=x",
        b"n,,n=,r=abc\0",
        long_nonce.as_bytes(),
        long.as_bytes(),
    ];

    for message in refused {
        assert!(ClientFirst::parse(message).is_err(), "{}", String::from_utf8_lossy(message));
    }
    assert_eq!(ClientFirst::parse(b"y,,n=,r=abc,x=ignored").unwrap().binding, Binding::NotOffered);
    assert_eq!(ClientFirst::parse(b"p=tls-server-end-point,,n=,r=abc").unwrap().binding, Binding::EndPoint);
}

#[test]
fn final_messages_out_of_order_are_refused() {
    let text = String::from_utf8(CLIENT_FINAL.to_vec()).unwrap();
    let refused = [
        String::new(),
        ",".to_owned(),
        text.replace("c=biws", "c=eSws"),
        text.replace("c=biws", "c=cD10bHMtc2VydmVyLWVuZC1wb2ludCws"),
        text.replace("c=biws,", ""),
        text.replace("$k0", "$k1"),
        text.replace("$k0", ""),
        text.replace("$k0", "$k0x"),
        text.replace(",p=dHzb", ",p="),
        text.replace(",p=", ",q="),
        text.replace(",p=", ",p=,p="),
        text.replace(",p=dH", ",p=dHdHdHdH"),
        text.replace(",p=", ",x,p="),
        format!("{text},x=after"),
        format!("{text}\0"),
    ];

    for message in refused {
        assert!(exchange().read_final(message.as_bytes()).is_err(), "{message}");
    }
    assert!(exchange().read_final(text.replace(",p=", ",x=extension,p=").as_bytes()).is_ok());
    let truncated = (0..CLIENT_FINAL.len()).all(|end| exchange().read_final(&CLIENT_FINAL[..end]).is_err());
    assert!(truncated, "no beginning of a message is a message");
}

#[test]
fn what_a_server_may_ask_of_us_is_bounded() {
    let salt = "s".repeat(messages::SALT_BYTES_MAX * 2);
    let refused = [
        "r=mine",
        "r=mineyours,s=,i=1",
        "r=mineyours,s=*,i=1",
        "r=mineyours,s=c2FsdA==,i=0",
        "r=mineyours,s=c2FsdA==,i=-1",
        "r=mineyours,s=c2FsdA==,i=+1",
        "r=mineyours,s=c2FsdA==,i=",
        "r=mineyours,s=c2FsdA==,i=99999999999999999999",
        "r=min,s=c2FsdA==,i=1",
        "r=yoursmine,s=c2FsdA==,i=1",
        "m=x,r=mineyours,s=c2FsdA==,i=1",
        &format!("r=mineyours,s={salt},i=1"),
        &format!("r=mine{},s=c2FsdA==,i=1", "x".repeat(2 * messages::NONCE_BYTES_MAX)),
        &format!("r=mineyours,s=c2FsdA==,i=1,x={}", "x".repeat(messages::SERVER_MESSAGE_BYTES_MAX)),
    ];

    for message in refused {
        assert!(Opening::new("mine".to_owned(), Channel::None).read(message.as_bytes()).is_err(), "{message}");
    }
    let accepted = Opening::new("mine".to_owned(), Channel::None).read(b"r=mineyours,s=c2FsdA==,i=4294967295").unwrap();
    assert_eq!((accepted.salt.as_slice(), accepted.iterations), (&b"salt"[..], u32::MAX));
}

#[test]
fn a_server_that_reports_an_error_is_told_apart() {
    assert_eq!(server_final(b"e=invalid-proof"), Err(Fault("the server reports an error in the SCRAM exchange")));
    assert!(server_final(b"v=").is_err());
    assert!(server_final(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4==").is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = ClientFirst::parse(&bytes);
        let _ = ClientFinal::parse(&bytes);
        let _ = ServerFirst::parse(&bytes);
        let _ = server_final(&bytes);
    }

    #[test]
    fn almost_scram_is_never_verified(text in "(c=biws,r=|n,,n=,r=)?[a-z,=+/0-9]{0,60}(,p=[A-Za-z0-9+/]{43}=)?") {
        if let Ok(claim) = exchange().read_final(text.as_bytes()) {
            prop_assert!(exchange().verify(&claim, &[5; 32], &[6; 32]).is_none());
        }
        let _ = ClientFirst::parse(text.as_bytes());
        let _ = ServerFirst::parse(text.as_bytes());
    }
}
