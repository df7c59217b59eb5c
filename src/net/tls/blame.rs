//! Why a handshake failed, in words that an operator can act on: rustls' errors, the settings behind them, the way out.
//!
//! Pure: an error and settings in, text out. What is not in the table keeps rustls' own words.

use std::fmt;
use std::sync::Arc;

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::offer::Words;

/// An error of rustls and the settings of the side that met it; printed, it is what the log says.
#[derive(Debug)]
pub struct Blamed {
    pub(super) error: Error,
    pub(super) words: Arc<Words>,
}

impl fmt::Display for Blamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blame(&self.error, &self.words))
    }
}

/// The most names of a certificate that are told, and the most characters of each.
const NAMES_MAX: usize = 8;
const NAME_LENGTH_MAX: usize = 100;

/// THE table: what the log says of this error on the side that has these settings.
fn blame(error: &Error, words: &Words) -> String {
    let Words { prefix, protocols, ciphers, ecdhcurve, .. } = words;
    match error {
        Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            // What came before TLS 1.2 does not know this extension.
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )
        | Error::AlertReceived(AlertDescription::ProtocolVersion) => format!(
            "no version of TLS in common: {prefix}_protocols is {protocols}, and of these TLS 1.2 and 1.3 are spoken \
             here ({error})"
        ),
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            let prefix13 = prefix.trim_end_matches("_tls");
            format!(
                "no cipher in common: {prefix}_ciphers is {ciphers}; the kind of key in {prefix}_key_file (RSA, ECDSA) \
                 and {prefix13}_tls13_ciphers narrow it further"
            )
        }
        Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon) => {
            format!("no curve in common: {prefix}_ecdhcurve is {ecdhcurve}; auto offers all there are here")
        }
        Error::NoApplicationProtocol | Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "no protocol in common: ALPN must be \"postgresql\", or not be used".to_owned()
        }
        // "certificate verify failed" is OpenSSL's, which guards look for in the log.
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => format!(
            "certificate verify failed: name `{}' not present in server certificate: it is made out to {}; connect by \
             one of its names, or set {prefix}_sslmode to verify-ca",
            expected.to_str(),
            listed(presented)
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            format!("certificate verify failed: {error}: its authority is not in {prefix}_ca_file")
        }
        Error::InvalidCertificate(CertificateError::Other(why)) => format!("certificate verify failed: {why}"),
        Error::InvalidCertificate(_) => format!("certificate verify failed: {error}"),
        error => error.to_string(),
    }
}

/// Names that somebody else has chosen.
fn listed(names: &[String]) -> String {
    let short = |name: &String| name.chars().take(NAME_LENGTH_MAX).flat_map(char::escape_debug).collect::<String>();
    let told: Vec<String> = names.iter().take(NAMES_MAX).map(short).collect();
    match names.len() {
        0 => "nobody".to_owned(),
        len if len > NAMES_MAX => format!("{} and {} more", told.join(", "), len - NAMES_MAX),
        _ => told.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blamed(error: impl Into<Error>) -> String {
        let words = Words {
            prefix: "client_tls",
            protocols: "tlsv1.3".into(),
            ciphers: "HIGH".into(),
            ecdhcurve: "X25519".into(),
            ..Words::default()
        };
        blame(&error.into(), &words)
    }

    #[test]
    fn what_both_sides_do_not_share_is_named_with_its_setting() {
        for error in [
            PeerIncompatible::SupportedVersionsExtensionRequired,
            PeerIncompatible::SignatureAlgorithmsExtensionRequired,
            PeerIncompatible::Tls12NotOffered,
        ] {
            let said = blamed(error);
            assert!(said.starts_with("no version of TLS in common: client_tls_protocols is tlsv1.3"), "{said}");
        }
        assert!(blamed(PeerIncompatible::NoCipherSuitesInCommon).contains("client_tls_ciphers is HIGH"));
        assert!(blamed(PeerIncompatible::NoKxGroupsInCommon).contains("client_tls_ecdhcurve is X25519"));
        assert!(blamed(Error::NoApplicationProtocol).contains("ALPN must be \"postgresql\""));
        assert!(blamed(CertificateError::UnknownIssuer).ends_with("its authority is not in client_tls_ca_file"));
    }

    #[test]
    fn names_of_others_are_few_short_and_on_one_line() {
        let presented: Vec<String> = (0..10).map(|at| format!("{at}\n{}", "x".repeat(1000))).collect();
        let expected = "db".try_into().unwrap();

        let said = blamed(CertificateError::NotValidForNameContext { expected, presented });

        assert!(said.contains("name `db' not present in server certificate: it is made out to 0\\nxx"), "{said}");
        assert!(said.contains(" and 2 more; ") && said.len() < 1200 && !said.contains('\n'), "{said}");
        assert_eq!(listed(&[]), "nobody");
    }
}
