//! Messages that name statements: none panics, and a renamed one keeps all but the name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pgweir::protocol::rename::{BindNames, bind, close, describe, parse, put_bind, put_parse};
use pgweir::protocol::shared::Catalogue;

fuzz_target!(|body: &[u8]| {
    let _ = (describe(body), close(body));
    let catalogue = Catalogue::default();
    let statement = catalogue.statement(b"SELECT 1\0\0\0");
    if let Ok(BindNames::Named(names)) = bind(body) {
        let mut out = Vec::new();
        put_bind(&mut out, names, body, body.len(), &statement);
        assert_eq!(out.len() - 5 + names.statement.len(), body.len() + statement.server_name().len());
        assert!(
            matches!(bind(&out[5..]), Ok(BindNames::Named(new)) if new.statement == statement.server_name().as_bytes())
        );
    }
    if let Ok(Some(read)) = parse(body) {
        let mut out = Vec::new();
        put_parse(&mut out, &catalogue.statement(read.body));
        assert_eq!(parse(&out[5..]).map(|again| again.map(|again| again.body)), Ok(Some(read.body)));
    }
});
